"""The base class of training methods: parts of the trainer that act through its hooks."""

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
    """The attributes and methods of `MtBertTrainer` that its parts use, so that none of them imports the trainer."""

    args: Any  # MtBertTrainingArguments
    model: Any  # MtBertForMultiTask or PeftModel; without the wrapper for several processes
    tasks: Sequence[Any]  # TaskSpec
    task_ids: Mapping[str, int]
    settings: Any  # MultiTaskSettings
    schedule: Any  # Schedule
    task_training: Mapping[str, Any]  # TaskTraining
    methods: Any  # Methods
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
    last_logits: Any  # task → logits of the last evaluation, (rows, num_labels); None before
    _memory_tracker: Any

    def plan(self) -> Any: ...

    def batches(self, splits: Mapping[str, Any], training: bool = False) -> Any: ...

    def encoded(self, split: str, datasets: Any) -> Any: ...

    def resume_record(self) -> Any: ...

    def forward_and_backward(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor: ...

    def evaluation_weights(self) -> AbstractContextManager[Any]: ...

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any: ...

    def evaluation_loop(self, dataloader: Any, description: str, *, metric_key_prefix: str = "eval") -> Any: ...

    def log(self, logs: dict[str, float]) -> None: ...

    def add_callback(self, callback: Any) -> None: ...

    def init_hf_repo(self, *args: Any, **kwargs: Any) -> None: ...

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...

    def create_model_card(self, **about: Any) -> None: ...

    def _finish_current_push(self) -> None: ...

    def is_world_process_zero(self) -> bool: ...

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]: ...


class PassShape(Protocol):
    """Sizes of a forward pass that determine its memory (`memory.Shape`)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def pass_bytes(self, checkpointing: bool = False) -> int: ...


@dataclass
class PeakMemory:
    """A run's memory at its peak; each method adds its own in `Method.add_memory`.

    Attributes:
        shape: shape of the longest pass; a dataclass.
        checkpointing: whether the backward pass computes activations again.
        gradients: bytes of gradients.
        activations: bytes that are kept for the backward pass.
        copies: number of copies of the trained weights, in at least fp32.
        keeps_gradients: whether gradients exist already while the forward pass makes activations.
        states_of: the tasks that have their own optimizer state.
    """

    shape: PassShape
    checkpointing: bool
    gradients: int
    activations: int
    copies: int = 0
    keeps_gradients: bool = False
    states_of: Sequence[str] = ()


class Method(TrainerCallback):
    """A training method; by default every hook does nothing.

    `MtBertTrainer(methods=[...])` takes methods, or settings whose `build()` returns one. The trainer calls each hook
    of all methods in their order. A method is also a TrainerCallback of the trainer.

    Attributes:
        section: the recipe key of the method, and its name in `MtBertTrainer.methods`.
        settings: settings of the method; a resumed run must have equal ones.
        later: settings that came with later versions → their value in runs of earlier ones, whose records lack them.
        absent_record: the value that stands for `record()` in a run without the method.
        measured: prefixes of the names that `logs` returns.
        files: names of the files that `save` writes.
        changes_losses: whether it changes the loss of rows or tasks.
        averages_gradients: whether it averages all gradients over the processes itself.
        of_several_tasks: whether it compares tasks, so that a run of one task goes without it.
    """

    section: ClassVar[str]
    absent_record: ClassVar[Any] = None
    later: ClassVar[Mapping[str, Any]] = {}
    measured: ClassVar[tuple[str, ...]] = ()
    files: ClassVar[tuple[str, ...]] = ()
    changes_losses: ClassVar[bool] = False
    averages_gradients: ClassVar[bool] = False
    of_several_tasks: ClassVar[bool] = False

    def __init__(self, settings: Any = None):
        self.settings = settings

    # ---- before training ----

    def attach(self, trainer: TaskTrainer) -> None:
        """Keep the parts of the trainer that the method needs, such as model, tasks, device; called once.

        Raises:
            InputError: if the method does not suit the model or the trainer's arguments.
        """

    def prepare_data(self, trainer: TaskTrainer, texts: Mapping[str, Any]) -> None:
        """Change the training data of a recipe's run, `trainer.train_dataset`; `texts`: task → its rows of text."""

    def check_data(self, splits: Mapping[str, Any]) -> None:
        """Raise InputError if the training data lacks what the method needs; called before the first step."""

    def record(self) -> Any:
        """JSON-ready settings, which must be equal in a resumed run."""
        return self.settings

    def columns_not_compared(self) -> Sequence[str]:
        """Columns of the training data whose values may differ in a resumed run."""
        return ()

    @property
    def depends_on_length(self) -> bool:
        """Whether a given step depends on the number of steps of the run; the settings' property of that name."""
        return getattr(self.settings, "depends_on_length", False)

    def describe(self) -> str | None:
        """One line for the terminal, printed when training starts."""
        return None

    def pass_layout(self, layout: PackedLayout) -> PackedLayout:
        """The part of a micro-batch that one forward pass encodes."""
        return layout

    def add_memory(self, peak: PeakMemory) -> None:
        """Add the method's memory to the peak."""

    # ---- a step ----

    def begin(self) -> None:
        """Reset the method; called at the start of `train`."""

    def begin_step(self, batches: Sequence[Mapping[str, Any]]) -> None:
        """Prepare for an optimizer step over these micro-batches."""

    def before_forward(self, inputs: Mapping[str, Any]) -> None:
        """Prepare for the model's forward pass over a micro-batch."""

    def change_rows(self, inputs: Mapping[str, Any], outputs: Any) -> None:
        """Change, in place, the loss of each row (`outputs.row_losses`) and which rows count (`outputs.labelled`).

        Both are dicts: task name → tensor `(rows,)`.
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
        """Run forward and backward of a micro-batch in place of the trainer, and return the loss.

        A method that does not returns None.

        Args:
            counts: `(tasks,)`, the labelled rows of the whole step.
        """
        return None

    def gradients_ready(self, trainer: TaskTrainer) -> None:
        """Change the gradients of a whole step, after its last backward pass."""

    # ---- the optimizer ----

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the method's own trained parameters."""
        return []

    def wrap_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Return the optimizer that the trainer uses; it may wrap the given one."""
        return optimizer

    # ---- evaluation, log and checkpoints ----

    def evaluation_weights(self) -> AbstractContextManager[Any]:
        """Within, the model has the weights that are evaluated and saved."""
        return nullcontext()

    def best_model_loaded(self) -> None:
        """React to the loading of the best checkpoint's weights into the model."""

    def logs(self, reduce: Reduce, logged: Mapping[str, float]) -> dict[str, float]:
        """Numbers for the log, over the steps since the last call. Collective: every process calls it.

        Args:
            reduce: sums a tensor over all processes.
            logged: the numbers logged so far, such as `learning_rate`.
        """
        return {}

    def log_sums(self) -> dict[str, Tensor]:
        """The sums from which `logs` computes its numbers; the trainer adds each tensor up over processes."""
        return {}

    def add_log_sums(self, sums: Mapping[str, Tensor]) -> None:
        """Add the sums of a checkpoint, which `log_sums` returned; called on the first process only."""

    def save(self, folder: str) -> None:
        """Write the method's state that a resumed run needs; called on one process."""

    def load(self, folder: str) -> None:
        """Read what `save` wrote.

        Raises:
            InputError: if the checkpoint is of a run without the method.
        """

    @classmethod
    def refuse_checkpoint(cls, folder: str) -> None:
        """Raise InputError if the checkpoint was saved with the method, and a run without it cannot resume from it."""

    @classmethod
    def doubts(cls, measured: Mapping[str, float], tasks: Sequence[str]) -> list[str]:
        """Reasons to doubt that the method had any effect in a finished run.

        Args:
            measured: the run's logged means.
            tasks: names of the tasks.
        """
        return []
