"""Losses and gradients that are not finite: whose they are, and whether the run goes on without their step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import NotFinite

if TYPE_CHECKING:
    from accelerate import Accelerator
    from datasets import Dataset

STOP, SKIP = "stop", "skip"
IN_A_ROW = 20  # steps without an update, after which a run has diverged; fp16's factor falls from 65,536 below 1 in 17
SHOWN = 10  # rows of a task that a message names


def guarded(loss: Tensor) -> Tensor:
    """The loss, bit for bit; with a gradient of nan where it is not finite.

    An overflowing loss may have a finite gradient on one process; after this, every process sees that the step failed
    in the gradient that they average, without asking the others.
    """
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan)


class FiniteSteps:
    """Watches every step's gradient, and tells which rows made it what it is.

    Args:
        on_nonfinite: `stop` or `skip`.
        late: look at a step's gradient when the next one's is there, so that a GPU is not waited for; to stop only.

    Attributes:
        skipped: steps that were passed over since `forget`.
        overflowed: steps that the scaler of fp16 passed over since `forget`, whose losses were finite.
    """

    def __init__(self, on_nonfinite: str, late: bool = False):
        self.on_nonfinite, self.late = on_nonfinite, late and on_nonfinite == STOP
        self.begin()

    def begin(self) -> None:
        """Before the first step of a run."""
        self.forget()
        self._in_a_row, self._step, self._waiting = 0, [], None

    def forget(self) -> None:
        """Begin to count anew."""
        self.skipped = self.overflowed = 0

    def logs(self) -> dict[str, int]:
        """`nonfinite_skipped` and `overflow_skipped`, the steps since the last call, where there are any."""
        counts = {"nonfinite_skipped": self.skipped, "overflow_skipped": self.overflowed}
        self.forget()
        return {name: count for name, count in counts.items() if count}

    def note(self, rows: Mapping[str, Any], losses: Mapping[str, Tensor], loss: Tensor) -> None:
        """Remember a micro-batch.

        Args:
            rows: task → places of its rows in its training data.
            losses: task → the rows' own losses.
            loss: what is minimised.
        """
        self._step.append((dict(rows), {name: each.detach() for name, each in losses.items()}, loss.detach()))

    def check(self, norm: Tensor | float, accelerator: Accelerator, data: Mapping[str, Dataset], step: int) -> bool:
        """Look at the gradient's norm after a step's last backward pass, the same on every process.

        Args:
            data: task → training data, whose columns `id` and `row` name rows.
            step: number of the update that the gradient is for.

        Returns:
            Whether the update is to be left out.

        Raises:
            NotFinite: if the gradient is not finite and the run stops at that, or it was so 20 times in a row.
        """
        seen, self._step = (norm, self._step, step), []
        if self.late and accelerator.scaler is None:
            seen, self._waiting = self._waiting, seen
        return seen is not None and self._judge(*seen, accelerator, data)

    def flush(self, accelerator: Accelerator, data: Mapping[str, Dataset]) -> None:
        """Look at what waits; before anything is evaluated or saved."""
        seen, self._waiting = self._waiting, None
        if seen is not None:
            self._judge(*seen, accelerator, data)

    def _judge(self, norm, batches, step: int, accelerator: Accelerator, data: Mapping[str, Dataset]) -> bool:
        if math.isfinite(norm):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        bad = torch.stack([~loss.isfinite() for _, _, loss in batches]).any()
        if accelerator.num_processes > 1:
            bad = accelerator.reduce(bad.float(), reduction="sum")
        overflow = accelerator.scaler is not None and not bool(bad)  # the scaler leaves the step out, and tries less
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

    def _culprits(self, batches, data: Mapping[str, Dataset]) -> str:
        """Sentences that name the tasks and rows of a step: those with such a loss, or else all of them."""
        found = []
        for rows, losses, _ in batches:
            for name, values in losses.items():
                bad = ~values.isfinite().flatten().cpu()
                if bad.any():
                    places = [place for place, is_bad in zip(rows[name], bad.tolist(), strict=True) if is_bad]
                    kind = "nan" if values.isnan().any() else "infinite"
                    found.append(f"the loss of task {name!r} is {kind} in {_named(data.get(name), places)}.")
        if found:
            return " ".join(dict.fromkeys(found))
        tasks: dict[str, list[int]] = {}
        for rows, _, _ in batches:
            for name, places in rows.items():
                tasks.setdefault(name, []).extend(places)
        told = "; ".join(f"task {name!r}, {_named(data.get(name), places)}" for name, places in tasks.items())
        return f"the gradient is not finite, though the loss of every row here is. The step held {told or 'no rows'}."


def _named(data: Dataset | None, places: Sequence[int]) -> str:
    """Rows by their `id`, or else by their number in the file, or else by their place in the training data."""
    shown = [int(place) for place in places[:SHOWN]]
    columns = data.column_names if data is not None else []
    key = next((each for each in ("id", "row") if each in columns), None)
    names = shown if key is None else data.select(shown)[key][:]
    what = {"id": "the rows with id", "row": "the file's rows", None: "the rows at"}[key]
    more = f" and {len(places) - SHOWN} more" if len(places) > SHOWN else ""
    return f"{what} {', '.join(map(str, names))}{more}"
