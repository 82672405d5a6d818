"""Fine-tune one encoder for the tasks of a recipe, and save one checkpoint with every head.

    accelerate launch --config_file accelerate_config.yaml recipes/finetune.py RECIPE.yaml --encoder DIR_OR_HUB_NAME

Any key of the recipe can be set on the command line by its dotted name; `--help` lists them all.
"""

import sys
from collections.abc import Sequence

from transformers import TrainerCallback, set_seed

from mtbert import MtBertForMultiTask, MtBertTrainer, MtBertTrainingArguments
from mtbert.data.encoding import encode_splits
from mtbert.recipe import Recipe, check_model, check_stages, load_data, load_tokenizer
from mtbert.recipe.ending import clear_errors
from mtbert.training.distillation import add_targets
from mtbert.training.machine import share_cores
from mtbert.training.peft import wrap
from mtbert.training.pretraining import pretrain
from mtbert.training.record import Movement, run_record
from mtbert.training.reporting import print_lines, print_scores
from mtbert.training.resume_record import check_record
from mtbert.training.run_lock import only_run_in
from mtbert.training.runs import ended_scores, save_run, seal_run, start_scores
from mtbert.training.stages import Stages


def main(argv: list[str]) -> None:
    run(Recipe.from_cli(argv))


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
            schedule=part.schedule,
            task_training={name: task.training() for name, task in part.tasks.items()},
            surgery=part.surgery,
            smart=part.smart,
            proximal=part.proximal,
            averaging=part.averaging,
            distillation=part.distillation,
            optimizer=part.optimizer,
            loss=part.loss,
            recipe=recipe.to_dict(),
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
    return scores


if __name__ == "__main__":
    with clear_errors():
        main(sys.argv[1:])
