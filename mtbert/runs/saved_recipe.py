"""What the recipe.json of a run says of its tasks' data: columns, files and formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..data.spec import DataSpec
from ..errors import InputError
from ..modeling.checkpoint_loading import read_json

OF_FILES = ("id", "format", "separator", "quoting")
KEYS = tuple(field.name for field in fields(DataSpec))


@dataclass(frozen=True)
class SavedData:
    """The data of a run's tasks.

    Attributes:
        path: the recipe.json.
        data: task name → its data.
        data_dir: the folder that names of files begin at; None: the current one.
    """

    path: Path
    data: dict[str, DataSpec]
    data_dir: str | None = None


def saved_data(checkpoint: str | Path) -> SavedData | None:
    """Read what a recipe.json says of data, in the folder of a run or checkpoint, or in its parent folder.

    Keys that this version does not know are ignored.

    Returns:
        None if there is no such file, as for a name on a hub.

    Raises:
        InputError: the file can not be read, or says nothing valid of a task's data.
    """
    folder = Path(checkpoint)
    places = [folder / "recipe.json", folder.resolve().parent / "recipe.json"] if folder.is_dir() else []
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return None
    remedy = "repair or remove it, or predict with --no_recipe"
    tree = read_json(path, remedy, limited=False)
    tasks, sources = _mapping(tree.get("tasks")), _mapping(tree.get("sources"))
    data = {}
    for name, task in tasks.items():
        values = _mapping(_mapping(task).get("data"))
        if "source" in values:  # the source's keys, and those that the task sets
            own = {key: value for key, value in values.items() if value is not None}
            values = {**_mapping(sources.get(str(values["source"]))), **own}
        try:
            data[name] = DataSpec(**{key: value for key, value in values.items() if key in KEYS})
        except TypeError as error:
            raise InputError(f"{path}: the data of task {name!r} can not be read: {error}; {remedy}") from error
        texts = (*data[name].text, *filter(None, (getattr(data[name], key) for key in OF_FILES)))
        if odd := [value for value in texts if not isinstance(value, str)]:
            raise InputError(f"{path}: tasks.{name}.data has {odd[0]!r} in place of a name; {remedy}")
    data_dir = tree.get("data_dir")
    return SavedData(path, data, data_dir if isinstance(data_dir, str) else None)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
