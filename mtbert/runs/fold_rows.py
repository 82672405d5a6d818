"""The held-out rows of every fold: their labels, and hashes by which other data are noticed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..data.collation import label_array
from ..data.folds import fold_of_rows, row_keys, text_groups
from ..data.pools import pools_of
from ..data.spec import CUT, OF_TASKS, DataSpec
from ..errors import RecipeError
from ..evaluation.choosing import HeldOut
from ..evaluation.metrics import default_metrics, labelled_rows
from ..evaluation.span_metrics import counts_by_row
from ..modeling.decoding import decisions
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, load_rows
from .dev_rows import check_metric_of_words, counted_words

# fields of a task's data that decide which rows there are; candidates must not differ in them
SAME = (
    "text",
    "label",
    "train",
    "hub",
    "subset",
    "revision",
    "format",
    "sample",
    "sample_seed",
    "dev_share",
    "separator",
    "quoting",
    "source",
    "label_separator",
    "empty",
)


@dataclass(frozen=True)
class FoldRows:
    """The rows of a task in one fold.

    Attributes:
        held: metric, labels and groups of the labelled rows; labels of words are their counts in each row.
        missing: which of their labels are not known, as `held.labels`; only a task with several labels a row has any.
        labelled: positions of these among all rows of the fold.
        count: number of all rows of the fold.
        digest: hash of the rows' texts and labels, 16 hexadecimal digits.
        tags: of a task that labels words: the ids of the tags of the labelled rows, `(rows, most words)`.
    """

    held: HeldOut
    missing: np.ndarray
    labelled: np.ndarray
    count: int
    digest: str
    tags: np.ndarray | None = None

    def predictions(self, spec: TaskSpec, logits: np.ndarray) -> np.ndarray:
        """Return the decisions for the labelled rows, as `held.labels`, from the logits of all rows."""
        decided = decisions(spec, logits[self.labelled].astype(np.float64))
        if self.tags is not None:
            decided = counts_by_row(decided, self.tags, spec.classes)
        return np.where(self.missing, 0, np.asarray(decided, dtype=np.float64))


def load_fold_rows(recipe: Recipe, folds: int, used: Sequence[int]) -> dict[int, dict[str, FoldRows]]:
    """Read the training rows of a recipe's tasks; dev and test files are not opened.

    Args:
        recipe: names tasks and data.
        folds: number of folds.
        used: the folds whose rows are returned.

    Returns:
        Fold → task → its held-out rows.

    Raises:
        RecipeError: the data have problems, or a fold of a task has no row.
    """
    rows: dict[int, dict[str, FoldRows]] = {fold: {} for fold in used}
    problems: list[str] = []
    trained = replace(
        recipe, tasks={name: replace(task, data=_train_only(task.data)) for name, task in recipe.tasks.items()}
    )
    for name, task in trained.tasks.items():
        spec = task.spec(name)
        try:
            check_metric_of_words(spec, task.metric)
            train = load_rows(trained, [spec], masked=True)[name].splits["train"]
        except (OSError, ValueError) as error:
            problems += str(error).splitlines()
            continue
        keys = row_keys(train)
        fold_of, groups = fold_of_rows(keys, folds), text_groups(keys)[0]
        labels = label_array(train).astype(np.float64)
        texts = list(
            zip(*(train.with_format(None)[c][:] for c in train.column_names if c.startswith("text")), strict=True)
        )
        for fold in used:
            here = np.flatnonzero(fold_of == fold)
            labelled = np.flatnonzero(labelled_rows(spec, labels[here])) if len(here) else here
            if not len(labelled):
                problems.append(
                    f"task {name!r}: fold {fold} of {folds} has no row with a label, of {len(train):,} training rows; "
                    "give fewer folds"
                )
                continue
            metric = task.metric or default_metrics(spec)[0]
            own, tags = labels[here][labelled], None
            if spec.kind.units.dims > 1:
                tags = own.astype(np.int64)
                own = counted_words(spec, metric, tags)
            missing = np.isnan(own)
            held = HeldOut(metric, np.where(missing, 0, own), groups[here][labelled])
            digest = _digest([texts[i] for i in here], labels[here])
            rows[fold][name] = FoldRows(held, missing, labelled, len(here), digest, tags)
    if problems:
        raise RecipeError(problems)
    return rows


def _train_only(data: DataSpec) -> DataSpec:
    dropped = ["unlabelled", "folds", "fold", *(split for split in CUT if split not in data.cuts)]
    seed = 0 if data.sample is None and data.dev_share is None else data.sample_seed
    others: dict[str, Any] = dict.fromkeys(dropped)
    return replace(data, **others, symmetric=False, sample_seed=seed)


def _digest(texts: Sequence[tuple[str, ...]], labels: np.ndarray) -> str:
    digest = hashlib.sha256(np.ascontiguousarray(labels, dtype="<f8").tobytes())
    for row in texts:
        for text in row:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:16]


def same_rows_problems(name: str, recipe: Recipe, baseline: Recipe) -> list[str]:
    """Return the reasons why a candidate can not be compared with the baseline row by row."""
    problems = []
    draw = [each.schedule.draw for each in (recipe, baseline)]
    pools = [pools_of(each.tasks, each.drawn_sources) for each in (recipe, baseline)]
    drawn, of_baseline = ({pool for pool in found if pool.is_shared} for found in pools)
    if draw[0] != draw[1] and drawn != of_baseline:
        problems.append(
            f"candidate {name!r}: schedule.draw is {draw[0]!r}, but {draw[1]!r} in the baseline; held-out rows are "
            "texts with a label of any task in one and of each task in the other, so set it for all"
        )
    else:
        problems += [
            f"candidate {name!r}: the source {pool.name!r} has the tasks {', '.join(pool.tasks)}, others than in the "
            "baseline, and texts are held out that have a label of any of them; set schedule.draw: task for all"
            for pool in drawn - of_baseline
            if baseline.tasks.keys() & set(pool.tasks)
        ]
    for task, in_baseline in baseline.tasks.items():
        if task not in recipe.tasks:
            problems.append(f"candidate {name!r} lacks the task {task!r}, by which candidates are compared; keep it")
            continue
        own = recipe.tasks[task]
        shares = [key for key in CUT if key in own.data.cuts or key in in_baseline.data.cuts]
        for key in (*SAME, *shares):
            values = getattr(own.data, key), getattr(in_baseline.data, key)
            if values[0] != values[1]:
                where = f"tasks.{task}.data" if key in OF_TASKS else own.data.key(task)
                problems.append(
                    f"candidate {name!r}: {where}.{key} is {values[0]!r}, but {values[1]!r} in the baseline; "
                    "candidates are compared on the same rows, so set it for all"
                )
        specs = own.spec(task), in_baseline.spec(task)
        if specs[0].classes != specs[1].classes or specs[0].kind.several != specs[1].kind.several:
            problems.append(f"candidate {name!r}: tasks.{task} has other labels than in the baseline; keep them")
    return problems


def score_problem(score: str, baseline: Recipe) -> str | None:
    """Return why candidates can not be compared by a score; None if they can."""
    if score == "overall" or score in baseline.tasks:
        return None
    return f"score is {score!r}, but must be overall or a task: {', '.join(baseline.tasks)}"
