"""Where a task's rows are: names of files or of a hub's data set, and of their columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import Problem
from .readers import FORMATS, SEPARATOR_NAMES, SUFFIXES, file_format, form_problems

SPLITS = ("train", "dev", "test")
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class DataSpec:
    """Location of a task's rows, and the columns to read.

    Attributes:
        text: the text column, or the two columns of a pair.
        label: the label column; `LabelReader.of` documents the valid cells.
        train: the training split: a file (relative to the recipe's `data_dir`) or, with `hub`, a split's name.
        dev: the split for evaluation, early stopping and the choice of the best checkpoint.
        dev_share: for data without a dev split: share of the training rows, between 0 and 1, that are not trained on
            but are the dev split. They are drawn at random with `sample_seed`.
        folds: number of folds, 2 or more, into which the texts of the training rows are dealt by their hash; rows that
            share a text, directly or through other rows, are in the same fold. Excludes `dev` and `dev_share`.
        fold: with `folds`, the fold, from 0, that is not trained on but is the dev split. No other row with a text of
            it is trained on either, of any task.
        test: a split to predict; its label column may be absent.
        unlabelled: further training texts, on which the model learns a teacher's predictions only (see
            `distillation`). It has the columns of `text`; its labels are not read.
        hub: name of a hub dataset (or a local dataset folder), as for `datasets.load_dataset`.
        subset: the hub dataset's configuration, such as `sst2` of `glue`.
        revision: the hub dataset's revision.
        format: `csv`, `tsv`, `json` (lines), `parquet` or `cs224n` (the course's tab-separated .csv files); None: by
            the file's suffix. Compressed files (.gz, .bz2, .xz, .zip) are decompressed first.
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
    """

    text: tuple[str, ...] | str = "text"
    label: str = "label"
    train: str | None = None
    dev: str | None = None
    test: str | None = None
    unlabelled: str | None = None
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
    folds: int | None = None
    fold: int | None = None

    def __post_init__(self) -> None:
        columns = (self.text,) if isinstance(self.text, str) else tuple(self.text)
        object.__setattr__(self, "text", columns)
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
        if self.label in self.text:
            problems.append(Problem(("label",), f"and text both name column {self.label!r}"))
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
        if not self.train:
            problems.append(Problem(("train",), "is missing; name a file or, with hub, a split"))
        if not self.hub:
            for key in ("subset", "revision"):
                value = getattr(self, key)
                if value is not None:
                    problems.append(Problem((key,), f"is {value!r}, but is for hub datasets; give hub too"))
        if self.format is not None and self.format not in FORMATS:
            problems.append(Problem(("format",), f"is {self.format!r}, but must be one of: {', '.join(FORMATS)}"))
        elif self.format is not None and self.hub:
            problems.append(Problem(("format",), f"is {self.format!r}, but is for files; hub {self.hub!r} has its own"))
        elif not self.hub:
            for split in (*SPLITS, UNLABELLED):
                name = getattr(self, split)
                if name and self.format_of(name) is None:
                    suffixes = ", ".join(SUFFIXES)
                    problems.append(Problem((split,), f"is {name!r}, whose suffix is none of {suffixes}; give format"))
        formats = ["hub"]
        if not self.hub:
            names = filter(None, (getattr(self, split) for split in (*SPLITS, UNLABELLED)))
            formats = list(filter(None, map(self.format_of, names)))
        return problems + form_problems(self.separator, self.quoting, formats)

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
        for key in ("dev", "dev_share"):
            if getattr(self, key):
                problems.append(
                    Problem(("folds",), f"is {self.folds}, but {key} is {getattr(self, key)!r}; drop one of them")
                )
        return problems

    @property
    def has_dev(self) -> bool:
        """Whether the task has a dev split: of its own, or a share or fold of its training rows."""
        return bool(self.dev or self.dev_share or self.folds)

    def source_of(self, split: str) -> str | None:
        """Return the file or hub split that a split's rows come from; None if the task has no such split."""
        within_train = split == "dev" and (self.dev_share or self.folds)
        name: str | None = getattr(self, "train" if within_train else split)
        return name

    def format_of(self, name: str | Path) -> str | None:
        """Return the format of the file `name`: `format`, or else that of its suffix; None if both are unknown."""
        return self.format or file_format(name)
