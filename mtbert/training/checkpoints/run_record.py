"""The record of a finished run: movement of the weights, rows of each task, losses, time, machine and versions."""

from __future__ import annotations

import math
import platform
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import datasets
import peft
import torch
import transformers
from torch import Tensor, nn

from ...data.pools import sources_of
from ...data.sources import labelled_count
from ...origins.encoder_name import encoder_name
from ...origins.source_commit import source_commit
from ..methods import method_classes
from ..methods.base import TaskTrainer

if TYPE_CHECKING:
    from peft import PeftModel

    from ...modeling.modeling_mtbert import MtBertForMultiTask

SAMPLED = 64  # every 64th number of a weight is in the sample
_COUNTED = "_skipped"  # suffix of logged counts, which are summed and not averaged


class Movement:
    """A sample of a model's weights before training, to measure afterwards how far each part has moved."""

    def __init__(self, model: MtBertForMultiTask | PeftModel):
        self.model: Any = model
        self.before = [self._sample(module) for _, _, module in self.model.parts()]

    @staticmethod
    def _sample(module: nn.Module) -> list[Tensor]:
        return [p.detach().flatten()[::SAMPLED].float().cpu().clone() for p in module.parameters()]

    def rows(self) -> list[dict[str, str | int | float]]:
        """The rows of `parameter_table`; those of parts have `moved`: ‖θ − θ₀‖ / ‖θ₀‖, inf if θ₀ = 0 and θ ≠ 0."""
        rows = self.model.parameter_table()
        for row, before, (_, _, module) in zip(rows, self.before, self.model.parts(), strict=False):
            pairs = zip(self._sample(module), before, strict=True)
            change = sum(float((now - then).square().sum()) for now, then in pairs)
            norm = sum(float(then.square().sum()) for then in before)
            if norm:
                row["moved"] = math.sqrt(change / norm)
            else:
                row["moved"] = math.inf if change else 0.0
        return rows


def run_record(trainer: TaskTrainer, movement: Movement) -> dict[str, Any]:
    """The content of a finished run's `record.json`.

    Returns:
        `seconds` of training over all stages, `steps`, `examples` (epoch → task → rows it was trained on), `losses`
        (task → first and last logged mean), `measured` (means of the methods' logged numbers, and the number of skipped
        steps), `parameters` (rows of `Movement`), `encoder` (family, layers, width and `name` on the hub, or None),
        `rows` (split → task → number of rows; of a source, of those with a label), `sources` (source → its tasks), the
        machine and versions, and `commit`, that of the code, or None.
    """
    examples: dict[int, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    losses: dict[str, list[float]] = {}
    measured: dict[str, list[float]] = defaultdict(list)
    seconds = []
    methods = [*method_classes(), *trainer.methods.values()]  # all classes, because stages may have different methods
    prefixes = ("nonfinite_", "overflow_", *(name for method in methods for name in method.measured))
    for entry in trainer.state.log_history:
        for task in trainer.tasks:
            if count := entry.get(f"examples_{task.name}"):
                examples[math.ceil(entry["epoch"] - 1e-6)][task.name] += count
            if (loss := entry.get(f"loss_{task.name}")) is not None:
                losses.setdefault(task.name, []).append(loss)
        for key in entry:
            if key.startswith(prefixes):
                measured[key].append(entry[key])
        if "train_runtime" in entry:
            seconds.append(entry["train_runtime"])
    args, encoder = trainer.args, trainer.accelerator.unwrap_model(trainer.model).config.encoder
    splits = {"train": trainer.train_dataset, "dev": trainer.eval_dataset}
    return {
        "seconds": sum(seconds) if seconds else None,
        "steps": trainer.state.global_step,
        "examples": {epoch: dict(counts) for epoch, counts in examples.items()},
        "losses": {task: [values[0], values[-1]] for task, values in losses.items()},
        "measured": {
            key: sum(values) / (1 if key.endswith(_COUNTED) else len(values)) for key, values in measured.items()
        },
        "parameters": movement.rows(),
        "encoder": {
            "family": encoder.model_type,
            "layers": getattr(encoder, "num_hidden_layers", None),
            "width": encoder.hidden_size,
            "name": encoder_name((trainer.settings.recipe or {}).get("encoder")),
        },
        "rows": {name: labelled_count(rows or {}, sources_of(rows)) for name, rows in splits.items()},
        "sources": {source: list(tasks) for source, tasks in sources_of(trainer.train_dataset).items()},
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else args.device.type,
        "processes": args.world_size,
        "threads": torch.get_num_threads(),
        "precision": trainer.accelerator.mixed_precision if trainer.accelerator.native_amp else "no",
        "seed": args.seed,
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (torch, transformers, datasets, peft)},
        },
        "commit": source_commit(),
    }
