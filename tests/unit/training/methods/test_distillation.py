"""Distillation: the mathematics against other forms of it, the column of targets, and a student's steps."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from attached import attached
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mtbert.data.collation import TEACHER, MultiTaskDataset
from mtbert.data.duplicates import text_hashes
from mtbert.data.sampling import Plan, Schedule, Step
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods import teacher_cache
from mtbert.training.methods.distillation import (
    Distillation,
    add_targets,
    distilled_losses,
    soft_targets,
)
from mtbert.training.trainer import MtBertTrainer

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
NAMES = ("stars", "same", "close", "topics")


@pytest.fixture(autouse=True)
def memories(monkeypatch, tmp_path):
    """Teachers remember nothing of other tests."""
    monkeypatch.setattr(teacher_cache, "memory_folder", lambda: tmp_path / "memories")


@pytest.fixture
def still_tasks(tasks):
    return tuple(replace(task, dropout=0.0) for task in tasks)


@pytest.fixture
def save_teacher(make_model, tokenizer, still_tasks, tmp_path):
    """A function: name, noise, tasks → the folder of a checkpoint."""

    def save(name: str, noise: float = 0.0, specs=None) -> str:
        model = make_model(specs or still_tasks, **STILL)
        torch.manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return save


@pytest.fixture
def make_trainer(make_trainer, make_model, still_tasks, splits):
    """A function: distillation, settings → a trainer whose data has its targets."""

    def make(distillation=None, name="run", **settings) -> MtBertTrainer:
        values = {"per_device_train_batch_size": 8, "num_train_epochs": 2, "learning_rate": 1e-2}
        values |= {"schedule": Schedule("simultaneous", steps_per_epoch=2), "eval_dataset": splits((9, 10, 11, 12), 1)}
        values |= {"task_training": {task: TaskTraining(batch_size=4) for task in NAMES}} | settings
        trainer = make_trainer(make_model(still_tasks, **STILL), name, distillation=distillation, **values)
        if distillation is not None:
            trainer.train_dataset = add_targets(distillation, trainer, splits())
        return trainer

    return make


def weights_of(trainer) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("number", range(4), ids=NAMES)
def test_losses_are_divergences_of_distributions(tasks, number, temperature):
    task = tasks[number]
    logits, one, two = torch.randn(3, 6, task.num_labels, generator=torch.Generator().manual_seed(1))
    targets = soft_targets(task, [one, two], temperature)
    found = distilled_losses(task, logits, targets, temperature)
    if task.problem_type == "regression":
        expected = (logits[:, 0] - (one[:, 0] + two[:, 0]) / 2) ** 2
    elif task.problem_type == "single_label_classification":
        teacher = Categorical(((one / temperature).softmax(-1) + (two / temperature).softmax(-1)) / 2)
        expected = temperature**2 * kl_divergence(teacher, Categorical(logits=logits / temperature))
    else:
        teacher = Bernoulli(((one / temperature).sigmoid() + (two / temperature).sigmoid()) / 2)
        expected = temperature**2 * kl_divergence(teacher, Bernoulli(logits=logits / temperature)).mean(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("number", range(4), ids=NAMES)
def test_a_teachers_own_logits_are_the_minimum(tasks, number):
    task = tasks[number]
    logits = torch.randn(6, task.num_labels, requires_grad=True)
    losses = distilled_losses(task, logits, soft_targets(task, [logits.detach()], 2.0), 2.0)
    losses.sum().backward()
    assert losses.abs().max() < 1e-5 and logits.grad.abs().max() < 1e-6


def test_extreme_logits_stay_finite(tasks):
    for task in tasks:
        logits = torch.full((2, task.num_labels), 300.0, requires_grad=True)
        targets = soft_targets(task, [-logits.detach()], 1.0)
        distilled_losses(task, logits, targets, 1.0).sum().backward()
        assert torch.isfinite(logits.grad).all()


def test_no_weight_is_no_distillation(make_trainer, save_teacher):
    plain, taught = make_trainer(), make_trainer(Distillation((save_teacher("teacher", 0.1),), weight=0.0))
    for trainer in (plain, taught):
        trainer.train()
    one, other = weights_of(plain), weights_of(taught)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_a_copy_of_the_student_teaches_nothing(make_trainer, save_teacher):
    trainer = make_trainer(Distillation((save_teacher("copy"),), weight=1.0), max_grad_norm=0.0)
    trainer.train()
    first = next(logs for logs in trainer.state.log_history if "loss" in logs)
    assert first["loss"] < 1e-6 and first["grad_norm"] < 1e-4
    plain = make_trainer(name="plain", max_grad_norm=0.0)
    plain.train()
    assert next(logs for logs in plain.state.log_history if "loss" in logs)["grad_norm"] > 0.1


def test_students_come_nearer_to_their_teacher(make_trainer, save_teacher):
    settings = Distillation((save_teacher("teacher", 0.1),), weight=1.0)
    trainer = make_trainer(settings, num_train_epochs=10, learning_rate=3e-3)
    trainer.train()
    losses = [logs["loss"] for logs in trainer.state.log_history if "loss" in logs]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_a_mixed_batch_is_the_rows_task_by_task(make_trainer, save_teacher):
    trainer = make_trainer(Distillation((save_teacher("teacher", 0.1),), weight=0.3))
    data = MultiTaskDataset(trainer.tasks, trainer.train_dataset, token_types=True)
    parts = [(number, trainer.plan().taken(number)[:3]) for number in range(4)]
    mixed = data.__getitems__(Step(tuple(parts)))
    losses, _ = trainer.losses(trainer.model, mixed, mixed["labelled"])
    for number, name in enumerate(NAMES):
        alone = data.__getitems__(Step((parts[number],)))
        own, _ = trainer.losses(trainer.model, alone, alone["labelled"])
        torch.testing.assert_close(losses[name], own[name], rtol=1e-4, atol=1e-5)
        assert torch.equal(mixed[TEACHER][name], alone[TEACHER][name])


@pytest.mark.parametrize("number", range(4), ids=NAMES)
def test_a_row_without_a_label_is_taught_alone(make_trainer, save_teacher, number):
    trainer, name = make_trainer(Distillation((save_teacher("teacher", 0.1),), weight=0.25)), NAMES[number]
    data = MultiTaskDataset(trainer.tasks, trainer.train_dataset, token_types=True)
    batch = data.__getitems__(Step(((number, trainer.plan().taken(number)[:4]),)))
    missing = float("nan") if batch["labels"][name].is_floating_point() else -100
    batch["labels"][name][1:3], batch[TEACHER][name][2:] = missing, float("nan")
    outputs = trainer.model(**{k: v for k, v in batch.items() if k not in ("labelled", "rows", TEACHER)})
    changed = replace(outputs, row_losses=dict(outputs.row_losses), labelled=dict(outputs.labelled))
    trainer.methods["distillation"].change_rows(batch, changed)
    losses, counted = changed.row_losses, changed.labelled
    own, logits, task = outputs.row_losses[name], outputs.task_logits[name], trainer.tasks[number]
    distilled = distilled_losses(task, logits[:2], batch[TEACHER][name][:2], 2.0)
    expected = torch.stack([0.75 * own[0] + 0.25 * distilled[0], distilled[1], torch.zeros(()), own[3]])
    torch.testing.assert_close(losses[name], expected)
    assert counted[name].tolist() == [True, True, False, True]


def unlabelled(split, count):
    """The rows, the first `count` of which lose their labels."""
    labels = split["label"][:]
    blank = {list: [float("nan")] * np.size(labels[0]), float: float("nan"), int: -100}[type(labels[0])]
    column = [blank] * count + labels[count:]
    return split.remove_columns("label").add_column("label", column, feature=split.features["label"])


def test_texts_without_labels_count_where_a_teacher_speaks(make_trainer, save_teacher, splits):
    folder = save_teacher("teacher", 0.1)
    settings = Distillation((folder,), weight=1.0)
    trainer = make_trainer(settings, max_steps=4)
    data = {name: split.remove_columns(TEACHER) for name, split in trainer.train_dataset.items()}
    trainer.train_dataset = {name: unlabelled(split, len(split)) for name, split in data.items()}
    trainer.train_dataset = add_targets(settings, trainer, splits())
    trainer.train()
    logs = [each for each in trainer.state.log_history if "loss" in each]
    assert all(each[f"examples_{name}"] == 4 and f"loss_{name}" not in each for each in logs for name in NAMES)
    assert all(each["loss"] > 0 and each["grad_norm"] > 0 for each in logs)


def test_texts_without_labels_need_a_teacher_of_their_task(make_trainer, save_teacher, still_tasks):
    trainer, folder = make_trainer(), save_teacher("teacher", 0.1, still_tasks[:1])
    trainer.train_dataset = {name: unlabelled(split, 3) for name, split in trainer.train_dataset.items()}
    match = "task '(same|close|topics)': 3 texts have no label, and none of the teachers has the task; drop data.unl"
    with pytest.raises(ValueError, match=match):
        add_targets(Distillation((folder,)), trainer, trainer.train_dataset)


def test_teachers_are_asked_once_about_a_text(make_trainer, save_teacher, monkeypatch):
    asked = []
    ask = teacher_cache.task_logits
    monkeypatch.setattr(teacher_cache, "task_logits", lambda *args: asked.append(len(args[3])) or ask(*args))
    settings = Distillation((save_teacher("teacher", 0.1),))
    columns = []
    for name, epochs in (("one", 1), ("again", 1), ("longer", 2), ("longest", 2)):
        data = make_trainer(settings, name, num_train_epochs=epochs).train_dataset
        columns.append({n: np.stack(list(split.with_format("numpy")[TEACHER][:])) for n, split in data.items()})
        if name in ("one", "longer"):
            assert asked and sum(asked) <= 64
            asked.clear()
        assert not asked
    for name in NAMES:
        np.testing.assert_array_equal(columns[0][name], columns[1][name])
        np.testing.assert_array_equal(columns[2][name], columns[3][name])
        both = np.isfinite(columns[0][name]) & np.isfinite(columns[2][name])
        np.testing.assert_allclose(columns[2][name][both], columns[0][name][both], rtol=1e-4, atol=1e-5)


def test_another_teacher_is_another_memory_and_a_torn_one_is_none(make_model, tokenizer, still_tasks, splits):
    torch.manual_seed(1)
    one = make_model(still_tasks, **STILL)
    paths = {teacher_cache.Memory(one, tokenizer, "stars", precision).path for precision in ("no", "bf16")}
    paths.add(teacher_cache.Memory(one, tokenizer, "same", "no").path)
    with torch.no_grad():
        next(one.parameters()).add_(1e-3)
    memory = teacher_cache.Memory(one, tokenizer, "stars", "no")
    assert len(paths | {memory.path}) == 4
    rows, hashes = splits()["stars"], text_hashes(splits()["stars"])
    assert np.isnan(memory.recall(hashes)).all()
    told = teacher_cache.teacher_logits(one.eval(), tokenizer, "stars", rows, 8, Accelerator(cpu=True))
    np.testing.assert_array_equal(memory.recall(hashes), told.numpy())
    memory.path.write_bytes(memory.path.read_bytes()[:100])
    assert np.isnan(memory.recall(hashes)).all()


def test_predictions_that_are_not_finite_are_refused(make_trainer, save_teacher):
    with pytest.raises(ValueError, match="task 'stars': a teacher's predictions are not finite; teachers: "):
        make_trainer(Distillation((save_teacher("teacher", float("inf")),)))


def test_two_teachers_are_averaged_and_a_task_of_one_is_that_ones(make_trainer, save_teacher, still_tasks):
    one, two = save_teacher("one", 0.1), save_teacher("another", 0.2, still_tasks[:1])
    targets = {}
    for name, teachers in {"one": (one,), "two": (two,), "both": (one, two)}.items():
        data = make_trainer(Distillation(teachers), name).train_dataset
        columns = {n: split.with_format("numpy")[TEACHER] for n, split in data.items() if TEACHER in split.column_names}
        targets[name] = {task: np.stack(list(column[:])) for task, column in columns.items()}
    assert list(targets["two"]) == ["stars"]
    mean = (targets["one"]["stars"] + targets["two"]["stars"]) / 2
    np.testing.assert_allclose(targets["both"]["stars"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(targets["both"]["close"], targets["one"]["close"])
    np.testing.assert_allclose(targets["one"]["stars"][~np.isnan(mean[:, 0])].sum(-1), 1, rtol=1e-5)


def test_rows_that_no_step_takes_are_not_predicted(make_trainer, save_teacher):
    trainer = make_trainer(Distillation((save_teacher("teacher"),)))
    for number, (name, split) in enumerate(trainer.train_dataset.items()):
        column = np.stack(list(split.with_format("numpy")[TEACHER][:]))
        taken = np.flatnonzero(~np.isnan(column).any(axis=1))
        assert taken.tolist() == trainer.plan().taken(number).tolist()
        assert 0 < len(taken) <= min(16, len(split)), name


@pytest.mark.parametrize("schedule", ["annealed", "sequential", "simultaneous"])
def test_taken_rows_are_those_of_all_steps(schedule):
    from mtbert.data.sampling import StepSampler

    plan = Plan(Schedule(schedule, steps_per_epoch=5), ("a", "b"), (50, 9), batch=4, epochs=2, seed=1)
    sampler, seen = StepSampler(plan), [set(), set()]
    for epoch in range(2):
        sampler.set_epoch(epoch)
        for step in sampler:
            for task, rows in step.parts:
                seen[task].update(rows.tolist())
    assert [plan.taken(task).tolist() for task in range(2)] == [sorted(each) for each in seen]


def test_everything_that_is_wrong_with_teachers_is_told_at_once(make_trainer, save_teacher, still_tasks, tmp_path):
    stars, same, close, topics = still_tasks
    labels = save_teacher("labels", 0.0, [replace(stars, labels=("0", "2", "1")), same])
    bounds = save_teacher("bounds", 0.0, [replace(close, range=(0, 1)), topics])
    other = save_teacher("other", 0.0, [TaskSpec("moons", labels=2)])
    gone = str(tmp_path / "gone")
    with pytest.raises(ValueError) as told:
        make_trainer(Distillation((labels, bounds, other, gone)))
    lines = str(told.value).splitlines()
    assert lines[:3] == [
        f"{labels}: task 'stars': labels is ('0', '2', '1'), but must be ('0', '1', '2')",
        f"{bounds}: task 'close': range is (0, 1), but must be (0, 5)",
        f"{other}: has the tasks moons, but none of: stars, same, close, topics",
    ]
    assert lines[3].startswith(f"{gone}: no checkpoint can be read there: ") and len(lines) == 4


def test_encoders_of_the_library_are_no_teachers(make_trainer, encoder_dir):
    with pytest.raises(ValueError, match="is a checkpoint of 'bert', but must be one of mtbert"):
        make_trainer(Distillation((encoder_dir,)))


def test_rows_of_text_must_be_those_that_are_trained_on(make_trainer, save_teacher, splits):
    trainer = make_trainer()
    with pytest.raises(ValueError, match="task 'stars': there are 39 rows of text, but 40 to be trained on"):
        add_targets(Distillation((save_teacher("teacher"),)), trainer, splits((39, 24, 33, 17)))


def test_targets_must_be_there(make_trainer):
    trainer = make_trainer()
    method = attached(Distillation(("teacher",)).build(), trainer.model)
    with pytest.raises(ValueError, match="distillation: no task's rows have the column 'teacher'; see"):
        method.check_data(trainer.train_dataset)


def test_the_training_data_can_be_scored(make_trainer, save_teacher):
    trainer = make_trainer(Distillation((save_teacher("teacher"),)), eval_train=True)
    assert "train_stars_accuracy" in trainer.evaluate()


def test_a_resumed_student_is_the_uninterrupted_one(make_trainer, save_teacher, tmp_path):
    settings = Distillation((save_teacher("teacher", 0.1),), weight=0.5)
    whole = make_trainer(settings, "whole", save_strategy="steps", save_steps=1)
    whole.train()
    resumed = make_trainer(settings, "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    one, other = weights_of(whole), weights_of(resumed)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(("step", "expected"), [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)])
def test_the_weight_moves_in_equal_steps(step, expected):
    settings = Distillation(("a",), 1.0, final_weight=0.0)
    assert settings.weight_at(step, 5) == pytest.approx(expected) and settings.depends_on_length
    assert Distillation(("a",), 0.3).weight_at(step, 5) == 0.3 and not Distillation(("a",)).depends_on_length
    assert Distillation(("a",), 0.2, final_weight=0.8).weight_at(0, 1) == 0.2  # a run of one step


def test_each_step_of_annealing_has_its_own_weight(make_trainer, save_teacher):
    trainer = make_trainer(Distillation((save_teacher("teacher", 0.1),), 1.0, final_weight=0.0))
    batch = MultiTaskDataset(trainer.tasks, trainer.train_dataset, True).__getitems__(Step(((0, np.arange(5)),)))
    trainer.state.max_steps, losses = 3, []
    for step in range(3):
        trainer.state.global_step = step
        trainer.model.eval()
        losses.append(float(trainer.losses(trainer.model, batch, batch["labelled"])[0]["stars"]))
    plain = make_trainer(name="plain")
    plain.model.eval()
    own = float(plain.losses(plain.model, batch, batch["labelled"])[0]["stars"])
    assert losses[2] == pytest.approx(own) and losses[0] != pytest.approx(own)
    assert losses[1] == pytest.approx((losses[0] + losses[2]) / 2)


def test_a_resumed_annealed_student_is_the_uninterrupted_one(make_trainer, save_teacher, tmp_path):
    settings = Distillation((save_teacher("teacher", 0.1),), weight=1.0, final_weight=0.0)
    whole = make_trainer(settings, "whole", save_strategy="steps", save_steps=1)
    whole.train()
    resumed = make_trainer(settings, "resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-1"))
    one, other = weights_of(whole), weights_of(resumed)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_wrong_settings():
    assert Distillation(("a", "b"), 1.0, 4.0).problems() == []
    assert list(map(str, Distillation(("a", "a"), -0.1, 0.0).problems())) == [
        "teachers is ['a', 'a'], but must be folders of checkpoints, one or more, each once",
        "weight is -0.1, but must be in [0, 1]",
        "temperature is 0.0, but must be positive",
    ]
