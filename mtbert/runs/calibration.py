"""Calibrate the tasks of a checkpoint on a split of its run's data, and write the calibration into the checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, FileInTheWayError, InputError
from ..evaluation.calibration import Goals, calibrate_task
from ..evaluation.report import TaskRows
from ..files import is_temporary, write_text, writing_folder
from ..modeling.calibration import Calibration
from ..modeling.calibration_file import FILE, figures_of, figures_text
from ..modeling.checkpoint_loading import read_json
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.encoder_loading import load_tokenizer
from ..modeling.task_editing import drop_calibration
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, load_rows
from ..training.checkpoints.run_lock import LOCK
from ..training.checkpoints.sealing import CHECKSUMS, STATE, damage, seal
from .evaluation import load_model, predict_split

PRECISIONS = ("bf16", "fp16")  # of training; predictions are in fp32, and so is what is fitted for them
APPROXIMATE = (
    "the checkpoint was chosen by its scores on these rows, so that coverage, precision and all other figures are "
    "approximate, and most likely too good; calibrate on other rows: --split test, or --tasks.NAME.data.dev FILE"
)


def choose_tasks(folder: Path, names: Sequence[str] | None, overwrite: bool) -> list[str]:
    """Return the names of the tasks to calibrate: those given, or all.

    Raises:
        InputError: the folder has no config, or not these tasks; or one is calibrated already, and must not be again.
    """
    tasks = _tasks(folder)
    known = [task.name for task in tasks]
    chosen = known if names in (None, ["all"]) else list(names or ())
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise InputError(f"--tasks has {unknown}, but the checkpoint's tasks are: {', '.join(known)}")
    calibrated = [task.name for task in tasks if task.calibration is not None and task.name in chosen]
    if calibrated and not overwrite:
        raise InputError(
            f"{folder} is calibrated already, for the tasks {', '.join(calibrated)}; replace that with --overwrite, or "
            "drop it with --remove"
        )
    return chosen


def _tasks(folder: Path) -> tuple[TaskSpec, ...]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    read_json(folder / "config.json")
    config = MtBertConfig.from_pretrained(folder)
    return tuple(config.task_specs)


def fit_calibrations(
    folder: Path, recipe: Recipe, names: Sequence[str], split: str, goals: Goals, folds: int, seed: int
) -> tuple[dict[str, Calibration], dict[str, dict[str, Any]], list[str]]:
    """Fit the calibration of some tasks on the labelled rows of a split; nothing is written.

    Returns:
        Task name → calibration; task name → figures (see `calibrate_task`), with `split`, `seed` and `approximate`: why
        the rows are no fair sample, or None; and a sentence for each task that is not calibrated.

    Raises:
        InputError: no task can be calibrated.
    """
    tokenizer, model = load_tokenizer(folder), load_model(folder, recipe)
    drop_calibration(model.get_base_model() if recipe.peft is not None else model)  # the logits are the same
    tasks = [task for task in model.tasks if task.name in names]
    skipped = [f"task {task.name!r} is not in the recipe" for task in tasks if task.name not in recipe.tasks]
    raw = {}
    for task in tasks:
        if task.name in recipe.tasks:
            splits = load_rows(recipe, [task])[task.name].splits
            if split in splits:
                raw[task.name] = splits[split]
            else:
                key = recipe.tasks[task.name].data.key(task.name)
                skipped.append(f"task {task.name!r} has no {split} split; name one: --{key}.{split}")
    calibrations, figures = {}, {}
    if raw:
        _, predicted, _, _ = predict_split(model, tokenizer, recipe, raw, split, left_out=PRECISIONS)
    why = APPROXIMATE if chose_checkpoint(folder, recipe, split) else None
    for task in tasks:
        if task.name not in raw:
            continue
        logits, labels = predicted.predictions[task.name], predicted.label_ids[task.name]
        rows = TaskRows.of(task, raw[task.name], logits, labels)
        if not len(rows):
            skipped.append(f"task {task.name!r}: no row of the {split} split has a label")
            continue
        try:
            calibrations[task.name], measured = calibrate_task(rows, goals, folds, seed)
        except InputError as error:
            skipped.append(str(error))
            continue
        figures[task.name] = {"split": split, "seed": seed, "approximate": why, **measured}
    if not calibrations:
        raise InputError("no task can be calibrated:\n" + "\n".join(skipped))
    return calibrations, figures, skipped


def chose_checkpoint(folder: Path, recipe: Recipe, split: str) -> bool:
    """Whether a checkpoint was chosen by its scores on a split: as the best one of a run, or by a greedy average."""
    if split != "dev":
        return False
    if (folder / "greedy.json").is_file():
        return True
    if any(part.training_value("load_best_model_at_end") for part in recipe.in_stages()):
        return True
    if not (folder / STATE).is_file():
        return False
    best = read_json(folder / STATE, "calibrate another copy", limited=False).get("best_model_checkpoint")
    return best is not None and Path(best).name == folder.resolve().name


def write_calibrations(
    folder: Path,
    output: Path | None,
    calibrations: Mapping[str, Calibration | None],
    figures: Mapping[str, dict[str, Any]],
) -> Path:
    """Write calibrations into a checkpoint's config.json, and their figures into calibration.json.

    All other files stay, byte for byte, except that the entry of config.json in `checksums.json`, if there is one, is
    renewed. Each file is replaced as a whole, and a killed process leaves a checkpoint that loads.

    Args:
        folder: the checkpoint.
        output: a new folder for the calibrated checkpoint; None: the checkpoint itself.
        calibrations: task name → its calibration, or None to remove it; other tasks keep theirs.
        figures: task name → figures of the calibration.

    Returns:
        The folder of the calibrated checkpoint.

    Raises:
        CheckpointError: the checkpoint is sealed and damaged.
        FileExistsError: `output` exists.
    """
    if (folder / CHECKSUMS).is_file() and (damaged := damage(folder, ())):
        raise CheckpointError(f"{folder} is damaged ({damaged}); take another copy")
    if output is None:
        if (folder / "config.json").is_symlink():  # such as a hub's cache, whose files others share
            raise InputError(
                f"{folder}/config.json is a link, and would change elsewhere; give another folder: --output"
            )
        _write(folder, calibrations, figures)
        return folder
    if output.exists():
        raise FileInTheWayError(f"{output} exists; give another --output, or remove it")
    output.parent.mkdir(parents=True, exist_ok=True)
    with writing_folder(output) as part:
        for file in sorted(folder.iterdir()):
            if file.is_file() and file.name != LOCK and not is_temporary(file):
                shutil.copy2(file, part / file.name)
        _write(part, calibrations, figures)
    return output


def _write(folder: Path, calibrations: Mapping[str, Calibration | None], figures: Mapping[str, dict[str, Any]]) -> None:
    def change(config: dict[str, Any]) -> dict[str, Any]:
        for task in config["tasks"]:
            if task["name"] in calibrations:
                task.pop("calibration", None)
                if (calibration := calibrations[task["name"]]) is not None:
                    task["calibration"] = calibration.to_dict()
        return config

    kept = {name: of for name, of in figures_of(_tasks(folder), folder).items() if name not in calibrations}
    kept |= figures
    config = edited(folder / "config.json", change)
    sealed = folder / CHECKSUMS
    if sealed.is_file():  # without an entry of config.json while that changes, so that no moment is damaged
        entries = read_json(sealed, limited=False)
        has_config = entries.pop("config.json", None) is not None
        write_text(sealed, json.dumps(entries, indent=2) + "\n")
    write_text(folder / "config.json", config)
    if kept:
        write_text(folder / FILE, figures_text(kept))
    else:
        (folder / FILE).unlink(missing_ok=True)
    if sealed.is_file() and has_config:
        seal(folder, [*entries, "config.json"])


def edited(file: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    """Return a JSON file's text after a change, in the format of transformers' configs; keys keep their order."""
    text = file.read_text(encoding="utf-8")
    values = change(json.loads(text))
    return json.dumps(values, indent=2, ensure_ascii=text.isascii()) + "\n" * text.endswith("\n")


def remove_calibrations(folder: Path, names: Sequence[str] | None, output: Path | None) -> tuple[Path, list[str]]:
    """Remove the calibrations of some tasks, or of all; return the checkpoint's folder and the tasks that had one.

    Raises:
        InputError: none of the tasks is calibrated.
    """
    chosen = choose_tasks(folder, names, overwrite=True)
    calibrated = [task.name for task in _tasks(folder) if task.calibration is not None and task.name in chosen]
    if not calibrated:
        raise InputError(f"{folder} is not calibrated{' for ' + ', '.join(chosen) if names else ''}; nothing to remove")
    return write_calibrations(folder, output, dict.fromkeys(calibrated), {}), calibrated
