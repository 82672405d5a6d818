"""Losses of training: torch's and scikit-learn's own on one batch, and where uncertainty weighting comes to rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from mtbert.data.sampling import Schedule
from mtbert.modeling import heads
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.uncertainty import LogVariances, LossSettings
from mtbert.training.objective import check_losses, class_weights, row_losses

SINGLE = TaskSpec("stars", labels=4)
BINARY = TaskSpec("same", "binary_classification", labels=["no", "yes"])
SEVERAL = TaskSpec("topics", "multi_label_classification", labels=["a", "b", "c"])
SCORE = TaskSpec("close", range=(0, 5))
CLASSES = np.array([0] * 11 + [1] * 5 + [2] * 3 + [3] + [-100] * 4)
YES = np.array([1] * 3 + [0] * 9 + [-100] * 2)
random = np.random.default_rng(0)
MARKS = (random.random((30, 3)) < [0.1, 0.5, 0.8]).astype(np.float32)


def drawn(rows, columns):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 3


def test_balanced_weights_are_scikit_learns_with_mean_1():
    for task, labels in ((SINGLE, CLASSES), (BINARY, YES)):
        known = labels[labels >= 0]
        found = class_weights(task, "balanced", labels)
        np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.unique(known), y=known))
        assert found[known].mean() == pytest.approx(1)
        assert compute_sample_weight("balanced", known).sum() == pytest.approx(len(known))
    assert class_weights(replace(SINGLE, labels=6), "balanced", CLASSES)[:4] == pytest.approx(
        class_weights(SINGLE, "balanced", CLASSES)
    )


def test_given_weights_keep_their_ratios_and_have_mean_1():
    given = (1.0, 2.0, 3.0, 40.0)
    found, known = class_weights(SINGLE, given, CLASSES), CLASSES[CLASSES >= 0]
    np.testing.assert_allclose(found / found[0], given)
    assert found[known].mean() == pytest.approx(1)


def test_multi_label_weights_are_factors_on_positives():
    labels = np.concatenate([MARKS, np.full((2, 3), np.nan, dtype=np.float32)])
    for given in ((2.0, 3.0, 4.0), "balanced"):
        pairs = class_weights(SEVERAL, given, labels)
        positive = MARKS.sum(0)
        factors = (len(MARKS) - positive) / positive if given == "balanced" else given
        np.testing.assert_allclose(pairs[:, 1] / pairs[:, 0], factors, rtol=1e-6)
        assert np.where(MARKS == 1, pairs[:, 1], pairs[:, 0]).mean() == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
class TestRowLosses:
    def weights(self, task, weighted, labels):
        return torch.tensor(class_weights(task, "balanced", labels)) if weighted else None

    def test_single_label_over_the_training_set_is_torchs_weighted_mean(self, smoothing, weighted):
        """Torch divides by Σ w_y; the weights' mean over these labels is 1, so that is n."""
        logits, labels = drawn(len(CLASSES), 4), torch.from_numpy(CLASSES)
        weights = self.weights(SINGLE, weighted, CLASSES)
        found = row_losses(SINGLE, logits, labels, weights, smoothing)
        expected = F.cross_entropy(
            logits, labels, None if weights is None else weights.float(), label_smoothing=smoothing
        )
        torch.testing.assert_close(found.sum() / (CLASSES >= 0).sum(), expected)
        assert (found[CLASSES < 0] == 0).all()

    def test_one_logit_is_two_classes_with_logits_0_and_z(self, smoothing, weighted):
        logits, labels = drawn(len(YES), 1), torch.from_numpy(YES)
        weights = self.weights(BINARY, weighted, YES)
        found = row_losses(BINARY, logits, labels, weights, smoothing)
        both = torch.cat([torch.zeros_like(logits), logits], dim=1)
        plain = None if weights is None else weights.float()
        expected = F.cross_entropy(both, labels, plain, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(found, expected)
        if not weighted:
            target = labels.clamp(min=0) * (1 - smoothing) + smoothing / 2
            smooth = F.binary_cross_entropy_with_logits(logits.squeeze(1), target, reduction="none")
            torch.testing.assert_close(found[YES >= 0], smooth[YES >= 0])

    def test_multi_label_is_torchs_pos_weight_up_to_the_mean(self, smoothing, weighted):
        logits, labels = drawn(30, 3), torch.from_numpy(MARKS)
        weights = self.weights(SEVERAL, weighted, MARKS)
        found = row_losses(SEVERAL, logits, labels, weights, smoothing)
        scale, factor = (
            (1.0, None) if weights is None else (weights[0, 0].float(), (weights[:, 1] / weights[:, 0]).float())
        )
        target = labels * (1 - smoothing) + smoothing / 2
        expected = F.binary_cross_entropy_with_logits(logits, target, pos_weight=factor, reduction="none").mean(-1)
        torch.testing.assert_close(found, scale * expected)


def test_without_weights_and_smoothing_the_losses_are_the_models():
    for task, labels in ((SINGLE, CLASSES), (BINARY, YES), (SEVERAL, MARKS)):
        logits, labels = drawn(len(labels), task.num_labels), torch.from_numpy(labels)
        expected, _ = heads.row_losses(task, logits, labels)
        torch.testing.assert_close(row_losses(task, logits, labels, None, 0.0), expected)


def test_what_does_not_suit_a_task_is_told():
    for settings, key in (
        ({"class_weights": "balanced"}, "class_weights is balanced"),
        ({"balanced": True}, "balanced"),
    ):
        (line,) = check_losses(SCORE, TaskTraining(**settings))
        assert str(line).startswith(key) and line.message.endswith("a regression has no classes")
    assert len(check_losses(SCORE, TaskTraining(label_smoothing=0.1))) == 1
    assert list(map(str, check_losses(BINARY, TaskTraining(class_weights=(1.0,))))) == [
        "class_weights has 1 numbers, but must have 2"
    ]
    assert "multi-label task is in no single class" in check_losses(SEVERAL, TaskTraining(balanced=True))[0].message
    assert check_losses(SINGLE, TaskTraining(class_weights=(1.0, 2.0, 3.0, 4.0), label_smoothing=0.1)) == []
    wrong = TaskTraining(class_weights="even", label_smoothing=1.0).problems()
    assert [each.path for each in wrong] == [("class_weights",), ("label_smoothing",)]
    assert list(map(str, LossSettings("learned", 0).problems())) == [
        "weighting is 'learned', but must be fixed or uncertainty",
        "learning_rate is 0, but must be positive",
    ]


# ---- uncertainty ----


def test_uncertainty_is_equations_7_and_10():
    weighting = LogVariances([SCORE, SINGLE])
    total, rows, sigma = torch.tensor(12.0), torch.tensor(5.0), 1.7
    for value in weighting.log_variances.values():
        value.data = torch.tensor(2 * np.log(sigma), dtype=torch.float32)
    regression = 5 * (12 / 5 / (2 * sigma**2) + np.log(sigma))
    assert weighting("close", total, rows).item() == pytest.approx(regression, rel=1e-6)
    assert weighting("stars", total, rows).item() == pytest.approx(5 * (12 / 5 / sigma**2 + np.log(sigma)), rel=1e-6)


def test_uncertainty_rests_where_the_variance_is_the_loss():
    """σ² = L for a regression, 2 L for a classification."""
    weighting = LogVariances([SCORE, SINGLE])
    optimizer = torch.optim.AdamW(weighting.parameters(), lr=0.02, weight_decay=0.0)
    means = {"close": 0.3, "stars": 1.4}
    for _ in range(1500):
        optimizer.zero_grad()
        sum(weighting(task, torch.tensor(8 * mean), torch.tensor(8.0)) / 8 for task, mean in means.items()).backward()
        optimizer.step()
    assert weighting.log_variances["close"].exp().item() == pytest.approx(0.3, rel=1e-2)
    assert weighting.log_variances["stars"].exp().item() == pytest.approx(2.8, rel=1e-2)


# ---- in the trainer ----


@pytest.fixture
def run(make_model, make_trainer, splits, tasks):
    """A function: settings → a trained trainer on the four tasks, without dropout."""
    still = [replace(task, dropout=0.0) for task in tasks]

    def train_run(loss=None, task_training=None, schedule=None, folder="run", **kwargs):
        model = make_model(still, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
        values = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "num_train_epochs": 1}
        values |= {"train_dataset": splits((12, 8, 9, 7)), "eval_dataset": splits((6, 5, 5, 6), 1)} | kwargs
        schedule = schedule or Schedule("uniform", mixed=True, steps_per_epoch=4)
        trainer = make_trainer(model, folder, schedule=schedule, task_training=task_training, loss=loss, **values)
        trainer.train()
        return trainer

    return train_run


def test_a_steps_loss_and_gradient_of_the_log_variances(run, tasks):
    """Mixed steps, accumulated: each s_t has the gradient c_t (½ − a exp(−s_t) mean_t), and is absent with its task."""
    trainer = run(
        LossSettings("uncertainty", 0.1), per_device_train_batch_size=2, gradient_accumulation_steps=2, optim="sgd"
    )
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    before = {task.name: 0.0 for task in tasks}
    for step, entry in enumerate(entries):
        total, rate = 0.0, 0.1 * (4 - step) / 4
        rows = sum(entry[f"examples_{task.name}"] for task in tasks)
        for task in tasks:
            name, share, s = task.name, entry[f"examples_{task.name}"] / rows, before[task.name]
            after = entry[f"log_variance_{name}"]
            if not share:
                assert after == s
                continue
            a = 0.5 if task.problem_type == "regression" else 1.0
            weighed = a * np.exp(-s) * entry[f"loss_{name}"]
            total += share * (weighed + s / 2)
            assert after == pytest.approx(s - rate * share * (0.5 - weighed), abs=1e-5)
            before[name] = after
        assert entry["loss"] == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert any(before.values())


def test_log_variances_are_in_checkpoints_but_not_in_the_model(run, tmp_path):
    trainer = run(LossSettings("uncertainty", 0.1), save_strategy="epoch")
    saved = load_file(tmp_path / "run" / "checkpoint-4" / "log_variances.safetensors")
    assert saved.keys() == {f"log_variances.{task.name}" for task in trainer.tasks}
    assert all(value != 0 for value in saved.values())
    model = load_file(tmp_path / "run" / "checkpoint-4" / "model.safetensors")
    assert model.keys() == trainer.model.state_dict().keys()
    assert not any("log_variance" in name for name in model)
    group = trainer.optimizer.param_groups[-1]
    assert len(group["params"]) == 4 and group["weight_decay"] == 0.0 and group["initial_lr"] == 0.1


def test_evaluation_has_the_plain_loss(run, tasks):
    """Training changes nothing (rate 0), so that evaluations with and without settings must agree."""
    own = {
        "stars": TaskTraining(class_weights=(1.0, 9.0, 30.0), label_smoothing=0.4),
        "same": TaskTraining(class_weights="balanced"),
        "topics": TaskTraining(class_weights=(2.0, 9.0, 4.0)),
    }
    plain = run(learning_rate=0.0)
    changed = run(LossSettings("uncertainty", 0.3), own, learning_rate=0.0, folder="other")
    one, other = plain.evaluate(), changed.evaluate()
    for key in one:
        if "loss" in key or "overall" in key:
            assert one[key] == other[key]
    losses = [[each["loss"] for each in t.state.log_history if "loss" in each] for t in (plain, changed)]
    assert losses[0] != losses[1]
    for left, right in zip(plain.state.log_history, changed.state.log_history, strict=True):
        for key in left:
            if key.startswith("loss_"):
                assert left[key] == pytest.approx(right[key])


def test_gradients_of_the_variances_are_means_over_processes():
    """Of another process that has rows of the first task only; a task without rows anywhere keeps no gradient."""
    weighting = LogVariances([SCORE, SINGLE, TaskSpec("unseen", labels=2)])
    first, second, third = weighting.parameters()
    first.grad, second.grad, third.grad = torch.tensor(0.5), torch.tensor(0.25), None

    def reduce(ours, reduction):
        theirs = torch.tensor([[1.5, 0.0, 0.0], [1.0, 0.0, 0.0]])
        assert reduction == "mean" and ours.shape == theirs.shape
        return (ours + theirs) / 2

    weighting.average_gradients(reduce)
    assert (first.grad, second.grad, third.grad) == (torch.tensor(1.0), torch.tensor(0.125), None)
