"""Write the text of a drafted recipe."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .readings import SEVERAL
from .survey import Leak, Surveyed
from .tasks import TaskDraft
from .yaml_lines import comment, entry, flow, indented, scalar, switched_off

BATCH, STEPS = 32, 300  # rows of a step, and steps that a run has at least, unless MOST_EPOCHS are fewer
FEWEST_EPOCHS, MOST_EPOCHS = 3, 30
UNEVEN = 0.6  # share of the largest label from which class weights are proposed
HEADER = (
    "A draft by `mtbert init`: read it, and change what is not so. Lines with ## explain. Lines with one # are YAML "
    "that is switched off: remove the # to use them."
)


@dataclass(frozen=True)
class Frame:
    """The parts of a recipe that are no table's.

    Attributes:
        command: the command that trains it.
        encoder: its encoder.
        output_dir: the folder of the run.
        data_dir: the folder of the files; None: no file is read.
        remarks: sentences on how it was drafted.
    """

    command: str
    encoder: str
    output_dir: str
    data_dir: str | None
    remarks: tuple[str, ...] = ()


def recipe_text(tables: Sequence[Surveyed], leaks: Sequence[Leak], frame: Frame) -> str:
    """The text of a recipe for drafted tables."""
    tables = [table for table in tables if table.draft.active]
    lines = [*comment(frame.command), *comment(HEADER)]
    for remark in frame.remarks:
        lines += comment(remark)
    lines += entry("encoder", frame.encoder)
    if frame.data_dir is not None:
        lines += entry("data_dir", frame.data_dir)
    lines += _leak_lines(leaks)
    shared = {table.draft.table.name: _source_name(table, tables) for table in tables if is_source(table)}
    if shared:
        lines += ["", *comment("Each text of a source is encoded once, for all of its tasks."), "sources:"]
    for table in tables:
        if table.draft.table.name in shared:
            source = shared[table.draft.table.name]
            lines += indented([*_about_table(table), f"{scalar(source)}:", *indented(_data_lines(table, frame))])
    lines += ["", "tasks:"]
    for table in tables:
        lines += indented(_table_lines(table, shared.get(table.draft.table.name), frame))
    training = {
        "output_dir": frame.output_dir,
        "num_train_epochs": epochs(sum(len(table.draft.table.train) for table in tables)),
        "per_device_train_batch_size": BATCH,
        "learning_rate": 5e-5,
        "warmup_steps": 0.1,
        "eval_strategy": "epoch",
    }
    lines += ["", "training:", *indented(line for item in training.items() for line in entry(*item))]
    lines += indented([*comment("the final model is saved anyway"), *entry("save_strategy", "no")])
    return "\n".join(lines) + "\n"


def epochs(rows: int) -> int:
    """Passes over so many train rows: at least 3, and for few rows as many as make some hundreds of steps."""
    return min(max(math.ceil(STEPS * BATCH / max(rows, 1)), FEWEST_EPOCHS), MOST_EPOCHS)


def is_source(table: Surveyed) -> bool:
    """Whether several tasks share the table's texts, so that each text is encoded once."""
    return len(table.draft.active) > 1


def _source_name(table: Surveyed, tables: Sequence[Surveyed]) -> str:
    """The name of a table's source, which no task has."""
    names = {task.name for other in tables for task in other.draft.tasks}
    name = table.draft.table.name
    while name in names:
        name += "_rows"
    return name


def _leak_lines(leaks: Sequence[Leak]) -> list[str]:
    lines = []
    for leak in leaks:
        rows = "1 row has" if leak.rows == 1 else f"{leak.rows:,} rows have"
        other = "the" if leak.train == leak.held_out else f"{leak.held_out}'s"
        lines += comment(
            f"Leak: {rows} a text in {leak.train}'s train split that also stands in {other} {leak.split} split."
        )
    if lines:
        lines += comment("The line below trains without such rows.")
        lines += switched_off(entry("leaks", "drop"))
    return ["", *lines] if lines else []


def _about_table(table: Surveyed) -> list[str]:
    """Comments on a table."""
    draft = table.draft
    counts = ", ".join(f"{len(rows):,} {split}" for split, rows in draft.table.splits.items())
    texts = " and ".join(map(repr, draft.text))
    lines = comment(f"{draft.table.name}: {counts} rows; texts in {texts}")
    for split, rows in table.without_text.items():
        lines += comment(f"{rows:,} {split} rows have no text and are left out")
    if table.repeated:
        lines += comment(f"{table.repeated:,} train rows have the text of an earlier one")
    for name, texts_of in table.contradicted.items():
        lines += comment(f"{texts_of:,} texts of {name} occur with different labels")
    for remark in draft.table.remarks:
        lines += comment(remark)
    for column, reason in draft.unused.items():
        if column not in draft.more_text:
            lines += comment(f"the column {column!r} is not used: {reason}")
    return lines


def _data(table: Surveyed, frame: Frame) -> dict[str, Any]:
    """The keys of the table's `data`, but for the label."""
    draft = table.draft
    data: dict[str, Any] = {"text": draft.text[0] if len(draft.text) == 1 else list(draft.text)}
    if draft.id is not None:
        data["id"] = draft.id
    data |= draft.table.keys
    for split, sources in draft.table.sources.items():
        names = [_below(source, frame.data_dir) if isinstance(source, Path) else source for source in sources]
        data[split] = names[0] if len(names) == 1 else names
    if table.dev_share:
        data["dev"] = f"{table.dev_share}%"
    return data


def _below(path: Path, data_dir: str | None) -> str:
    """The name of a file as a recipe has it, relative to the folder of the data."""
    if data_dir is None or data_dir == ".":
        return str(path)
    return os.path.relpath(path, data_dir)


def _data_lines(table: Surveyed, frame: Frame, label: Sequence[str] = ()) -> list[str]:
    """The lines within a table's `data`, with other choices as comments; `label`: those about labels."""
    lines = []
    for key, value in _data(table, frame).items():
        if key == "dev" and table.dev_share:
            lines += comment("there is no dev split, so that a share of the train rows is it")
        lines += entry(key, value)
        if key == "text":
            lines += _other_texts(table)
            lines += label
    return lines


def _other_texts(table: Surveyed) -> list[str]:
    lines = []
    for other in table.draft.more_text[:3]:
        if len(table.draft.text) == 1:
            lines += comment(
                f"{other!r} may be a text, too; to read both as a pair, write this instead of the line above:"
            )
            lines += switched_off(entry("text", [other, table.draft.text[0]]))
        else:
            lines += comment(f"{other!r} may be a text, too; to read it alone, write this instead of the line above:")
            lines += switched_off(entry("text", other))
    return lines


def _table_lines(table: Surveyed, source: str | None, frame: Frame) -> list[str]:
    """The tasks of a table, those that are switched off after the others."""
    lines = [] if source is not None else _about_table(table)
    for task in table.draft.tasks:
        if task.active:
            lines += _task_lines(table, task, source, frame)
    for task in table.draft.tasks:
        if not task.active:
            lines += comment(f"{task.name}: {task.reading.kind}, if this is a column of labels: {task.doubt}")
            lines += switched_off(_task_lines(table, task, source, frame, remarks=False))
    return lines


def _task_lines(table: Surveyed, task: TaskDraft, source: str | None, frame: Frame, remarks: bool = True) -> list[str]:
    """The lines of a task.

    Args:
        table: its table.
        task: the task.
        source: the name of its source; None: it has data of its own.
        frame: the rest of the recipe.
        remarks: whether to write comments.
    """
    reading = task.reading
    inside = _about_task(task, len(table.draft.table.train)) if remarks else []
    for key, value in reading.settings.items():
        inside += entry(key, value)
    if remarks:
        for why, settings in reading.instead:
            inside += _alternative(reading.settings, why, settings)
        inside += _weights(task)
        inside += comment(_about_length(table))
    inside += entry("max_length", table.length.tokens)
    if source is not None:
        data = [*entry("source", source), *_label_lines(task, remarks)]
    elif remarks:
        data = _data_lines(table, frame, _label_lines(task, remarks))
    else:
        data = [line for item in _data(table, frame).items() for line in entry(*item)] + _label_lines(task, remarks)
    inside += ["data:", *indented(data)]
    return [f"{scalar(task.name)}:", *indented(inside)]


def _about_task(task: TaskDraft, rows: int) -> list[str]:
    reading = task.reading
    about = reading.kind
    if reading.rows:
        label = max(reading.rows, key=lambda name: reading.rows[name])
        share = reading.rows[label] / max(1, sum(reading.rows.values()))
        what = "of all labels given" if reading.kind == SEVERAL else "of the labelled rows"
        about += f", {len(reading.rows):,} labels; the largest, {label[:60]!r}, has {share:.0%} {what}"
    if task.empty:
        about += f"; {task.empty:,} of {rows:,} train rows have no label and are left out for this task"
    return [line for text in (about, *reading.remarks) for line in comment(text)]


def _label_lines(task: TaskDraft, remarks: bool) -> list[str]:
    """The keys of `data` about labels."""
    lines = entry("label", list(task.column) if isinstance(task.column, tuple) else task.column)
    if task.reading.kind != SEVERAL or not task.empty:
        return lines
    instead = ""
    if isinstance(task.column, tuple):
        lines += entry("empty", "unlabelled")
        instead = ", instead of the line above"
    if remarks:
        why = f"{task.empty:,} empty cells are read as not labelled"
        lines += comment(f"{why}; if they mean that none of the labels is true, write this{instead}:")
        lines += switched_off(entry("empty", "none"))
    return lines


def _alternative(settings: Mapping[str, Any], why: str, others: Mapping[str, Any]) -> list[str]:
    """Another reading of a column, as lines that are switched off, and which lines it replaces."""
    new = {key: value for key, value in others.items() if settings.get(key) != value}
    dropped = [key for key in settings if key not in others or key in new]
    if not new:
        return comment(f"{why}: remove {' and '.join(dropped)}")
    instead = f" instead of {' and '.join(dropped)}" if dropped else " too"
    return [
        *comment(f"{why}, write this{instead}:"),
        *switched_off(line for item in new.items() for line in entry(*item)),
    ]


def _weights(task: TaskDraft) -> list[str]:
    """Class weights, switched off, where one label has most of the rows."""
    rows = task.reading.rows
    if task.reading.kind == SEVERAL or not rows or max(rows.values()) < UNEVEN * sum(rows.values()):
        return []
    return [
        *comment("labels are uneven; to give rare ones more weight:"),
        *switched_off(entry("class_weights", "balanced")),
    ]


def _about_length(table: Surveyed) -> str:
    length = table.length
    about = "" if length.exact else "about "
    cut = f"cuts {length.cut:.1%} of the texts; the longest has {about}{length.longest:,} tokens"
    return cut if length.measured else f"{cut} (no tokenizer was at hand: 1.3 tokens a word)"


def summary(tables: Sequence[Surveyed]) -> list[str]:
    """What was found, as lines for the terminal."""
    lines = []
    for table in tables:
        draft = table.draft
        counts = ", ".join(f"{len(rows):,} {split}" for split, rows in draft.table.splits.items())
        lines.append(
            f"{draft.table.name}: {counts} rows; text {flow(list(draft.text))}"
            + (f"; id {draft.id}" if draft.id else "")
        )
        for task in draft.tasks:
            labels = f", {len(task.reading.labels):,} labels" if task.reading.labels else ""
            unsure = "" if task.active else f" (switched off: {task.doubt})"
            lines.append(f"  {task.name}: {task.reading.kind}{labels}, column {task.column!r}{unsure}")
        lines += [f"  {column!r} is not used: {reason}" for column, reason in draft.unused.items()]
    return lines
