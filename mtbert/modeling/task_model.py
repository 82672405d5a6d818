"""The protocol of a multi-task model, so that the functions of this folder need not import the model itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from .configuration_mtbert import MtBertConfig
from .task_spec import TaskSpec


class TaskModel(Protocol):
    """A model with one head for each task; `MtBertForMultiTask` passes itself to functions that take one."""

    config: MtBertConfig
    encoder: Any  # PreTrainedModel
    heads: Any  # ModuleDict: task → head
    adapters: Any  # ModuleDict: task → adapter, of the tasks that have one
    training: bool

    @property
    def tasks(self) -> Sequence[TaskSpec]: ...

    @property
    def device(self) -> torch.device: ...

    def task_id(self, name: str) -> int: ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...

    def __getattr__(self, name: str) -> Any: ...
