"""Choose texts, ids and tasks of a table."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from datasets import Value

from ...data.label_cells import number_of
from ...data.label_forms import is_empty
from ...data.label_reading import LabelReader
from ...data.labels import BAD_LABEL, LISTS, TWO_READINGS, VECTORS, judged
from ...errors import InputError
from ...modeling.limits import reserved_problems
from ...modeling.task_spec import TaskSpec
from .columns import Column, as_object, choose_text
from .facts import text_keys
from .files import SPLIT_OF
from .groups import group_name, mark_columns, read_marks
from .readings import SCORES, SEVERAL, TOKENS, LabelCells, Reading, read_labels
from .tables import Table, check_header, text_problem
from .tagged_words import TaggedWords, tagged_words
from .wishes import Wishes

MOST_TASKS = 12  # of a table, that are drafted without a comment mark
FEW = 20  # rows with a label, of a task in a larger table
PLAIN_NAMES = ("label", "labels", "target", "targets", "class", "y", "gold", "score", "value", "output", "category")
KEPT_APART = {
    "nothing": "it is empty",
    "dates": "it holds dates",
    "objects": "it holds objects; flatten them if they hold labels, one column a value",
    "codes": "almost every row has a value of its own",
}


@dataclass(frozen=True)
class TaskDraft:
    """A task of a table.

    Attributes:
        name: its name.
        column: the column of its labels, or those of one of 0 and 1 for each label.
        reading: how the column is read.
        empty: number of train rows without a label.
        commonest: number of rows with the most frequent cell; of scores those in a tenth of the rows.
        lack: why it can not be trained; None: it can.
    """

    name: str
    column: str | tuple[str, ...]
    reading: Reading
    empty: int
    commonest: int
    lack: str | None = None

    @property
    def doubt(self) -> str | None:
        """Why it is written as a comment; None: it is written as a task."""
        return self.lack or self.reading.doubt

    @property
    def active(self) -> bool:
        """Whether it is written as a task, and not as a comment."""
        return self.doubt is None


@dataclass(frozen=True)
class TableDraft:
    """A table with what is drafted of it.

    Attributes:
        table: the table.
        text: one column of texts, or two of pairs.
        more_text: further columns that may be texts.
        id: the column of ids; None: there is none.
        keys: split → a hash of each row's text or pair (see `text_keys`).
        tasks: its tasks, those that are not active too.
        unused: column → why it makes no task.
        rest: the columns beside its texts, which may hold an id or labels.
    """

    table: Table
    text: tuple[str, ...]
    more_text: tuple[str, ...]
    id: str | None
    keys: dict[str, np.ndarray] = field(repr=False)
    tasks: tuple[TaskDraft, ...] = ()
    unused: dict[str, str] = field(default_factory=dict)
    rest: tuple[Column, ...] = ()

    @property
    def active(self) -> tuple[TaskDraft, ...]:
        """The tasks that are written as tasks."""
        return tuple(task for task in self.tasks if task.active)


def draft_table(table: Table, wishes: Wishes, several: bool, taken: set[str]) -> list[TableDraft]:
    """Choose the texts, ids and tasks of a table.

    Args:
        table: the table.
        wishes: what a person has chosen; columns and tasks that this table lacks are of others.
        several: whether the recipe has several tables, so that a task's name begins with its table's.
        taken: names of tasks of other tables, to which this table's are added.

    Returns:
        The draft, and one more for the tags of its words if it has both these and other labels.

    Raises:
        InputError: the table has no texts or no labels.
    """
    check_header(table, wishes.columns)
    tagged = tagged_words(table, wishes)
    if tagged is None:
        text = _texts(table, table.columns, wishes)
        if text is None:
            raise InputError(text_problem(table))
        return [_with_tasks(_draft(table, table.columns, wishes, text), wishes, several, taken)]
    rest = [column for column in table.columns if column.name not in tagged.columns]
    text = None if tagged.words in wishes.text else _texts(table, rest, wishes)
    if text is None:
        return [_with_tasks(_draft(table, rest, wishes, ((tagged.words,), ())), wishes, several, taken, tagged)]
    if not tagged.readings:  # other texts come first, and lists may be labels
        return [_with_tasks(_draft(table, table.columns, wishes, text), wishes, several, taken)]
    readable = any(reading.kind for reading in tagged.readings.values())
    draft = _with_tasks(_draft(table, rest, wishes, text), wishes, several, taken, needed=not readable)
    if not readable:
        reasons = {name: str(reading.doubt) for name, reading in tagged.readings.items()}
        return [replace(draft, unused=draft.unused | reasons)]
    words = _draft(replace(table, name=f"{table.name}_words"), [], wishes, ((tagged.words,), ()))
    of_words = _with_tasks(words, wishes, several, taken, tagged)
    return [*([draft] if draft.active else []), of_words]


def _draft(
    table: Table,
    columns: Sequence[Column],
    wishes: Wishes,
    text: tuple[tuple[str, ...], tuple[str, ...]],
) -> TableDraft:
    """The draft of a table before its tasks; `columns`: those that may be texts, an id or labels; `text`: `_texts`."""
    chosen, others = text
    keys = {split: text_keys(rows, chosen) for split, rows in table.splits.items()}
    rest = tuple(column for column in columns if column.name not in chosen)
    return TableDraft(table, chosen, others, _id(table, rest, wishes), keys, rest=rest)


def _with_tasks(
    draft: TableDraft,
    wishes: Wishes,
    several: bool,
    taken: set[str],
    tagged: TaggedWords | None = None,
    needed: bool = True,
) -> TableDraft:
    """A draft with its tasks.

    Args:
        draft: the draft.
        wishes, several, taken: see `draft_table`.
        tagged: the columns of tags of its words; None: its texts are no words with tags.
        needed: whether it is an error if there is no task.
    """
    table, columns = draft.table, draft.rest
    unused, tasks = {}, []
    for name, reading in tagged.readings.items() if tagged is not None else ():
        if reading.kind:
            empty = sum(map(is_empty, table.train.with_format(None)[name][:]))
            tasks.append(TaskDraft(name, name, reading, empty, len(table.train)))
        else:
            unused[name] = str(reading.doubt)
    named_labels = set(wishes.label) & set(table.train.column_names)
    apart = {column.name: _apart(column, draft.more_text, named_labels) for column in columns}
    marks = () if named_labels else mark_columns([column for column in columns if not apart[column.name]])
    if marks:
        cells = [table.label_cells(name) for name in marks]
        empty = sum(column.empty for column in cells)
        tasks.append(TaskDraft(group_name(marks), marks, read_marks(cells), empty, len(table.train) // 2 ** len(marks)))
    for column in columns:
        if column.name == draft.id:
            continue
        task = None if apart[column.name] or column.name in marks else _task(draft, column, wishes.label)
        if task is not None and task.reading.kind:
            tasks.append(task)
        elif column.name not in marks:
            unused[column.name] = apart[column.name] or str(task and task.reading.doubt)
    named = []
    for task in tasks:
        wanted = task.name if isinstance(task.column, tuple) else task.column
        name = task_name(wanted, table.name, several, len(tasks) == 1, taken)
        taken.add(name)
        named.append(_of_kind(draft, replace(task, name=name), wishes.tasks))
    if not named and needed:
        raise InputError(_no_labels(draft, unused))
    if wishes.tasks:
        named = [task for task in named if task.name in wishes.tasks]
    named = _sorted_out(named)
    if named and needed and not any(task.active for task in named):
        raise InputError(_no_labels(draft, {str(task.column): str(task.doubt) for task in named} | unused))
    lacking = set(table.train.column_names) - {column.name for column in table.columns}
    unused |= {name: f"{table.shown('dev')} has no such column" for name in table.train.column_names if name in lacking}
    return replace(draft, tasks=tuple(named), unused=unused)


def task_name(column: str, table: str, several: bool, lone: bool, taken: Collection[str]) -> str:
    """A name that a task may have: of its column, or its table, or both.

    Args:
        column: name of the label column.
        table: name of the table.
        several: whether there are several tables.
        lone: whether the column is the table's only one of labels.
        taken: names that other tasks have.
    """
    wanted = column
    if several:
        wanted = table if lone else f"{table}_{column}"
    elif lone and column.strip().lower() in PLAIN_NAMES:
        wanted = table
    name = re.sub(r"[^\w-]+", "_", wanted).strip("_-")[:60] or "task"
    if not _is_free(name):
        name += "_task"
    number, base = 2, name
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def _is_free(name: str) -> bool:
    try:
        TaskSpec(name, labels=2)
    except InputError:
        return False
    return not reserved_problems(name)


def _texts(table: Table, columns: Sequence[Column], wishes: Wishes) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The columns of the texts, and further ones that may be texts; None if there is none."""
    chosen, others = wishes.text, ()
    if not chosen or not set(chosen) <= {column.name for column in columns}:
        choice = choose_text([column for column in columns if column.name not in (*wishes.label, wishes.id)])
        if choice is None:
            return None
        chosen, others = choice.columns, choice.others
    for split, rows in table.splits.items():
        for name in chosen:
            if name not in rows.column_names:
                shown = f"{table.shown(split)} lacks the column {name!r} of the texts"
                raise InputError(f"{shown}, which {table.shown('train')} has; give both the same columns")
            if not isinstance(rows.features[name], Value):
                raise InputError(f"{table.shown(split)}: column {name!r} holds no texts; name another with --text")
    return chosen, others


def _id(table: Table, columns: Sequence[Column], wishes: Wishes) -> str | None:
    if wishes.id in [column.name for column in columns]:
        return wishes.id
    for column in columns:
        everywhere = all(column.name in features for features in table.features.values())
        if everywhere and column.name not in wishes.label and column.identifies:
            return column.name
    return None


def _apart(column: Column, more_text: Sequence[str], labels: Collection[str]) -> str | None:
    """Why a column is no column of labels at first sight; None if it may be one.

    Args:
        column: the column.
        more_text: columns that may be texts.
        labels: the columns of labels that a person has named; none: they are looked for.
    """
    if labels:
        return None if column.name in labels else "--label names others"
    if column.name in more_text or column.holds == "prose":
        return "it may be a text"
    if column.counts_rows:
        return "it numbers the rows"
    if column.identifies:
        return "it may be an id"
    if column.holds == "objects" and _marks_labels(column):
        return None
    if column.holds == "names" and {text.lower() for text in column.counts} <= SPLIT_OF.keys():
        return "it seems to name each row's split; write train, dev and test rows into files of their own"
    return KEPT_APART.get(column.holds)


def _marks_labels(column: Column) -> bool:
    """Whether its objects give 0 or 1 for each label."""
    objects = [as_object(cell) for cell in column.filled]
    return all(cell and all(number_of(mark) in (0.0, 1.0) for mark in cell.values()) for cell in objects)


def _task(draft: TableDraft, column: Column, labels: Sequence[str], kind: str | None = None) -> TaskDraft:
    """Read a column as labels, of a given kind or the likeliest."""
    cells = draft.table.label_cells(column.name)
    reading = read_labels(cells, kind)
    refusal = _refusal(draft, column.name, reading) if reading.kind else None
    if refusal is not None:
        reading = replace(reading, kind="", doubt=refusal)
    elif reading.kind and (column.name in labels or kind is not None):
        reading = replace(reading, doubt=None)
    commonest = cells.filled // 10 if reading.kind == SCORES else max((rows for _, rows in cells.cells), default=0)
    return TaskDraft(column.name, column.name, reading, cells.empty, commonest, _lack(draft, column.name, cells))


def _of_kind(draft: TableDraft, task: TaskDraft, wanted: dict[str, str | None]) -> TaskDraft:
    """A task as a person wants it.

    Raises:
        InputError: its column does not fit the kind.
    """
    if task.name not in wanted:
        return task
    kind = wanted[task.name]
    if kind is not None and (kind == TOKENS) != (task.reading.kind == TOKENS):
        held = "tags of words" if task.reading.kind == TOKENS else "no tags of words"
        raise InputError(f"--tasks reads {task.name} as {kind}, but column {task.column!r} holds {held}")
    if kind == TOKENS:
        return task
    if isinstance(task.column, tuple) and kind not in (None, SEVERAL):
        one = f"{task.name} has a column for each label; name those that are questions of their own with --label"
        raise InputError(f"--tasks reads {task.name} as {kind}, but {one}")
    if kind is None or isinstance(task.column, tuple):
        return replace(task, reading=replace(task.reading, doubt=None))
    column = next(column for column in draft.table.columns if column.name == task.column)
    again = _task(draft, column, (), kind)
    if not again.reading.kind:
        doubt = f"column {task.column!r} does not fit: {again.reading.doubt}"
        raise InputError(f"--tasks reads {task.name} as {kind}, but {doubt}")
    return replace(again, name=task.name)


def _refusal(draft: TableDraft, column: str, reading: Reading) -> str | None:
    """Why training would refuse a cell of the column; None if it reads all."""
    try:
        spec = TaskSpec("task", texts=len(draft.text), **reading.settings)
    except InputError as error:
        return str(error).removeprefix("task 'task': ")
    if reading.kind == SCORES:
        return None  # the range encloses all of them
    table = draft.table
    for split, features in table.features.items():
        if column not in features:
            continue
        reader = LabelReader.of(spec, features, column, split == "test" or table.on_hub)
        cells = [cell for cell, _ in table.cells(column, split)[0]]
        bits = [judged(reader, cell)[1] for cell in cells]
        forms = {bit & (LISTS | VECTORS) for bit in bits if bit & (LISTS | VECTORS)}
        for cell, bit in zip(cells, bits, strict=True):
            if bit & BAD_LABEL or (bit & TWO_READINGS and len(forms) != 1):
                return f"a cell of {split} can not be read as a label: {str(cell)[:50]!r}"
    return None


def _lack(draft: TableDraft, column: str, cells: LabelCells) -> str | None:
    """Why the rows do not suffice for training; None if they do."""
    for split in draft.table.labelled:
        filled = sum(rows for _, rows in draft.table.cells(column, split)[0])
        if not filled or not draft.keys[split].any():
            return f"its {split} split has no row with a text and a label"
        rows = len(draft.table.splits[split])
        if split == "train" and (filled < 2 or (filled < FEW and filled < rows / 2)):
            return f"only {filled:,} of {rows:,} rows have a label"
    return None


def _sorted_out(tasks: Sequence[TaskDraft]) -> list[TaskDraft]:
    """Without a task that is sure, take those that are not; of very many, leave the first few."""
    if not any(task.active for task in tasks):
        tasks = [_trusted(task) for task in tasks]
    kept, active = [], 0
    for task in tasks:
        active += task.active
        if task.active and active > MOST_TASKS:
            task = replace(task, reading=replace(task.reading, doubt=f"{MOST_TASKS} tasks of the table come first"))
        kept.append(task)
    return kept


def _trusted(task: TaskDraft) -> TaskDraft:
    """A task without its doubt, which becomes a remark."""
    if task.reading.doubt is None:
        return task
    remarks = (*task.reading.remarks, f"this may be no label: {task.reading.doubt}")
    return replace(task, reading=replace(task.reading, doubt=None, remarks=remarks))


def _no_labels(draft: TableDraft, reasons: dict[str, str]) -> str:
    shown = "; ".join(f"{name!r}: {reason}" for name, reason in list(reasons.items())[:12])
    found = f"{draft.table.shown('train')}: the texts are in {', '.join(map(repr, draft.text))}"
    why = f" ({shown})" if shown else ""
    return f"{found}, but no column is one of labels{why}; add such a column, or name it with --label"
