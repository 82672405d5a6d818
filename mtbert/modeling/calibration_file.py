"""calibration.json: the figures behind a checkpoint's calibration. The calibration itself is in config.json."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from .calibration_card import read_all
from .checkpoint_loading import read_json
from .errors import InputError
from .own_tokenizer import source_of
from .task_model import TaskModel
from .task_spec import TaskSpec

FILE = "calibration.json"


def figures_of(tasks: Sequence[TaskSpec], source: str | os.PathLike[str], **where: Any) -> dict[str, dict[str, Any]]:
    """Task name → the figures of its calibration, for calibrated tasks whose figures are beside the checkpoint.

    Figures of another calibration than the task has are left out: the file may be older than config.json.

    Args:
        tasks: the tasks, as in config.json.
        source: folder of a checkpoint, or a name on a hub.
        where: `revision`, `subfolder`, … as in `load_config`.
    """
    calibrated = {task.name: task.calibration.to_dict() for task in tasks if task.calibration is not None}
    if not calibrated:
        return {}
    file: Any = Path(source, where.get("subfolder") or "", FILE)
    if not os.path.isdir(source):
        try:
            file = cached_file(source, FILE, **where)
        except OSError:  # the hub has no such file, or cannot be reached
            return {}
    if file is None or not Path(file).is_file():
        return {}
    figures = {}
    try:
        entries: Any = read_json(Path(file), remedy="").get("tasks")
        for name, fitted in calibrated.items():
            if name in entries and entries[name]["calibration"] == fitted:
                read_all(entries[name])
                figures[name] = entries[name]
    except (InputError, LookupError, TypeError, ValueError, AttributeError) as error:
        again = "calibrate the checkpoint again (--overwrite)"
        warnings.warn(
            f"{file} does not hold the figures of a calibration, and is left out: {error!r}; {again}", stacklevel=2
        )
        return {}
    return figures


def write_figures(folder: str | os.PathLike[str], figures: dict[str, dict[str, Any]]) -> None:
    """Write the figures of calibrated tasks into a folder; without any, remove the file."""
    file = Path(folder, FILE)
    if figures:
        file.write_text(figures_text(figures), encoding="utf-8")
    else:
        file.unlink(missing_ok=True)


def figures_text(figures: dict[str, dict[str, Any]]) -> str:
    """The text of calibration.json."""
    return json.dumps({"tasks": figures}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def figures_of_model(model: TaskModel) -> dict[str, dict[str, Any]]:
    """Task name → figures of its calibration, from the checkpoint that a model was loaded from."""
    source = source_of(model)
    where = {key: value for key, value in source.items() if key != "encoder"}
    return figures_of(model.tasks, source["encoder"], **where) if source else {}


def save_figures(model: TaskModel, folder: str | os.PathLike[str]) -> None:
    """Take the figures of a model's calibration along from its checkpoint into a folder."""
    write_figures(folder, figures_of_model(model))
