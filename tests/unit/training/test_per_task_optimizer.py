"""An optimizer with a state for each task: textbook loops over torch's own AdamW, alone and in the trainer."""

import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from mtbert.data.sampling import Schedule
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.per_task_optimizer import PerTaskOptimizer
from mtbert.training.optimizers import (
    OptimizerSettings,
    moment_bytes,
    parameter_groups,
)

TASKS = {"a": (1.0, None), "b": (3.0, 0.5), "c": (0.25, 0.0)}


class Toy(nn.Module):
    """A shared layer and a head for each task."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Linear(4, 5)
        self.heads = nn.ModuleDict({task: nn.Linear(5, 1) for task in TASKS})

    def loss(self, task: str, step: int) -> torch.Tensor:
        x = torch.randn(6, 4, generator=torch.Generator().manual_seed(step))
        return self.heads[task](self.encoder(x).tanh()).square().mean() * 3


def make_toy() -> Toy:
    torch.manual_seed(0)
    return Toy()


def groups_of(model: nn.Module, lr: float = 0.02, decay: float = 0.1, settings=None) -> list[dict]:
    decayed = [name for name, _ in model.named_parameters() if "bias" not in name]
    return parameter_groups(model.named_parameters(), decayed, lr, decay, settings or OptimizerSettings())


def per_task(model: nn.Module, separate: bool, rates=TASKS, **kwargs) -> PerTaskOptimizer:
    return PerTaskOptimizer(torch.optim.AdamW(groups_of(model), lr=0.02, **kwargs), rates, separate)


def train(model: Toy, optimizer, order, first: int = 0, scheduler=None) -> None:
    for step, task in enumerate(order, start=first):
        optimizer.zero_grad()
        optimizer.select(task)
        model.loss(task, step).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


def assert_equal(one: nn.Module, other: nn.Module, close: bool = False) -> None:
    for (name, left), right in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        if close:
            torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")
        else:
            assert torch.equal(left, right), name


ORDER = ["a", "b", "c", "a", "a", "c", "b", "a", "c", "b"]


class TestPerTaskOptimizer:
    def test_separate_is_one_adamw_a_task_over_the_same_parameters_stepped_in_turn(self):
        model, reference = make_toy(), make_toy()
        optimizer = per_task(model, separate=True)
        scheduler = get_scheduler("linear", optimizer, 2, 12)
        train(model, optimizer, ORDER, scheduler=scheduler)
        books = {}
        for task, (factor, decay) in TASKS.items():
            own = [reference.encoder, reference.heads[task]]
            groups = [
                {"params": [each.weight for each in own], "weight_decay": 0.1 if decay is None else decay},
                {"params": [each.bias for each in own], "weight_decay": 0.0},
            ]
            books[task] = torch.optim.AdamW(groups, lr=0.02 * factor)
        for step, task in enumerate(ORDER):
            reference.zero_grad()
            reference.loss(task, step).backward()
            scale = step / 2 if step < 2 else (12 - step) / 10
            for group in books[task].param_groups:
                group["lr"] = 0.02 * TASKS[task][0] * scale
            books[task].step()
        assert_equal(model, reference, close=True)
        for task, book in books.items():
            for parameter, state in book.state.items():
                name = next(name for name, each in reference.named_parameters() if each is parameter)
                own = optimizer.states[task][model.get_parameter(name)]
                assert own["step"] == state["step"] == ORDER.count(task)
                torch.testing.assert_close(own["exp_avg_sq"], state["exp_avg_sq"], rtol=1e-4, atol=1e-9)

    @pytest.mark.parametrize("fused", [False, True])
    def test_equal_rates_are_the_plain_optimizer_bit_for_bit(self, fused):
        model, reference = make_toy(), make_toy()
        train(model, per_task(model, False, dict.fromkeys(TASKS, (1.0, None)), fused=fused), ORDER)
        plain = torch.optim.AdamW(groups_of(reference), lr=0.02, fused=fused)
        for step, task in enumerate(ORDER):
            plain.zero_grad()
            reference.loss(task, step).backward()
            plain.step()
        assert_equal(model, reference)

    def test_separate_with_one_task_is_the_plain_optimizer_bit_for_bit(self):
        model, reference = make_toy(), make_toy()
        train(model, per_task(model, True, {"a": (1.0, None)}), "aaaaa")
        plain = torch.optim.AdamW(groups_of(reference), lr=0.02)
        for step in range(5):
            plain.zero_grad()
            reference.loss("a", step).backward()
            plain.step()
        assert_equal(model, reference)

    def test_rates_are_shared_moments_with_the_tasks_rate_and_decay(self):
        model, reference = make_toy(), make_toy()
        train(model, per_task(model, separate=False), ORDER)
        plain = torch.optim.AdamW(groups_of(reference), lr=0.02)
        for step, task in enumerate(ORDER):
            plain.zero_grad()
            reference.loss(task, step).backward()
            factor, decay = TASKS[task]
            for group in plain.param_groups:
                group["lr"] = 0.02 * factor
                group["weight_decay"] = 0.0 if not group["decayed"] else 0.1 if decay is None else decay
            plain.step()
        assert_equal(model, reference)

    @pytest.mark.parametrize("separate", [False, True])
    def test_parameters_without_gradient_are_untouched(self, separate):
        model = make_toy()
        optimizer = per_task(model, separate)
        train(model, optimizer, "ab")
        before = copy.deepcopy(model.heads["b"].state_dict())
        moments = copy.deepcopy(optimizer.state[model.heads["b"].weight])
        train(model, optimizer, "aac", first=2)
        assert all(torch.equal(value, before[name]) for name, value in model.heads["b"].state_dict().items())
        if separate:
            optimizer.select("b")
        assert moments.keys() == {"step", "exp_avg", "exp_avg_sq"}
        for name, value in moments.items():
            assert torch.equal(optimizer.state[model.heads["b"].weight][name], value)

    @pytest.mark.parametrize("separate", [False, True])
    @pytest.mark.parametrize("cut", [1, 4])
    def test_state_round_trip_goes_on_bit_for_bit(self, separate, cut):
        """After one step two of three tasks have no state yet."""
        model = make_toy()
        optimizer = per_task(model, separate)
        scheduler = get_scheduler("linear", optimizer, 2, 12)
        train(model, optimizer, ORDER[:cut], scheduler=scheduler)
        file = io.BytesIO()
        torch.save([optimizer.state_dict(), scheduler.state_dict()], file)
        again = copy.deepcopy(model)
        other = per_task(again, separate)
        other_scheduler = get_scheduler("linear", other, 2, 12)
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        other.load_state_dict(saved[0])
        other_scheduler.load_state_dict(saved[1])
        for each, own, rates in ((model, optimizer, scheduler), (again, other, other_scheduler)):
            train(each, own, ORDER[cut:], cut, rates)
        assert_equal(model, again)

    def test_state_of_another_mode_or_other_tasks_is_refused(self):
        model = make_toy()
        optimizer = per_task(model, True)
        plain = torch.optim.AdamW(groups_of(model), lr=0.02)
        model.loss("a", 0).backward()
        plain.step()
        for saved in (plain.state_dict(), per_task(model, True, {"a": (1.0, None)}).state_dict()):
            with pytest.raises(ValueError, match="separate needs one for each of: a, b, c; start a new run"):
                optimizer.load_state_dict(saved)

    def test_a_step_that_the_scaler_skips_changes_nothing(self):
        model = make_toy()
        optimizer = per_task(model, True)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
        reference, order = make_toy(), ["a", "b", "b", "a"]
        for step, task in enumerate(order):
            optimizer.zero_grad()
            optimizer.select(task)
            scaler.scale(model.loss(task, step)).backward()
            if step == 1:
                model.encoder.weight.grad[0, 0] = torch.inf
                before = copy.deepcopy(model.state_dict())
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            if step == 1:
                assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
                assert not optimizer.states["b"] and scaler.get_scale() == 2.0
        book = per_task(reference, True)
        for step, task in [(0, "a"), (2, "b"), (3, "a")]:
            book.zero_grad()
            book.select(task)
            reference.loss(task, step).backward()
            nn.utils.clip_grad_norm_(reference.parameters(), 1.0)
            book.step()
        assert_equal(model, reference)

    def test_scheduled_rates_stay_in_the_groups(self):
        optimizer = per_task(make_toy(), False)
        optimizer.select("b")
        optimizer.step()
        assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.02, 0.1), (0.02, 0.0)]
        assert optimizer.learning_rates(0.5) == {"a": 0.5, "b": 1.5, "c": 0.125}
        assert per_task(make_toy(), False, {"a": (1.0, 0.3)}).learning_rates(0.5) == {}

    def test_a_step_needs_a_known_task(self):
        optimizer = per_task(make_toy(), True)
        with pytest.raises(RuntimeError, match="select a task"):
            optimizer.step()
        with pytest.raises(KeyError, match="no task 'd'; this optimizer has: a, b, c"):
            optimizer.select("d")

    def test_memory_is_a_state_of_the_shared_weights_for_each_task(self):
        model = make_toy()
        for separate, mode in ((True, "separate"), (False, "rates")):
            optimizer = per_task(model, separate)
            train(model, optimizer, "abc")
            states = optimizer.states.values() if separate else [optimizer.state]
            moments = [
                value for state in states for own in state.values() for key, value in own.items() if key != "step"
            ]
            held = sum(each.numel() * each.element_size() for each in moments)
            assert held == moment_bytes(model.named_parameters(), TASKS if mode == "separate" else ())
        shared = sum(p.numel() for p in model.encoder.parameters())
        own = sum(p.numel() for p in model.heads.parameters())
        assert moment_bytes(model.named_parameters(), TASKS) == 8 * (3 * shared + own)


# ---- in the trainer ----


@pytest.fixture
def run(make_model, make_trainer, splits, tasks):
    """A function: settings → a trained trainer on the four tasks, without dropout."""
    still = [replace(task, dropout=0.0) for task in tasks]

    def train_run(optimizer=None, task_training=None, schedule=None, specs=None, **kwargs):
        values = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "weight_decay": 0.1, "num_train_epochs": 2}
        values |= {"schedule": schedule or Schedule("round_robin", steps_per_epoch=6), "optimizer": optimizer}
        own = specs or still
        rows = dict(zip((task.name for task in tasks), (12, 8, 9, 7), strict=True))
        trainer = make_trainer(
            make_model(own, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
            train_dataset=splits([rows[task.name] for task in own], specs=own),
            task_training=task_training,
            **values | kwargs,
        )
        trainer.train()
        return trainer

    return train_run


def test_the_trainers_separate_run_is_a_textbook_loop(run, make_model, tasks):
    """Four AdamW objects over the same parameters, stepped in turn, on the batches of the trainer's own loader.

    ε is large, because the gradients of the keys' biases are rounding errors, which AdamW would else blow up.
    """
    own = {"stars": TaskTraining(learning_rate=3e-3, weight_decay=0.5), "close": TaskTraining(learning_rate=2e-4)}
    trainer = run(OptimizerSettings(per_task="separate"), own, adam_epsilon=1e-3)
    still = [replace(task, dropout=0.0) for task in tasks]
    model = make_model(still, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    decayed = trainer.get_decay_parameter_names(model)
    books = {}
    for task in tasks:
        settings = own.get(task.name, TaskTraining())
        mine = {n: p for n, p in model.named_parameters() if not n.startswith("heads.") or f".{task.name}." in n}
        decay = 0.1 if settings.weight_decay is None else settings.weight_decay
        groups = [
            {"params": [p for n, p in mine.items() if n in decayed], "weight_decay": decay},
            {"params": [p for n, p in mine.items() if n not in decayed], "weight_decay": 0.0},
        ]
        books[task.name] = torch.optim.AdamW(groups, lr=settings.learning_rate or 1e-3, eps=1e-3)
    starts = {name: [group["lr"] for group in book.param_groups] for name, book in books.items()}
    loader, step = trainer.get_train_dataloader(), 0
    for epoch in range(2):
        loader.batch_sampler.set_epoch(epoch)
        for batch in loader:
            (task,) = batch.pop("rows")
            batch.pop("labelled")
            model.zero_grad()
            model(**batch).loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for group, start in zip(books[task].param_groups, starts[task], strict=True):
                group["lr"] = start * (12 - step) / 12
            books[task].step()
            step += 1
    assert step == 12 == trainer.state.global_step
    assert_equal(trainer.model, model, close=True)
    logged = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    for entry in logged:
        assert entry["learning_rate_stars"] == pytest.approx(3 * entry["learning_rate"])
        assert entry["learning_rate_same"] == entry["learning_rate"]


def test_rates_that_are_equal_are_the_plain_run_bit_for_bit(run):
    plain, rates = run(), run(OptimizerSettings(per_task="rates"))
    assert_equal(plain.model, rates.model)
    assert not any(key.startswith("learning_rate_") for entry in rates.state.log_history for key in entry)


def test_separate_with_one_task_is_the_plain_run_bit_for_bit(run, tasks):
    one = [replace(tasks[0], dropout=0.0)]
    assert_equal(run(specs=one).model, run(OptimizerSettings(per_task="separate"), specs=one).model)


def test_a_separate_run_with_accumulation_is_one_without(run):
    """AdamW with an ε so large that rounding in the gradient stays rounding in the update."""
    settings, loose = OptimizerSettings(per_task="separate"), {"adam_epsilon": 0.1, "learning_rate": 0.05}
    whole = run(settings, **loose)
    parts = run(settings, per_device_train_batch_size=1, gradient_accumulation_steps=4, **loose)
    assert_equal(whole.model, parts.model, close=True)


def test_the_memory_is_printed_before_training(run, capsys):
    trainer = run(OptimizerSettings(per_task="separate"), max_steps=1)
    size = moment_bytes(trainer.model.named_parameters(), trainer.task_training) / 2**20
    assert f"AdamW's moments, a state for each of 4 tasks: {size:,.1f} MiB" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("optimizer", "schedule", "task_training", "kwargs", "message"),
    [
        ({"per_task": "separate"}, Schedule("simultaneous"), {}, {}, "take a schedule with one task a step"),
        ({"per_task": "rates"}, Schedule("sqrt", mixed=True), {}, {}, "take a schedule with one task a step"),
        ({"layer_decay": 2.0}, None, {}, {}, "optimizer.layer_decay is 2.0"),
        ({}, None, {"stars": TaskTraining(learning_rate=1e-3)}, {}, "set optimizer.per_task"),
        ({"per_task": "separate"}, None, {}, {"optim": "sgd"}, "args.optim is 'sgd', .* one of: adamw_torch,"),
        (
            {"layer_decay": 0.9},
            None,
            {},
            {"optim": "adafactor"},
            "args.optim is 'adafactor', .* which these take: adamw",
        ),
        (
            {"per_task": "rates"},
            None,
            {"stars": TaskTraining(learning_rate=1e-3)},
            {"learning_rate": 0.0},
            "args.learning_rate is 0.0, .* set a positive one",
        ),
    ],
)
def test_the_trainer_refuses_what_does_not_go_together(run, optimizer, schedule, task_training, kwargs, message):
    with pytest.raises(ValueError, match=message):
        run(OptimizerSettings(**optimizer), task_training, schedule, **kwargs)
