"""Metrics for each problem type, as `evaluate.Metric` classes that need no network.

`evaluate.load` fetches a metric's code from the hub. These classes call scikit-learn and scipy instead, and work
wherever an `evaluate` metric does, also in `evaluate.combine`. Importing this module imports `evaluate`, which takes
seconds: import it in the function that scores, not at the top of a module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sk

from ..errors import InputError, Problem, refuse
from ..modeling.decoding import decisions
from ..modeling.task_spec import TaskSpec
from .span_metrics import EntityScores, entity_table
from .task_metric import TaskMetric as TaskMetric  # also imported from here

IGNORE_INDEX = -100  # the class id of a missing label, as in torch's cross entropy
F1_AVERAGES = ("binary", "macro", "micro")


class Accuracy(TaskMetric):
    """Share of rows with the right class; for (rows, labels) inputs, share of rows with all labels right."""

    per_label = True

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        x, y = self._class_ids(x, y)
        return {"accuracy": float(sk.accuracy_score(y, x))}


class F1(TaskMetric):
    """Harmonic mean of precision and recall; 0 if neither predictions nor references have a positive.

    Args:
        average: `binary` (class 1), `macro` (mean over classes, or over labels) or `micro` (over all decisions
            together). `compute(..., average=...)` overrides it for one call.

    The score is named `f1`, `f1_macro` or `f1_micro`.
    """

    per_label = True

    def __init__(self, average: str = "binary", **kwargs: Any):
        self.average = average
        super().__init__(kwargs.pop("config_name", average), **kwargs)

    def _score(self, x: np.ndarray, y: np.ndarray, average: str | None = None) -> dict[str, float]:
        average = average or self.average
        if average not in F1_AVERAGES:
            raise InputError(f"f1: average is {average!r}, but must be one of: {', '.join(F1_AVERAGES)}")
        x, y = self._class_ids(x, y)
        name = "f1" if average == "binary" else f"f1_{average}"
        if x.shape[1:] == (1,):  # one label of a multi-label task; scikit-learn would read two classes
            x, y, average = x[:, 0], y[:, 0], "binary"
        return {name: float(sk.f1_score(y, x, average=average, zero_division=0))}


class Matthews(TaskMetric):
    """Matthews correlation coefficient, for any number of classes, in [-1, 1]; undefined if either side is constant."""

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        x, y = self._class_ids(x, y)
        return self._or_undefined("matthews", lambda: sk.matthews_corrcoef(y, x), _varied(x) and _varied(y))


class OrdinalAgreement(TaskMetric):
    """Agreement on classes that have an order; their ids are ranks.

    qwk is Cohen's kappa with quadratic weights: 1 − Σ (x − y)² / its expectation for independent x and y, in
    [-1, 1]. It is undefined if both sides are constant and equal. within_one is the share of rows with |x − y| ≤ 1.
    """

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        x, y = self._class_ids(x, y)
        known = np.arange(min(x.min(), y.min()), max(x.max(), y.max()) + 1)  # with those that occur on neither side
        kappa = lambda: sk.cohen_kappa_score(y, x, labels=known, weights="quadratic")  # noqa: E731
        return self._or_undefined("qwk", kappa, len(known) > 1) | {"within_one": float((np.abs(x - y) <= 1).mean())}


class Pearson(TaskMetric):
    """Pearson correlation, in [-1, 1]; undefined if either side is constant or has fewer than 2 rows."""

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return self._or_undefined("pearson", lambda: stats.pearsonr(x, y).statistic, _varied(x) and _varied(y))


class Spearman(TaskMetric):
    """Spearman's rank correlation, in [-1, 1]; undefined if either side is constant or has fewer than 2 rows."""

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        return self._or_undefined("spearman", lambda: stats.spearmanr(x, y).statistic, _varied(x) and _varied(y))


class RegressionErrors(TaskMetric):
    """Errors of a regression: mse, rmse, mae, medae (the median absolute error), msle, r2 and explained_variance.

    mae is also that of the class ids of an ordinal task, in ranks.
    msle is the mean of (ln(1 + x) − ln(1 + y))². It is NaN, and `msle_undefined` is 1, if a prediction or reference is
    −1 or less; 0, the value of other undefined scores, would be its best value. r2 and explained_variance are undefined
    if the references are constant.
    """

    def _score(self, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
        mse = float(sk.mean_squared_error(y, x))
        errors = {"mse": mse, "rmse": mse**0.5, "mae": float(sk.mean_absolute_error(y, x))}
        errors["medae"] = float(sk.median_absolute_error(y, x))
        if min(x.min(), y.min()) > -1:
            # scikit-learn's mean_squared_log_error rejects scores between -1 and 0 before version 1.6.
            errors["msle"] = float(sk.mean_squared_error(np.log1p(y), np.log1p(x)))
        else:
            errors |= {"msle": float("nan"), "msle_undefined": 1.0}
        errors |= self._or_undefined("r2", lambda: sk.r2_score(y, x), _varied(y))
        return errors | self._or_undefined("explained_variance", lambda: sk.explained_variance_score(y, x), _varied(y))


def _varied(values: np.ndarray) -> bool:
    return len(values) > 1 and bool(np.any(values != values[0]))


@dataclass(frozen=True)
class MetricSpec:
    """Constructor and properties of a metric.

    Attributes:
        build: creates the `evaluate.Metric`, whose results include a score of the metric's name.
        problem_types: the problem types that the metric can score.
        rises: whether higher is better.
        correlation: whether its range is [-1, 1], so that `averages` maps it to [0, 1].
        reads_classes: whether `compute` takes the names of the task's labels as `classes`.
    """

    build: Callable[[], evaluate.Metric]
    problem_types: tuple[str, ...]
    rises: bool = True
    correlation: bool = False
    reads_classes: bool = False

    def options(self, task: TaskSpec) -> dict[str, Any]:
        """What `compute` takes for a task beside predictions and references."""
        return {"classes": task.classes} if self.reads_classes else {}


_SINGLE, _BINARY, _MULTI = "single_label_classification", "binary_classification", "multi_label_classification"
_REGRESSION, _ORDINAL, _TOKEN = ("regression",), "ordinal_classification", "token_classification"

METRICS: dict[str, MetricSpec] = {
    "accuracy": MetricSpec(Accuracy, (_SINGLE, _BINARY, _MULTI, _ORDINAL)),
    "f1": MetricSpec(F1, (_SINGLE, _BINARY)),
    "f1_macro": MetricSpec(lambda: F1("macro"), (_SINGLE, _BINARY, _MULTI, _ORDINAL)),
    "f1_micro": MetricSpec(lambda: F1("micro"), (_SINGLE, _BINARY, _MULTI, _ORDINAL)),
    "matthews": MetricSpec(Matthews, (_SINGLE, _BINARY, _ORDINAL), correlation=True),
    "qwk": MetricSpec(OrdinalAgreement, (_ORDINAL,), correlation=True),
    "within_one": MetricSpec(OrdinalAgreement, (_ORDINAL,)),
    "pearson": MetricSpec(Pearson, _REGRESSION, correlation=True),
    "spearman": MetricSpec(Spearman, _REGRESSION, correlation=True),
    "mse": MetricSpec(RegressionErrors, _REGRESSION, rises=False),
    "rmse": MetricSpec(RegressionErrors, _REGRESSION, rises=False),
    "mae": MetricSpec(RegressionErrors, (*_REGRESSION, _ORDINAL), rises=False),
    "medae": MetricSpec(RegressionErrors, _REGRESSION, rises=False),
    "msle": MetricSpec(RegressionErrors, _REGRESSION, rises=False),
    "r2": MetricSpec(RegressionErrors, _REGRESSION),
    "explained_variance": MetricSpec(RegressionErrors, _REGRESSION),
    **{name: MetricSpec(EntityScores, (_TOKEN,), reads_classes=True) for name in EntityScores.names},
}

_DEFAULTS = {
    _SINGLE: ("accuracy", "f1_macro"),
    _BINARY: ("accuracy", "f1"),
    "regression": ("pearson", "spearman", "mse"),
    _MULTI: ("f1_micro", "f1_macro"),
    _ORDINAL: ("qwk", "mae", "within_one", "accuracy", "f1_macro"),
    _TOKEN: EntityScores.names,
}


def default_metrics(task: TaskSpec) -> tuple[str, ...]:
    """Return the names of a task's default metrics; the first is its main metric."""
    return _DEFAULTS[task.kind.name]


def all_metrics(task: TaskSpec) -> tuple[str, ...]:
    """Return the names of all metrics that can score a task, its default metrics first."""
    names = [name for name, spec in METRICS.items() if task.problem_type in spec.problem_types]
    if "f1" in names and len(task.classes) != 2:
        names.remove("f1")
    return tuple(dict.fromkeys((*default_metrics(task), *names)))


def check_metric(task: TaskSpec, name: str) -> list[Problem]:
    """Return a list with a `Problem` if `name` cannot be the task's main metric, else an empty list."""
    usable = [key for key in METRICS if key in all_metrics(task) and METRICS[key].rises]
    if name in usable:
        return []
    if name not in METRICS:
        reason = "which is unknown"
    elif task.problem_type not in METRICS[name].problem_types:
        reason = f"which cannot score {task.kind.with_article}"
    elif not METRICS[name].rises:
        reason = "of which lower is better, but the averages and the best checkpoint need a score that rises"
    else:
        reason = f"which needs 2 classes, but the task has {len(task.classes)}"
    return [Problem(("metric",), f"is {name!r}, {reason}; use one of: {', '.join(usable)}")]


PartTable = Callable[[TaskSpec, np.ndarray, np.ndarray], dict[str, Any]]
# problem type → tables of the parts that it labels
PART_TABLES: dict[str, tuple[PartTable, ...]] = {_TOKEN: (entity_table,)}


def part_tables(task: TaskSpec, predicted: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """Return the tables of a report on the parts of rows that a task labels: `title`, `notes` and `rows` of each.

    Args:
        task: the task.
        predicted, labels: class ids, (rows, most parts), -100 where there is no label.
    """
    return [table(task, predicted, labels) for table in PART_TABLES.get(task.kind.name, ())]


def labelled_rows(task: TaskSpec, labels: np.ndarray) -> np.ndarray:
    """Return the mask of the rows with a label, shape (rows,); for multi-label tasks, with at least one known entry.

    A class id of -100 or NaN, or a score of NaN, is missing.
    """
    present = ~_missing(task, np.asarray(labels, dtype=np.float64))
    return np.asarray(present.any(axis=tuple(range(1, present.ndim))))


def _missing(task: TaskSpec, labels: np.ndarray) -> np.ndarray:
    missing = np.isnan(labels)
    return missing if task.kind.numeric else missing | (labels == IGNORE_INDEX)  # -100 may be a score


def widened(task: TaskSpec, labels: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Return labels of parts of rows with -100 for the parts that only logits have; other labels unchanged."""
    if task.kind.units.dims == 1 or labels.ndim != 2 or logits.ndim != 3 or labels.shape[1] >= logits.shape[1]:
        return labels
    return np.pad(labels, ((0, 0), (0, logits.shape[1] - labels.shape[1])), constant_values=IGNORE_INDEX)


def score_task(
    task: TaskSpec,
    logits: np.ndarray,
    labels: np.ndarray,
    metric: str | None = None,
    names: tuple[str, ...] | None = None,
) -> dict[str, float]:
    """Compute the scores of one task over its labelled rows.

    Args:
        task: the task.
        logits: (rows, num_labels), or (rows, most parts, num_labels) of a task that labels parts of rows.
        labels: (rows,), or (rows, num_labels) for a multi-label classification, or (rows, most parts), in which -100
            also stands where a row has no more parts. A row whose class id is -100 or NaN, or
            whose score is NaN, is left out. In a multi-label classification single entries may be missing: F1 ignores
            them, and the accuracy counts them as right.
        metric: the main metric; None: the first of `default_metrics(task)`.
        names: further metrics, out of `all_metrics(task)`; None: `default_metrics(task)`.

    Returns:
        Metric → score, the main metric first. An undefined correlation, r2 or explained_variance (constant predictions
        or labels, fewer than 2 rows) is 0.0, and `<metric>_undefined` is then 1.0. Empty if no row is labelled.

    Raises:
        ValueError: the metric does not suit the task, a shape is wrong, or a logit of a labelled row is not finite.
    """
    defaults = default_metrics(task)
    main = metric or defaults[0]
    refuse(check_metric(task, main), f"task {task.name!r}: ")
    logits, labels = np.asarray(logits), np.asarray(labels, dtype=np.float64)
    multi_label = task.kind.several
    expected = (len(logits), task.num_labels) if multi_label else logits.shape[: task.kind.units.dims]
    labels = widened(task, labels, logits)
    if labels.shape != expected:
        raise InputError(f"task {task.name!r}: labels must be {expected}, but are {labels.shape}")

    rows = labelled_rows(task, labels)
    if not rows.any():
        return {}
    predictions, references = decisions(task, logits[rows]), labels[rows]
    if multi_label:
        # A true negative changes neither precision nor recall, so that F1 ignores the missing entries.
        missing = _missing(task, references)
        predictions, references = np.where(missing, 0, predictions), np.where(missing, 0, references)

    scores: dict[str, float] = {}
    for name in dict.fromkeys((main, *(defaults if names is None else names))):
        options = METRICS[name].options(task)
        results = METRICS[name].build().compute(predictions=predictions, references=references, **options)
        scores |= {key: results[key] for key in (name, f"{name}_undefined") if key in results}
    return scores


def score_tasks(
    tasks: Sequence[TaskSpec],
    metrics: Mapping[str, str | None],
    logits: Mapping[str, np.ndarray],
    labels: Mapping[str, np.ndarray],
) -> tuple[dict[str, dict[str, float]], dict[str, float]]:
    """Score every task that has logits, and average the main metrics.

    Args:
        tasks: the tasks.
        metrics: task name → its main metric; None: the first of `default_metrics(task)`.
        logits, labels: task name → array as in `score_task`.

    Returns:
        Task name → result of `score_task`; and `averages` over the tasks with labelled rows.
    """
    scores, main = {}, {}
    for task in tasks:
        if task.name in logits:
            metric = metrics[task.name] or default_metrics(task)[0]
            scores[task.name] = score_task(task, logits[task.name], labels[task.name], metric)
            if metric in scores[task.name]:
                main[task.name] = (metric, scores[task.name][metric])
    return scores, averages(main)


def scorer(name: str, task: TaskSpec | None = None) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return a metric as a function (predictions, references) → score, which is fast to call many times.

    An undefined score is 0. Multi-label arrays must have no missing entries.

    Args:
        name: name of the metric.
        task: the task, which a metric with `reads_classes` needs.
    """
    metric, options = METRICS[name].build(), {} if task is None else METRICS[name].options(task)
    return lambda x, y: metric._score(np.asarray(x, np.float64), np.asarray(y, np.float64), **options)[name]


def averages(main: dict[str, tuple[str, float]]) -> dict[str, float]:
    """Average the main metrics over tasks.

    Args:
        main: task name → (name of its main metric, value).

    Returns:
        `raw_mean`, the mean of the values, and `overall`, the mean with each correlation r (pearson, spearman,
        matthews, qwk) mapped to (1 + r) / 2, so that every task's score is in [0, 1]. Empty without tasks.

    Raises:
        ValueError: a metric is unknown, or lower values of it are better.
    """
    unusable = {task: name for task, (name, _) in main.items() if name not in METRICS or not METRICS[name].rises}
    if unusable:
        raise InputError(f"averages need metrics that rise, which these are not: {unusable}; give others")
    if not main:
        return {}
    raw = [value for _, value in main.values()]
    scaled = [(1 + value) / 2 if METRICS[name].correlation else value for name, value in main.values()]
    return {"raw_mean": float(np.mean(raw)), "overall": float(np.mean(scaled))}
