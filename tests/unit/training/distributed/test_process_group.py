"""What holds for many processes, checked in one."""

import warnings
from datetime import timedelta
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import MtBertTrainingArguments, PretrainingArguments, TaskTraining
from mtbert.training.distributed.process_group import SWITCHES, GradientCheck, has_absent_tasks, join_processes


@pytest.mark.parametrize("kind", [MtBertTrainingArguments, PretrainingArguments])
@pytest.mark.parametrize("switch", SWITCHES)
def test_switches_of_the_launcher_that_share_the_model_out_are_refused(kind, switch, tmp_path, monkeypatch):
    monkeypatch.setenv(switch, "true")
    with pytest.raises(ValueError, match=f"{switch} is true: {SWITCHES[switch]} is refused: .* MULTI_GPU"):
        kind(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    monkeypatch.setenv(switch, "false")
    kind(output_dir=str(tmp_path), report_to="none", use_cpu=True)


@pytest.mark.parametrize("key", ["fsdp", "deepspeed"])
def test_arguments_that_share_the_model_out_are_refused(key, tmp_path):
    with pytest.raises(ValueError, match=f"{key} is 'x', which is refused: .* hold the whole model; use plain data"):
        MtBertTrainingArguments(output_dir=str(tmp_path), report_to="none", use_cpu=True, **{key: "x"})


@pytest.mark.parametrize(
    ("schedule", "batches", "shares", "absent"),
    [
        (Schedule(), (None,), 4, False),  # one task is in every micro-batch
        (Schedule(), (None, None), 1, True),
        (Schedule(mixed=True), (None, None), 1, True),
        (Schedule("simultaneous"), (None, None), 8, False),
        (Schedule("simultaneous"), (None, None), 16, True),
        (Schedule("simultaneous"), (None, 3), 2, False),
        (Schedule("simultaneous"), (None, 3), 4, True),  # fewer rows than processes and micro-batches
    ],
)
def test_where_a_task_may_be_absent(schedule, batches, shares, absent):
    assert has_absent_tasks(schedule, batches, 8, shares) == absent


def test_the_search_for_missing_gradients_is_on_only_where_it_is_needed(make_trainer):
    def searches(schedule: Schedule, sizes=None, **settings) -> bool:
        own = {"close": TaskTraining(batch_size=sizes)}
        trainer = make_trainer(schedule=schedule, task_training=own, **settings)
        return trainer.accelerator.ddp_handler.find_unused_parameters

    assert searches(Schedule())
    assert searches(Schedule(), activation_checkpointing=True)
    assert not searches(Schedule("simultaneous"))
    assert not searches(Schedule("simultaneous"), 1)
    assert searches(Schedule("simultaneous"), 1, gradient_accumulation_steps=2)
    with pytest.raises(ValueError, match="args.ddp_find_unused_parameters is False, which does not go with tasks: two"):
        searches(Schedule(), ddp_find_unused_parameters=False)
    assert searches(Schedule("simultaneous"), ddp_find_unused_parameters=True)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.frozen = nn.Linear(2, 1), nn.Linear(2, 1), nn.Linear(2, 1).requires_grad_(False)


def step(check: GradientCheck, model: Two, tasks: str, *parts: str) -> None:
    """A step of `tasks` in which `parts` of the model have gradients."""
    model.zero_grad()
    check.saw([{"rows": {task: None}} for task in tasks])
    for part in parts:
        for parameter in getattr(model, part).parameters():
            parameter.grad = torch.zeros_like(parameter)
    check.on_pre_optimizer_step(None, SimpleNamespace(is_world_process_zero=True), None)


@pytest.mark.parametrize("strict", [False, True])
def test_a_parameter_without_a_gradient_is_named_once_every_task_has_appeared(strict):
    model, check = Two(), GradientCheck("xy", strict)
    check.on_train_begin(None, None, None, model)
    step(check, model, "x", "a")
    expected = "parameters are trained and got no gradient: b.weight, b.bias; .*requires_grad_"
    with pytest.raises(RuntimeError, match=expected) if strict else pytest.warns(UserWarning, match=expected):
        step(check, model, "y", "a")
    step(check, model, "y")  # once is enough


def test_parameters_whose_tasks_come_one_after_the_other_are_not_missed():
    model, check = Two(), GradientCheck("xy", True)
    check.on_train_begin(None, None, None, model)
    step(check, model, "x", "a")
    step(check, model, "y", "b")
    step(check, model, "y")


def test_a_training_warns_of_a_parameter_that_nothing_trains(make_model, make_trainer, monkeypatch):
    def train(model):
        make_trainer(model, schedule=Schedule("simultaneous"), max_steps=1).train()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="every task has had a step")
        train(make_model())
    model = make_model()
    model.encoder.register_parameter("idle", nn.Parameter(torch.zeros(2)))
    monkeypatch.setattr("mtbert.training.trainer.refuse_unloadable", lambda model: None)  # it would not load again
    with pytest.warns(UserWarning, match="got no gradient: encoder.idle; nothing trains them"):
        train(model)


@pytest.mark.parametrize(
    ("environment", "given", "joins"),
    [
        ({}, {"use_cpu": True}, False),
        ({"WORLD_SIZE": "1"}, {"use_cpu": True}, False),
        ({"WORLD_SIZE": "2"}, {"use_cpu": True}, True),
        ({"WORLD_SIZE": "2"}, {"use_cpu": False}, not torch.accelerator.is_available()),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_CPU": "true"}, {"use_cpu": False}, True),
        ({"WORLD_SIZE": "2"}, {"use_cpu": True, "ddp_backend": "mpi"}, False),
    ],
)
def test_processes_on_a_cpu_meet_with_the_timeout_of_the_arguments(environment, given, joins, monkeypatch):
    met = []
    store, stores = torch.distributed.HashStore(), []
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda *args, **kwargs: met.append((args, kwargs)))
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url, timeout: iter([(store, 1, 2)]))
    monkeypatch.setattr(torch.distributed, "PrefixStore", lambda *of: stores.append(of) or store)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "3")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    args = SimpleNamespace(**{"ddp_backend": None, "ddp_timeout": 7, **given})
    join_processes(args)
    how = {"store": store, "rank": 1, "world_size": 2, "timeout": timedelta(seconds=7)}
    assert met == ([(("gloo",), how)] if joins else [])
    assert stores == ([("attempt-3", store)] if joins else [])  # a restart shares no names with what ended
    if joins and "ACCELERATE_USE_CPU" not in environment:
        assert args.use_cpu
