"""Compare candidates by held-out folds: which of them are better or worse than a baseline, and which are undecided.

A candidate is trained once for each cell, a fold and a seed, and predicts the rows of the fold. Its score is the mean
over the cells. Intervals have two sources of noise: the rows, by a bootstrap that is paired over all candidates, and
the runs, whose variance beyond that of the rows is pooled over the candidates. Differences from the baseline are judged
together, by a max-t bootstrap (Westfall and Young, 1993, section 2.3). `docs/choosing.md` gives the equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats

from ..errors import InputError
from .metrics import METRICS
from .row_differences import OVERALL, scores_by_seed

RESAMPLES = 2000
LEVEL = 0.98  # of all differences together; more than 0.95, so that nearly every 100 comparisons decide 5 or fewer
ALONE = 0.95  # of a score, and of a difference by itself
UNSTABLE = 0.001  # level of the test that a candidate's runs vary more than the others'
ENTRIES = 4_000_000  # of the matrix of weights that are in memory at a time
BY_PRODUCT = ("accuracy", "pearson")  # metrics that `scores_by_seed` computes as products with the weights
Cell = tuple[int, int]  # fold, seed
Predictions = Mapping[Cell, Mapping[str, np.ndarray]]  # cell → task → predictions of the fold's rows


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows of a task in one fold.

    Attributes:
        metric: the task's metric, one that rises.
        labels: `(rows,)`.
        groups: rows with the same number are drawn together, `(rows,)`; None: each row by itself.
    """

    metric: str
    labels: np.ndarray
    groups: np.ndarray | None = None


@dataclass(frozen=True)
class Comparison:
    """Candidates compared with a baseline.

    Attributes:
        entries: a dict for each candidate: `candidate`; `score`, the mean over the cells, with `low` and `high`, its
            own interval of 95 %; `difference` from the baseline with `difference_low` and `difference_high`, which hold
            for all candidates together; `verdict`: `baseline`, `better`, `worse` or `undecided`; and `tasks`: task →
            the same keys but `verdict`, whose intervals are of 95 % each by itself. Without an interval, its ends are
            None.
        cells: the cells.
        level: confidence of the differences' intervals together.
        notes: sentences on what limits the comparison.
        deviations: candidate → |t| of its difference in each resample, for later comparisons with the same family.
    """

    entries: list[dict[str, Any]]
    cells: tuple[Cell, ...]
    level: float
    notes: tuple[str, ...] = ()
    deviations: dict[str, np.ndarray] = field(default_factory=dict, repr=False)

    def named(self, verdict: str) -> list[str]:
        """Return the candidates with a verdict, the best score first."""
        ranked = sorted(self.entries, key=lambda entry: -entry["score"])
        return [entry["candidate"] for entry in ranked if entry["verdict"] == verdict]


def compare(
    candidates: Mapping[str, Predictions],
    rows: Mapping[int, Mapping[str, HeldOut]],
    baseline: str,
    *,
    score: str = OVERALL,
    level: float = LEVEL,
    dropped: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare all candidates with the baseline on the rows of the folds.

    Args:
        candidates: name → predictions; all have the same cells, at least two for intervals.
        rows: fold → task → its held-out rows; the same tasks in each.
        baseline: the candidate that the others are compared with.
        score: `overall`, the mean of the tasks' scores, correlations mapped to [0, 1]; or a task.
        level: probability that no difference that is zero is called better or worse.
        dropped: `deviations` of candidates that an earlier comparison on the same rows has dropped. They count in the
            level, because those that are left were chosen among them.
        seed: seed of the resamples.
        resamples: number of resamples.

    Raises:
        InputError: predictions are missing, have another shape or are not finite; there is no such baseline or score.
    """
    cells = _check(candidates, rows, baseline, score)
    names, tasks = list(candidates), list(rows[cells[0][0]])
    observed, drawn = _scores(candidates, rows, cells, seed, resamples)
    base, judged = names.index(baseline), {}
    for number, name in enumerate([OVERALL, *tasks]):
        random = np.random.default_rng([seed, number])
        judged[name] = _judge(*_of(name, tasks, rows[cells[0][0]], observed, drawn), base, random)
    family = judged[score]
    together = np.stack([*family.deviations, *(dropped or {}).values()])
    critical = float(np.quantile(together.max(axis=0), level))
    entries = []
    for i, name in enumerate(names):
        entry = {"candidate": name, **family.entry(i, critical)}
        entry["verdict"] = _verdict(entry, name == baseline)
        parts = [OVERALL, *tasks] if score != OVERALL else tasks
        entry["tasks"] = {task: judged[task].entry(i) for task in parts}
        entries.append(entry)
    notes = _notes(names, cells, family)
    kept = {name: family.deviations[i] for i, name in enumerate(names) if name != baseline}
    return Comparison(entries, cells, level, notes, kept)


def mean_score(predictions: Predictions, rows: Mapping[int, Mapping[str, HeldOut]], score: str = OVERALL) -> float:
    """Return the mean of a candidate's score over its cells; arguments as those of `compare`."""
    cells = _check({"": predictions}, rows, "", score)
    held = rows[cells[0][0]]
    observed, drawn = _scores({"": predictions}, rows, cells, 0, 0)
    return float(_of(score, list(held), held, observed, drawn)[0].mean())


def _verdict(entry: Mapping[str, Any], is_baseline: bool) -> str:
    if is_baseline:
        return "baseline"
    if entry["difference_low"] is None:
        return "undecided"
    if entry["difference_low"] > 0:
        return "better"
    return "worse" if entry["difference_high"] < 0 else "undecided"


def _notes(names: Sequence[str], cells: Sequence[Cell], family: _Judged) -> tuple[str, ...]:
    notes = []
    if len(names) > 1 and len(cells) < 2:
        notes.append(
            "one run of each candidate does not show how much scores vary from run to run, so that nothing can be "
            "decided; give more folds or seeds"
        )
    if len(names) < 2:
        notes.append("a candidate alone can not be compared; its interval is over the rows only")
    for name, apart in zip(names, family.unstable, strict=True):
        if apart:
            notes.append(f"the runs of {name} vary more than those of the others; it has a variance of its own")
    return tuple(notes)


# ---- scores ----


def _check(
    candidates: Mapping[str, Predictions], rows: Mapping[int, Mapping[str, HeldOut]], baseline: str, score: str
) -> tuple[Cell, ...]:
    """Return the cells of all candidates."""
    if baseline not in candidates:
        raise InputError(f"the baseline is {baseline!r}, but the candidates are: {', '.join(candidates)}")
    cells = tuple(sorted(candidates[baseline]))
    if not cells:
        raise InputError(f"candidate {baseline!r} has no predictions; give those of at least one fold")
    tasks = list(rows.get(cells[0][0], ()))
    if score not in (OVERALL, *tasks):
        raise InputError(f"score is {score!r}, but must be {OVERALL} or a task: {', '.join(tasks)}")
    for name, predictions in candidates.items():
        if tuple(sorted(predictions)) != cells:
            raise InputError(
                f"candidate {name!r} has the folds and seeds {sorted(predictions)}, but {baseline!r} has "
                f"{list(cells)}; all candidates need the same"
            )
        for fold, seed in cells:
            if list(rows.get(fold, ())) != tasks:
                raise InputError(f"fold {fold} has rows of the tasks {list(rows.get(fold, ()))}, but must have {tasks}")
            for task in tasks:
                where = f"candidate {name!r}, fold {fold}, seed {seed}, task {task!r}"
                _check_predictions(predictions[fold, seed].get(task), rows[fold][task], where)
    return cells


def _check_predictions(predicted: np.ndarray | None, held: HeldOut, where: str) -> None:
    if predicted is None:
        raise InputError(f"{where}: there are no predictions; all candidates need those of the same tasks")
    if np.shape(predicted) != np.shape(held.labels):
        raise InputError(
            f"{where}: predictions have the shape {np.shape(predicted)}, but the labels {np.shape(held.labels)}; both "
            "must be of the fold's rows, in the same order"
        )
    if not len(held.labels):
        raise InputError(f"{where}: the fold has no row; give fewer folds")
    if not np.isfinite(predicted).all():
        raise InputError(f"{where}: a prediction is not finite; leave the candidate out, or run it again")


def _scores(
    candidates: Mapping[str, Predictions],
    rows: Mapping[int, Mapping[str, HeldOut]],
    cells: Sequence[Cell],
    seed: int,
    resamples: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Score each candidate in each cell, on all rows and on resamples of them; a fold has the same for all candidates.

    Returns:
        Scores `(tasks, candidates, cells)`, and of the resamples `(resamples, tasks, candidates, cells)`.
    """
    tasks, names = list(rows[cells[0][0]]), list(candidates)
    observed = np.empty((len(tasks), len(names), len(cells)))
    drawn = np.empty((resamples, *observed.shape))
    for fold in dict.fromkeys(fold for fold, _ in cells):
        here = [j for j, cell in enumerate(cells) if cell[0] == fold]
        for t, task in enumerate(tasks):
            held = rows[fold][task]
            predicted = np.stack([candidates[name][cells[j]][task] for name in names for j in here])
            shape = (-1, len(names), len(here))

            def score(weights: np.ndarray, held: HeldOut = held, predicted: np.ndarray = predicted) -> np.ndarray:
                if held.metric in BY_PRODUCT and predicted.ndim == 2:
                    weights = weights.astype(np.float64)  # products of integers are slow
                return scores_by_seed(held.metric, predicted, held.labels, weights)

            observed[t][:, here] = score(np.ones((1, len(held.labels)), dtype=np.int64)).reshape(shape)[0]
            random = np.random.default_rng([seed, fold, t])
            at_once = max(1, ENTRIES // len(held.labels))
            for start in range(0, resamples, at_once):
                stop = min(resamples, start + at_once)
                weights = _weights(held, stop - start, random)
                drawn[start:stop, t][..., here] = score(weights).reshape(shape)
    return observed, drawn


def _weights(held: HeldOut, resamples: int, random: np.random.Generator) -> np.ndarray:
    """Draw groups of rows with replacement; return how often each resample holds each row, `(resamples, rows)`."""
    count = len(held.labels)
    if held.groups is not None:
        unique, groups = np.unique(held.groups, return_inverse=True)
        count = len(unique)
    drawn = random.integers(count, size=(resamples, count))
    times = np.stack([np.bincount(each, minlength=count) for each in drawn])
    return times if held.groups is None else times[:, groups]


def _of(
    name: str, tasks: Sequence[str], rows: Mapping[str, HeldOut], observed: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of one task, or the overall scores: `(candidates, cells)`, and of the resamples."""
    if name != OVERALL:
        return observed[tasks.index(name)], drawn[:, tasks.index(name)]
    correlation = np.array([METRICS[rows[task].metric].correlation for task in tasks])[:, None, None]
    mapped = [np.where(correlation, (1 + scores) / 2, scores) for scores in (observed, drawn)]
    return mapped[0].mean(axis=0), mapped[1].mean(axis=1)


# ---- intervals ----


@dataclass(frozen=True)
class _Judged:
    """Scores with their noise.

    Attributes:
        scores: `(candidates,)`.
        differences: from the baseline, `(candidates,)`.
        errors: standard errors of the differences, `(candidates,)`.
        own: half the width of each score's own interval, `(candidates,)`.
        deviations: |t| of each difference in the resamples, `(candidates, resamples)`.
        alone: critical value of each |t| by itself, `(candidates,)`.
        unstable: whether a candidate has a variance of its own, `(candidates,)`.
        decides: whether differences have intervals.
    """

    scores: np.ndarray
    differences: np.ndarray
    errors: np.ndarray
    own: np.ndarray
    deviations: np.ndarray
    alone: np.ndarray
    unstable: np.ndarray
    decides: bool

    def entry(self, i: int, critical: float | None = None) -> dict[str, Any]:
        """Return score, difference and intervals of a candidate; `critical`: of all differences together."""
        score, own = float(self.scores[i]), float(self.own[i])
        difference, low, high = float(self.differences[i]), None, None
        if self.decides:
            half = float((self.alone[i] if critical is None else critical) * self.errors[i])
            low, high = difference - half, difference + half
        found = {"score": score, "low": score - own, "high": score + own}
        return found | {"difference": difference, "difference_low": low, "difference_high": high}


def _judge(scores: np.ndarray, drawn: np.ndarray, base: int, random: np.random.Generator) -> _Judged:
    """Compute the noise of scores `(candidates, cells)` from those of resamples `(resamples, candidates, cells)`."""
    resampled = drawn - drawn.mean(axis=0)
    of_rows = resampled.mean(axis=2)  # (resamples, candidates)
    excess, excess_drawn, unstable = _run_variance(scores, resampled, random)
    cells = scores.shape[1]
    of_runs = np.sqrt(excess_drawn / cells) * random.standard_normal(of_rows.shape)
    noise = of_rows + of_runs
    differences = scores.mean(axis=1) - scores[base].mean()
    variance = (of_rows - of_rows[:, [base]]).var(axis=0) + (excess + excess[base]) / cells
    variance[base] = 0
    errors = np.sqrt(variance)
    deviations = np.abs(noise - noise[:, [base]]) / np.where(errors > 0, errors, np.inf)
    return _Judged(
        scores.mean(axis=1),
        differences,
        errors,
        np.quantile(np.abs(noise), ALONE, axis=0),
        deviations.T,
        np.quantile(deviations, ALONE, axis=0),
        unstable,
        len(scores) > 1 and cells > 1,
    )


def _run_variance(
    scores: np.ndarray, resampled: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the variance of a run's score that the rows do not explain.

    The residuals of candidates × cells have a variance with (C − 1)(R − 1) degrees of freedom; the part that the
    resamples have, too, is that of the rows. A candidate whose residuals are larger than chance has its own variance.

    Args:
        scores: `(candidates, cells)`.
        resampled: deviations of the resamples, `(resamples, candidates, cells)`.

    Returns:
        The excess variance of each candidate, `(candidates,)`; drawn from its distribution for each resample,
        `(resamples, candidates)`; and which candidates have their own, `(candidates,)`.
    """
    _, first, of = np.unique(scores, axis=0, return_index=True, return_inverse=True)  # equal candidates are one
    of = of.reshape(-1)
    count, cells = len(first), scores.shape[1]
    scores, resampled = scores[first], resampled[:, first]
    unstable = np.zeros(count, dtype=bool)
    excess, drawn = np.zeros(count), np.zeros((len(resampled), count))
    if count < 2 or cells < 2:
        return excess[of], drawn[:, of], unstable[of]
    for i in range(count if count > 2 else 0):
        others = np.arange(count) != i
        ratio = _own_variance(scores, i, others) / _residual_variance(scores[others])
        unstable[i] = ratio > stats.f.ppf(1 - UNSTABLE, cells - 1, (count - 2) * (cells - 1))
    if (~unstable).sum() < 2:
        unstable[:] = False
    stable = ~unstable

    def put(which: np.ndarray, total: np.ndarray, of_rows: np.ndarray, freedom: int) -> None:
        scaled = total * freedom / random.chisquare(freedom, len(resampled))
        excess[which] = max(0.0, float(total - of_rows.mean()))
        drawn[:, which] = np.maximum(0, scaled - of_rows.mean())[:, None]

    freedom = (int(stable.sum()) - 1) * (cells - 1)
    put(stable, _residual_variance(scores[stable]), _residual_variance(resampled[:, stable]), freedom)
    for i in np.flatnonzero(unstable).tolist():
        own = [_own_variance(values, i, stable) for values in (scores, resampled)]
        put(np.arange(count) == i, own[0], own[1], cells - 1)
    return excess[of], drawn[:, of], unstable[of]


def _residual_variance(scores: np.ndarray) -> np.ndarray:
    """Mean square of the residuals of `(…, candidates, cells)` from the effects of candidates and of cells, `(…)`."""
    count, cells = scores.shape[-2:]
    centred = scores - scores.mean(axis=-1, keepdims=True)
    residuals = centred - centred.mean(axis=-2, keepdims=True)
    return np.asarray((residuals**2).sum(axis=(-2, -1)) / ((count - 1) * (cells - 1)))


def _own_variance(scores: np.ndarray, i: int, others: np.ndarray) -> np.ndarray:
    """Variance over cells of candidate `i` against the mean of others, scaled to that of one candidate, `(…)`."""
    count = int(others.sum())
    against = scores[..., i, :] - scores[..., others, :].mean(axis=-2)
    return np.asarray(against.var(axis=-1, ddof=1) * count / (count + 1))
