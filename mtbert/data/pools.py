"""Pools: what a schedule draws. A pool is a task, or a source, whose tasks read the same texts.

A text of a source is encoded once for all of its tasks that read it alike, and once more for each other way to read it:
another `max_length`, `separator` or `pair`, or a task's own adapter, which changes the encoder's states.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from ..modeling.task_spec import TaskSpec

SOURCE, TASK = "source", "task"  # what a schedule draws

Sources = Mapping[str, Sequence[str]]  # source → its tasks


@dataclass(frozen=True)
class Pool:
    """A task, or a source with its tasks.

    Attributes:
        name: name of the task or of the source.
        tasks: names of its tasks.
    """

    name: str
    tasks: tuple[str, ...]

    @property
    def is_shared(self) -> bool:
        """Whether several tasks read its texts."""
        return len(self.tasks) > 1


class TaskSplits(dict[str, Dataset]):
    """Rows of tasks, by the task's name.

    Args:
        splits: task name → rows.
        sources: source → its tasks. Row number i is the same text in the rows of all of them; its label is missing
            (-100 or nan) where the text has none for the task.
    """

    def __init__(self, splits: Mapping[str, Dataset] | None = None, sources: Sources | None = None):
        super().__init__(splits or {})
        self.sources = {name: tuple(tasks) for name, tasks in (sources or {}).items()}

    def copy(self) -> TaskSplits:
        """A copy with the same sources."""
        return TaskSplits(self, self.sources)


def sources_of(splits: Any) -> Sources:
    """The sources of rows by task: source → its tasks; empty for a plain mapping, and for None."""
    sources: Sources = getattr(splits, "sources", {})
    return sources


def pools_of(tasks: Iterable[str], sources: Sources) -> tuple[Pool, ...]:
    """The pools of tasks, in the order of their first tasks.

    Args:
        tasks: names of all tasks, in the order of their ids.
        sources: source → its tasks.
    """
    source_of = {task: source for source, names in sources.items() for task in names}
    members: dict[tuple[bool, str], list[str]] = {}
    for task in tasks:
        members.setdefault((task in source_of, source_of.get(task, task)), []).append(task)
    return tuple(Pool(name, tuple(names)) for (_, name), names in members.items())


def pool_numbers(tasks: Sequence[str], sources: Sources) -> dict[str, int]:
    """Task → the number of its pool in a plan."""
    return {task: number for number, pool in enumerate(pools_of(tasks, sources)) for task in pool.tasks}


def copies_of(pool: Pool, tasks: Mapping[str, TaskSpec], apart: Collection[str] = ()) -> tuple[tuple[str, ...], ...]:
    """The tasks of a pool in groups, one for each encoding of its texts.

    Args:
        tasks: name → task.
        apart: tasks whose adapters change the encoder's states; each has an encoding of its own.
    """
    groups: dict[tuple[Any, ...], list[str]] = {}
    for name in pool.tasks:
        key = (name,) if name in apart else (None, *encoding_key(tasks[name]))
        groups.setdefault(key, []).append(name)
    return tuple(map(tuple, groups.values()))


def encoding_key(task: TaskSpec) -> tuple[Any, ...]:
    """The fields of a task by which its texts become tokens; tasks with equal ones read a text alike."""
    of_pair = (task.pair, task.separator, task.token_types) if task.texts == 2 else ()
    return (task.texts, task.max_length, *of_pair)


def tasks_apart(tasks: Iterable[TaskSpec], config: Any) -> list[str]:
    """Names of the tasks that have an adapter of their own.

    Args:
        config: the model's config; None: there are no adapters.
    """
    return [task.name for task in tasks if getattr(config, "adapter", None) is not None and task.adapter]


def describe_sources(tasks: Sequence[TaskSpec], sources: Sources, apart: Collection[str]) -> list[str]:
    """A sentence for each source: for which tasks a text is encoded together, and for which apart."""
    by_name, lines = {task.name: task for task in tasks}, []
    for source, names in sources.items():
        first, *others = copies_of(Pool(source, tuple(names)), by_name, apart)
        line = f"Source {source}: each text is encoded once for {_joined(first)}"
        for group in others:
            why = "which has an adapter" if group[0] in apart else f"which read{'s' * (len(group) == 1)} it otherwise"
            line += f"; once more for {_joined(group)}, {why}"
        lines.append(line)
    return lines


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
