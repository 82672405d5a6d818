"""Predict with a folder that `mtbert export` wrote, as with the model that it was made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, UnknownTaskError
from ..modeling.answers import Prediction
from ..modeling.prediction import check_batch_tokens, check_rows, cut_rows, fitting_tasks, is_one, warn_of_cuts
from ..modeling.task_spec import TaskSpec
from ..modeling.text_rows import Row, as_rows
from ..modeling.tokenization import shown
from . import extras, standalone

DECISIONS = "decisions.json"
FORMAT = 1  # of decisions.json; an older mtbert refuses the folder of a newer format


def is_export(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder was written by `mtbert export`."""
    return Path(folder, DECISIONS).is_file()


def exported_tasks(folder: str | os.PathLike[str]) -> tuple[TaskSpec, ...]:
    """The tasks of an exported folder, without loading its graphs."""
    return tuple(_task(name, entry) for name, entry in _read(Path(folder))["tasks"].items())


class ExportedModel:
    """An exported model, with the prediction methods of `MtBertForMultiTask`.

    Threads may predict at the same time. The weights are quantised per channel; with dynamic int8 the scales of
    activations are those of a batch, so that a row's logits depend a little on the rows beside it.

    Args:
        folder: a folder that `mtbert export` wrote.
        threads: number of threads of a pass; None: all cores.

    Attributes:
        tasks: the tasks with their calibration; of their heads they do not know the kind.
        engine: `onnx` or `openvino`.
        precision: `fp32`, or how the graph was quantised.

    Raises:
        InputError: the folder is not complete, is of a newer version, or its engine is not installed.
    """

    def __init__(self, folder: str | os.PathLike[str], threads: int | None = None):
        values = _read(Path(folder))
        self.engine: str = values["engine"]
        self.precision: str = values["precision"]
        self.name_or_path = os.fspath(folder)
        extras.require(self.engine, extras.RUNTIMES[self.engine])
        self.tasks = tuple(_task(name, entry) for name, entry in values["tasks"].items())
        missing = [file for file in values["files"] if not Path(folder, file).is_file()]
        if missing:
            raise InputError(f"{folder} has no {missing[0]}; export the checkpoint again")
        try:
            self._model = standalone.Model(Path(folder), threads)
        except Exception as error:  # the engines raise errors of their own
            raise InputError(f"{folder} can not be loaded: {error}; export the checkpoint again") from error

    def task_id(self, name: str) -> int:
        """The number of a task; raise UnknownTaskError with the model's tasks if there is none of this name."""
        names = [task.name for task in self.tasks]
        if name not in names:
            raise UnknownTaskError(f"no task {shown(name)}; this model has: {', '.join(names)}")
        return names.index(name)

    def eval(self) -> ExportedModel:
        """The model itself, which has no other mode."""
        return self

    def predict(
        self,
        inputs: Iterable[Any],
        tasks: str | Sequence[str] | None = None,
        batch_tokens: int = standalone.BATCH_TOKENS,
    ) -> Any:
        """Predict rows; see `MtBertForMultiTask.predict`.

        Args:
            inputs: texts, pairs, or a table of them.
            tasks: a name, several names, or `"all"`, all tasks that take such rows; None: the model's only task.
            batch_tokens: largest number of tokens of a batch, with its padding.

        Returns:
            A Prediction for one name; for several or `"all"` a dict from task names to Predictions.
        """
        check_batch_tokens(batch_tokens)
        rows = as_rows(inputs)
        predictions = self.predict_rows(rows, tasks, batch_tokens)
        warn_of_cuts(cut_rows(predictions), len(rows))
        return next(iter(predictions.values())) if is_one(tasks) else predictions

    def predict_rows(
        self,
        rows: list[Row],
        tasks: str | Sequence[str] | None = None,
        batch_tokens: int = standalone.BATCH_TOKENS,
    ) -> dict[str, Prediction]:
        """Task name → its Prediction for rows (text, second text or None); does not warn of truncated rows."""
        specs = fitting_tasks(self, tasks, rows)
        for spec in specs:
            check_rows(spec, rows)
        logits, truncated = self._model.logits([spec.name for spec in specs], rows, batch_tokens)
        texts = [text for text, _ in rows]
        return {spec.name: Prediction.of(spec, logits[spec.name], truncated[spec.name], texts) for spec in specs}

    def text_logits(
        self,
        specs: Sequence[TaskSpec],
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        batch_rows: int | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Logits and numbers of tokens cut off, by task name; see `prediction.text_logits`."""
        logits: dict[str, np.ndarray] = {}
        truncated: dict[str, np.ndarray] = {}
        for count in (1, 2):
            names = [spec.name for spec in specs if spec.texts == count]
            second: Any = pairs if count == 2 else [None] * len(texts)
            if names:
                found = self._model.logits(names, list(zip(texts, second, strict=True)), batch_rows=batch_rows)
                logits, truncated = logits | found[0], truncated | found[1]
        return logits, truncated


def _read(folder: Path) -> dict[str, Any]:
    """Read and check decisions.json."""
    try:
        values = json.loads((folder / DECISIONS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: no {DECISIONS} can be read ({error}); give a folder of mtbert export") from error
    if not isinstance(values, Mapping) or values.get("format") != FORMAT:
        found = values.get("format") if isinstance(values, Mapping) else None
        raise InputError(f"{folder}: {DECISIONS} has format {found!r}, but must have {FORMAT}; export it again")
    return dict(values)


def _task(name: str, entry: Mapping[str, Any]) -> TaskSpec:
    kind = {key: entry[key] for key in ("range", "texts", "calibration")}
    return TaskSpec(name, entry["kind"], entry["labels"] or None, **kind, **entry["spec"])
