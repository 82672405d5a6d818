"""Parts of a recipe that no other package has: a task, the model; and the classes of its sections."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Protocol

from ..data.pools import Sources
from ..data.spec import DataSpec
from ..errors import Problem
from ..modeling.problem_types import MULTI_LABEL
from ..modeling.task_spec import AdapterSpec, HeadSpec, TaskSpec
from .fields import documentation, known_fields

if TYPE_CHECKING:
    from ..training.arguments import MtBertTrainingArguments, PretrainingArguments
    from ..training.objective import TaskTraining


class ReadRecipe(Protocol):
    """What the checks read of a recipe: a `Recipe`, which calls them."""

    @property
    def encoder(self) -> str: ...

    @property
    def tasks(self) -> dict[str, TaskRecipe]: ...

    @property
    def sources(self) -> dict[str, DataSpec]: ...

    @property
    def drawn_sources(self) -> Sources: ...

    @property
    def leaks(self) -> str: ...

    @property
    def model(self) -> ModelRecipe: ...

    @property
    def schedule(self) -> Any: ...

    @property
    def optimizer(self) -> Any: ...

    @property
    def card(self) -> Any: ...

    @property
    def methods(self) -> dict[str, Any]: ...

    @property
    def training(self) -> dict[str, Any]: ...

    @property
    def pretraining(self) -> dict[str, Any] | None: ...

    def training_default(self, key: str) -> Any: ...

    def training_value(self, key: str) -> Any: ...


def training_arguments_class() -> type[MtBertTrainingArguments]:
    """The class whose fields are the keys of `training`."""
    from ..training.arguments import MtBertTrainingArguments

    return MtBertTrainingArguments


def pretraining_arguments_class() -> type[PretrainingArguments]:
    """The class whose fields are the keys of `pretraining`."""
    from ..training.arguments import PretrainingArguments

    return PretrainingArguments


@dataclass(frozen=True)
class TaskRecipe:
    """One task of a recipe: its data, a TaskSpec's fields (`texts` follows from the data), a TaskTraining's fields.

    Attributes:
        data: where the rows are (a DataSpec's fields).
        head: the head (a HeadSpec's fields).
    """

    data: DataSpec = field(default_factory=DataSpec)
    problem_type: str | None = None
    ordinal: bool = False
    labels: tuple[str, ...] | int | None = None
    range: tuple[float, float] | None = None
    pair: str = TaskSpec.pair
    pooling: str = TaskSpec.pooling
    dropout: float = TaskSpec.dropout
    separator: tuple[str, ...] | None = None
    token_types: bool = TaskSpec.token_types
    max_length: int | None = None
    adapter: bool = TaskSpec.adapter
    head: HeadSpec = field(default_factory=HeadSpec)
    weight: float = 1.0
    batch_size: int | None = None
    examples_per_epoch: int | None = None
    metric: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    class_weights: tuple[float, ...] | str | None = None
    label_smoothing: float = 0.0
    balanced: bool = False
    loss: str | None = None
    focal_gamma: float = 2.0
    smooth_l1_beta: float = 1.0

    def spec(self, name: str) -> TaskSpec:
        """What the model has to know of the task.

        Raises:
            ValueError: with everything that is wrong with it, one problem a line.
        """
        not_keys = ("name", "texts", "calibration")  # `mtbert calibrate` fits the last, after training
        shared = {key: getattr(self, key) for key in known_fields(TaskSpec) if key not in not_keys}
        if not isinstance(self.data.label, str):  # a column for each label
            shared["labels"] = self.data.label if self.labels is None else self.labels
            if self.problem_type is None and not self.ordinal:
                shared["problem_type"] = MULTI_LABEL.name
        return TaskSpec(name=name, texts=len(self.data.text), **shared)

    def training(self) -> TaskTraining:
        """How the task is trained."""
        from ..training.objective import TaskTraining

        return TaskTraining(**{entry.name: getattr(self, entry.name) for entry in fields(TaskTraining)})

    @staticmethod
    def documentation() -> dict[str, str]:
        """Name → text of every field."""
        from ..training.objective import TaskTraining

        return documentation(TaskSpec) | documentation(TaskTraining) | documentation(TaskRecipe)


@dataclass(frozen=True)
class ModelRecipe:
    """What is done with the encoder.

    Attributes:
        adapter: what each task adds to the encoder (an AdapterSpec's fields); null: nothing.
        freeze_encoder: train heads and adapters only; the encoder's weights stay as they are.
        train_layer_norms: with `freeze_encoder`, train the encoder's norms all the same.
        packed: whether padding is removed before the encoder where its family allows it (same outputs, faster).
        attention_dropout: dropout probability of the attention weights in fine-tuning, in [0, 1); null: that of the
            encoder's config. 0 keeps all other dropout, and is faster on a GPU, whose kernel for packed texts takes no
            dropout.
        reinitialized_layers: number of the encoder's top layers that begin with random weights instead of pretrained
            ones, and so does its pooler; 0: none (Zhang et al., 2021, "Revisiting Few-sample BERT Fine-tuning").
    """

    adapter: AdapterSpec | None = None
    freeze_encoder: bool = False
    train_layer_norms: bool = False
    packed: bool = True
    attention_dropout: float | None = None
    reinitialized_layers: int = 0

    def problems(self) -> list[Problem]:
        """Return a `Problem` for each invalid field."""
        problems = []
        if self.attention_dropout is not None and not 0 <= self.attention_dropout < 1:
            problems.append(Problem(("attention_dropout",), f"is {self.attention_dropout}, but must be in [0, 1)"))
        count = self.reinitialized_layers
        if count < 0:
            problems.append(Problem(("reinitialized_layers",), f"is {count}, but must be 0 or more"))
        return problems
