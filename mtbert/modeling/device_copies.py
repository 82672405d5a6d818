"""Copies between the memory of the host and that of a device, which do not wait for the device's other work.

A device computes behind the host, which only queues its work. A plain copy from or to the host's memory first waits
until the whole queue is done; one from or to page-locked memory does not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

PAGE_LOCKED = ("cuda",)  # types of devices that copy from page-locked memory


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor that was just made on the host to a device, without waiting."""
    if device.type not in PAGE_LOCKED:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class OnItsWay:
    """A number on its way from a device to the host; reading it waits for earlier work of the device only.

    Args:
        value: a scalar tensor, or a number.
    """

    def __init__(self, value: Tensor | float):
        self._value, self._arrived = value, None
        if isinstance(value, Tensor) and value.device.type in PAGE_LOCKED:
            module: Any = torch.get_device_module(value.device)
            self._value = torch.empty_like(value, device="cpu").pin_memory()
            self._value.copy_(value, non_blocking=True)
            self._arrived = module.Event()
            self._arrived.record()

    def read(self) -> float:
        """The number, once it has arrived."""
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)
