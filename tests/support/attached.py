"""A training method attached to a model, without a trainer around it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from mtbert.data.sampling import Schedule


def attached(method: Any, model: Any, tasks: Any = None, schedule: Schedule | None = None, **arguments: Any) -> Any:
    """The method, which has taken what it needs from a trainer with these training arguments."""
    defaults = {"device": torch.device("cpu"), "torch_compile": False, "seed": 42, "learning_rate": 5e-5}
    trainer = SimpleNamespace(
        model=model,
        tasks=getattr(model, "tasks", ()) if tasks is None else tasks,
        schedule=schedule or Schedule(),
        args=SimpleNamespace(world_size=1, **{**defaults, **arguments}),
        accelerator=SimpleNamespace(mixed_precision="no"),
    )
    method.attach(trainer)
    return method
