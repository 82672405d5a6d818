"""The multi-task trainer: a subclass of transformers' Trainer that calls its parts and methods at each hook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NoReturn

import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer
from transformers.trainer_utils import EvalLoopOutput

from ..data.collation import MultiTaskDataset, unit_rows
from ..data.given_splits import prepare_splits, training_sources
from ..data.sampling import Plan, StepSampler
from ..data.step_loader import identity, step_loader
from ..errors import InputError
from ..modeling.limits import refuse_reserved
from ..modeling.modeling_mtbert import MtBertForMultiTask
from ..modeling.tokenization import has_token_types
from . import evaluation_loop
from ._compat import add_callbacks, closing_display, holding
from .arguments import REFUSED_OF_TRAINER, MtBertTrainingArguments, refuse_trainer_arguments
from .checkpoints.interruption import ResumableRun
from .checkpoints.log_sums import LogSums
from .checkpoints.pushing import make_repository, push_checkpoint, push_trained, report_failures, write_card
from .checkpoints.run_identity import training_record
from .checkpoints.sealing import refuse_unloadable
from .checkpoints.stages import Stage
from .console import print_lines
from .distributed.encoder_sharding import EncoderSharding
from .distributed.machine import set_up_process
from .distributed.process_group import watch_gradients
from .finite_steps import FiniteSteps, guarded
from .memory import print_beginning
from .objective import StepLosses, counted
from .optimizers import OptimizerSettings, grouped_optimizer
from .peft import remember_tokenizer, trainable
from .settings import MultiTaskSettings, build_methods, read_drawing, read_settings, refuse_given_parts, refuse_settings


class MtBertTrainer(Trainer):
    """Trains one model on several tasks.

    Args:
        model: the model, or a model inside peft, whose heads and adapters are trained and saved, too (`peft.adopt`);
            the names of its tasks are the keys of the data sets.
        args: the training arguments. A step's batch is `per_device_train_batch_size` × processes × accumulation.
        train_dataset: task name → training rows, with the columns `text` (`text_pair`) and `label` or `labels`. In
            place of texts, rows may have `input_ids` and, if padded, `attention_mask`
            (see `data.given_rows.check_tokenised`). A `Source`, under another name, has the rows of several tasks.
        eval_dataset: task name → evaluation rows in the same form; tasks may be absent.
        processing_class: the tokenizer, saved beside the model.
        settings: schedule, tasks and optimizer; None: the defaults.
        methods: training methods, each given by its settings or as a `Method` object.
        stage: the position of this training in a run of several stages; None: it is the whole run.
        kwargs: passed on to `transformers.Trainer`: `callbacks`, `optimizers`, `compute_metrics`, `compute_loss_func`.
            `compute_metrics` is called once for each scored set of rows, with an `EvalPrediction` of all labelled
            tasks: `predictions` {task: logits (rows, num_labels)} and `label_ids` {task: labels}; the scores it returns
            are logged as `<prefix>_<name>`, too. `compute_loss_func(outputs, labels, num_items_in_batch)` replaces the
            sum of the tasks' losses: it gets a MtBertOutput, labels by task, and the step's labelled rows, `(tasks,)`.

    Attributes:
        methods: section → the method in use.

    Raises:
        InputError: for data sets of tasks that the model does not have, tasks without training rows, and rows that do
            not fit their task (`check_rows`, `check_tokenised`); for a model that its config does not describe; for
            settings that are out of range or do not go together.
    """

    args: MtBertTrainingArguments
    model: Any  # MtBertForMultiTask, or the PeftModel around it
    processing_class: Any
    push_in_progress: Any
    train_dataset: Any
    optimizer: Any

    def __init__(
        self,
        model: MtBertForMultiTask | PeftModel | None = None,
        args: MtBertTrainingArguments | None = None,
        train_dataset: Mapping[str, Dataset] | None = None,
        eval_dataset: Mapping[str, Dataset] | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        settings: MultiTaskSettings | Mapping[str, Any] | None = None,
        methods: Iterable[Any] = (),
        stage: Stage | None = None,
        **kwargs: Any,
    ):
        refuse_trainer_arguments(model, kwargs)
        trained: Any = model
        run: Any = args
        set_up_process(run)
        if train_dataset is not None:
            trained = trainable(trained)
            refuse_reserved(task.name for task in trained.tasks)
            refuse_unloadable(trained)
        self.tasks, self.stage, self.last_logits = trained.tasks, stage, None
        self.task_ids: Mapping[str, int] = {task.name: number for number, task in enumerate(self.tasks)}
        self.settings, given = read_settings(self.tasks, settings, methods, kwargs)
        refuse_settings(trained, self.settings, given, run, training_sources(self.tasks, train_dataset))
        self.schedule, self.task_training = self.settings.schedule, self.settings.tasks
        self.methods = build_methods(self.settings, given)
        self.args, self.processing_class = run, processing_class  # for `encoded`, before transformers sets them
        self.encoder_config = trained.config.encoder
        train, dev = self.encoded("train", train_dataset), self.encoded("eval", eval_dataset)
        with holding(run, push_to_hub=False):  # `_set_up` makes the repository, and explains what the hub refuses
            super().__init__(trained, run, identity, train, dev, processing_class, **kwargs)
        self._set_up()

    def _set_up(self) -> None:
        """Build the trainer's parts; runs after `transformers.Trainer.__init__`, whose attributes they read."""
        args, model = self.args, self.model
        remember_tokenizer(model, self.processing_class)
        self.resumable, self.sharding, self.log_sums = ResumableRun(self), EncoderSharding(self), LogSums(self)
        self.methods.attach(self)
        add_callbacks(self, model.config.encoder)
        refuse_given_parts(self.settings, self.methods, self.optimizer, self.compute_loss_func)
        self.losses = StepLosses(model, self.task_training, self.schedule, self.methods.values(), args.device)
        self.finite = FiniteSteps(args.on_nonfinite, late=args.device.type != "cpu")
        self._parameters_without_embeddings = model.num_parameters(exclude_embeddings=True)
        self._drawing = read_drawing(self)
        self.losses.weigh_classes(self.train_dataset or {})
        self._gradients = watch_gradients(self)
        if args.push_to_hub:
            make_repository(self)

    # ---- data ----

    def encoded(self, split: str, datasets: Any) -> dict[str, Dataset] | None:
        """Check and encode each task's rows, unless they are encoded already; `split` is `train`, `eval` or `test`."""
        tokenizer, draw = self.processing_class, self.schedule.draw
        encoded, lines = prepare_splits(self.tasks, split, datasets, tokenizer, self.encoder_config, draw)
        if self.args.process_index == 0:
            print_lines(lines)
        return encoded

    def batches(self, splits: Mapping[str, Dataset], training: bool = False) -> MultiTaskDataset:
        """Encoded splits as a data set of batches; see `MultiTaskDataset`."""
        return MultiTaskDataset(self.tasks, splits, has_token_types(self.encoder_config), self.model.config, training)

    def plan(self) -> Plan:
        """The plan of the run: which rows each step holds."""
        return self._drawing()

    def resume_record(self) -> dict[str, Any]:
        """Everything that this run's weights, moments and plan depend on, by name."""
        return training_record(self)

    def get_train_dataloader(self) -> DataLoader[Any]:
        if self.train_dataset is None:
            raise InputError("train_dataset is missing; training needs rows for each task")
        self.methods.check_data(self.train_dataset)
        batches = self.batches(self.train_dataset, training=True)
        return step_loader(self.args, batches, StepSampler.of(self.plan(), self.args))

    # ---- a step ----

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimizer `args.optim`, with custom parameter groups if the settings or methods need them."""
        is_new, method_groups = self.optimizer is None, self.methods.parameter_groups()
        if is_new and (self.settings.optimizer != OptimizerSettings() or method_groups):
            self.optimizer = grouped_optimizer(self, self.model if model is None else model, method_groups)
        optimizer = super().create_optimizer(model)
        if is_new:
            self.optimizer = optimizer = self.methods.wrap_optimizer(optimizer)
        self.sharding.share_out(optimizer)
        return optimizer

    def get_batch_samples(self, epoch_iterator: Any, num_batches: Any, device: Any) -> Any:
        """The micro-batches of a step, and what counts in them (`objective.counted`), over all processes."""
        samples = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = sum(map(counted, samples))
        self._gradients.saw(samples)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.losses.steps += 1
        self.methods.begin_step(samples)
        return samples, counts

    def compute_loss(self, model: Any, inputs: Any, return_outputs: Any = False, num_items_in_batch: Any = None) -> Any:
        """The sum of the tasks' losses, or the value of `compute_loss_func`."""
        counts = counted(inputs) if num_items_in_batch is None else num_items_in_batch
        losses, outputs = self.losses(model, inputs, counts)
        loss: Any = sum(losses.values())
        if self.compute_loss_func is not None:
            rows = counts if counts.dim() == 1 else counts[0]
            loss = self.compute_loss_func(outputs, inputs["labels"], num_items_in_batch=rows)
        if self.model.training:
            self.losses.note(inputs, outputs)
            self.finite.note(unit_rows(inputs, self.tasks), outputs.row_losses or {}, loss)
            loss = guarded(loss) * self.args.world_size  # makes the mean of gradients over processes their sum
        return (loss, outputs) if return_outputs else loss

    def forward_and_backward(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """Add a micro-batch's gradients to those of its step; returns the loss."""
        return super().training_step(model, inputs, num_items_in_batch)

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        """Run forward and backward of a micro-batch: the first method that overrides them does, else the trainer."""
        counts = counted(inputs) if num_items_in_batch is None else num_items_in_batch
        loss = self.methods.training_step(self, model, inputs, counts)
        if loss is None:
            loss = self.forward_and_backward(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.methods.gradients_ready(self)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The norm of a step's gradient; if it is not finite, drop the gradients, so that the step changes nothing."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.finite.check(norm, self.accelerator, self.train_dataset, self.state.global_step + 1):
            self._gradients.on_pre_optimizer_step(self.args, self.state, self.control)  # needs the first gradients
            self.optimizer.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add each task's mean loss (`loss_<task>`) and number of rows (`examples_<task>`) since the last log.

        `loss_<task>` is without class weights and methods, which add numbers of their own; `nonfinite_skipped` and
        `overflow_skipped` count steps without an update; `learning_rate` is that of the first parameter group.
        """
        if "loss" in logs or ("train_runtime" in logs and self.losses.steps):  # at the end: steps not yet logged
            self._look_at_the_last_step()
            reduce = partial(self.accelerator.reduce, reduction="sum")
            logs |= self.losses.logs(reduce)
            self.methods.add_logs(reduce, logs)
            self.losses.forget()
            logs |= self.finite.logs()
        self.log_sums.complete(logs)
        if self.stage is None:
            return super().log(logs, start_time)
        with self.stage.continued(self.state):
            super().log({**logs, "stage": self.stage.number}, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Operations of a forward and a backward pass: 6 · parameters without embeddings · tokens."""
        return 6 * self._parameters_without_embeddings * inputs["input_ids"].numel()

    # ---- training ----

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]  # rest by name
        """Print device, parameters, plan and memory, then train; see `transformers.Trainer.train`.

        Args:
            resume_from_checkpoint: a folder, or true: the last complete checkpoint of this run's folder.

        Raises:
            CheckpointError: if the checkpoint is damaged, missing, or of another run.
            SystemExit: with exit code 143, after SIGTERM, when the checkpoint is saved.
        """
        refuse_unloadable(self.model)
        self.losses.forget()
        self.finite.begin()
        self.methods.begin()
        with self.resumable.running(resume_from_checkpoint) as checkpoint, closing_display(self):
            if self.train_dataset is not None and self.is_world_process_zero():
                print_beginning(self, self.resumable.steps_before(checkpoint))
            result = super().train(resume_from_checkpoint=checkpoint, **kwargs)
            self.sharding.gather()
        self._look_at_the_last_step()
        report_failures(getattr(self, "push_in_progress", None))
        return result._replace(training_loss=result.metrics["train_loss"])

    def _look_at_the_last_step(self) -> None:
        """Stop at, or count, a last step that was not finite; on a GPU the result is read one step late."""
        self.finite.flush(self.accelerator, self.train_dataset)

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        if not self.resumable.is_over():
            super()._run_epoch(*args, **kwargs)

    # ---- evaluation ----

    @contextmanager
    def evaluation_weights(self) -> Iterator[None]:
        """Within, the model has the weights that are evaluated, unsharded, and computes in the run's precision."""
        # autocast: accelerate has not prepared a model that was not trained yet
        with self.methods.evaluation_weights(), self.sharding.whole(), self.accelerator.autocast():
            yield

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader[Any]:
        """All rows of an evaluation data set in packed batches of one task; `eval_dataset` as in `evaluate`."""
        return evaluation_loop.make_loader(self, evaluation_loop.eval_splits(self, eval_dataset))

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader[Any]:
        """All rows of every task in packed batches of one task; the rows need no labels."""
        return evaluation_loop.make_loader(self, self.encoded("test", test_dataset) or {})

    def evaluate(self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval") -> Any:
        """Score every task and the averages over tasks, logged together.

        Args:
            eval_dataset: task name → rows; the name of one task of the trainer's own evaluation data set; None: all of
                that data set.
            metric_key_prefix: prefix of all names of scores.

        Returns:
            `<prefix>_<task>_loss`, `<prefix>_<task>_<metric>`, `<prefix>_raw_mean`, `<prefix>_overall`, and times.
        """
        self._look_at_the_last_step()
        return evaluation_loop.evaluate(self, eval_dataset, metric_key_prefix)

    def evaluation_loop(
        self,
        dataloader: Any,
        description: Any,
        prediction_loss_only: Any = None,
        ignore_keys: Any = None,
        metric_key_prefix: Any = "eval",
    ) -> EvalLoopOutput:
        """Predict and score all rows of a loader of `get_eval_dataloader` or `get_test_dataloader`."""
        return evaluation_loop.run_loop(self, dataloader, metric_key_prefix)

    def hyperparameter_search(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Not supported: every trial needs a new model; use `mtbert search`."""
        raise InputError(f"hyperparameter_search is refused, as is model_init: {REFUSED_OF_TRAINER['model_init']}")

    # ---- checkpoints, on disk and on a hub ----

    def _get_output_dir(self, trial: Any) -> str:
        """The folder of checkpoints: each stage has its own."""
        folder = super()._get_output_dir(trial)
        return folder if self.stage is None else os.path.join(folder, self.stage.folder)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and tokenizer. Collective: every process must call it. See `ResumableRun.save_model`."""
        with self.sharding.gathered_weights():
            save = partial(super().save_model, _internal_call=True)
            self.resumable.save_model(save, output_dir, _internal_call)

    def save_state(self) -> None:
        self.resumable.save_state()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save model, tokenizer and arguments; with peft also the config, which describes heads and adapters."""
        with self.methods.evaluation_weights():
            super()._save(output_dir, self.sharding.weights if state_dict is None else state_dict)
            self.resumable.save_arguments(output_dir)
        if isinstance(self.model, PeftModel) and self.args.should_save:
            self.model.config.save_pretrained(self.args.output_dir if output_dir is None else output_dir)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write a checkpoint whole, seal it, and only then push it and remove older ones."""
        self._look_at_the_last_step()
        checkpoint = self.resumable.save_checkpoint(partial(super()._save_checkpoint, model, trial))
        if self.args.push_to_hub and self.is_world_process_zero():
            self.push_in_progress = push_checkpoint(self, checkpoint)
        self.resumable.remove_older(checkpoint)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save the training state that is not part of the model: optimizer, scheduler, log sums, methods."""
        with self.sharding.saving_moments():
            super()._save_optimizer_and_scheduler(output_dir)
        self.log_sums.save(output_dir)
        if self.args.should_save:
            self.methods.save(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with self.sharding.loading_moments(), self.resumable.checking_moments(checkpoint):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.log_sums.load(checkpoint)
            self.methods.load(checkpoint)

    def _load_best_model(self) -> None:
        self.sharding.gather()
        self.resumable.load_best(super()._load_best_model)
        self.methods.best_model_loaded()

    def create_model_card(self, **about: Any) -> None:  # type: ignore[override]  # ours says other things
        """Write README.md into the output folder; `about`: `license`, `language`, … of `model_card.model_card`."""
        if self.is_world_process_zero():
            write_card(self, about)

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **about: Any,
    ) -> Any:
        """Save and upload model, code, tokenizer and card; the other files of the run's folder stay.

        Args:
            about: fields of the card, as in `create_model_card`.

        Raises:
            PushError: if the hub refuses or cannot be reached; it says why and what to do.
        """
        access = {"token": token if token is not None else self.args.hub_token, "private": private}
        return push_trained(self, commit_message, not blocking, revision or self.args.hub_revision, access, about)
