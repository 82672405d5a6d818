"""R-Drop against a textbook loop with the same dropout masks, and what it shares with the other methods."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from datasets import List, Value
from torch.distributions import Bernoulli, kl_divergence
from torch.nn import functional
from two_passes import first_batch, loss_of

from mtbert.data.collation import TEACHER
from mtbert.data.sampling import Schedule
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.rdrop import RDrop
from mtbert.training.methods.smart import Smart

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOGETHER = Schedule("simultaneous")


@pytest.fixture
def trainer_of(make_trainer):
    """A function: model, settings of the trainer → a trainer."""

    def make(model, **settings):
        return make_trainer(
            model, **{"schedule": TOGETHER, "max_steps": 2, "per_device_train_batch_size": 12} | settings
        )

    return make


def kl(task, logits, others) -> torch.Tensor:
    """KL(P‖Q) of each row, by torch's own functions."""
    if task.kind.exclusive:
        return functional.kl_div(others.log_softmax(-1), logits.log_softmax(-1), reduction="none", log_target=True).sum(
            -1
        )
    return kl_divergence(Bernoulli(logits=logits), Bernoulli(logits=others)).mean(-1)


def own_loss(task, logits, labels) -> torch.Tensor:
    if task.kind.numeric:
        return (logits.squeeze(-1) - labels).square()
    if task.kind.exclusive:
        return functional.cross_entropy(logits, labels, reduction="none")
    target = labels if task.kind.several else labels[:, None].float()
    return functional.binary_cross_entropy_with_logits(logits, target.float(), reduction="none").mean(-1)


def test_the_loss_and_its_gradient_are_those_of_a_textbook_loop(make_model, trainer_of):
    """Two passes in torch alone, one after the other, draw the masks that the trainer's two passes draw."""
    model = make_model()
    trainer = trainer_of(model, methods=[RDrop(2.0)])
    inputs = first_batch(trainer)
    loss_of(trainer, inputs).backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()

    torch.manual_seed(5)
    texts = {key: inputs[key] for key in ("input_ids", "token_type_ids", "layout") if key in inputs}
    first, second = (model(**texts).task_logits for _ in range(2))
    expected, means = torch.zeros(()), {}
    for task in model.tasks:
        a, b, labels = first[task.name], second[task.name], inputs["labels"][task.name]
        apart = ((a - b).squeeze(-1) / 5).square() if task.kind.numeric else kl(task, a, b) + kl(task, b, a)
        apart = apart / 2
        mean = (own_loss(task, a, labels) + own_loss(task, b, labels)) / 2
        expected = expected + (mean + 2.0 * apart).mean()
        means[task.name] = apart.mean().item()
    expected.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(loss_of(trainer, inputs), expected, rtol=1e-5, atol=1e-6)
    logs = trainer.methods["rdrop"].logs(lambda values: values, {})
    assert logs == pytest.approx({f"rdrop_{name}": mean for name, mean in means.items()}, rel=1e-3)
    assert min(means.values()) > 1e-4


@pytest.mark.parametrize("others", [[], [Distillation(("gone",), 0.5)], [Smart(radius=1e-2, step_size=1e-1)]], ids=str)
def test_without_dropout_it_changes_nothing_whatever_else_is_on(make_model, trainer_of, tasks, others):
    """Both passes are alike. So the second one has class weights, smoothed labels and teachers as the first one has
    them, and SMART's penalty, which is the first one's, is whole."""
    still = [replace(task, dropout=0.0) for task in tasks]
    training = {"stars": TaskTraining(class_weights=(1.0, 2.0, 5.0)), "same": TaskTraining(label_smoothing=0.3)}
    losses = []
    for methods in (others, [*others, RDrop(3.0)]):
        trainer = trainer_of(make_model(still, **STILL), methods=methods, task_training=training)
        for task in still[:2]:
            rows = trainer.train_dataset[task.name]
            logits = torch.arange(1.0, 1 + task.num_labels).expand(len(rows), -1) / 9
            rows = rows.add_column(TEACHER, logits.tolist(), feature=List(Value("float32")))
            trainer.train_dataset[task.name] = rows
        losses.append(loss_of(trainer, first_batch(trainer)))
    torch.testing.assert_close(losses[1], losses[0])


def test_it_is_off_with_a_weight_of_0_and_in_evaluation(make_model, trainer_of):
    assert RDrop(0.0).build() is None
    trainer = trainer_of(make_model(), methods=[RDrop(5.0)])
    inputs = first_batch(trainer)
    model = trainer.model.eval()
    plain = trainer_of(make_model())
    with torch.no_grad():
        torch.testing.assert_close(trainer.compute_loss(model, inputs), plain.compute_loss(plain.model.eval(), inputs))


def test_rows_without_a_label_have_no_penalty(make_model, trainer_of):
    trainer = trainer_of(make_model(), methods=[RDrop(5.0)])
    inputs = first_batch(trainer)
    inputs["labels"]["stars"][:] = -100
    trainer.model.train()
    _, changed = trainer.losses.forward(trainer.model, inputs)
    before = {name: rows.clone() for name, rows in changed.row_losses.items()}
    trainer.methods["rdrop"].change_rows(inputs, changed)
    assert torch.equal(changed.row_losses["stars"], torch.zeros(len(before["stars"])))
    assert (changed.row_losses["close"] != before["close"]).any()
    assert "rdrop_stars" not in trainer.methods["rdrop"].logs(lambda values: values, {})


def test_outputs_of_two_passes_come_nearer(trainer_of, make_model):
    """The divergence on the training rows, after training with a large weight and without."""
    means = []
    for weight in (1e-9, 20.0):
        trainer = trainer_of(make_model(), methods=[RDrop(weight)], max_steps=30, learning_rate=3e-3)
        trainer.train()
        entries = [entry for entry in trainer.state.log_history if "loss" in entry][-10:]
        means.append(sum(entry["rdrop_stars"] + entry["rdrop_same"] for entry in entries))
    assert 0 < means[1] < 0.7 * means[0]


@pytest.mark.parametrize("settings", [{"bf16": True}, {"gradient_checkpointing": True}], ids=str)
def test_both_passes_are_computed_alike(make_model, trainer_of, tasks, settings):
    """In the same precision, so that without dropout the penalty is 0."""
    still = [replace(task, dropout=0.0) for task in tasks]
    trainer = trainer_of(make_model(still, **STILL), methods=[RDrop()], **settings)
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert [entry[f"rdrop_{task.name}"] for task in tasks] == [0.0] * 4


def test_a_model_without_dropout_is_told(make_model, trainer_of, tasks):
    trainer = trainer_of(make_model(), methods=[RDrop()])
    assert trainer.methods["rdrop"].describe() is None
    still = make_model([replace(task, dropout=0.0) for task in tasks], **STILL)
    trainer = trainer_of(still, methods=[RDrop()])
    assert "nothing in the model has dropout" in trainer.methods["rdrop"].describe()


def test_a_weight_below_0_is_refused():
    assert [(problem.path, problem.message) for problem in RDrop(-1.0).problems()] == [
        (("weight",), "is -1.0, but must be 0 or more")
    ]
    assert RDrop().problems() == []
