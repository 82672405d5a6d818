"""Fine-tune one encoder for the tasks of a recipe, and save one checkpoint with every head."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, TrainerCallback, TrainerState, set_seed

from ..data.pools import pools_of
from ..data.sources import encode_tasks, split_of
from ..data.splits import LoadedTask
from ..modeling.calibration_file import FILE as FIGURES
from ..modeling.encoder_loading import reinitialize_layers
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.task_spec import TaskSpec
from ..recipe import Recipe, check_model, check_stages, load_data, load_recipe, load_tokenizer
from ..training.arguments import MtBertTrainingArguments
from ..training.checkpoints.resume_record import check_record
from ..training.checkpoints.run_folder import ended_scores, save_logits, save_run, seal_run, start_scores
from ..training.checkpoints.run_lock import only_run_in
from ..training.checkpoints.run_record import Movement, run_record
from ..training.checkpoints.sealing import STATE
from ..training.checkpoints.stages import Stage, Stages
from ..training.console import print_lines, print_scores
from ..training.distributed.machine import share_cores
from ..training.peft import load_final_weights, wrap
from ..training.pretraining import pretrain
from ..training.progress.phases import phase
from ..training.trainer import MtBertTrainer
from .logger_runs import LoggerRun, one_logger_run

Splits = dict[str, dict[str, Dataset]]  # task → split → encoded rows


@dataclass(frozen=True)
class TrainResult:
    """Result of a run.

    Attributes:
        trainer: the trainer of the run (of its last stage); `trainer.model` has the final weights and the tokenizer.
        scores: the final scores of the dev splits, as in `scores.json`; empty without dev splits.
    """

    trainer: MtBertTrainer = field(repr=False)
    scores: dict[str, float]


def train(
    recipe: str | os.PathLike[str] | Mapping[str, Any] | Recipe,
    overrides: Sequence[str] | Mapping[str, Any] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainResult:
    """Train a recipe as `mtbert finetune` does, with its output, and save the model in `training.output_dir`.

    Args:
        recipe: a YAML file, a mapping of the same form, or a `Recipe`; see `load_recipe`.
        overrides: keys that override the recipe's: `{"training.max_steps": 50}`, or as on the command line
            `["--training.max_steps", "50"]`.
        callbacks: further callbacks of transformers for the trainer of every stage.

    Returns:
        The trainer with the trained model, and the final scores.

    Raises:
        RecipeError: the recipe or its data are invalid; the message lists all problems.
        MtBertError: the run cannot go on for another reason; the message names the remedy.
        SystemExit: SIGTERM ended the run; its checkpoint is saved first.
    """
    if overrides or not isinstance(recipe, Recipe):
        recipe = load_recipe(recipe, overrides)
    args = recipe.training_arguments()
    with only_run_in(args.output_dir, args.process_index == 0):
        return _train(recipe, args, callbacks)


def _train(recipe: Recipe, args: MtBertTrainingArguments, callbacks: Sequence[TrainerCallback]) -> TrainResult:
    """Train in an output folder that is locked against other runs."""
    stages = Stages(args, len(recipe.stages))
    check_stages(recipe)
    tokenizer = load_tokenizer(recipe)
    check_model(recipe, tokenizer)
    share_cores(args)
    set_seed(args.seed)

    is_main = args.process_index == 0
    with args.main_process_first(desc="loading"), phase("reading and checking the rows", is_main):
        raw = load_data(recipe)
    with one_logger_run(args, stages.checkpoint is not None or stages.finished > 0) as logger_run:
        return _train_stages(recipe, args, callbacks, stages, tokenizer, raw, logger_run)


def _train_stages(
    recipe: Recipe,
    args: MtBertTrainingArguments,
    callbacks: Sequence[TrainerCallback],
    stages: Stages,
    tokenizer: PreTrainedTokenizerBase,
    raw: Mapping[str, LoadedTask],
    logger_run: LoggerRun,
) -> TrainResult:
    """Train all stages on rows that are loaded."""
    is_main = args.process_index == 0
    with logger_run.pretraining() if recipe.pretraining is not None else nullcontext():
        encoder = _encoder(recipe, args, raw, tokenizer)
    with phase("loading the encoder", is_main):
        model = _make_model(recipe, encoder)
    data = _encode(recipe, args, raw, tokenizer, model.config.encoder)

    movement = Movement(model)
    for part in recipe.in_stages():  # a single part unless the recipe has stages
        stage, checkpoint = stages.next(model)
        trainer = _make_trainer(recipe, part, model, args.cpu_threads, data, tokenizer, stage, callbacks)
        if stages.passes_over(trainer):
            continue
        texts = {name: loaded.splits["train"] for name, loaded in raw.items()}
        for method in trainer.methods.values():
            method.prepare_data(trainer, texts)
        if len(stages.states) + 1 >= len(recipe.stages):  # the last one
            scores = _scores_of_ended_run(args.output_dir, checkpoint, trainer, stage)
            if scores is not None:
                return TrainResult(trainer, scores)
        if checkpoint is not None and trainer.is_world_process_zero():
            print_lines([f"Going on from {checkpoint}"])
        with logger_run.stage():
            trainer.train(resume_from_checkpoint=checkpoint)
        stages.end(trainer)

    with phase("scoring the dev rows", is_main):
        scores = trainer.evaluate() if trainer.eval_dataset else {}
    trainer.state = stages.join()
    _save(recipe, trainer, scores, movement)
    return TrainResult(trainer, scores)


def _encoder(
    recipe: Recipe, args: MtBertTrainingArguments, raw: Mapping[str, LoadedTask], tokenizer: PreTrainedTokenizerBase
) -> str:
    """Return the encoder to start from: the recipe's, after further pre-training if the recipe has that section."""
    if recipe.pretraining is None:
        return recipe.encoder
    firsts = [pool.tasks[0] for pool in pools_of(raw, recipe.drawn_sources)]  # the texts of a source once
    texts = {name: raw[name].splits for name in firsts}
    further = recipe.pretraining_arguments(cpu_threads=args.cpu_threads)
    encoder = pretrain(further, recipe.encoder, texts, tokenizer, until=further.use_epoch)
    set_seed(args.seed)
    return encoder


def _make_model(recipe: Recipe, encoder: str) -> MtBertForMultiTask | PeftModel:
    part = recipe.model
    model = MtBertForMultiTask.from_encoder(
        encoder, _specs(recipe), part.adapter, part.packed, attention_dropout=part.attention_dropout
    )
    reinitialize_layers(model.encoder, part.reinitialized_layers)
    return model if recipe.peft is None else wrap(model, recipe.peft)


def _specs(recipe: Recipe) -> list[TaskSpec]:
    return [task.spec(name) for name, task in recipe.tasks.items()]


def _encode(
    recipe: Recipe,
    args: MtBertTrainingArguments,
    raw: Mapping[str, LoadedTask],
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedConfig,
) -> Splits:
    """Encode all splits, and print the reports on the data and on truncated inputs."""
    with args.main_process_first(desc="encoding"), phase("encoding the texts", args.process_index == 0):
        splits = {name: loaded.splits for name, loaded in raw.items()}
        encoded, reports = encode_tasks(_specs(recipe), splits, recipe.drawn_sources, tokenizer, encoder)
    if args.process_index == 0:
        print_lines(line for loaded in raw.values() for report in loaded.reports for line in report.lines())
        print_lines(report.line() for report in reports)
    return encoded


def _make_trainer(
    recipe: Recipe,
    part: Recipe,
    model: MtBertForMultiTask | PeftModel,
    cpu_threads: int | None,
    data: Splits,
    tokenizer: PreTrainedTokenizerBase,
    stage: Stage | None,
    callbacks: Sequence[TrainerCallback],
) -> MtBertTrainer:
    """Create the trainer of one stage.

    Args:
        recipe: the recipe of the whole run.
        part: the recipe of this stage.
        model: the model; its encoder is frozen if the stage says so.
        cpu_threads: number of CPU threads of this process.
        data: the encoded splits.
        tokenizer: the tokenizer.
        stage: the stage's position in the run; None if the recipe has no stages.
        callbacks: further callbacks of transformers.
    """
    if part.peft is None:
        model.freeze_encoder(part.model.freeze_encoder, not part.model.train_layer_norms)
    return MtBertTrainer(
        model,
        part.training_arguments(cpu_threads=cpu_threads),
        train_dataset=split_of(data, "train", recipe.drawn_sources),
        eval_dataset=split_of(data, "dev", recipe.drawn_sources) or None,
        processing_class=tokenizer,
        settings=replace(part.settings(), recipe=recipe.to_dict()),
        methods=part.methods.values(),
        stage=stage,
        callbacks=list(callbacks),
    )


def _scores_of_ended_run(
    folder: str, checkpoint: str | None, trainer: MtBertTrainer, stage: Stage | None
) -> dict[str, float] | None:
    """If the run has already ended, load its final weights into the trainer and return its scores; otherwise None."""
    before = 0 if stage is None else stage.step
    scores = ended_scores(folder, checkpoint, before, before + trainer.plan().total_steps)
    if scores is None or checkpoint is None:
        return None
    check_record(checkpoint, trainer.resume_record(), trainer.is_world_process_zero())
    load_final_weights(trainer.model, folder)
    trainer.state = TrainerState.load_from_json(os.path.join(folder, STATE))
    print_lines([f"this run has ended: nothing is left to do, and {folder} stays as it is"])
    return scores


def _save(recipe: Recipe, trainer: MtBertTrainer, scores: dict[str, float], movement: Movement) -> None:
    """Save the model with its recipe, scores and record; print the scores and the folder."""
    folder = trainer.args.output_dir
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        Path(folder, FIGURES).unlink(missing_ok=True)  # of a calibration of the weights before
        record = run_record(trainer, movement)
        save_run(folder, recipe=recipe.to_dict(), scores=scores, record=record)
        if trainer.args.save_logits and trainer.last_logits is not None:
            save_logits(folder, trainer.last_logits)
        seal_run(folder)
        print_scores({"start": start_scores(trainer.state), "end": scores})
        print_lines(closing_lines(folder))


def closing_lines(folder: str) -> list[str]:
    """Return lines that name the model's folder and the next commands."""
    return [
        f"The model is in {folder}",
        f"next: mtbert evaluate {folder}",
        f"      mtbert predict {folder} FILE --output predictions.csv",
    ]
