"""What is added to each row's loss in training, and its means for the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...modeling.modeling_mtbert import MtBertOutput
from .proximal import Proximal, ProximalPenalty
from .smart import RandomState, Smart, SmartPenalty


class Regularisers:
    """Penalties of every labelled row of a micro-batch, weighted and added to its loss.

    They are added before the rows of a task are summed, so that they take part in weights, schedules and accumulation
    as the losses do. Rows without a label have neither.

    Args:
        parts: the penalties; each has a `name`, a `weight` and `penalties(model, inputs, outputs, before)`.
        names: the tasks.
        device: the model's.

    Attributes:
        teacher: the part that has one; None: there is none.
    """

    def __init__(self, parts: Sequence[SmartPenalty | ProximalPenalty], names: Sequence[str], device: torch.device):
        self.parts, self.names, self.device = tuple(parts), tuple(names), device
        self.teacher = next((part for part in self.parts if isinstance(part, ProximalPenalty)), None)
        self.forget()

    @classmethod
    def of(
        cls, model: nn.Module, smart: Smart | None, proximal: Proximal | None, device: torch.device, inexact: bool
    ) -> Regularisers:
        """The regularisers of a run; those with a weight of 0 are left out.

        Args:
            inexact: whether the model's own passes are in mixed precision or compiled.

        Raises:
            ValueError: for settings that are out of range, and for `smart` with weights in half precision.
        """
        found = smart.problems("smart") if smart is not None else []
        found += proximal.problems("proximal") if proximal is not None else []
        half = {str(each.dtype) for each in model.parameters() if each.dtype in (torch.float16, torch.bfloat16)}
        if smart is not None and half:
            found.append(f"smart: the model has weights in {half.pop()}, but its passes need fp32; load them in fp32")
        if found:
            raise InputError("\n".join(found))
        parts: list[SmartPenalty | ProximalPenalty] = []
        if smart is not None and smart.weight:
            parts.append(SmartPenalty(smart, model.tasks, own_reference=inexact))
        if proximal is not None and proximal.weight:
            parts.append(ProximalPenalty(proximal, model.tasks))
        return cls(parts, [task.name for task in model.tasks], device)

    def random_state(self) -> RandomState | None:
        """What `add` is to be given, taken before the model's own pass."""
        return RandomState(self.device) if self.parts else None

    def add(
        self, model: nn.Module, inputs: Mapping[str, Any], outputs: MtBertOutput, before: RandomState | None
    ) -> dict[str, Tensor]:
        """The row losses of the model's outputs with all penalties, by task: `(rows,)`."""
        losses = dict(outputs.row_losses)
        values = {key: value for key, value in inputs.items() if key not in ("labels", "labelled", "rows")}
        for number, part in enumerate(self.parts):
            found = part.penalties(model, values, outputs, before)
            if found is None:
                self._skipped[number] += 1
                continue
            for name in losses:
                labelled = outputs.labelled[name]
                rows = torch.where(labelled, found[name], 0.0)
                losses[name] = losses[name] + part.weight * rows
                self._sums[number, self.names.index(name)] += rows.detach().sum()
                self._counts[number, self.names.index(name)] += labelled.sum()
        return losses

    def forget(self) -> None:
        """Begin the means anew."""
        shape = (len(self.parts), len(self.names))
        self._sums = torch.zeros(shape, device=self.device)
        self._counts = torch.zeros(shape, device=self.device)
        self._skipped = torch.zeros(len(self.parts), 1, device=self.device)

    def logs(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Since `forget`: `<part>_<task>`, the mean of a penalty without its weight, and `<part>_skipped`.

        Args:
            reduce: sums a tensor over all processes.

        Returns:
            `<part>_skipped` counts micro-batches, and is there for parts that can skip one.
        """
        if not self.parts:
            return {}
        found: dict[str, float] = {}
        table = reduce(torch.cat([self._sums, self._counts, self._skipped], dim=1)).tolist()
        for part, values in zip(self.parts, table, strict=True):
            sums, counts = values[: len(self.names)], values[len(self.names) : -1]
            for name, total, count in zip(self.names, sums, counts, strict=True):
                if count:
                    found[f"{part.name}_{name}"] = total / count
            if isinstance(part, SmartPenalty):
                found[f"{part.name}_skipped"] = int(values[-1])
        return found
