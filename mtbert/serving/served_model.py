"""The model side of the server: a checkpoint with torch, or a folder that `mtbert export` wrote."""

from __future__ import annotations

import copy
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer
from torch import nn

from ..errors import InputError
from ..export import ExportedModel
from ..modeling.answers import Prediction
from ..modeling.prediction import predict_rows
from ..modeling.task_spec import TaskSpec
from ..modeling.text_rows import Row
from ..modeling.tokenization import length_limit

LONGEST = 512  # tokens of an input where a model states no limit


class Predicts(Protocol):
    """What a model must have to be served: `mtbert.export.ExportedModel`, or a `TorchModel`."""

    @property
    def tasks(self) -> Sequence[TaskSpec]: ...

    def predict(self, rows: list[Row], tasks: Sequence[str]) -> dict[str, Prediction]: ...


class TorchModel:
    """A model of torch and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any):
        self.module, self.tokenizer = model.eval(), tokenizer
        self.tasks: Sequence[TaskSpec] = model.tasks
        self.adapters = frozenset(model.adapters)
        self.max_length = max(length_limit(task, tokenizer, model.config.encoder) for task in self.tasks)

    def predict(self, rows: list[Row], tasks: Sequence[str]) -> dict[str, Prediction]:
        """Task name → its Prediction for the rows."""
        return predict_rows(self.module, rows, tasks, self.tokenizer)


class ServedModel:
    """A model that predicts, with what the server must know to gather requests.

    Args:
        model: the model.
        tokenizer: its tokenizer, by which tokens are counted.

    Attributes:
        tasks: the tasks that are served.
        longest: largest number of tokens of an input; longer ones are cut.
    """

    def __init__(self, model: Predicts, tokenizer: Tokenizer):
        self.model: Any = model
        self.tasks = tuple(model.tasks)
        self.longest = getattr(model, "max_length", None) or LONGEST
        self._adapters: frozenset[str] = getattr(model, "adapters", frozenset())
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def choose(self, names: Sequence[str]) -> None:
        """Serve the tasks of these names only."""
        self.tasks = tuple(task for task in self.tasks if task.name in names)

    def predict(self, rows: list[Row], tasks: Sequence[str]) -> dict[str, Prediction]:
        """Task name → its Prediction for the rows, all of which have as many texts as the tasks take."""
        return self.model.predict(rows, tasks)

    def count_tokens(self, rows: Sequence[Row]) -> list[int]:
        """Number of tokens of each row, special ones included, before any is cut."""
        values: list[Any] = [first if second is None else (first, second) for first, second in rows]
        return [len(encoding) for encoding in self._tokenizer.encode_batch_fast(values)]

    def encodings(self, tasks: Sequence[TaskSpec]) -> frozenset[Hashable]:
        """The ways in which tasks encode a row; each is a pass of the encoder. Tasks that share one share a pass."""
        return frozenset(self._encoding(task) for task in tasks)

    def _encoding(self, task: TaskSpec) -> Hashable:
        if task.name in self._adapters:
            return task.name
        of_pair = (task.num_sequences, task.separator, task.token_types) if task.texts == 2 else ()
        return (task.texts, task.max_length, *of_pair)

    def between_layers(self, function: Callable[[], None]) -> None:
        """Call a function before each linear layer of the model; does nothing for a model that has none.

        The function may run the model itself: a model in evaluation mode keeps nothing between its layers.
        """
        module = getattr(self.model, "module", None)
        for layer in module.modules() if module is not None else ():
            if isinstance(layer, nn.Linear):
                layer.register_forward_pre_hook(lambda *_: function())

    def warm_up(self) -> None:
        """Predict a row with all tasks, so that a model that cannot predict is refused before it serves."""
        for texts in (1, 2):
            names = [task.name for task in self.tasks if task.texts == texts]
            if names:
                self.predict([("a", None if texts == 1 else "a")], names)


def exported(folder: str) -> bool:
    """Whether a folder was written by `mtbert export`: it holds a graph, and no weights of torch."""
    files = {path.suffix for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()
    return bool({".onnx", ".xml"} & files) and ".safetensors" not in files


def load_exported(folder: str, threads: int | None = None) -> ServedModel:
    """Load a folder that `mtbert export` wrote.

    Args:
        folder: the folder.
        threads: threads of a pass; None: all cores.

    Raises:
        InputError: the folder is not complete, is of a newer version, or its engine is not installed.
    """
    file = Path(folder, "tokenizer.json")
    if not file.is_file():
        raise InputError(f"{folder} has no tokenizer.json; export the checkpoint again")
    return ServedModel(ExportedModel(folder, threads), Tokenizer.from_file(str(file)))
