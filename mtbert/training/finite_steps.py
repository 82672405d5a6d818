"""Handle steps whose loss or gradient is not finite: name their tasks and rows, then stop the run or skip the step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import NotFinite
from ..modeling.device_copies import OnItsWay

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

STOP, SKIP = "stop", "skip"
# Steps in a row without an update after which a run has diverged; fp16's loss scale falls from 65,536 below 1 in 17.
IN_A_ROW = 20
SHOWN = 10  # a message names so many rows of a task
_Checked = tuple[OnItsWay, list[Any], int]  # the norm of a step's gradient, its micro-batches, its number


def guarded(loss: Tensor) -> Tensor:
    """Return the loss unchanged, but with a nan gradient if it is not finite.

    A loss that overflows on one process may have a finite gradient. With nan, every process sees in the averaged
    gradient that the step failed, without further communication.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


class FiniteSteps:
    """Checks every step's gradient, and names the rows that made it nan or infinite.

    Args:
        on_nonfinite: `stop` or `skip`.
        late: check a step's gradient one step later, when its norm has arrived from the device; only with `stop`.

    Attributes:
        skipped: number of skipped steps since `forget`.
        overflowed: number of steps since `forget` that fp16's scaler skipped although their losses were finite.
    """

    def __init__(self, on_nonfinite: str, late: bool = False):
        self.on_nonfinite, self.late = on_nonfinite, late and on_nonfinite == STOP
        self.begin()

    def begin(self) -> None:
        """Reset all state; called before the first step of a run."""
        self.forget()
        self._in_a_row = 0
        self._step: list[Any] = []
        self._waiting: _Checked | None = None

    def forget(self) -> None:
        """Set the counts to 0."""
        self.skipped = self.overflowed = 0

    def logs(self) -> dict[str, int]:
        """`nonfinite_skipped` and `overflow_skipped`: steps since the last call; counts of 0 are left out."""
        counts = {"nonfinite_skipped": self.skipped, "overflow_skipped": self.overflowed}
        self.forget()
        return {name: count for name, count in counts.items() if count}

    def note(self, rows: Mapping[str, Any], losses: Mapping[str, Tensor], loss: Tensor) -> None:
        """Remember a micro-batch for `check`.

        Args:
            rows: task → index in its training data of the row of each loss.
            losses: task → losses of these rows, `(rows,)`.
            loss: the loss that is minimised, a scalar.
        """
        self._step.append(
            (dict(rows), {name: task_losses.detach() for name, task_losses in losses.items()}, loss.detach())
        )

    def check(self, norm: Tensor | float, accelerator: Accelerator, data: Mapping[str, Dataset], step: int) -> bool:
        """Check the gradient after a step's last backward pass. Collective: every process must call it.

        Args:
            norm: norm of the gradient, equal on every process.
            data: task → training data, whose columns `id` and `row` identify rows.
            step: number of the step.

        Returns:
            Whether the trainer must skip the update.

        Raises:
            NotFinite: if the gradient is not finite and the run stops at that, or after 20 such steps in a row.
        """
        checked: _Checked | None = (OnItsWay(norm), self._step, step)
        self._step = []
        if self.late and accelerator.scaler is None:
            checked, self._waiting = self._waiting, checked
        return checked is not None and self._judge(*checked, accelerator, data)

    def flush(self, accelerator: Accelerator, data: Mapping[str, Dataset]) -> None:
        """Check the step that is still unchecked, if any; called before an evaluation and before a save."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._judge(*waiting, accelerator, data)

    def _judge(
        self, norm: OnItsWay, batches: list[Any], step: int, accelerator: Accelerator, data: Mapping[str, Dataset]
    ) -> bool:
        if math.isfinite(norm.read()):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        bad = torch.stack([~loss.isfinite() for _, _, loss in batches]).any()
        if accelerator.num_processes > 1:
            bad = accelerator.reduce(bad.float(), reduction="sum")
        overflow = accelerator.scaler is not None and not bool(bad)  # the scaler skips the step and lowers its scale
        if overflow:
            self.overflowed += 1
        else:
            self.skipped += 1
        if self._in_a_row >= IN_A_ROW:
            raise NotFinite(
                f"step {step:,}: no update for {self._in_a_row} steps, whose gradients were not finite; the run has "
                f"diverged. {self._culprits(batches, data)} The last checkpoint is of a step before these; lower "
                "training.learning_rate, or raise training.warmup_steps"
            )
        if not overflow and self.on_nonfinite == STOP:
            raise NotFinite(
                f"step {step:,}: {self._culprits(batches, data)} No checkpoint has this step. Look at these rows, "
                f"lower training.learning_rate, or pass over such steps: --training.on_nonfinite {SKIP}"
            )
        return True

    def _culprits(self, batches: list[Any], data: Mapping[str, Dataset]) -> str:
        """Sentences that name the rows of a step whose loss is not finite, or all its rows if there are none."""
        culprits = []
        for rows, losses, _ in batches:
            for name, values in losses.items():
                bad = ~values.isfinite().flatten().cpu()
                if bad.any():
                    places = [place for place, is_bad in zip(rows[name], bad.tolist(), strict=True) if is_bad]
                    places = list(dict.fromkeys(map(int, places)))
                    kind = "nan" if values.isnan().any() else "infinite"
                    culprits.append(f"the loss of task {name!r} is {kind} in {_named(data.get(name), places)}.")
        if culprits:
            return " ".join(dict.fromkeys(culprits))
        tasks: dict[str, list[int]] = {}
        for rows, _, _ in batches:
            for name, places in rows.items():
                tasks.setdefault(name, []).extend(dict.fromkeys(map(int, places)))
        names = "; ".join(f"task {name!r}, {_named(data.get(name), places)}" for name, places in tasks.items())
        return f"the gradient is not finite, though the loss of every row here is. The step held {names or 'no rows'}."


def _named(data: Dataset | None, places: Sequence[int]) -> str:
    """Name rows by their `id`, else by their number in the file, else by their index in the training data."""
    shown = [int(place) for place in places[:SHOWN]]
    columns = data.column_names if data is not None else []
    key = next((column for column in ("id", "row") if column in columns), None)
    names = shown if key is None or data is None else data.select(shown)[key][:]
    what = {"id": "the rows with id", "row": "the file's rows", None: "the rows at"}[key]
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{what} {', '.join(map(str, names))}{more}"
