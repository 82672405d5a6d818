"""Training arguments: those of transformers with additions and refusals, and the training settings of each task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.trainer_utils import IntervalStrategy

from ..errors import InputError, Problem, refuse
from ..modeling.display import each_text, masked
from .distributed.feasible import range_problems
from .distributed.process_group import join_processes, refuse_sharding, take_over_fsdp
from .finite_steps import SKIP, STOP
from .objective import TaskTraining as TaskTraining
from .progress.styles import style_problems

OWN_LOADER = "the trainer has its own data loader, which does not read it"
OWN_EVALUATION = "the trainer scores whole splits task by task in its own loop, which does not read it"
OWN_SHARES = "FSDP2 of the encoder's layers is training.shard_encoder: true; heads and adapters stay whole"
WHOLE_MODEL = "each task's rows, heads and gradients are handled in one process that holds the whole model"
REFUSED_TRAINING: dict[str, str] = {
    "accelerator_config": "the plan says which process takes which rows, so batches are not split, sent or padded",
    "auto_find_batch_size": "it would change the plan's batch size in the middle of a run",
    "average_tokens_across_devices": "the loss always counts the labelled rows of all processes",
    "batch_eval_metrics": "correlations and F1 are no means over batches; every task is scored over its whole split",
    "bf16_full_eval": f"{OWN_EVALUATION}; bf16: true holds for evaluation too",
    "dataloader_drop_last": "it would lose rows of the plan, which names every row of a step",
    "dataloader_in_order": "batches out of order would not be the steps of the plan",
    "dataloader_multiprocessing_context": OWN_LOADER,
    "ddp_static_graph": "the graph differs from step to step, as the tasks in it do",
    "deepspeed": WHOLE_MODEL,
    "enable_jit_checkpoint": "SIGTERM always leaves a checkpoint, after a whole step, so that it resumes exactly",
    "eval_accumulation_steps": f"{OWN_EVALUATION}; it keeps one row of logits an example",
    "eval_do_concat_batches": OWN_EVALUATION,
    "eval_use_gather_object": OWN_EVALUATION,
    "fp16_full_eval": f"{OWN_EVALUATION}; fp16: true holds for evaluation too",
    "fsdp": OWN_SHARES,
    "fsdp_config": OWN_SHARES,
    "hub_token": "the recipe is saved with the run, and the token with it; log in with `hf auth login` instead",  # nosec B105: a reason
    "ignore_data_skip": "a resumed run goes on at the plan's own step, without passing over data",
    "include_for_metrics": "metrics take a task's logits and labels only",
    "label_names": "the labels of every task are `labels`",
    "label_smoothing_factor": "it belongs to a task, not to the run: it means nothing for a regression's score",
    "length_column_name": "it is for sampling by length, but the schedule orders the rows",
    "liger_kernel_config": "Liger kernels exist for decoders, and would silently change nothing here",
    "parallelism_config": WHOLE_MODEL,
    "prediction_loss_only": "an evaluation scores every task with its metric",
    "remove_unused_columns": "the model takes what the collator makes, whatever columns a data set has",
    "train_sampling_strategy": "the schedule orders the rows; see schedule.name",
    "use_cache": "it is for generating text, which an encoder does not do",
    "use_liger_kernel": "Liger kernels exist for decoders, and would silently change nothing here",
}

# Training arguments of the process, which must be equal in pre-training and fine-tuning.
PROCESS_KEYS = ("bf16", "fp16", "tf32", "use_cpu", "cpu_threads", "full_determinism", "ddp_backend", "ddp_timeout")
_BY_THE_TEXTS = "every text is read once an epoch, and the rate falls over all epochs"
REFUSED_PRETRAINING: dict[str, str] = {
    **{key: reason for key, reason in REFUSED_TRAINING.items() if reason in (OWN_LOADER, OWN_EVALUATION)},
    **dict.fromkeys(PROCESS_KEYS, "fine-tuning in the same process has to be alike; set it in training"),
    **dict.fromkeys(
        (key for key, reason in REFUSED_TRAINING.items() if reason in (WHOLE_MODEL, OWN_SHARES)),
        "the encoder is kept from the process that holds the whole model",
    ),
    "accelerator_config": REFUSED_TRAINING["accelerator_config"],
    "auto_find_batch_size": REFUSED_TRAINING["auto_find_batch_size"],
    "average_tokens_across_devices": "the loss always counts the chosen tokens of all processes",
    "bf16_full_eval": "training.bf16 holds for the dev loss too",
    "dataloader_drop_last": _BY_THE_TEXTS,
    "dataloader_in_order": _BY_THE_TEXTS,
    "enable_jit_checkpoint": REFUSED_TRAINING["enable_jit_checkpoint"],
    "fp16_full_eval": "training.fp16 holds for the dev loss too",
    "ignore_data_skip": REFUSED_TRAINING["ignore_data_skip"],
    "label_names": "the labels are the chosen tokens",
    "label_smoothing_factor": "the loss is the cross-entropy of the chosen tokens",
    "load_best_model_at_end": "the encoders of keep_epochs are what is kept",
    "logging_nan_inf_filter": "it waits for the device at every step and hides a diverged loss",
    "max_steps": _BY_THE_TEXTS,
    "prediction_loss_only": "the dev loss is all that is taken",
    "push_to_hub": "what is kept are folders; push one of them",
    "remove_unused_columns": "batches come whole from the data set",
    "resume_from_checkpoint": "a run goes on by itself from what its output folder holds",
    "train_sampling_strategy": _BY_THE_TEXTS,
    "use_liger_kernel": REFUSED_TRAINING["use_liger_kernel"],
}

# Refused in recipes only, or by `process_group.refuse_sharding`, or set by the class of the arguments.
ELSEWHERE = ("deepspeed", "fsdp", "fsdp_config", "hub_token", "parallelism_config", "remove_unused_columns")


# Argument of transformers' Trainer that is not supported → what to write instead.
REFUSED_OF_TRAINER = {
    "data_collator": "the trainer packs its batches itself; drop it",
    "model_init": "a model is built from an encoder plus tasks; give one as model, such as "
    "MtBertForMultiTask.from_encoder(encoder, tasks). To search settings with a new model each, run `mtbert search`",
    "preprocess_logits_for_metrics": "compute_metrics gets each task's logits as they are, {task: (rows, num_labels)}; "
    "change them there",
}


def refuse_trainer_arguments(model: Any, given: dict[str, Any]) -> None:
    """Raise InputError for arguments of transformers' Trainer that are not supported, and for a missing model.

    Args:
        model: the model to be trained.
        given: keyword arguments; unsupported ones that are None are removed.

    Raises:
        InputError: with each such argument, and what to write instead.
    """
    refused = [name for name in REFUSED_OF_TRAINER if given.pop(name, None) is not None]
    if refused:
        raise InputError("\n".join(f"{name} is refused: {REFUSED_OF_TRAINER[name]}" for name in refused))
    if model is None:
        raise InputError("model is missing; give one, such as MtBertForMultiTask.from_encoder(encoder, tasks)")


def default_values(kind: Any) -> dict[str, Any]:
    """Name → default value of each field of a dataclass whose fields all have one."""
    return {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(kind)
    }


def refuse_arguments(args: TrainingArguments) -> None:
    """Raise InputError for unsupported training arguments; called before transformers reads them.

    Raises:
        InputError: with each such argument whose value is not the default, and the reason.
    """
    defaults, problems = default_values(TrainingArguments), []
    for key in sorted((defaults.keys() & REFUSED_TRAINING.keys()) - set(ELSEWHERE)):
        value = getattr(args, key)
        is_default_config = isinstance(value, AcceleratorConfig)  # transformers makes it of None
        # None, False, 0 and empty all mean "off"
        if not is_default_config and (value or None) != (defaults[key] or None):
            problems.append(Problem((key,), f"is {value!r}, which is refused: {REFUSED_TRAINING[key]}"))
    refuse([*problems, *range_problems(vars(args))])


class OwnArguments:
    """Changes to transformers' TrainingArguments that training and pre-training share."""

    if TYPE_CHECKING:
        output_dir: Any  # str: transformers gives one where there is none

    @property
    def device(self) -> torch.device:
        """The device of this process; `cpu` in place of accelerate's `cpu:0` for several processes.

        PyTorch 2.11 cannot load a checkpoint's optimizer onto `cpu:0`.
        """
        inherited: Any = super()
        device = inherited.device
        return torch.device("cpu") if device.type == "cpu" else device

    def to_dict(self) -> dict[str, Any]:
        """The arguments as a dict, which transformers passes to loggers; values that look like tokens are masked."""
        inherited: Any = super()
        return each_text(masked, inherited.to_dict())


@dataclass
class MtBertTrainingArguments(OwnArguments, TrainingArguments):
    """transformers' TrainingArguments with a few other defaults, and the fields below.

    Other defaults: `report_to` is TensorBoard, and `logging_nan_inf_filter` is off, because it waits for the device at
    every step and hides a diverged loss.

    Attributes:
        eval_train: also evaluate the training splits, as `train_<task>_<metric>`, whenever the dev splits are.
        early_stopping_patience: stop after this many evaluations without a better `metric_for_best_model`.
        early_stopping_threshold: the smallest improvement that counts as better.
        cpu_threads: threads of each process that computes on the CPU; None: PyTorch's setting, and with the command
            line the machine's cores divided by its processes.
        on_nonfinite: what to do at a step whose loss or gradient is nan or infinite: `stop` with an error that names
            the task and its rows, or `skip` its update and count it. In both cases a run stops after 20 such steps in a
            row. `skip` waits for the device at every step.
        save_logits: also write the dev logits of the last evaluation, `dev_logits.safetensors`: task → fp32, shape
            `(rows, num_labels)`, in the order of the dev split.
        max_tokens_per_step: the most tokens of a step, over all processes and micro-batches; special tokens and both
            texts of a pair count. A step takes as many rows as fit, at most those of the batch size; the first row
            that does not fit begins the task's next step. None: the batch size alone counts.
        shard_encoder: shard the weights, gradients and moments of the encoder's layers over the processes (FSDP2)
            during training; checkpoints are the same. `accelerate launch` with `distributed_type: FSDP` and
            `fsdp_version: 2` sets it. No effect on one process.
        console: how the progress of training is shown: `table`, one live table of the tasks and one progress bar;
            `lines`, one line for each log and each evaluation; `dicts`, the bar and the dicts of transformers; `auto`,
            a table in a terminal and lines elsewhere, and with `disable_tqdm` lines everywhere. None: `auto` in a
            recipe, `dicts` in Python.
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

    on_nonfinite: str = field(
        default=STOP,
        metadata={"help": "At a loss or gradient that is nan or infinite: stop, or skip the update and count it."},
    )

    save_logits: bool = field(default=False, metadata={"help": "Also write the dev logits of the last evaluation."})

    max_tokens_per_step: int | None = field(
        default=None, metadata={"help": "The most tokens a step, over all processes, beside the number of rows."}
    )

    shard_encoder: bool = field(
        default=False, metadata={"help": "Share the encoder's layers out among the processes (FSDP2) while training."}
    )

    console: str | None = field(
        default=None,
        metadata={"help": "Progress in the terminal: table, lines, dicts, or auto (null): a table, elsewhere lines."},
    )

    def __post_init__(self) -> None:
        self.shard_encoder = take_over_fsdp() or self.shard_encoder
        refuse_sharding(self)
        refuse_arguments(self)
        refuse(style_problems(self.console))
        join_processes(self)
        super().__post_init__()
        self.remove_unused_columns = False  # the collator chooses the model's inputs, not the columns of the data set
        if self.on_nonfinite not in (STOP, SKIP):
            raise InputError(f"on_nonfinite is {self.on_nonfinite!r}, but must be {STOP} or {SKIP}")


@dataclass
class PretrainingArguments(OwnArguments, TrainingArguments):
    """transformers' TrainingArguments for masked-language modelling, with other defaults and the fields below.

    Other defaults: 40 epochs of batches of 32, with a learning rate that rises linearly to 5e-5 over the first tenth of
    all steps and then falls linearly to 0. These are the slanted triangular rates of Howard and Ruder (2018, equation
    3) with a lowest rate of 0. Gradients are not clipped (`max_grad_norm: 0`). The loss and the dev loss are logged,
    and a checkpoint is saved, once an epoch; only the last checkpoint is kept. Dropout is the encoder's own.

    Attributes:
        output_dir: the folder of checkpoints, log and kept encoders; null: `pretraining` in training.output_dir. Runs
            of several recipes may share one.
        mask_probability: probability of each token to be chosen; 80 % of the chosen become [MASK], 10 % a random token,
            10 % stay.
        max_length: longest text in tokens, special ones included; longer texts are cut. None: the encoder's limit.
        steps_per_epoch: steps that count as an epoch; the next epoch goes on with the texts that follow; None: all of
            them.
        remove_duplicates: whether a text that several rows or tasks share is trained on once an epoch, not as often as
            it occurs. Dev texts that occur in training never count for the dev loss.
        keep_epochs: the encoder is kept after each of these epochs, and after the last, as `output_dir/epoch-<n>`, a
            folder that can be given as `encoder`. Epochs beyond the last are ignored.
        use_epoch: the epoch whose encoder `mtbert finetune` fine-tunes with the same recipe; it first pre-trains up to
            this epoch if that was not done. None: the last.
        cpu_threads: as `training.cpu_threads`.
        console: as `training.console`, which holds unless this is set.
    """

    output_dir: str | None = None
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Texts a step and process; with processes and accumulation: a step's batch."}
    )
    per_device_eval_batch_size: int = field(default=64, metadata={"help": "Dev texts at a time and process."})
    num_train_epochs: float = field(default=40, metadata={"help": "Passes over all texts, a whole number."})
    learning_rate: float = field(default=5e-5, metadata={"help": "The highest rate."})
    warmup_steps: float = field(
        default=0.1, metadata={"help": "Steps of rising rate; below 1: their share of all steps (cut_frac)."}
    )
    max_grad_norm: float = field(default=0.0, metadata={"help": "The norm that gradients are clipped to; 0: none."})
    logging_strategy: IntervalStrategy | str = field(default="epoch", metadata={"help": "When the loss is logged."})
    eval_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When the dev loss is taken, if a task has a dev split."}
    )
    save_strategy: IntervalStrategy | str = field(
        default="epoch", metadata={"help": "When a checkpoint is written that an interrupted run goes on from."}
    )
    save_total_limit: int | None = field(default=1, metadata={"help": "How many checkpoints are there at a time."})
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where to report: tensorboard, none, or others that are installed."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Leave nan and inf losses out of the log; waits for the device at every step."}
    )
    mask_probability: float = field(default=0.15, metadata={"help": ""})
    max_length: int | None = field(default=None, metadata={"help": ""})
    steps_per_epoch: int | None = field(default=None, metadata={"help": ""})
    remove_duplicates: bool = field(default=False, metadata={"help": ""})
    keep_epochs: tuple[int, ...] = field(default=(3, 18, 40), metadata={"help": ""})
    use_epoch: int | None = field(default=None, metadata={"help": ""})
    cpu_threads: int | None = field(default=None, metadata={"help": ""})
    console: str | None = field(default=None, metadata={"help": ""})

    def __post_init__(self) -> None:
        refuse([*range_problems(vars(self)), *style_problems(self.console)])
        take_over_fsdp()  # pre-training keeps the whole model on every process
        refuse_sharding(self)
        join_processes(self)
        super().__post_init__()
        self.remove_unused_columns = False  # batches come whole from the data set
        refuse(pretraining_problems(vars(self)), "pretraining.")

    @property
    def kept(self) -> tuple[int, ...]:
        """The epochs after which the encoder is kept, in order."""
        epochs = {*self.keep_epochs, int(self.num_train_epochs)}
        if self.use_epoch:
            epochs.add(self.use_epoch)
        return tuple(sorted(epoch for epoch in epochs if epoch <= self.num_train_epochs))


def pretraining_problems(values: Mapping[str, Any]) -> list[Problem]:
    """Return a `Problem` for each invalid argument of pre-training; `values` holds all arguments, also the defaults."""
    problems, epochs = [], values["num_train_epochs"]
    if epochs < 1 or epochs != int(epochs):
        problems.append(Problem(("num_train_epochs",), f"is {epochs}, but must be a whole number, 1 or more"))
    if not 0 < values["mask_probability"] < 1:
        problems.append(Problem(("mask_probability",), f"is {values['mask_probability']}, but must be in (0, 1)"))
    if values["max_length"] is not None and values["max_length"] < 3:
        problems.append(Problem(("max_length",), f"is {values['max_length']}, but must be 3 or more"))
    steps = values["steps_per_epoch"]
    if steps is not None and steps < 1:
        problems.append(Problem(("steps_per_epoch",), f"is {steps}, but must be 1 or more"))
    if any(epoch < 1 for epoch in values["keep_epochs"]):
        problems.append(
            Problem(("keep_epochs",), f"is {list(values['keep_epochs'])}, but must be numbers of epochs, 1 or more")
        )
    use = values["use_epoch"]
    if use is not None and not 1 <= use <= epochs:
        problems.append(Problem(("use_epoch",), f"is {use}, but must be in 1 … num_train_epochs, which is {epochs}"))
    return problems
