"""How candidates are compared by folds: how many folds, seeds and steps, and by which score."""

from __future__ import annotations

from dataclasses import dataclass

from ..evaluation.choosing import LEVEL, Cell
from ..evaluation.row_differences import OVERALL


@dataclass(frozen=True)
class FoldPlan:
    """How candidates are compared.

    Attributes:
        folds: number of folds, 2 or more.
        first_folds: how many of them are run; None: all.
        seeds: training seeds of each fold.
        steps: optimizer steps of a run, in ascending order: after each but the last, the better half goes on. Empty:
            what the recipes say.
        score: `overall`, or a task.
        baseline: name of the candidate that the others are compared with; None: the first.
    """

    folds: int
    first_folds: int | None = None
    seeds: tuple[int, ...] = (1,)
    steps: tuple[int, ...] = ()
    score: str = OVERALL
    baseline: str | None = None

    def problems(self) -> list[str]:
        """Return a sentence for each invalid value."""
        problems = []
        if self.folds < 2:
            problems.append(f"folds is {self.folds}, but must be 2 or more")
        if self.first_folds is not None and not 1 <= self.first_folds <= self.folds:
            problems.append(
                f"first_folds is {self.first_folds}, but must be from 1 to {self.folds}, the number of folds"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            problems.append(f"seeds is {list(self.seeds)}, but must have different whole numbers, 0 or more")
        if any(steps < 1 for steps in self.steps) or sorted(set(self.steps)) != list(self.steps):
            problems.append(f"steps is {list(self.steps)}, but must be 1 or more, in ascending order")
        return problems

    @property
    def cells(self) -> list[Cell]:
        """Fold and seed of each run of a candidate: all folds with the first seed, then with the next."""
        return [(fold, seed) for seed in self.seeds for fold in range(self.first_folds or self.folds)]

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Steps of each round; None: what the recipes say."""
        return self.steps or (None,)

    @property
    def level(self) -> float:
        """Confidence of the decisions of each round; the rounds share the probability of an error."""
        return 1 - (1 - LEVEL) / len(self.budgets)
