"""transformers' Trainer for several tasks: it says when things happen; what they are stands elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import EarlyStoppingCallback, PreTrainedTokenizerBase
from transformers.trainer_utils import HubStrategy, PredictionOutput, speed_metrics

from ..data.balancing import BalancedRows
from ..data.collation import LengthSortedSteps, MultiTaskDataset
from ..data.given_rows import prepare
from ..data.sampling import Plan, Schedule, StepSampler
from ..data.step_loader import identity, step_loader
from ..errors import InputError, InputTypeError
from ..files import write_text
from ..modeling.hub_upload import explained
from ..modeling.limits import refuse_reserved
from ..modeling.modeling_mtbert import MtBertForMultiTask, MtBertOutput
from ..modeling.tokenization import has_token_types
from ._compat import KeepSpecialTokens
from .arguments import MtBertTrainingArguments, TaskTraining
from .checkpoints.pushing import card_of, push_checkpoint, push_run, report_failures
from .checkpoints.resume_record import Record, model_record, peft_record, teacher_hash, weights_hash
from .checkpoints.sealing import refuse_unloadable
from .checkpoints.stages import Stage
from .console import print_lines, print_parameters, print_plan
from .distributed.encoder_sharding import ShardingTrainer
from .distributed.launch import print_start
from .distributed.machine import keep_freed_memory
from .distributed.process_group import refuse_with_shares, watch_gradients
from .finite_steps import FiniteSteps, guarded
from .memory import print_memory
from .methods.averaging import Averaging, WeightAverage, refuse_averaged
from .methods.distillation import COLUMN, Distillation
from .methods.proximal import Proximal
from .methods.regularisers import Regularisers
from .methods.smart import Smart
from .methods.surgery import GradientSurgery, Surgery, parts_by_task
from .objective import StepLosses
from .optimizers import SEPARATE, OptimizerSettings, PerTaskOptimizer, moment_bytes, parameter_groups, task_rates
from .peft import trainable
from .settings import as_settings, as_splits, as_task_training
from .task_losses import UNCERTAINTY, LossSettings, UncertaintyWeighting, check_losses, class_weights

Splits = Mapping[str, Dataset]


class MtBertTrainer(ShardingTrainer):
    """Trains one model on several tasks.

    Args:
        model: the model, or a model inside peft, whose heads and adapters are trained and saved, too (`peft.adopt`);
            its tasks name the data sets.
        args: the run's settings. `per_device_train_batch_size` × processes × accumulation is a step's batch.
        train_dataset: for each task its training rows: columns `text` (`text_pair`) and `label` or `labels`; instead of
            texts `input_ids` and, where they are padded, `attention_mask` (see `data.tokenised.check_tokenised`).
        eval_dataset: the same for evaluation; tasks may be absent.
        processing_class: the tokenizer, saved beside the model.
        schedule: how steps are shared out among the tasks.
        task_training: weights, batch sizes and metrics by task name, where they differ from the defaults.
        surgery: how the tasks' gradients are combined where they disagree; None: they are summed.
        smart: smoothness-inducing adversarial regularisation; None: none.
        proximal: Bregman proximal point optimisation; None: none.
        averaging: how the weights that are evaluated and saved are averaged over the run; None: the last ones are.
        distillation: how much rows are trained on what teachers say, which their data has in a column `teacher`
            (`distillation.add_targets`); None: not at all.
        optimizer: learning rates by part, layer and task, and one state for each task.
        loss: how the tasks' losses are put together.
        recipe: what the model card says of the training, as a JSON-ready tree; None: these arguments.
        stage: where this training stands in a run of several stages; None: it is the whole run.
        kwargs: passed on to `transformers.Trainer`.

    Raises:
        ValueError: for data sets of tasks that the model does not have, tasks without training rows, and rows whose
            text, tokens or label do not fit their task (`check_rows`, `check_tokenised`); for a model whose head or
            adapter was exchanged for one that its config does not describe; for settings that are out of range, and for
            `smart` with weights in half precision, which cannot hold its perturbation.
    """

    def __init__(
        self,
        model: MtBertForMultiTask | PeftModel,
        args: MtBertTrainingArguments,
        train_dataset: Splits | None = None,
        eval_dataset: Splits | None = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        schedule: Schedule | None = None,
        task_training: Mapping[str, TaskTraining] | None = None,
        surgery: Surgery | None = None,
        smart: Smart | None = None,
        proximal: Proximal | None = None,
        averaging: Averaging | None = None,
        distillation: Distillation | None = None,
        optimizer: OptimizerSettings | None = None,
        loss: LossSettings | None = None,
        recipe: Mapping[str, Any] | None = None,
        stage: Stage | None = None,
        **kwargs,
    ):
        if not isinstance(args, MtBertTrainingArguments):
            raise InputTypeError(f"args must be MtBertTrainingArguments, got {type(args).__name__}")
        if args.n_gpu > 1:
            raise InputError(
                f"{args.n_gpu} GPUs in one process would mean DataParallel, which cannot split packed batches; start "
                "with `accelerate launch --num_processes N` or `torchrun`, or show one GPU (CUDA_VISIBLE_DEVICES=0)"
            )
        if args.device.type == "cpu":
            keep_freed_memory()
            if args.cpu_threads is not None:
                torch.set_num_threads(args.cpu_threads)
        surgery = as_settings(Surgery, surgery, "surgery")
        smart = as_settings(Smart, smart, "smart")
        proximal = as_settings(Proximal, proximal, "proximal")
        averaging = as_settings(Averaging, averaging, "averaging")
        distillation = as_settings(Distillation, distillation, "distillation")
        optimizer = as_settings(OptimizerSettings, optimizer, "optimizer")
        loss = as_settings(LossSettings, loss, "loss")
        if train_dataset is not None:
            model = trainable(model)
        self.tasks = model.tasks
        if train_dataset is not None:
            refuse_reserved(task.name for task in self.tasks)
            refuse_unloadable(model)
        if args.shard_encoder:
            refuse_with_shares(
                {
                    **{"surgery.method": surgery, "smart.weight": smart, "proximal.weight": proximal},
                    **{"averaging.type": averaging, "peft": isinstance(model, PeftModel)},
                    **{"optimizer.per_task": optimizer and optimizer.per_task, "training.fp16": args.fp16},
                    **{"training.torch_compile": args.torch_compile},
                }
            )
        self.task_ids = {task.name: number for number, task in enumerate(self.tasks)}
        self.schedule = as_settings(Schedule, schedule, "schedule") or Schedule()
        if found := self.schedule.problems("schedule"):
            raise InputError("\n".join(found))
        task_training = as_task_training(self.tasks, task_training)
        self._check_names("task_training", task_training)
        self.task_training = {task.name: task_training.get(task.name, TaskTraining()) for task in self.tasks}
        self._check_task_training()
        self.surgery = None if surgery is None else GradientSurgery(surgery, model, self.schedule, args.seed)
        self.optimizer_settings = optimizer or OptimizerSettings()
        loss = loss or LossSettings()
        found = self.optimizer_settings.problems("optimizer") + loss.problems("loss")
        for key, given in (("averaging", averaging), ("distillation", distillation)):
            found += [] if given is None else given.problems(key)
        if found := found + self.optimizer_settings.conflicts(
            self.schedule, self.task_training, loss, args.learning_rate, args.optim
        ):
            raise InputError("\n".join(found))
        self._per_task: PerTaskOptimizer | None = None
        self._uncertainty_rate = args.learning_rate if loss.learning_rate is None else loss.learning_rate
        self._methods = {  # a weight of 0 is as if there were none
            "smart": smart if smart and smart.weight else None,
            "proximal": proximal if proximal and proximal.weight else None,
            **{"surgery": surgery, "averaging": averaging, "optimizer": self.optimizer_settings, "loss": loss},
        }
        self.stage = stage
        self.args, self.processing_class = args, processing_class  # for `_encoded`, before transformers sets them
        self.encoder_config = model.config.encoder
        self.recipe = recipe
        super().__init__(
            model=model,
            args=args,
            data_collator=identity,
            train_dataset=self._encoded("train", train_dataset),
            eval_dataset=self._encoded("eval", eval_dataset),
            processing_class=processing_class,
            **kwargs,
        )
        if processing_class is not None:  # for predictions after training
            inner = model.get_base_model() if isinstance(model, PeftModel) else model
            inner._tokenizer = processing_class
        self.average = None if averaging is None else WeightAverage(averaging)
        if self.average is not None:
            self.add_callback(self.average)
        self.add_callback(KeepSpecialTokens(model.config.encoder))
        self.distillation = distillation
        if args.early_stopping_patience is not None:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience, args.early_stopping_threshold))
        if self.optimizer is not None and (optimizer is not None or loss.weighting == UNCERTAINTY):
            raise InputError("optimizers has one already made; drop it, or the settings optimizer and loss")
        self._counted_parameters = model.num_parameters(exclude_embeddings=True)
        inexact = self.accelerator.mixed_precision != "no" or bool(args.torch_compile)
        regularisers = Regularisers.of(model, smart, proximal, args.device, inexact)
        if regularisers.teacher is not None:
            self.add_callback(regularisers.teacher)
        uncertainty = UncertaintyWeighting(self.tasks) if loss.weighting == UNCERTAINTY else None
        own_means = self.schedule.name == "simultaneous"
        self.losses = StepLosses(
            model, self.task_training, own_means, regularisers, distillation, uncertainty, args.device
        )
        self.finite = FiniteSteps(args.on_nonfinite, late=args.device.type == "cuda")
        self._balanced: dict[int, BalancedRows] = {}
        self._gradients = watch_gradients(self)
        for task in self.tasks if train_dataset is not None else ():
            self._read_labels(task, self.task_training[task.name])

    # ---- data ----

    def _check_names(self, argument: str, given: Mapping) -> None:
        known = [task.name for task in self.tasks]
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"{argument} has {unknown}, but the model's tasks are: {', '.join(known)}")

    def _check_task_training(self) -> None:
        found = []
        for task in self.tasks:
            settings = self.task_training[task.name]
            found += settings.problems(f"task_training[{task.name!r}]")
            if settings.metric is not None:
                from ..evaluation.metrics import check_metric  # importing evaluate takes seconds

                found += filter(None, [check_metric(task, settings.metric)])
            found += check_losses(task, settings)
        if found:
            raise InputError("\n".join(found))

    def _encoded(self, split: str, datasets: Splits | None) -> dict[str, Dataset] | None:
        """Check and encode what is not encoded yet."""
        datasets = as_splits(self.tasks, datasets, f"{split}_dataset")
        if datasets is None:
            return None
        self._check_names(f"{split}_dataset", datasets)
        if split == "train" and (missing := [task.name for task in self.tasks if task.name not in datasets]):
            raise InputError(f"train_dataset lacks the tasks {missing}; give rows for each, or drop the task")
        encoded = {}
        for task in self.tasks:
            if task.name not in datasets:
                continue
            where = f"{split}_dataset[{task.name!r}]"
            given = datasets[task.name]
            dataset, lines = prepare(task, split, given, self.processing_class, self.encoder_config, where)
            if self.args.process_index == 0:
                print_lines(lines)
            encoded[task.name] = dataset
        return encoded

    def _read_labels(self, task, settings: TaskTraining) -> None:
        """What follows from a task's training labels: the weights of its classes, and its rows by class."""
        if settings.class_weights is None and not settings.balanced:
            return
        labels = np.asarray(self.train_dataset[task.name].with_format("numpy")["label"][:])
        if settings.class_weights is not None:
            weights = class_weights(task, settings.class_weights, labels)
            self.losses.class_weights[task.name] = torch.tensor(weights, dtype=torch.float32, device=self.args.device)
        if settings.balanced:
            self._balanced[self.task_ids[task.name]] = BalancedRows(labels)

    def _batches(self, splits: Splits) -> MultiTaskDataset:
        return MultiTaskDataset(self.tasks, splits, has_token_types(self.encoder_config))

    def _loader(self, dataset: MultiTaskDataset, sampler) -> DataLoader:
        return step_loader(self.args, dataset, sampler)

    def plan(self) -> Plan:
        """What every step of the run will hold."""
        settings = [self.task_training[task.name] for task in self.tasks]
        args = self.args
        plan = Plan(
            schedule=self.schedule,
            names=tuple(task.name for task in self.tasks),
            rows=tuple(len(self.train_dataset[task.name]) for task in self.tasks),
            batch=args.per_device_train_batch_size * args.world_size * args.gradient_accumulation_steps,
            epochs=1,
            seed=args.data_seed if args.data_seed is not None else args.seed,
            batches=tuple(each.batch_size for each in settings),
            sizes=tuple(each.examples_per_epoch for each in settings),
            balanced=self._balanced,
        )
        return plan.lasting(args.num_train_epochs, args.max_steps)

    def resume_record(self, counts_steps: bool = False, without: Collection[str] = ()) -> Record:
        """What weights, moments and plan of this run depend on, by name."""
        model, plan, record = self.model, self.plan(), model_record(self.model.config)
        for name, settings in self.task_training.items():
            values = {key: value for key, value in asdict(settings).items() if key != "metric"}
            record |= {f"tasks.{name}.{key}": value for key, value in values.items()}
        inside = isinstance(model, PeftModel)
        record["peft"] = peft_record(model.peft_config) if inside else None
        if inside or self.recipe is not None:  # of weights that no checkpoint has, or that the recipe names
            weights = model.encoder.named_parameters()
            weights = [(name, each) for name, each in weights if not (inside and each.requires_grad)]
            record["encoder.weights_hash"] = weights_hash(weights)
        for key in ("name", "mixed", "temperature"):
            record[f"schedule.{key}"] = getattr(plan.schedule, key)
        record["schedule.steps_per_epoch"] = plan.steps_per_epoch
        record |= self._methods | {"distillation": None}
        if self.distillation is not None:
            teachers = [teacher_hash(folder) for folder in self.distillation.teachers]
            record["distillation"] = asdict(self.distillation) | {"teachers": teachers}
            # compared themselves instead of what they say, which other processes and batches round otherwise
            without = (COLUMN,) if None not in teachers else ()
        counting = (self._methods["averaging"], self._methods["proximal"])
        counts_steps = any(each is not None and each.depends_on_length for each in counting)
        return record | super().resume_record(counts_steps, without)

    def get_train_dataloader(self) -> DataLoader:
        if self.train_dataset is None:
            raise InputError("train_dataset is missing; training needs rows for each task")
        columns = [name for split in self.train_dataset.values() for name in split.column_names]
        if self.distillation is not None and COLUMN not in columns:
            raise InputError(f"distillation: no task's rows have the column {COLUMN!r}; see distillation.add_targets")
        args = self.args
        sampler = StepSampler(self.plan(), args.gradient_accumulation_steps, args.world_size, args.process_index)
        return self._loader(self._batches(self.train_dataset), sampler)

    # ---- the optimizer ----

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Make the optimizer of `args.optim`, over groups or for each task where the settings say so."""
        settings, args, uncertainty = self.optimizer_settings, self.args, self.losses.uncertainty
        if self.optimizer is None and (settings != OptimizerSettings() or uncertainty is not None):
            of = self.model if model is None else model
            decayed = self.get_decay_parameter_names(of)
            groups = parameter_groups(of.named_parameters(), decayed, args.learning_rate, args.weight_decay, settings)
            if uncertainty is not None:
                own = {"lr": self._uncertainty_rate, "weight_decay": 0.0, "decayed": False}
                groups.append({"params": list(uncertainty.parameters()), **own})
            kind, kwargs = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(args, of)
            self.optimizer = kind(groups, **kwargs)
            if settings.per_task is not None:
                rates = task_rates(self.task_training, args.learning_rate)
                self._per_task = PerTaskOptimizer(self.optimizer, rates, settings.per_task == SEPARATE)
                self.optimizer = self._per_task
        return super().create_optimizer(model)

    # ---- the loss of a step ----

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """All micro-batches of a step, and how many labelled rows of each task they hold over all processes."""
        samples = [batch for _, batch in zip(range(num_batches), epoch_iterator, strict=False)]
        counts = sum(batch["labelled"] for batch in samples)
        self._gradients.saw(samples)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts, reduction="sum")
        self.losses.begin()
        if self._per_task is not None:
            self._per_task.select(next(iter(samples[0]["rows"])))  # every micro-batch of the step holds this one task
        return samples, counts

    def task_losses(self, model, inputs, num_items_in_batch=None) -> tuple[dict[str, torch.Tensor], MtBertOutput]:
        """Each task's share of the step's loss in a micro-batch, and the model's outputs; see `StepLosses`."""
        return self.losses(model, inputs, inputs["labelled"] if num_items_in_batch is None else num_items_in_batch)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The sum of the tasks' losses."""
        losses, outputs = self.task_losses(model, inputs, num_items_in_batch)
        loss = sum(losses.values())
        if self.model.training:
            self.losses.note(inputs, outputs)
            self.finite.note(inputs["rows"], outputs.row_losses, loss)
            loss = guarded(loss) * self.args.world_size  # gradients are averaged over processes, the sum is meant
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model, inputs, num_items_in_batch=None):
        """One forward and backward; with gradient surgery one for each task of the micro-batch.

        The last of a step leaves the same gradients of the log-variances on every process.
        """
        if self.surgery is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
        else:
            loss, counts = 0, inputs["labelled"] if num_items_in_batch is None else num_items_in_batch
            for task, part in parts_by_task(inputs, self.tasks):
                with self.accelerator.no_sync(model), self.surgery.collecting(task):
                    loss += super().training_step(model, part, counts)
            if self.accelerator.sync_gradients:
                self.surgery.combine(self.accelerator, self.state.global_step)
        uncertainty = self.losses.uncertainty
        if uncertainty is not None and self.args.world_size > 1 and self.accelerator.sync_gradients:
            uncertainty.average_gradients(self.accelerator.reduce)
        return loss

    def _get_grad_norm(self, model, grad_norm=None):
        """The norm of a step's gradient; a step that it forbids has no gradient afterwards, and changes nothing."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.finite.check(norm, self.accelerator, self.train_dataset, self.state.global_step + 1):
            self._gradients.on_pre_optimizer_step(self.args, self.state, self.control)  # it asks for the first ones
            self.optimizer.zero_grad(set_to_none=True)
        return norm

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add what each task's rows have cost since the last log: `loss_<task>` (a mean) and `examples_<task>`.

        `loss_<task>` is without class weights, teachers and regularisers; the latter are `smart_<task>`,
        `smart_skipped` and `proximal_<task>`. Steps without an update are `nonfinite_skipped` and `overflow_skipped`.
        `learning_rate` is that of the first parameter group, the encoder's last layer unless it is frozen; where tasks
        have rates of their own, `learning_rate_<task>` is that group's in a step of the task.
        """
        if "loss" in logs or ("train_runtime" in logs and self.losses.steps):  # at the end: what is left
            logs.update(self.losses.logs(partial(self.accelerator.reduce, reduction="sum")))
            if self._per_task is not None and "learning_rate" in logs:
                rates = self._per_task.learning_rates(logs["learning_rate"])
                logs.update({f"learning_rate_{name}": rate for name, rate in rates.items()})
            self.losses.forget()
            logs |= self.finite.logs()
            if self.surgery is not None:
                logs |= self.surgery.logs()
        if self.stage is None:
            return super().log(logs, start_time)
        with self.stage.continued(self.state):
            super().log({**logs, "stage": self.stage.number}, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Forward and backward, 6 · parameters · real tokens; counted once, not at every step."""
        return 6 * self._counted_parameters * inputs["input_ids"].numel()

    # ---- training ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """Print how it computes, the parameters and the plan, then train; see `transformers.Trainer.train`."""
        refuse_unloadable(self.model)
        if self.train_dataset is not None and self.is_world_process_zero():
            print_start(self)
            print_parameters(self.model.parameter_table())
            print_plan(self.plan())
            print_memory(self)
            print_lines([None if self.surgery is None else self.surgery.describe()])
            if self.optimizer_settings.per_task == SEPARATE:
                size = moment_bytes(self.model.named_parameters(), list(self.task_training), SEPARATE)
                print_lines([f"AdamW's moments, a state for each of {len(self.tasks)} tasks: {size / 2**20:,.1f} MiB"])
        self.losses.forget()
        self.finite.begin()
        if self.surgery is not None:
            self.surgery.forget()
        if self.losses.regularisers.teacher is not None:
            self.losses.regularisers.teacher.start()
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self.finite.flush(self.accelerator, self.train_dataset)
        return result

    # ---- evaluation ----

    def _maybe_log_save_evaluate(self, *args, **kwargs) -> None:
        if self.control.should_evaluate or self.control.should_save:
            self.finite.flush(self.accelerator, self.train_dataset)
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def evaluate(self, eval_dataset: Splits | None = None, ignore_keys=None, metric_key_prefix: str = "eval"):
        """Score every task and the averages over tasks, logged together.

        Returns:
            `<prefix>_<task>_loss`, `<prefix>_<task>_<metric>`, `<prefix>_raw_mean`, `<prefix>_overall`, and times.
        """
        self._memory_tracker.start()
        start = time.time()
        splits = self.eval_dataset if eval_dataset is None else self._encoded("eval", eval_dataset)
        if not splits:
            raise InputError("eval_dataset is missing; evaluation needs labelled rows of at least one task")
        metrics = self._scores(splits, metric_key_prefix)
        if self.args.eval_train and eval_dataset is None and self.train_dataset is not None:
            metrics |= self._scores(self.train_dataset, "train")
        rows = sum(len(split) for split in splits.values())
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=rows))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self._memory_tracker.stop_and_update_metrics(metrics)
        return metrics

    def _scores(self, splits: Splits, prefix: str, known: Mapping[str, tuple] | None = None) -> dict[str, float]:
        """Scores of every task in `splits` and their averages; `known`: what `_predict_task` has found already."""
        from ..evaluation.metrics import averages, default_metrics, score_task  # importing evaluate takes seconds

        metrics, main = {}, {}
        for task in self.tasks:
            if task.name not in splits:
                continue
            logits, labels, loss = known[task.name] if known else self._predict_task(task, splits[task.name])
            if labels is None:
                raise InputError(f"{prefix} rows of task {task.name!r} have no labels; use predict for them")
            metric = self.task_training[task.name].metric
            scores = score_task(task, logits, labels, metric)
            metric = metric or default_metrics(task)[0]
            if metric in scores:
                main[task.name] = (metric, scores[metric])
            metrics[f"{prefix}_{task.name}_loss"] = loss
            metrics.update({f"{prefix}_{task.name}_{name}": value for name, value in scores.items()})
        metrics.update({f"{prefix}_{name}": value for name, value in averages(main).items()})
        losses = [value for key, value in metrics.items() if key.endswith("_loss")]
        metrics[f"{prefix}_loss"] = float(np.mean(losses))
        return metrics

    def predict(self, test_dataset: Splits, ignore_keys=None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Logits and labels of every row of every task, in the rows' order.

        Returns:
            PredictionOutput with `predictions` `{task: (rows, num_labels)}` and `label_ids` `{task: labels or None}`;
            `metrics` for the tasks whose rows have labels.
        """
        splits = self._encoded("test", test_dataset)
        found = {task.name: self._predict_task(task, splits[task.name]) for task in self.tasks if task.name in splits}
        labelled = {name: splits[name] for name, (_, labels, _) in found.items() if labels is not None}
        metrics = self._scores(labelled, metric_key_prefix, found) if labelled else {}
        logits = {name: each[0] for name, each in found.items()}
        return PredictionOutput(
            predictions=logits, label_ids={n: each[1] for n, each in found.items()}, metrics=metrics
        )

    def _predict_task(self, task, split: Dataset) -> tuple[np.ndarray, np.ndarray | None, float]:
        """One task's logits `(rows, num_labels)`, labels and mean loss, each row once, whatever the processes."""
        args = self.args
        batch_size = args.per_device_eval_batch_size
        sampler = LengthSortedSteps(self.task_ids[task.name], split, batch_size, args.world_size, args.process_index)
        loader = self._loader(self._batches({task.name: split}), sampler)
        model = self._wrap_model(self.model, training=False)
        was_training = self.model.training
        model.eval()
        logits = torch.zeros(len(split), task.num_labels, device=args.device)
        losses = torch.zeros(2, device=args.device)
        # autocast, since a model that was not trained is not prepared yet
        with self._published(), self.whole(), torch.inference_mode(), self.accelerator.autocast():
            for batch in loader:
                rows = batch.pop("rows")[task.name]
                batch = {key: value for key, value in batch.items() if key not in ("labelled", COLUMN)}
                output = model(**batch, return_dict=True)
                logits[rows] = output.logits.float()
                if output.row_losses:
                    losses[0] += output.row_losses[task.name].sum()
                    losses[1] += output.labelled[task.name].sum()
                self.control = self.callback_handler.on_prediction_step(args, self.state, self.control)
        if args.world_size > 1:  # rows of other processes are 0 here, so that a sum gathers them
            logits, losses = self.accelerator.reduce((logits, losses), reduction="sum")
        model.train(was_training)
        total, count = losses.tolist()
        labels = None
        if "label" in split.column_names:
            labels = np.asarray(split.with_format("numpy")["label"][:])
        return logits.cpu().numpy(), labels, total / count if count else float("nan")

    # ---- saving ----

    def _published(self) -> AbstractContextManager:
        """Within, the model has the weights that are evaluated and saved."""
        return nullcontext() if self.average is None else self.average.applied(self.model)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save what else a run goes on with, and a model has no use for: teacher, average, log-variances."""
        super()._save_optimizer_and_scheduler(output_dir)
        if not self.args.should_save:
            return
        self.losses.save(output_dir)
        if self.average is not None:
            self.average.save(output_dir, self.model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        self.losses.load(checkpoint)
        if self.average is None:
            refuse_averaged(checkpoint)
        else:
            self.average.load(checkpoint, self.model)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        if self.average is not None:  # that checkpoint's weights are the average of its step
            self.average.forget()

    def _get_output_dir(self, trial) -> str:
        """The folder of checkpoints: each stage has its own."""
        folder = super()._get_output_dir(trial)
        return folder if self.stage is None else os.path.join(folder, self.stage.folder)

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        """Save model and tokenizer, and with peft what says how to load them."""
        with self._published():
            super()._save(output_dir, state_dict)
        folder = output_dir if output_dir is not None else self.args.output_dir
        if isinstance(self.model, PeftModel) and self.args.should_save:  # what heads and adapters are, for a loader
            self.model.config.save_pretrained(folder)

    # ---- pushing to a hub ----

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository; PushError says what to do where that fails."""
        with explained(self.args.hub_model_id or os.path.basename(self.args.output_dir)):
            super().init_hf_repo(token, private)

    def create_model_card(self, **about: Any) -> None:
        """Write README.md into the folder; `about`: `license`, `language`, … of `mtbert.model_card.model_card`."""
        if self.is_world_process_zero():
            write_text(os.path.join(self.args.output_dir, "README.md"), str(card_of(self, **about)))

    def push_to_hub(
        self,
        commit_message: str = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **about: Any,
    ):
        """Save and upload model, code, tokenizer and card, and nothing else of the run's folder.

        Args:
            about: for the card, as in `create_model_card`.

        Raises:
            PushError: if the hub refuses or cannot be reached; it says why and what to do.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        self.create_model_card(**about)
        where = {"token": token, "revision": revision or self.args.hub_revision}
        return push_run(self, not blocking, commit_message=commit_message, **where)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.is_world_process_zero() and self.args.hub_strategy != HubStrategy.END:
            self.push_in_progress = push_checkpoint(self, checkpoint_folder)

    def _finish_current_push(self) -> None:
        super()._finish_current_push()
        report_failures(getattr(self, "push_in_progress", None))
