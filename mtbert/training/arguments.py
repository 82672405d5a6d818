"""Settings of a run: transformers' TrainingArguments, a few more, and what is set for each task."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass(frozen=True)
class TaskTraining:
    """How one task is trained; all of it concerns training, none of it the checkpoint.

    Attributes:
        weight: w_t, the factor on the task's loss, positive.
        batch_size: rows of this task in a step that holds it; None: the run's.
        examples_per_epoch: N_t, how many rows an epoch counts and takes at random of this task; None: all it has.
        metric: the main metric, which the averages take; None: accuracy, f1_micro or pearson, by problem type.
        learning_rate: positive, in steps of this task; the rates of all parts of the model are multiplied by its ratio
            to the run's. Needs `optimizer.per_task`. None: the run's.
        weight_decay: 0 or more, in steps of this task; needs `optimizer.per_task`. None: the run's.
        class_weights: a number for each class on the losses of its rows (for a multi-label task on each label's
            positives), of which only the ratios count: their mean over the training labels is made 1; `balanced`:
            inverse to the classes' frequencies. Training only: evaluations and the logged `loss_<task>` are without.
        label_smoothing: s in [0, 1), the share of the target that is spread over all classes; training only, too.
        balanced: draw every class of the task equally often.
    """

    weight: float = 1.0
    batch_size: int | None = None
    examples_per_epoch: int | None = None
    metric: str | None = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    class_weights: tuple[float, ...] | str | None = None
    label_smoothing: float = 0.0
    balanced: bool = False

    def problems(self, where: str) -> list[str]:
        """Everything that is wrong with these values, as sentences that begin with `where`."""
        found = []
        if self.weight <= 0:
            found.append(f"{where}.weight is {self.weight}, but must be positive; to leave a task out, drop it")
        for key in ("batch_size", "examples_per_epoch"):
            value = getattr(self, key)
            if value is not None and value < 1:
                found.append(f"{where}.{key} is {value}, but must be 1 or more")
        if self.learning_rate is not None and self.learning_rate <= 0:
            found.append(f"{where}.learning_rate is {self.learning_rate}, but must be positive")
        if self.weight_decay is not None and self.weight_decay < 0:
            found.append(f"{where}.weight_decay is {self.weight_decay}, but must be 0 or more")
        if isinstance(self.class_weights, str) and self.class_weights != "balanced":
            found.append(f"{where}.class_weights is {self.class_weights!r}, but must be a list of numbers or balanced")
        if isinstance(self.class_weights, tuple | list) and min(self.class_weights, default=0) <= 0:
            found.append(f"{where}.class_weights is {list(self.class_weights)}, but must have positive numbers only")
        if not 0 <= self.label_smoothing < 1:
            found.append(f"{where}.label_smoothing is {self.label_smoothing}, but must be 0 or more and below 1")
        if self.balanced and self.class_weights is not None:
            found.append(f"{where}.balanced is true, but must be false with class_weights: both weigh the classes")
        return found


@dataclass
class MtBertTrainingArguments(TrainingArguments):
    """transformers' TrainingArguments with a few other defaults, and the fields below.

    Other defaults: `report_to` is TensorBoard, and `logging_nan_inf_filter` is off, because it waits for the device at
    every step and hides a diverged loss.

    Attributes:
        eval_train: also evaluate the training splits, as `train_<task>_<metric>`, whenever the dev splits are.
        early_stopping_patience: stop after this many evaluations without a better `metric_for_best_model`.
        early_stopping_threshold: the least difference that counts as better.
        cpu_threads: threads of each process where it computes on the CPU; None: what PyTorch is set to, and in
            `recipes/` the machine's cores shared out among its processes.
    """

    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where to report: tensorboard, none, or others that are installed."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave nan and inf losses out of the log; waits for the device at every step."}
    )
    eval_train: bool = field(
        default=False, metadata={"help": "Also evaluate the training splits whenever the dev splits are evaluated."}
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after this many evaluations without a better metric_for_best_model."},
    )
    early_stopping_threshold: float = field(
        default=0.0, metadata={"help": "The least difference in metric_for_best_model that counts as better."}
    )

    cpu_threads: int | None = field(
        default=None,
        metadata={
            "help": "Threads of each process on a CPU; null: the machine's cores, shared out among its processes."
        },
    )

    def __post_init__(self):
        super().__post_init__()
        self.remove_unused_columns = False  # the model takes what the collator makes, not columns of a data set
        if self.early_stopping_patience is not None and self.metric_for_best_model is None:
            raise ValueError("early_stopping_patience needs metric_for_best_model, such as eval_overall")
