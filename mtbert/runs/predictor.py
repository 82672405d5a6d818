"""A callable for data engines: a batch's columns in, the columns of `mtbert predict` out."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import torch

from ..data.json_rows import check_texts
from ..data.labels import clean_text
from ..errors import InputError
from ..evaluation.prediction_files import column_types, prediction_columns
from ..export import ExportedModel, is_export
from ..export.exported_model import exported_tasks
from ..modeling.configuration_mtbert import MtBertConfig
from ..modeling.encoder_loading import load_config, load_tokenizer
from ..modeling.forward_arguments import task_names
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.task_spec import TaskSpec
from .text_scorer import TextScorer


class Predictor:
    """Predicts the rows of a batch, for `map_batches` of Ray Data, `mapInPandas` of Spark and `Dataset.map`.

    An engine copies it to its workers. It holds no model: a worker process loads the checkpoint at its first batch,
    once for all Predictors of the same checkpoint, tasks, batch size and device.

    Args:
        checkpoint: a folder that all workers can read, also one that `mtbert export` wrote; or a hub name.
        tasks: a name, several names, or `all`.
        text: column of the text, or of a pair's first text.
        text_pair: column of a pair's second text; not read if no task takes two.
        keep: columns of the batch that the answers keep; None: all.
        batch_size: rows in one pass of the encoder.
        device: such as `cuda`; None: a GPU if the worker has one.

    Raises:
        InputError: the checkpoint is not mtbert's, or has no such task.
    """

    def __init__(
        self,
        checkpoint: str,
        tasks: str | Sequence[str] = "all",
        text: str = "text",
        text_pair: str = "text_pair",
        keep: Sequence[str] | None = None,
        batch_size: int = 64,
        device: str | None = None,
    ):
        self.checkpoint, self.batch_size, self.device = str(checkpoint), batch_size, device
        self.names = tuple(task_names(tasks, self._specs))
        if unknown := [name for name in self.names if name not in [task.name for task in self._specs]]:
            names = ", ".join(task.name for task in self._specs)
            raise InputError(f"{self.checkpoint} has no tasks {unknown}; it has: {names}")
        self.keep = None if keep is None else tuple(keep)
        pairs = any(task.texts == 2 for task in self.tasks)
        self.text = (text, text_pair) if pairs else (text,)

    @cached_property
    def _specs(self) -> tuple[TaskSpec, ...]:
        if is_export(self.checkpoint):
            return exported_tasks(self.checkpoint)
        config = load_config(self.checkpoint)
        if not isinstance(config, MtBertConfig):
            raise InputError(f"{self.checkpoint} is a checkpoint of {config.model_type}, not of mtbert")
        return config.task_specs

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks that are predicted, in the order of their names as given."""
        by_name = {task.name: task for task in self._specs}
        return tuple(by_name[name] for name in self.names)

    @property
    def columns(self) -> dict[str, type]:
        """Name → type (`str`, `float` or `list`) of each column of answers, for engines that ask for a schema."""
        return {name: kind for task in self.tasks for name, kind in column_types(task).items()}

    def __call__(self, batch: Any) -> dict[str, list[Any]]:
        """Return the kept columns of a batch, and those of the answers, one value for each row.

        Args:
            batch: columns by name: a dict of lists or arrays, or a `pandas.DataFrame`. Texts are read as by
                `mtbert predict`: white space around them is removed, and a missing one is empty.

        Raises:
            InputError: a column is missing, a text is no text, or a kept column has the name of an answer's.
        """
        columns = {name: list(batch[name]) for name in batch.keys()}  # noqa: SIM118  (a DataFrame iterates so, too)
        if missing := [name for name in (*self.text, *(self.keep or ())) if name not in columns]:
            raise InputError(f"the batch has no columns {missing}; it has: {', '.join(columns)}")
        kept = columns if self.keep is None else {name: columns[name] for name in self.keep}
        if taken := [name for name in self.columns if name in kept]:
            raise InputError(f"the batch has columns {taken}, as the answers have; choose others with keep")
        texts, words = [], any(task.kind.units.dims > 1 for task in self._specs)
        for name in self.text:
            check_texts(name, columns[name], lambda row: f"row {row:,} of the batch", words=words)
            texts.append([clean_text(value) for value in columns[name]])
        logits = _scorer(self.checkpoint, self.names, self.batch_size, self.device)(*texts)
        for task in self.tasks:
            kept = kept | prediction_columns(task, logits[task.name], texts[0])
        return kept


@lru_cache(maxsize=4)
def _scorer(checkpoint: str, tasks: tuple[str, ...], batch_size: int, device: str | None) -> TextScorer:
    if is_export(checkpoint):
        return TextScorer(ExportedModel(checkpoint), None, tasks, batch_size)
    model = MtBertForMultiTask.from_pretrained(checkpoint)
    model = model.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu")))
    return TextScorer(model, load_tokenizer(checkpoint), tasks, batch_size)
