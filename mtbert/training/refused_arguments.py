"""What of transformers' Trainer and its arguments would change nothing here, or break what holds.

Training arguments among it keep their defaults.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from ..errors import InputError

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

# Refused in recipes alone, or by `processes.refuse_sharding`, or set by the arguments' own class.
ELSEWHERE = ("deepspeed", "fsdp", "fsdp_config", "hub_token", "parallelism_config", "remove_unused_columns")

# Arguments of transformers' Trainer, and what to write instead.
REFUSED_OF_TRAINER = {
    "data_collator": "the trainer packs its batches itself; drop it",
    "model_init": "a model is built from an encoder plus tasks; give one as model, such as "
    "MtBertForMultiTask.from_encoder(encoder, tasks). To search settings with a new model each, run `mtbert search`",
    "preprocess_logits_for_metrics": "compute_metrics gets each task's logits as they are, {task: (rows, num_labels)}; "
    "change them there",
}


def refuse_trainer_arguments(model: Any, given: dict[str, Any]) -> None:
    """Refuse arguments of transformers' Trainer that have no meaning here; remove those that are None from `given`.

    Args:
        model: what is to be trained, which must be there.

    Raises:
        InputError: naming each of them, and what to write instead.
    """
    refused = [name for name in REFUSED_OF_TRAINER if given.pop(name, None) is not None]
    if refused:
        raise InputError("\n".join(f"{name} is refused: {REFUSED_OF_TRAINER[name]}" for name in refused))
    if model is None:
        raise InputError("model is missing; give one, such as MtBertForMultiTask.from_encoder(encoder, tasks)")


def _default(field: Field) -> Any:
    return field.default_factory() if field.default is MISSING else field.default


def refuse_arguments(args: TrainingArguments) -> None:
    """Refuse arguments that are not read; before transformers works on them.

    Raises:
        ValueError: naming every one that has another value than its default, and why it has to keep that.
    """
    defaults = {field.name: _default(field) for field in fields(TrainingArguments) if field.name in REFUSED_TRAINING}
    problems = []
    for key in sorted(defaults.keys() - set(ELSEWHERE)):
        value = getattr(args, key)
        copied = isinstance(value, AcceleratorConfig)  # what transformers makes of none
        if not copied and (value or None) != (defaults[key] or None):  # None, False, 0 and empty all mean "off"
            problems.append(f"{key} is {value!r}, which is refused: {REFUSED_TRAINING[key]}")
    if problems:
        raise InputError("\n".join(problems))
