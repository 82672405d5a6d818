"""Where a task's rows are: names of files or of a hub's data set, and of their columns."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import Problem
from ..modeling.task_spec import TaskSpec
from .label_columns import label_problems
from .label_reading import NONE, UNKNOWN
from .readers import FORMATS, SEPARATOR_NAMES, SUFFIXES, file_format, form_problems
from .row_files import FileForm, Names, as_names

SPLITS = ("train", "dev", "test")
UNLABELLED = "unlabelled"
CUT = ("dev", "test")  # splits that may be a share of the training rows
LABEL_KEYS = ("label", "label_separator", "empty")  # the keys about labels: each task of a source has its own
OF_TASKS = ("source", *LABEL_KEYS)  # all keys that a task of a source has for itself
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")


@dataclass(frozen=True)
class DataSpec:
    """Location of a task's rows, and the columns to read.

    Attributes:
        text: the text column, or the two columns of a pair.
        label: the label column (`docs/data.md` lists what cells may hold), or for a multi-label task a list with a
            column of 0 and 1 for each label; the labels are then the columns' names unless `labels` gives others, in
            the columns' order.
        train: the training split: a file (relative to the recipe's `data_dir`), a list of files, a pattern such as
            `train-*.csv`, a folder of datasets' `save_to_disk`; or, with `hub`, a split's name.
        dev: the split for evaluation, early stopping and the choice of the best checkpoint. `10%` cuts it from the
            training rows: within each label those whose texts have the smallest hashes. Rows that share a text stay
            together.
        dev_share: for data without a dev split: share of the training rows, between 0 and 1, that are not trained on
            but are the dev split. They are drawn at random with `sample_seed`.
        folds: number of folds, 2 or more, into which the texts of the training rows are dealt by their hash; rows that
            share a text, directly or through other rows, are in the same fold. Excludes a `dev` file; rows that `dev:
            10%`, `test: 10%` or `dev_share` cut off are in no fold.
        fold: with `folds`, the fold, from 0, that is not trained on but is the dev split. No other row with a text of
            it is trained on either, of any task.
        test: a split to predict; its label column may be absent. `10%` cuts it as for `dev`.
        unlabelled: further training texts, on which the model learns a teacher's predictions only (see
            `distillation`). It has the columns of `text`; its labels are not read.
        hub: name of a hub dataset (or a local dataset folder), as for `datasets.load_dataset`.
        subset: the hub dataset's configuration, such as `sst2` of `glue`.
        revision: the hub dataset's revision.
        format: `csv`, `tsv`, `json` (lines), `parquet`, `cs224n` (the course's tab-separated .csv files) or `saved` (a
            folder of `save_to_disk`); None: by the file's suffix. Compressed files (.gz, .bz2, .xz, .zst, .zip) are
            decompressed first.
        id: a column that identifies a row in reports and prediction files.
        symmetric: whether the order of a pair's texts has no meaning. Training then has every pair in both orders:
            twice as many rows, also for the schedule unless the task's `examples_per_epoch` is set.
        sample: number of rows of the training split that are trained on. They are drawn once, without replacement, from
            the usable rows, and keep their order; the further rows of `unlabelled` and of `symmetric` come on top.
            None: all rows.
        sample_seed: seed of the draws of `sample` and `dev_share`, 0 or more. The drawn rows do not depend on
            `training.seed`.
        separator: the character between the fields of csv and tsv files, such as `;`, `|` or `tab`; None: a comma in
            csv, a tab in tsv.
        quoting: how quotes are written in csv and tsv files: `double` (a quote within quotes is written twice),
            `backslash` (it is written `\\"`, and a backslash `\\\\`) or `none` (quotes are text, as in the files of
            GLUE and SNLI); None: `double`, but a tab-separated file whose quotes may be text is refused.
        source: the recipe's source whose texts the task reads; all keys but those of the labels are then the source's.
            None: the task has data of its own.
        label_separator: what separates the labels of a cell of a multi-label task, such as `|`, or a space for any
            white space; None: `|` or `;`, else a comma.
        empty: what an empty cell of a multi-label task means: `unlabelled` (not trained on) or `none` (none of the
            labels). None: as `unlabelled`, with a warning; among columns of labels an error.
    """

    text: tuple[str, ...] | str = "text"
    label: str | tuple[str, ...] = "label"
    train: str | tuple[str, ...] | None = None
    dev: str | tuple[str, ...] | None = None
    test: str | tuple[str, ...] | None = None
    unlabelled: str | tuple[str, ...] | None = None
    hub: str | None = None
    subset: str | None = None
    revision: str | None = None
    format: str | None = None
    id: str | None = None
    symmetric: bool = False
    dev_share: float | None = None
    sample: int | None = None
    sample_seed: int = 0
    separator: str | None = None
    quoting: str | None = None
    source: str | None = None
    label_separator: str | None = None
    empty: str | None = None
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        columns = (self.text,) if isinstance(self.text, str) else tuple(self.text)
        object.__setattr__(self, "text", columns)
        for key in ("label", *SPLITS, UNLABELLED):
            if isinstance(getattr(self, key), list):  # as JSON has tuples
                object.__setattr__(self, key, tuple(getattr(self, key)))
        object.__setattr__(self, "label_separator", SEPARATOR_NAMES.get(self.label_separator, self.label_separator))
        object.__setattr__(self, "separator", SEPARATOR_NAMES.get(self.separator, self.separator))

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid value."""
        problems: list[Problem] = []
        if len(self.text) not in (1, 2):
            problems.append(Problem(("text",), f"names {len(self.text)} columns, but must name 1, or 2 for pairs"))
        if len(set(self.text)) != len(self.text):
            problems.append(Problem(("text",), f"names column {self.text[0]!r} twice; a pair has two columns"))
        if self.symmetric and len(self.text) != 2:
            problems.append(Problem(("symmetric",), f"is true, but is for pairs; text names {len(self.text)} column"))
        problems += self._label_problems() + self._sample_problems()
        if not self.train:
            problems.append(Problem(("train",), "is missing; name a file or, with hub, a split"))
        return problems + self._cut_problems() + self._source_problems()

    def _label_problems(self) -> list[Problem]:
        problems, columns = [], self.label_columns
        for column in columns:
            if column in self.text:
                problems.append(Problem(("label",), f"and text both name column {column!r}"))
            if columns.count(column) > 1:
                problems.append(Problem(("label",), f"names column {column!r} twice; name a column for each label"))
        if not columns:
            problems.append(Problem(("label",), "names no column; name one, or one of 0 and 1 for each label"))
        mark = self.label_separator
        if mark is not None and not isinstance(self.label, str):
            why = f"is {mark!r}, but label names a column for each label; drop one of them"
            problems.append(Problem(("label_separator",), why))
        elif mark is not None and (not mark or any(sign in "[](){}\"'" or sign.isalnum() for sign in mark)):
            why = f"is {mark!r}, but must be such as '|', ';' or ',', or ' ' for any white space"
            problems.append(Problem(("label_separator",), why))
        if self.empty not in (None, UNKNOWN, NONE):
            problems.append(Problem(("empty",), f"is {self.empty!r}, but must be {UNKNOWN} or {NONE}"))
        return problems

    def _sample_problems(self) -> list[Problem]:
        problems = []
        if self.sample is not None and self.sample < 1:
            problems.append(Problem(("sample",), f"is {self.sample}, but must be 1 or more"))
        if self.sample_seed < 0:
            problems.append(Problem(("sample_seed",), f"is {self.sample_seed}, but must be 0 or more"))
        elif self.sample_seed and self.sample is None and self.dev_share is None:
            problems.append(
                Problem(("sample_seed",), f"is {self.sample_seed}, but neither sample nor dev_share is set; give one")
            )
        if self.dev_share is not None and not 0 < self.dev_share < 1:
            problems.append(Problem(("dev_share",), f"is {self.dev_share}, but must be between 0 and 1"))
        elif self.dev_share is not None and self.dev:
            problems.append(Problem(("dev_share",), f"is {self.dev_share}, but dev is {self.dev!r}; drop one of them"))
        problems += self._fold_problems()
        return problems

    def _cut_problems(self) -> list[Problem]:
        shares = self.cuts
        problems = [
            Problem((split,), f"is {getattr(self, split)!r}, but must be above 0% and below 100%")
            for split, share in shares.items()
            if not 0 < share < 1
        ]
        if not problems and sum(shares.values()) >= 1:
            both = f"{self.dev} and {self.test}"
            problems = [Problem(("test",), f"and dev are {both}, which leaves no train rows; give less than 100%")]
        if "test" in shares and self.dev_share is not None:
            why = f"is {self.test!r}, which does not go with dev_share; write dev as a percentage, too"
            problems.append(Problem(("test",), why))
        return problems

    def _source_problems(self) -> list[Problem]:
        """The problems of names of files and of a hub's splits, and of how files are read."""
        problems: list[Problem] = []
        names = {split: self.names_of(split) for split in (*SPLITS, UNLABELLED) if split not in self.cuts}
        if not self.hub:
            for key in ("subset", "revision"):
                value = getattr(self, key)
                if value is not None:
                    problems.append(Problem((key,), f"is {value!r}, but is for hub datasets; give hub too"))
        for split, given in names.items():
            if self.hub and len(given) > 1:
                joined = "+".join(given)
                problems.append(Problem((split,), f"is {list(given)}, but a hub has splits; write {joined!r}"))
            elif not isinstance(getattr(self, split), str | None) and not given:
                problems.append(Problem((split,), "is an empty list; name a file, or drop the key"))
        if self.format is not None and self.format not in FORMATS:
            problems.append(Problem(("format",), f"is {self.format!r}, but must be one of: {', '.join(FORMATS)}"))
        elif self.format is not None and self.hub:
            problems.append(Problem(("format",), f"is {self.format!r}, but is for files; hub {self.hub!r} has its own"))
        elif not self.hub:
            for split, given in names.items():
                for name in given:
                    if self.format_of(name) is None and Path(name).suffix and not os.path.isdir(name):
                        suffixes = ", ".join(SUFFIXES)
                        why = f"is {name!r}, whose suffix is none of {suffixes}; give format"
                        problems.append(Problem((split,), why))
        formats = ["hub"]
        if not self.hub:
            formats = list(filter(None, map(self.format_of, (name for given in names.values() for name in given))))
        return problems + form_problems(self.separator, self.quoting, formats)

    def problems_with(self, task: TaskSpec) -> list[Problem]:
        """Return a `Problem` for each key that does not go with the task."""
        problems = label_problems(task, self.label, self.label_separator, self.empty)
        if len(self.text) != task.texts:
            columns = f"data.text names {len(self.text)}: {list(self.text)}; give as many columns as texts"
            return [Problem(("texts",), f"is {task.texts}, but {columns}"), *(p.under("data") for p in problems)]
        return [problem.under("data") for problem in problems]

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The column of the labels, or those of a 0/1 column for each label."""
        return (self.label,) if isinstance(self.label, str) else self.label

    @property
    def cuts(self) -> dict[str, float]:
        """Split (`dev`, `test`) → share of the training rows that it is cut from, where it is written as `10%`."""
        shares = {split: share_of(getattr(self, split)) for split in CUT}
        return {split: share for split, share in shares.items() if share is not None}

    def names_of(self, split: str) -> tuple[str, ...]:
        """Return the files or patterns of a split, or its name on a hub; empty if it has none."""
        return as_names(self.source_of(split))

    def _fold_problems(self) -> list[Problem]:
        if self.folds is None and self.fold is None:
            return []
        if self.folds is None or self.fold is None:
            missing, given = ("folds", "fold") if self.folds is None else ("fold", "folds")
            value = getattr(self, given)
            return [Problem((missing,), f"is missing, but {given} is {value}; give both or neither")]
        problems = []
        if self.folds < 2:
            problems.append(Problem(("folds",), f"is {self.folds}, but must be 2 or more"))
        elif not 0 <= self.fold < self.folds:
            problems.append(
                Problem(("fold",), f"is {self.fold}, but must be from 0 to {self.folds - 1}, as folds is {self.folds}")
            )
        if self.dev and not self.is_share("dev"):
            problems.append(Problem(("folds",), f"is {self.folds}, but dev is {self.dev!r}; drop one of them"))
        return problems

    def is_share(self, split: str) -> bool:
        """Whether a split is a share of the training rows, which is cut off before they are divided into folds."""
        return split in self.cuts or (split == "dev" and self.dev_share is not None)

    def key(self, task: str) -> str:
        """The key of a recipe below which these are: of the task, or of its source."""
        return f"tasks.{task}.data" if self.source is None else f"sources.{self.source}"

    @property
    def has_dev(self) -> bool:
        """Whether the task has a dev split: of its own, or a share or fold of its training rows."""
        return bool(self.dev or self.dev_share or self.folds)

    def source_of(self, split: str) -> Names | None:
        """Return the files or hub split that a split's rows come from; None if the task has no such split."""
        of_train = self.is_share(split) or (split == "dev" and self.folds)
        name: Names | None = getattr(self, "train" if of_train else split)
        return name

    @property
    def file_form(self) -> FileForm:
        """How the files are read."""
        words = tuple(self.text)
        return FileForm((*words, self.id) if self.id else words, words, self.format, self.separator, self.quoting)

    def format_of(self, name: str | Path) -> str | None:
        """Return the format of the file `name`: `format`, or else that of its suffix; None if both are unknown."""
        return self.format or file_format(name)


def task_data(recipe: Mapping[str, Any], task: str) -> DataSpec:
    """The data of a task of a recipe's tree, with the keys of its source if it names one."""
    data = recipe["tasks"][task].get("data") or {}
    source = (recipe.get("sources") or {}).get(data.get("source")) or {}
    return DataSpec(**{**source, **data})


def share_of(name: Any) -> float | None:
    """Return the share that a split's name such as `10%` gives, 0.1; None for the name of a file or a hub's split."""
    match = _SHARE.fullmatch(name) if isinstance(name, str) else None
    return float(match[1]) / 100 if match else None
