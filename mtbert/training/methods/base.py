"""What a training method is: a part of the trainer that acts at the points named here, and at no other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn
from torch.optim import Optimizer
from transformers import TrainerCallback

from ...modeling.packing import PackedLayout

Reduce = Callable[..., Tensor]


class TaskTrainer(Protocol):
    """What the parts of `MtBertTrainer` read and call of it; none of them imports the trainer itself."""

    args: Any  # MtBertTrainingArguments
    model: Any  # the model, or the one that peft has wrapped; during training the unwrapped one
    tasks: Sequence[Any]  # TaskSpec
    task_ids: Mapping[str, int]
    settings: Any  # MultiTaskSettings
    schedule: Any  # Schedule
    task_training: Mapping[str, Any]  # TaskTraining
    methods: Mapping[str, Method]
    processing_class: Any
    train_dataset: Any  # task → encoded rows, or None
    eval_dataset: Any
    accelerator: Any
    state: Any
    control: Any
    callback_handler: Any
    compute_metrics: Any
    resumable: Any  # ResumableRun
    hub_model_id: Any
    push_in_progress: Any
    losses: Any  # StepLosses
    finite: Any  # FiniteSteps
    _memory_tracker: Any

    def plan(self) -> Any: ...

    def batches(self, splits: Mapping[str, Any]) -> Any: ...

    def encoded(self, split: str, datasets: Any) -> Any: ...

    def resume_record(self) -> Any: ...

    def forward_and_backward(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor: ...

    def evaluation_weights(self) -> AbstractContextManager[Any]: ...

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any: ...

    def evaluation_loop(self, dataloader: Any, description: str, *, metric_key_prefix: str = "eval") -> Any: ...

    def log(self, logs: dict[str, float]) -> None: ...

    def add_callback(self, callback: Any) -> None: ...

    def is_world_process_zero(self) -> bool: ...

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]: ...


class PassShape(Protocol):
    """The shape of a forward pass, on which its memory depends (`memory.Shape`)."""

    def pass_bytes(self, checkpointing: bool = False) -> int: ...


@dataclass
class PeakMemory:
    """What a run's methods add to its memory at the peak; each changes it in `Method.add_memory`.

    Attributes:
        shape: of the longest pass; a dataclass.
        checkpointing: whether activations are computed again in the backward pass.
        gradients: bytes.
        activations: bytes that are kept for the backward pass.
        copies: how many copies of the trained weights there are, at least in fp32.
        keeps_gradients: whether there are gradients when activations are made.
        states_of: the tasks that have a state of the optimizer each.
    """

    shape: PassShape
    checkpointing: bool
    gradients: int
    activations: int
    copies: int = 0
    keeps_gradients: bool = False
    states_of: Sequence[str] = ()


class Method(TrainerCallback):
    """A training method; each hook does nothing unless a method defines it.

    `MtBertTrainer(methods=[...])` takes methods, and settings whose `build()` makes one. The trainer calls the hooks
    of its methods in their order and knows none of them by name. A method is a TrainerCallback of the trainer, too.

    Attributes:
        section: the key of a recipe that sets it; also its name in `MtBertTrainer.methods`.
        settings: what it was made from; compared when a run is resumed.
        absent_record: what `record` is of a run without the method.
        measured: how the names of the numbers begin that `logs` returns.
        files: the names of the files that `save` writes.
        changes_losses: whether it changes the loss of rows or tasks.
        averages_gradients: whether it averages all gradients over the processes itself.
        depends_on_length: whether the same step is another one in a longer run.
    """

    section: ClassVar[str]
    absent_record: ClassVar[Any] = None
    measured: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    changes_losses: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = False
    depends_on_length: bool = False

    def __init__(self, settings: Any = None):
        self.settings = settings

    # ---- before training ----

    def attach(self, trainer: TaskTrainer) -> None:
        """Take what the method needs of the trainer: its model, tasks, device; called once, at its construction.

        Raises:
            InputError: if the method does not suit the model or the trainer's arguments.
        """

    def prepare_data(self, trainer: TaskTrainer, texts: Mapping[str, Any]) -> None:
        """Change the training data of a recipe's run, `trainer.train_dataset`; `texts`: task → its rows of text."""

    def check_data(self, splits: Mapping[str, Any]) -> None:
        """Raise InputError if the training data lacks what the method needs; called before the first step."""

    def record(self) -> Any:
        """JSON-ready settings that a resumed run must have again."""
        return self.settings

    def columns_not_compared(self) -> Sequence[str]:
        """Columns of the training data that a resumed run may have with other values."""
        return ()

    def describe(self) -> str | None:
        """One line for the terminal, printed when training starts."""
        return None

    def pass_layout(self, layout: PackedLayout) -> PackedLayout:
        """The part of a micro-batch that goes through the model in one pass."""
        return layout

    def add_memory(self, peak: PeakMemory) -> None:
        """Add what the method takes at the peak of memory."""

    # ---- a step ----

    def begin(self) -> None:
        """Start anew: `train` was called."""

    def begin_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Prepare for an optimizer step over these micro-batches."""

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Prepare for the model's forward pass over a micro-batch."""

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Change, in place, the loss of each row (`outputs.row_losses`) and which rows count (`outputs.labelled`).

        Both are dicts from a task's name to a tensor `(rows,)`.
        """

    def task_loss(self, task: str, total: Tensor, rows: Tensor) -> Tensor:
        """The summed loss of a task's rows in a micro-batch, a scalar.

        Args:
            total: the sum so far, a scalar.
            rows: the number of labelled rows, a scalar.
        """
        return total

    def training_step(
        self, trainer: TaskTrainer, model: nn.Module, inputs: Mapping[str, Any], counts: Tensor
    ) -> Tensor | None:
        """Run forward and backward of a micro-batch in place of the trainer, and return the loss; None: do not.

        Args:
            counts: `(tasks,)`, the labelled rows of the whole step.
        """
        return None

    def gradients_ready(self, trainer: TaskTrainer) -> None:
        """Change the gradients of a whole step, after its last backward pass."""

    # ---- the optimizer ----

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of parameters that are not the model's."""
        return []

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer that the trainer steps."""
        return optimizer

    # ---- evaluation, log and checkpoints ----

    def evaluation_weights(self) -> AbstractContextManager[Any]:
        """Within, the model has the weights that are evaluated and saved."""
        return nullcontext()

    def best_model_loaded(self) -> None:
        """React to the best checkpoint's weights, which are in the model now."""

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """Numbers for the log, over the steps since the last call; every process calls it.

        Args:
            reduce: sums a tensor over all processes.
            logged: what the trainer logs itself, such as `learning_rate`.
        """
        return {}

    def log_sums(self) -> dict[str, Tensor]:
        """What `logs` will be computed from, so far; a sum over processes of each tensor has to mean the same."""
        return {}

    def add_log_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a checkpoint, which `log_sums` returned; on the first process alone."""

    def save(self, folder: str) -> None:
        """Write what a resumed run needs and the model does not hold; one process calls it."""

    def load(self, folder: str) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: if the checkpoint is of a run without the method.
        """

    @classmethod
    def refuse_checkpoint(cls, folder: str) -> None:
        """Raise InputError if a run without the method cannot go on from a checkpoint of one with it."""

    @classmethod
    def doubts(cls, measured: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
        """Reasons to doubt that the method did anything in a run that has ended.

        Args:
            measured: the run's logged means.
            tasks: names of the tasks.
        """
        return []
