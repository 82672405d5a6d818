"""Further pre-training of an encoder: masked-language modelling on the texts of the tasks."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor, nn
from transformers import (
    AutoModelForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerState,
    set_seed,
)
from transformers.trainer_utils import IntervalStrategy, speed_metrics

from ..data.collation import LengthSortedSteps
from ..data.mlm import DEV, TRAIN, EpochSteps, MaskedTexts, Texts
from ..data.sampling import Plan, Schedule, StepSampler
from ..data.step_loader import identity, step_loader
from ..data.tokenize import encode_dataset
from ..errors import InputError
from ..files import write_json, writing_folder
from ..modeling.checkpoint_loading import read_json
from ..modeling.cpu_layers import use_faster_layers
from ..modeling.display import masked
from ..modeling.encoder_loading import encoder_config, load_encoder
from ..modeling.problem_types import IGNORED
from ..modeling.task_spec import TaskSpec
from ._compat import closing_display, show_progress
from .arguments import PretrainingArguments
from .checkpoints.interruption import ResumableRun
from .checkpoints.resume_record import OPTIMIZATION, Record, encoder_record, weights_hash
from .checkpoints.run_identity import common_record
from .checkpoints.sealing import last_complete
from .console import print_lines
from .distributed.launch import print_start
from .distributed.machine import keep_freed_memory
from .progress.phases import phase

SETTINGS = "pretraining.json"
# The arguments on which the weights depend, besides the batch size; runs with equal ones count as the same run.
_DECISIVE = (
    *("mask_probability", "max_length", "num_train_epochs", "steps_per_epoch", "warmup_steps", "seed", "data_seed"),
    *OPTIMIZATION,
)


class KeptEncoders(TrainerCallback):
    """Saves the encoder after some epochs, and ends the training after one of them.

    Args:
        encoder: the whole encoder; parts that a masked-language model lacks, such as the pooler, are saved unchanged.
        tokenizer: saved beside the encoder.
        folder: the encoder is saved in `folder/epoch-<n>`.
        epochs: the epochs after which the encoder is saved.
        until: the epoch after which the training ends.
    """

    def __init__(self, encoder: PreTrainedModel, tokenizer: Any, folder: str, epochs: tuple[int, ...], until: int):
        self.encoder, self.tokenizer, self.folder = encoder, tokenizer, Path(folder)
        self.epochs, self.until = epochs, until

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        epoch = round(state.epoch)
        if epoch in self.epochs and state.is_world_process_zero:
            trained = {name: weight.cpu() for name, weight in model.base_model.state_dict().items()}
            loaded = self.encoder.load_state_dict(trained, strict=False)
            if loaded.unexpected_keys:
                raise RuntimeError(f"the encoder alone has no {loaded.unexpected_keys}, which were trained")
            with writing_folder(self.folder / f"epoch-{epoch}", overwrite=True) as part:
                self.encoder.save_pretrained(part)
                self.tokenizer.save_pretrained(part)
        if epoch >= self.until:
            control.should_training_stop = True


@contextmanager
def only_chosen(model: PreTrainedModel, chosen: Tensor) -> Iterator[None]:
    """Within, the head of a masked-language model computes logits for the chosen tokens only, which saves much time.

    Args:
        chosen: `(rows, length)`, bool; the model's logits are then `(1, number of chosen, vocabulary)`.
    """

    def choose(module: nn.Module, inputs: Any, outputs: Any) -> Any:
        outputs["last_hidden_state"] = outputs["last_hidden_state"][chosen].unsqueeze(0)
        return outputs

    handle = model.base_model.register_forward_hook(choose)
    try:
        yield
    finally:
        handle.remove()


class PretrainingTrainer(Trainer):
    """Trains a masked-language model on every text once an epoch, with steps planned as in `MtBertTrainer`.

    The loss is the mean cross-entropy over the chosen tokens of a step, over all its micro-batches and processes.

    Args:
        model: a masked-language model.
        args: the run's arguments.
        train_dataset: encoded training texts (`input_ids`).
        eval_dataset: encoded dev texts.
        processing_class: the tokenizer.
    """

    args: PretrainingArguments
    model: Any  # PreTrainedModel
    processing_class: Any  # PreTrainedTokenizerBase
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: nn.Module,
        args: PretrainingArguments,
        train_dataset: Dataset,
        eval_dataset: Dataset | None,
        processing_class: PreTrainedTokenizerBase,
        **kwargs: Any,
    ):
        super().__init__(
            model,
            args,
            data_collator=identity,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            **kwargs,
        )
        self.model_accepts_loss_kwargs = True  # `compute_loss` divides by the tokens of the whole step
        self.resumable = ResumableRun(self)
        show_progress(self)

    def _masked(self, texts: Dataset, split: int) -> MaskedTexts:
        return MaskedTexts(texts, self.processing_class, self.args.mask_probability, (self.args.seed, split))

    def plan(self) -> Plan:
        args = self.args
        return Plan(
            schedule=Schedule("sequential", steps_per_epoch=args.steps_per_epoch),
            names=("texts",),
            rows=(len(self.train_dataset),),
            batch=args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            epochs=int(args.num_train_epochs),
            seed=args.data_seed if args.data_seed is not None else args.seed,
        )

    def resume_record(self) -> Record:
        """Everything that this run's weights, moments and masks depend on, by name."""
        model, masks = self.model, self._masked(self.train_dataset, TRAIN)
        return {
            **common_record(self, "pretraining"),
            **encoder_record(model.config),
            "encoder.weights_hash": weights_hash(model.base_model.named_parameters()),
            "tokenizer": [masks.pad_id, *masks.arguments[1:]],
            "pretraining.mask_probability": self.args.mask_probability,
        }

    def get_train_dataloader(self) -> Any:
        args = self.args
        steps = StepSampler.of(self.plan(), args)
        return step_loader(args, self._masked(self.train_dataset, TRAIN), EpochSteps(steps))

    def get_batch_samples(self, epoch_iterator: Any, num_batches: Any, device: Any) -> Any:
        """The micro-batches of a step, and the number of chosen tokens in them, over all processes."""
        samples = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        count = sum((batch["labels"] != IGNORED).sum() for batch in samples)
        if self.args.world_size > 1:
            count = self.accelerator.reduce(count, reduction="sum")
        return samples, count

    def _losses(self, model: nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
        """Summed cross-entropy of a batch's chosen tokens, their number, and the model's outputs for them."""
        chosen = inputs["labels"] != IGNORED
        with only_chosen(self.model, chosen):
            outputs = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        logits = outputs.logits.squeeze(0).float()
        return nn.functional.cross_entropy(logits, inputs["labels"][chosen], reduction="sum"), chosen.sum(), outputs

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None) -> Any:
        total, count, outputs = self._losses(model, inputs)
        count = count if num_items_in_batch is None else num_items_in_batch
        loss = total / count.clamp(min=1) * self.args.world_size  # makes the mean of gradients over processes their sum
        return (loss, outputs) if return_outputs else loss

    # ---- resuming ----

    def train(  # type: ignore[override]  # the rest is given by name
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """Train; see `ResumableRun.running`."""
        with self.resumable.running(resume_from_checkpoint) as checkpoint, closing_display(self):
            return super().train(resume_from_checkpoint=checkpoint, **kwargs)

    def save_state(self) -> None:
        self.resumable.save_state()

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.resumable.is_over():
            super()._run_epoch(*args, **kwargs)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self.resumable.checking_moments(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        self.resumable.save_arguments(output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        checkpoint = self.resumable.save_checkpoint(partial(super()._save_checkpoint, model, trial))
        self.resumable.remove_older(checkpoint)

    # ---- evaluation ----

    def evaluate(
        self, eval_dataset: Dataset | None = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> Any:
        """Mean cross-entropy over the chosen tokens of the dev texts; their masks are equal in every evaluation."""
        args, start = self.args, time.time()
        texts = self.eval_dataset if eval_dataset is None else eval_dataset
        batch = args.per_device_eval_batch_size
        steps = EpochSteps(LengthSortedSteps(0, texts, batch, args.world_size, args.process_index))
        model = self._wrap_model(self.model, training=False)
        was_training = model.training
        model.eval()
        sums = torch.zeros(2, device=args.device)
        with torch.inference_mode(), self.accelerator.autocast():
            for inputs in step_loader(args, self._masked(texts, DEV), steps):
                total, count, _ = self._losses(model, inputs)
                sums += torch.stack([total, count])
        if args.world_size > 1:
            sums = self.accelerator.reduce(sums, reduction="sum")
        model.train(was_training)
        total, count = sums.tolist()
        metrics = {f"{metric_key_prefix}_loss": total / count if count else float("nan")}
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(texts)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(args, self.state, self.control, metrics)
        return metrics


def pretrain(
    args: PretrainingArguments,
    encoder: str,
    splits: Mapping[str, Mapping[str, Dataset]],
    tokenizer: PreTrainedTokenizerBase,
    until: int | None = None,
) -> str:
    """Pre-train an encoder on the texts of the tasks; resume an interrupted run, and do nothing if it was done before.

    Args:
        args: the run's arguments.
        encoder: a folder, or a name on the hub.
        splits: task → checked splits; `train` is trained on, `dev` gives the dev loss.
        until: the epoch to stop after; the next call resumes from there. None: the last.

    Returns:
        The folder of the encoder after that epoch.

    Raises:
        ValueError: if the output folder holds another run or other files; if the run in it has passed that epoch
            without keeping its encoder; if the tokenizer has no mask token, or the encoder needs remote code.
    """
    until = int(args.num_train_epochs) if until is None else until
    if tokenizer.mask_token_id is None:
        raise InputError(
            f"{encoder}: the tokenizer has no mask token, which masked-language modelling needs; give an encoder with "
            "one, or drop pretraining"
        )
    texts, folder = Texts.of(splits, args.remove_duplicates), str(args.output_dir)
    with args.main_process_first(desc="looking for what has been done"):
        _claim(Path(folder), _settings(args, encoder, texts))
    kept = os.path.join(folder, f"epoch-{until}")
    if os.path.isdir(kept):
        return kept
    checkpoint = last_complete(folder)
    if checkpoint and TrainerState.load_from_json(os.path.join(checkpoint, "trainer_state.json")).epoch >= until:
        raise InputError(
            f"pretraining.output_dir {args.output_dir}: the run in it has passed epoch {until} without keeping its "
            "encoder; use one of its folders epoch-<n>, or give another output_dir"
        )
    main = args.process_index == 0
    set_seed(args.seed)
    encoder_config(encoder)
    whole = load_encoder(encoder)
    if os.path.isdir(encoder):
        whole.config._name_or_path = ""  # as in MtBertForMultiTask.from_encoder
    model = load_encoder(encoder, AutoModelForMaskedLM)
    use_faster_layers(model)
    spec = TaskSpec("texts", max_length=args.max_length)
    encoded, reports = {}, []
    with args.main_process_first(desc="encoding"), phase("encoding the texts for pre-training", main):
        for name in ("train", "dev"):
            if rows := getattr(texts, name):
                dataset = Dataset.from_dict({"text": list(rows)})
                encoded[name], report = encode_dataset(spec, dataset, tokenizer, model.config, name)
                reports.append(report.line())
    if main:
        print_lines([*texts.lines(), *reports])
    if "dev" not in encoded:
        args.eval_strategy = IntervalStrategy.NO
    if args.device.type == "cpu":
        keep_freed_memory()
        if args.cpu_threads is not None:
            torch.set_num_threads(args.cpu_threads)
    keep = KeptEncoders(whole, tokenizer, folder, args.kept, until)
    trainer = PretrainingTrainer(model, args, encoded["train"], encoded.get("dev"), tokenizer, callbacks=[keep])
    if main:
        print_start(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    args.distributed_state.wait_for_everyone()
    return kept


def _settings(args: PretrainingArguments, encoder: str, texts: Texts) -> dict[str, Any]:
    """The settings that identify a run of pre-training."""
    values = args.to_dict()
    batch = args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps
    settings = {"encoder": str(encoder), "texts": len(texts.train), "sha256": texts.digest(), "batch": batch}
    return json.loads(masked(json.dumps(settings | {key: values[key] for key in _DECISIVE}, default=str)))


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """Write the run's settings into a new folder; raise InputError if the folder holds another run or other files."""
    path = folder / SETTINGS
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(f"pretraining.output_dir {folder} has files in it, but no {SETTINGS}; give another folder")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
        return
    earlier = read_json(path, "give another pretraining.output_dir")
    if different := [key for key in settings if earlier.get(key) != settings[key]]:
        changes = "; ".join(f"{key} was {earlier.get(key)!r} and is {settings[key]!r}" for key in different)
        hint = ""
        if "texts" in different:
            hint = " (with pretraining.remove_duplicates: true, a text that occurs several times counts once)"
        raise InputError(
            f"pretraining.output_dir {folder} holds a run with other settings: {changes}; give another folder, or "
            f"those settings{hint}"
        )
