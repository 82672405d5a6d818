"""Fine-tune one encoder for the tasks of a recipe, and save one checkpoint with every head.

    mtbert finetune RECIPE.yaml --encoder DIR_OR_HUB_NAME --training.output_dir runs/mine
    mtbert finetune RECIPE.yaml --num_processes 2
    accelerate launch -m mtbert.cli.finetune RECIPE.yaml

Any key of the recipe can be set on the command line by its dotted name; `--help-keys` lists them all. It trains on one
device, or with `--num_processes N` on as many through accelerate's launcher; `accelerate launch` and torchrun start it
for everything else, such as several machines.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from transformers import TrainerCallback, set_seed

from ..data.tokenize import encode_splits
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..recipe import Recipe, check_model, check_stages, load_data, load_tokenizer
from ..training.arguments import MtBertTrainingArguments
from ..training.checkpoints.resume_record import check_record
from ..training.checkpoints.run_folder import ended_scores, save_run, seal_run, start_scores
from ..training.checkpoints.run_lock import only_run_in
from ..training.checkpoints.run_record import Movement, run_record
from ..training.checkpoints.stages import Stages
from ..training.console import print_lines, print_scores
from ..training.distributed.machine import share_cores
from ..training.methods.distillation import add_targets
from ..training.peft import wrap
from ..training.pretraining import pretrain
from ..training.settings import MultiTaskSettings
from ..training.trainer import MtBertTrainer
from . import arguments
from .main import run as run_command


def main(argv: list[str]) -> None:
    """Train the recipe that the command line names."""
    run(Recipe.from_cli(arguments.finetune(argv).recipe_arguments))


def run(recipe: Recipe, callbacks: Sequence[TrainerCallback] = ()) -> dict[str, float]:
    """Train what a recipe says and save it; returns the final scores, which are empty without dev splits."""
    args = recipe.training_arguments()
    with only_run_in(args.output_dir, args.process_index == 0):
        return train(recipe, args, callbacks)


def train(recipe: Recipe, args: MtBertTrainingArguments, callbacks: Sequence[TrainerCallback]) -> dict[str, float]:
    """`run`, in an output folder that no other run writes to."""
    stages = Stages(args, len(recipe.stages))
    check_stages(recipe)
    tokenizer = load_tokenizer(recipe)
    check_model(recipe, tokenizer)
    share_cores(args)
    set_seed(args.seed)

    with args.main_process_first(desc="loading"):
        raw = load_data(recipe)

    encoder = recipe.encoder
    if recipe.pretraining is not None:
        texts = {name: loaded.splits for name, loaded in raw.items()}
        further = recipe.pretraining_arguments(cpu_threads=args.cpu_threads)
        encoder = pretrain(further, encoder, texts, tokenizer, until=further.use_epoch)
        set_seed(args.seed)

    specs = [task.spec(name) for name, task in recipe.tasks.items()]
    model = MtBertForMultiTask.from_encoder(encoder, specs, recipe.model.adapter, recipe.model.packed)
    if recipe.peft is not None:
        model = wrap(model, recipe.peft)
    with args.main_process_first(desc="encoding"):
        data = {s.name: encode_splits(s, raw[s.name].splits, tokenizer, model.config.encoder) for s in specs}

    if args.process_index == 0:
        print_lines(line for loaded in raw.values() for report in loaded.reports for line in report.lines())
        print_lines(report.line() for _, reports in data.values() for report in reports)

    movement = Movement(model)
    for part in recipe.in_stages():  # one, unless the recipe lists stages
        stage, checkpoint = stages.next(model)
        if part.peft is None:
            model.freeze_encoder(part.model.freeze_encoder, not part.model.train_layer_norms)
        trainer = MtBertTrainer(
            model,
            part.training_arguments(cpu_threads=args.cpu_threads),
            train_dataset={name: splits["train"] for name, (splits, _) in data.items()},
            eval_dataset={name: splits["dev"] for name, (splits, _) in data.items() if "dev" in splits} or None,
            processing_class=tokenizer,
            settings=MultiTaskSettings(
                part.schedule,
                {name: task.training() for name, task in part.tasks.items()},
                part.optimizer,
                recipe.to_dict(),
            ),
            methods=part.methods(),
            stage=stage,
            callbacks=list(callbacks),
        )
        if stages.passes_over(trainer):
            continue
        if part.distillation is not None:
            texts = {name: loaded.splits["train"] for name, loaded in raw.items()}
            trainer.train_dataset = add_targets(part.distillation, trainer, texts)
        if len(stages.states) + 1 >= len(recipe.stages):
            before = 0 if stage is None else stage.step
            scores = ended_scores(args.output_dir, checkpoint, before, before + trainer.plan().total_steps)
            if scores is not None:
                check_record(checkpoint, trainer.resume_record(), trainer.is_world_process_zero())
                print_lines([f"this run has ended: nothing is left to do, and {args.output_dir} stays as it is"])
                return scores
        if checkpoint is not None and trainer.is_world_process_zero():
            print_lines([f"Going on from {checkpoint}"])
        trainer.train(resume_from_checkpoint=checkpoint)
        stages.end(trainer)

    scores = trainer.evaluate() if trainer.eval_dataset else {}
    trainer.state = stages.join()
    trainer.save_model()
    trainer.save_state()
    if trainer.is_world_process_zero():
        record = run_record(trainer, movement)
        save_run(args.output_dir, recipe=recipe.to_dict(), scores=scores, record=record)
        seal_run(args.output_dir)
        print_scores({"start": start_scores(trainer.state), "end": scores})
        print_lines(closing_lines(args.output_dir))
    return scores


def closing_lines(folder: str) -> list[str]:
    """Where the model is, and what can be done with it."""
    return [
        f"The model is in {folder}",
        f"next: mtbert evaluate {folder}",
        f"      mtbert predict {folder} FILE --output predictions.csv",
    ]


if __name__ == "__main__":
    sys.exit(run_command("finetune"))
