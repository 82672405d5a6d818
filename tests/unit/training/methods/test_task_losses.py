"""Losses by task: the published formulas as loops, what each task may have, and steps of a trainer."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from mtbert.data.collation import MultiTaskDataset
from mtbert.data.sampling import Schedule, Step
from mtbert.errors import InputError
from mtbert.modeling import heads
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.methods import teacher_cache
from mtbert.training.methods.distillation import Distillation, add_targets, distilled_losses, soft_targets
from mtbert.training.methods.divergences import divergence
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.task_losses import LOSSES, correlation
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.objective import TaskTraining, check_losses, class_weights, training_losses

SINGLE = TaskSpec("stars", labels=4)
BINARY = TaskSpec("same", "binary_classification", labels=["no", "yes"])
SEVERAL = TaskSpec("topics", "multi_label_classification", labels=["a", "b", "c"])
URGENCY = TaskSpec("urgency", ordinal=True, labels=4)
SCORE = TaskSpec("close", range=(1, 5))
ANGLE = TaskSpec("angle", range=(1, 5), texts=2, pair="siamese", head={"type": "cosine"})
FREE = TaskSpec("free", "regression")
CLASSES = (SINGLE, BINARY, SEVERAL, URGENCY)
by_name = pytest.mark.parametrize("task", CLASSES, ids=lambda task: task.name)


def drawn(task, rows=24, scale=2.0):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(rows, task.num_labels, generator=generator, dtype=torch.float64) * scale
    if task.kind.several:
        return logits, (torch.rand(rows, task.num_labels, generator=generator) < 0.4).float()
    if task.kind.numeric:
        return logits, 1 + 4 * torch.rand(rows, generator=generator)
    return logits, torch.arange(rows) % len(task.classes)


def label_probabilities(task, logits, labels):
    """p_y of each row, or of each label of a row of several."""
    p = task.kind.probabilities(logits)
    return torch.where(labels == 1, p, 1 - p) if task.kind.several else p[range(len(p)), labels]


class TestFocal:
    @by_name
    @pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
    def test_is_the_formula(self, task, gamma):
        logits, labels = drawn(task)
        p = label_probabilities(task, logits, labels)
        expected = -((1 - p) ** gamma) * p.log()
        expected = expected.mean(-1) if task.kind.several else expected
        found = training_losses(task, logits, labels, None, TaskTraining(loss="focal", focal_gamma=gamma))
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)

    @by_name
    def test_a_gamma_of_0_is_the_types_own_loss(self, task):
        logits, labels = drawn(task)
        found = training_losses(task, logits, labels, None, TaskTraining(loss="focal", focal_gamma=0.0))
        torch.testing.assert_close(found, heads.row_losses(task, logits, labels)[0])

    @by_name
    def test_class_weights_are_its_alpha(self, task):
        logits, labels = drawn(task)
        weights = torch.tensor(class_weights(task, "balanced", labels.numpy()))
        p = label_probabilities(task, logits, labels)
        if task.kind.several:
            of_labels = torch.where(labels == 1, weights[:, 1], weights[:, 0])
            expected = (-of_labels * (1 - p) ** 2 * p.log()).mean(-1)
        else:
            expected = -weights[labels] * (1 - p) ** 2 * p.log()
        found = training_losses(task, logits, labels, weights, TaskTraining(loss="focal"))
        torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-6)

    @by_name
    @pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
    def test_gradients_are_finite_where_the_model_is_sure(self, task, gamma):
        for sign in (1, -1):
            logits = torch.full((4, task.num_labels), sign * 200.0, requires_grad=True)
            labels = torch.ones(4, 3) if task.kind.several else torch.tensor([0, 1, 1, 0])
            losses = training_losses(task, logits, labels, None, TaskTraining(loss="focal", focal_gamma=gamma))
            losses.sum().backward()
            assert losses.isfinite().all() and logits.grad.isfinite().all()


class TestOrdinal:
    """Class weights and smoothed labels of an ordinal task, and what methods make of its distribution."""

    def test_weights_and_smoothing_are_those_of_the_cross_entropy_of_its_probabilities(self):
        logits, labels = drawn(URGENCY)
        weights = torch.tensor(class_weights(URGENCY, (1.0, 2.0, 3.0, 4.0), labels.numpy()))
        p = URGENCY.kind.probabilities(logits)
        target = 0.7 * F.one_hot(labels, 4) + 0.3 / 4
        expected = -(weights * target * p.log()).sum(-1)
        found = training_losses(URGENCY, logits, labels, weights, TaskTraining(label_smoothing=0.3))
        torch.testing.assert_close(found, expected.float())

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_distillation_is_the_divergence_from_the_mean_of_the_teachers(self, temperature):
        logits, teachers = drawn(URGENCY)[0].float(), torch.randn(2, 24, 3)
        targets = soft_targets(URGENCY, list(teachers), temperature)
        assert targets.shape == (24, 3)
        mean = sum(URGENCY.kind.probabilities(each.double() / temperature) for each in teachers) / 2
        student = URGENCY.kind.probabilities(logits.double() / temperature)
        expected = temperature**2 * (mean * (mean / student).log()).sum(-1)
        found = distilled_losses(URGENCY, logits, targets, temperature)
        torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-5)
        own = soft_targets(URGENCY, [logits], temperature)
        assert distilled_losses(URGENCY, logits, own, temperature).abs().max() < 1e-5

    def test_the_divergence_is_that_of_the_distributions(self):
        a, b = drawn(URGENCY)[0], drawn(URGENCY, scale=1.0)[0]
        p, q = URGENCY.kind.probabilities(a), URGENCY.kind.probabilities(b)
        torch.testing.assert_close(divergence(URGENCY, a, b), ((p - q) * (p / q).log()).sum(-1))


class TestRegressions:
    @pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
    def test_smooth_l1_is_squared_within_beta(self, beta):
        logits, labels = drawn(SCORE)
        found = training_losses(SCORE, logits, labels, None, TaskTraining(loss="smooth_l1", smooth_l1_beta=beta))
        errors = [abs(x - y) for x, y in zip(logits[:, 0].tolist(), labels.tolist(), strict=True)]
        expected = [e * e / 2 / beta if e < beta else e - beta / 2 for e in errors]
        assert found.tolist() == pytest.approx(expected, rel=1e-5)

    def test_cosine_is_the_squared_error_of_the_cosine(self):
        torch.manual_seed(0)
        pooled, labels = torch.randn(12, 8), torch.tensor([1.0, 5, 2, 3, 4.5, 1])
        head = heads.make_head(ANGLE, 8).eval()
        scores = heads.to_scores(ANGLE, head(pooled))
        expected = (F.cosine_similarity(pooled[::2], pooled[1::2]) - (labels - 1) / 4) ** 2
        found = training_losses(ANGLE, scores, labels, None, TaskTraining(loss="cosine"))
        torch.testing.assert_close(found, expected)

    def test_correlation_has_the_mean_and_the_gradient_of_one_minus_pearson(self):
        logits, labels = drawn(FREE)
        mine, textbook = (logits.float().clone().requires_grad_() for _ in range(2))
        loss = training_losses(FREE, mine, labels, None, TaskTraining(loss="correlation")).mean()
        loss.backward()
        assert loss.item() == pytest.approx(1 - stats.pearsonr(logits[:, 0], labels).statistic, abs=1e-6)
        (1 - torch.corrcoef(torch.stack([textbook[:, 0], labels]))[0, 1]).backward()
        torch.testing.assert_close(mine.grad, textbook.grad, rtol=1e-4, atol=1e-6)

    def test_a_row_without_a_label_is_in_no_correlation(self):
        logits, labels = drawn(FREE, 6)
        labels[2] = math.nan
        found = training_losses(FREE, logits, labels, None, TaskTraining(loss="correlation"))
        rest = [0, 1, 3, 4, 5]
        alone = training_losses(FREE, logits[rest], labels[rest], None, TaskTraining(loss="correlation"))
        assert found[2] == 0
        torch.testing.assert_close(found[rest], alone)

    @pytest.mark.parametrize(
        ("x", "y"),
        [([3.3] * 4, [1, 2, 3, 4]), ([1, 2, 3, 4], [0.1] * 4), ([1.0], [2.0]), ([], []), ([1e6, 1e6 + 0.1], [1, 2])],
    )
    def test_an_undefined_correlation_is_0_without_a_gradient(self, x, y):
        scores = torch.tensor(x, dtype=torch.float32, requires_grad=True)
        found = correlation(scores, torch.tensor(y, dtype=torch.float32), torch.ones(len(x), dtype=torch.bool))
        found.sum().backward()
        assert found.tolist() == [1.0] * len(x) and not scores.grad.any()

    def test_a_score_that_is_not_finite_is_not_hidden(self):
        found = correlation(torch.tensor([1.0, math.nan, 2.0]), torch.tensor([1.0, 2.0, 3.0]), torch.ones(3).bool())
        assert found.isnan().all()


class TestWhatSuits:
    @pytest.mark.parametrize("task", [*CLASSES, SCORE, ANGLE, FREE], ids=lambda task: task.name)
    @pytest.mark.parametrize("loss", LOSSES)
    def test_each_loss_has_its_tasks(self, task, loss):
        fits = {"focal": not task.kind.numeric, "cosine": task is ANGLE}.get(loss, task.kind.numeric)
        problems = check_losses(task, TaskTraining(loss=loss))
        assert [str(problem).startswith(f"loss is {loss!r}, ") for problem in problems] == [True] * (not fits)
        if fits:
            logits, labels = drawn(task)
            assert training_losses(task, logits, labels, None, TaskTraining(loss=loss)).isfinite().all()

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"loss": "hinge"}, "loss is 'hinge', but must be one of: focal, cosine, correlation, smooth_l1"),
            ({"loss": "focal", "label_smoothing": 0.1}, "label_smoothing is 0.1, but loss is focal"),
            ({"focal_gamma": 1.0}, "focal_gamma is 1.0, but is for loss: focal"),
            ({"loss": "smooth_l1", "focal_gamma": 1.0}, "focal_gamma is 1.0, but is for loss: focal"),
            ({"loss": "focal", "focal_gamma": -1.0}, "focal_gamma is -1.0, but must be 0 or more"),
            ({"loss": "focal", "focal_gamma": math.nan}, "focal_gamma is nan, but must be 0 or more"),
            ({"smooth_l1_beta": 0.5}, "smooth_l1_beta is 0.5, but is for loss: smooth_l1"),
            ({"loss": "smooth_l1", "smooth_l1_beta": -0.5}, "smooth_l1_beta is -0.5, but must be 0 or more"),
        ],
    )
    def test_what_is_wrong_is_told(self, settings, message):
        (problem,) = TaskTraining(**settings).problems()
        assert str(problem).startswith(message)


# ---- in the trainer ----

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
SETTINGS = {
    "stars": TaskTraining(loss="focal", class_weights=(1.0, 2.0, 3.0)),
    "same": TaskTraining(loss="focal", focal_gamma=1.0),
    "close": TaskTraining(loss="correlation"),
    "topics": TaskTraining(loss="focal"),
}


@pytest.fixture
def specs(tasks):
    """The four tasks and an ordinal one, without dropout."""
    return [replace(task, dropout=0.0) for task in (*tasks, TaskSpec("urgency", ordinal=True, labels=4))]


@pytest.fixture
def trainer_of(make_model, make_trainer, splits, specs):
    """A function: settings → a trainer on the five tasks, without dropout."""

    def make(task_training=None, folder="run", **settings):
        rows = splits((12, 8, 9, 7, 11), specs=specs)
        values = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "learning_rate": 1e-3}
        values |= {"schedule": Schedule("simultaneous", steps_per_epoch=2), "train_dataset": rows} | settings
        values |= {"eval_dataset": splits((6, 5, 5, 6, 9), 1, specs)}
        return make_trainer(make_model(specs, **STILL), folder, task_training=task_training, **values)

    return make


def test_a_mixed_batch_is_the_rows_task_by_task(trainer_of, specs):
    trainer = trainer_of(SETTINGS)
    data = MultiTaskDataset(trainer.tasks, trainer.train_dataset, token_types=True)
    parts = [(number, np.arange(5)) for number in range(len(specs))]
    mixed = data.__getitems__(Step(tuple(parts)))
    losses, outputs = trainer.losses(trainer.model, mixed, mixed["labelled"])
    for number, task in enumerate(specs):
        alone = data.__getitems__(Step((parts[number],)))
        own, _ = trainer.losses(trainer.model, alone, alone["labelled"])
        torch.testing.assert_close(losses[task.name], own[task.name], rtol=1e-4, atol=1e-6)
    x, y = outputs.task_logits["close"][:, 0].detach(), mixed["labels"]["close"]
    assert losses["close"].item() == pytest.approx(1 - stats.pearsonr(x, y).statistic, abs=1e-4)


def test_evaluations_and_logged_losses_are_those_of_the_problem_types(trainer_of):
    found = []
    for number, settings in enumerate((None, SETTINGS)):
        trainer = trainer_of(settings, f"run{number}", learning_rate=0.0)
        trainer.train()
        scores = {key: value for key, value in trainer.evaluate().items() if "_loss" in key or "urgency" in key}
        logs = [{k: v for k, v in each.items() if k.startswith("loss_")} for each in trainer.state.log_history]
        found.append((scores, logs, [each["loss"] for each in trainer.state.log_history if "loss" in each]))
    assert found[0][:2] == found[1][:2]
    assert found[0][2] != found[1][2]
    assert {"eval_urgency_qwk", "eval_urgency_mae", "eval_urgency_within_one"} < found[0][0].keys()


@pytest.mark.parametrize(
    "methods",
    [[Smart(radius=1e-2, step_size=1e-1)], [RDrop()], [Surgery("pcgrad")]],
    ids=lambda methods: type(methods[0]).__name__,
)
def test_methods_train_with_them(trainer_of, methods):
    trainer = trainer_of(SETTINGS, methods=methods)
    before = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    trainer.train()
    losses = [each["loss"] for each in trainer.state.log_history if "loss" in each]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    for name in ("urgency", "close"):
        weight = f"heads.{name}.out_proj.weight"
        assert not torch.equal(before[weight], trainer.model.get_parameter(weight))


def test_a_penalty_is_added_to_a_correlation(trainer_of):
    """Without dropout R-Drop's two passes are alike, so that the loss is that of one pass."""
    losses = []
    for number, methods in enumerate(([], [RDrop(3.0)])):
        trainer = trainer_of(SETTINGS, f"run{number}", methods=methods)
        trainer.train()
        losses.append([each["loss"] for each in trainer.state.log_history if "loss" in each])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_accumulation_steps": 2}, r"does not go with training.gradient_accumulation_steps: 2 or more"),
        ({"per_device_train_batch_size": 1}, r"does not go with tasks.\*.batch_size: 1, its own or the run's"),
        ({"methods": [LossSettings("uncertainty")]}, r"does not go with loss.weighting: uncertainty"),
    ],
)
def test_a_correlation_is_refused_where_no_pass_holds_a_whole_step(trainer_of, settings, message):
    with pytest.raises(InputError, match=r"task_training\['close'\].loss is 'correlation', which " + message):
        trainer_of({"close": TaskTraining(loss="correlation")}, **settings)


def test_a_correlation_is_refused_on_several_processes(trainer_of, monkeypatch):
    from mtbert.training.methods import rules

    monkeypatch.setattr(rules, "_processes", lambda run: 2)
    with pytest.raises(InputError, match="does not go with training: several processes"):
        trainer_of({"close": TaskTraining(loss="correlation")})
    trainer_of({"stars": TaskTraining(loss="focal")})


def test_a_loss_function_of_ones_own_takes_the_place_of_all(trainer_of):
    with pytest.raises(InputError, match="label_smoothing and loss of the task 'close'"):
        trainer_of({"close": TaskTraining(loss="smooth_l1")}, compute_loss_func=lambda *args, **kwargs: 0)


def test_a_copy_of_the_student_teaches_an_ordinal_task_nothing(
    trainer_of, make_model, tokenizer, specs, splits, tmp_path, monkeypatch
):
    monkeypatch.setattr(teacher_cache, "memory_folder", lambda: tmp_path / "memories")
    make_model(specs, **STILL).save_pretrained(tmp_path / "teacher")
    tokenizer.save_pretrained(tmp_path / "teacher")
    distillation = Distillation((str(tmp_path / "teacher"),), weight=1.0)
    trainer = trainer_of(methods=[distillation], max_grad_norm=0.0)
    trainer.train_dataset = add_targets(distillation, trainer, splits((12, 8, 9, 7, 11), specs=specs))
    assert len(trainer.train_dataset["urgency"][0]["teacher"]) == 3
    trainer.train()
    first = next(logs for logs in trainer.state.log_history if "loss" in logs)
    assert first["loss"] < 1e-6 and first["grad_norm"] < 1e-4


def test_distillation_mixes_rows_with_the_tasks_own_loss(trainer_of):
    """The targets are the student's own scores, so that (1 − λ) (1 − r) is left."""
    trainer = trainer_of({"close": TaskTraining(loss="correlation")})
    data = MultiTaskDataset(trainer.tasks, trainer.train_dataset, token_types=True)
    batch = data.__getitems__(Step(((2, np.arange(6)),)))
    plain, outputs = trainer.losses(trainer.model, batch, batch["labelled"])
    distiller = Distillation(("t",), weight=0.25).build()
    distiller.tasks = trainer.tasks
    batch["teacher"] = {"close": outputs.task_logits["close"].detach()}
    trainer.losses.methods = (distiller,)
    mixed, _ = trainer.losses(trainer.model, batch, batch["labelled"])
    torch.testing.assert_close(mixed["close"], 0.75 * plain["close"])
