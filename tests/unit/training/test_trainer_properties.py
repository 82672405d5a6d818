"""What holds of the trainer as of transformers': the order of callbacks, the effect of every argument, resuming."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from mtbert import MtBertTrainer, MtBertTrainingArguments, Schedule, TaskSpec
from mtbert.training.arguments import ELSEWHERE, REFUSED_TRAINING

TASK = TaskSpec("stars", labels=3)
ROWS, DEV_ROWS, BATCH = 12, 8, 4
COMMON = {
    **{"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "seed": 3},
    **{"per_device_train_batch_size": BATCH, "per_device_eval_batch_size": BATCH, "num_train_epochs": 2},
    **{"logging_steps": 1, "learning_rate": 0.01},
}


class Events(TrainerCallback):
    """Keeps the names of all events in their order, with the step."""

    def __init__(self):
        self.seen: list[tuple[str, int]] = []


def _noting(name: str):
    return lambda self, args, state, control, **kwargs: self.seen.append((name, state.global_step))


EVENTS = [name for name in dir(TrainerCallback) if name.startswith("on_")]
for each in EVENTS:
    setattr(Events, each, _noting(each))


class Plain(nn.Module):
    """The smallest model that transformers' Trainer takes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x, labels=None):
        return {"loss": ((self.weight * x - labels) ** 2).mean(), "logits": self.weight * x}


@pytest.fixture
def make_trainer(make_trainer, make_model, splits):
    """A function: arguments → a trainer of one task on 12 rows, with events in `events`."""

    def make(model=None, folder="ours", **settings) -> MtBertTrainer:
        train, dev = (splits((rows,), seed, (TASK,)) for seed, rows in enumerate((ROWS, DEV_ROWS)))
        packed = "neftune_noise_alpha" not in settings  # which is refused with packed batches
        model = model or make_model((TASK,), packed=packed)
        data = {"train_dataset": train, "eval_dataset": dev, "schedule": Schedule("sequential")}
        trainer = make_trainer(model, folder, **data, **COMMON | settings)
        trainer.events = Events()
        trainer.add_callback(trainer.events)
        return trainer

    return make


@pytest.fixture
def plain_trainer(tmp_path):
    """A function: arguments → transformers' Trainer on as many rows."""

    def make(**settings) -> Trainer:
        args = TrainingArguments(str(tmp_path / "plain"), **{**COMMON, **settings})
        train, dev = (Dataset.from_dict({"x": [1.0] * rows, "labels": [2.0] * rows}) for rows in (ROWS, DEV_ROWS))
        trainer = Trainer(Plain(), args, train_dataset=train, eval_dataset=dev)
        trainer.events = Events()
        trainer.add_callback(trainer.events)
        return trainer

    return make


STEPS = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3}
WORST = {**STEPS, "eval_steps": 3, "metric_for_best_model": "eval_loss"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eval_strategy": "epoch", "save_strategy": "epoch"},
        {**STEPS, "logging_first_step": True, "logging_steps": 2},
        {"gradient_accumulation_steps": 3, "eval_strategy": "epoch"},
        {"max_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True},
        {"num_train_epochs": 0.5, "logging_strategy": "epoch", "eval_strategy": "epoch"},
        {**STEPS, "eval_steps": 3, "load_best_model_at_end": True, "metric_for_best_model": "eval_loss"},
    ],
    ids=lambda settings: ", ".join(settings),
)
def test_callbacks_come_in_the_order_of_transformers(settings, make_trainer, plain_trainer):
    ours, plain = make_trainer(**settings), plain_trainer(**settings)
    for trainer in (ours, plain):
        trainer.train()
    assert ours.events.seen == plain.events.seen
    assert {name for name, _ in ours.events.seen} >= {"on_train_begin", "on_step_end", "on_log", "on_train_end"}


def test_a_resumed_run_has_the_events_of_what_was_left(make_trainer, tmp_path):
    whole = make_trainer(**STEPS)
    whole.train()
    resumed = make_trainer(folder="resumed", **STEPS)
    resumed.train(resume_from_checkpoint=str(tmp_path / "ours" / "checkpoint-3"))
    after = [event for event in whole.events.seen if event[1] > 3]
    assert [event for event in resumed.events.seen if event[1] > 3] == after
    left = [each for each in whole.state.log_history if each["step"] > 3 and "loss" in each]
    assert [each for each in resumed.state.log_history if each["step"] > 3 and "loss" in each] == left


# Every argument of transformers: another value of it, and what both runs have so that it can matter. Of the first table
# some number of the run or some event changes, of the second none does, for the reason that stands there.
CHANGES = {
    "activation_checkpointing": (True, {}),  # and so is the estimate of memory
    "adam_beta1": (0.5, {}),
    "adam_beta2": (0.5, {}),
    "adam_epsilon": (0.1, {}),
    "bf16": (True, {}),
    "data_seed": (7, {}),
    "eval_delay": (4, STEPS),
    "eval_on_start": (True, {}),
    "eval_steps": (3, STEPS),
    "eval_strategy": ("epoch", {}),
    "gradient_accumulation_steps": (2, {}),
    "gradient_checkpointing": (True, {}),
    "greater_is_better": (False, {**WORST, "metric_for_best_model": "eval_stars_accuracy"}),
    "include_num_input_tokens_seen": ("all", {}),
    "learning_rate": (0.02, {}),
    "load_best_model_at_end": (True, {**WORST, "greater_is_better": False}),
    "logging_first_step": (True, {"logging_steps": 3}),
    "logging_steps": (3, {}),
    "logging_strategy": ("epoch", {}),
    "lr_scheduler_kwargs": ({"num_cycles": 3}, {"lr_scheduler_type": "cosine_with_restarts"}),
    "lr_scheduler_type": ("constant", {}),
    "max_grad_norm": (0.01, {}),
    "max_steps": (2, {}),
    "metric_for_best_model": ("eval_stars_accuracy", {**STEPS, "eval_steps": 3}),
    "neftune_noise_alpha": (5.0, {"neftune_noise_alpha": 0.0}),
    "num_train_epochs": (1, {}),
    "optim": ("adagrad", {}),
    "optim_args": ("momentum=0.9", {"optim": "sgd"}),
    "per_device_eval_batch_size": (2, {"eval_strategy": "epoch"}),
    "per_device_train_batch_size": (2, {}),
    "save_steps": (2, STEPS),
    "save_strategy": ("epoch", {}),
    "seed": (7, {}),
    "skip_memory_metrics": (False, {}),
    "warmup_steps": (3, {}),
    "weight_decay": (0.5, {}),
}
_AS_TRANSFORMERS = "read by transformers' own code, which is not overridden"
_ACCELERATOR = "for an accelerator, or for several processes"
_LOADER = "how batches are loaded, not what they hold: tests/invariants/test_resume.py"
_LOGGER = "for a logger: tests/unit/training/distributed/test_feasible.py"
_PUSH = "tests/hub/test_training.py"
_SCRIPT = "for scripts of a user's own; transformers' Trainer does not read it either"
HONOURED = {
    "activation_checkpointing_kwargs": "tests/invariants/test_checkpointing.py",
    "dataloader_num_workers": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_pin_memory": _ACCELERATOR,
    "dataloader_prefetch_factor": _LOADER,
    "ddp_backend": "tests/distributed/",
    "ddp_broadcast_buffers": _ACCELERATOR,
    "ddp_bucket_cap_mb": _ACCELERATOR,
    "ddp_find_unused_parameters": "tests/unit/training/distributed/test_process_group.py",
    "ddp_timeout": "tests/distributed/test_failures.py",
    "debug": _AS_TRANSFORMERS,
    "disable_tqdm": _AS_TRANSFORMERS,
    "do_eval": _SCRIPT,
    "do_predict": _SCRIPT,
    "do_train": _SCRIPT,
    "fp16": "tests/unit/training/distributed/test_launch.py: a CPU has none, and says so",
    "full_determinism": _AS_TRANSFORMERS,
    "gradient_checkpointing_kwargs": "tests/invariants/test_checkpointing.py",
    "hub_always_push": _PUSH,
    "hub_model_id": _PUSH,
    "hub_private_repo": _PUSH,
    "hub_revision": _PUSH,
    "hub_strategy": _PUSH,
    "local_rank": _ACCELERATOR,
    "log_level": _AS_TRANSFORMERS,
    "log_level_replica": _ACCELERATOR,
    "log_on_each_node": _ACCELERATOR,
    "logging_nan_inf_filter": "changes the log of a diverged run alone",
    "output_dir": "where every test looks for what a run leaves",
    "optim_target_modules": "for GaLore and APOLLO, which ask for their packages",
    "project": _LOGGER,
    "push_to_hub": _PUSH,
    "report_to": _LOGGER,
    "restore_callback_states_from_checkpoint": _AS_TRANSFORMERS,
    "resume_from_checkpoint": "tests/invariants/test_resume.py",
    "run_name": _LOGGER,
    "save_on_each_node": _ACCELERATOR,
    "save_only_model": _AS_TRANSFORMERS,
    "save_total_limit": "tests/invariants/test_interruption.py",
    "tf32": _ACCELERATOR,
    "torch_compile": "tests/unit/training/distributed/test_feasible.py; graphs compute the same numbers",
    "torch_compile_backend": "tests/unit/training/distributed/test_feasible.py",
    "torch_compile_mode": _AS_TRANSFORMERS,
    "torch_empty_cache_steps": _ACCELERATOR,
    "trackio_bucket_id": _LOGGER,
    "trackio_space_id": _LOGGER,
    "trackio_static_space_id": _LOGGER,
    "use_cpu": _ACCELERATOR,
}
REFUSED_VALUES = {
    "accelerator_config": {"split_batches": True},
    "average_tokens_across_devices": False,
    "dataloader_in_order": False,
    "dataloader_multiprocessing_context": "spawn",
    "eval_accumulation_steps": 2,
    "eval_do_concat_batches": False,
    "include_for_metrics": ["inputs"],
    "label_names": ["labels"],
    "label_smoothing_factor": 0.1,
    "length_column_name": "n",
    "liger_kernel_config": {"rope": True},
    "train_sampling_strategy": "group_by_length",
}


def test_every_argument_is_in_one_table():
    """A new version of transformers has new ones: say what each does here."""
    tables = (CHANGES, HONOURED, REFUSED_TRAINING)
    listed = [name for table in tables for name in table]
    assert sorted(listed) == sorted({field.name for field in fields(TrainingArguments)})


@pytest.mark.parametrize("key", sorted(REFUSED_TRAINING.keys() - set(ELSEWHERE)))
def test_arguments_without_effect_are_refused_by_name(key, tmp_path):
    with pytest.raises(ValueError, match=f"^{key} is .*, which is refused: "):
        MtBertTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **{key: REFUSED_VALUES.get(key, True)})


def test_refused_arguments_may_be_given_with_their_defaults(tmp_path):
    values = MtBertTrainingArguments(str(tmp_path), use_cpu=True, report_to="none").to_dict()
    given = {key: values[key] for key in REFUSED_TRAINING if key not in ("accelerator_config", "hub_token")}
    given |= {"accelerator_config": None, "prediction_loss_only": False, "label_smoothing_factor": 0}
    MtBertTrainingArguments(str(tmp_path), use_cpu=True, report_to="none", **given)


@pytest.fixture(scope="module")
def done() -> dict[str, tuple]:
    """What `numbers` has found."""
    return {}


@pytest.fixture
def numbers(done, make_trainer, tmp_path):
    """A function: arguments → all that is to be seen of a run: log, weights, events, checkpoints, recomputed layers."""

    def run(settings: dict, again: bool = False) -> tuple:
        key = repr(sorted(settings.items()))
        if again or key not in done:
            done[key] = train(settings, f"run-{len(done)}-{again}")
        return done[key]

    def train(settings: dict, folder: str) -> tuple:
        trainer = make_trainer(folder=folder, **settings)
        output, state = trainer.train(), trainer.state
        times = ("runtime", "per_second", "total_flos")
        log = [{k: v for k, v in entry.items() if not k.endswith(times)} for entry in state.log_history]
        weights = [weight.tolist() for weight in trainer.model.state_dict().values()]
        files = sorted(path.name for path in (tmp_path / folder).glob("checkpoint-*"))
        memory = sorted(key for key in output.metrics if "mem_" in key)
        recomputes = trainer.model.encoder.is_gradient_checkpointing
        return log, weights, trainer.events.seen, files, state.best_global_step, memory, recomputes

    return run


@pytest.mark.parametrize("key", CHANGES)
def test_changing_an_argument_changes_what_a_run_shows(key, numbers):
    value, shared = CHANGES[key]
    assert numbers(shared) != numbers({**shared, key: value})


def test_runs_alike_show_the_same(numbers):
    assert numbers(STEPS) == numbers(STEPS, again=True)
