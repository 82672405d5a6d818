"""Unsupervised SimCSE against a textbook loop with the same dropout masks; its negatives, and what it counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from two_passes import first_batch, loss_of

import mtbert
from mtbert.data.sampling import Schedule
from mtbert.errors import InputError, RecipeError
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.simcse import SimCSE, SimCSEPenalty, contrastive_losses

TOGETHER = Schedule("simultaneous")


@pytest.fixture
def trainer_of(make_trainer, splits):
    """A function: model, settings of the trainer → a trainer, in whose data each text occurs twice."""

    def make(model, **settings):
        data = splits()
        data["stars"] = data["stars"].select([row % 5 for row in range(40)])
        given = {"schedule": TOGETHER, "max_steps": 2, "per_device_train_batch_size": 12, "train_dataset": data}
        return make_trainer(model, **given | settings)

    return make


def texts_of(inputs) -> list[list[int]]:
    """The token ids of each encoder input."""
    return [ids.tolist() for ids in inputs["input_ids"][0].split(list(inputs["layout"].lengths))]


def textbook(first, second, texts, temperature) -> torch.Tensor:
    """The loss of each text, one after the other: a cross-entropy over cosines."""
    losses = []
    for i, text in enumerate(texts):
        others = [j for j in range(len(texts)) if j != i and texts[j] != text]
        cosines = torch.stack([functional.cosine_similarity(first[i], second[j], dim=0) for j in [i, *others]])
        losses.append(functional.cross_entropy(cosines / temperature, torch.tensor(0)))
    return torch.stack(losses)


def test_the_loss_and_its_gradient_are_those_of_a_textbook_loop(make_model, trainer_of):
    model = make_model()
    trainer = trainer_of(model, methods=[SimCSE(0.5, temperature=0.1)])
    inputs = first_batch(trainer)
    loss_of(trainer, inputs).backward()
    found = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
    model.zero_grad()

    torch.manual_seed(5)
    given = {key: inputs[key] for key in ("input_ids", "token_type_ids", "layout", "labels") if key in inputs}
    first, second = (model(**given) for _ in range(2))
    expected, means, copies, texts, start = torch.zeros(()), {}, 0, texts_of(inputs), 0
    for task in model.tasks:
        count = len(first.pooled[task.name])
        part = texts[start : start + count]
        start += count
        copies += count - len({tuple(text) for text in part})
        losses = textbook(first.pooled[task.name], second.pooled[task.name], part, 0.1)
        rows = losses.view(-1, task.num_sequences).mean(1)
        expected = expected + (first.row_losses[task.name] + 0.5 * rows).mean()
        means[f"simcse_{task.name}"] = rows.mean().item()
    assert start == len(texts) and copies >= 3 and {task.num_sequences for task in model.tasks} == {1, 2}
    expected.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(loss_of(trainer, inputs), expected, rtol=1e-5, atol=1e-5)
    logs = trainer.methods["simcse"].logs(lambda values: values, {})
    assert logs == pytest.approx(means | {"simcse_alone": 0}, rel=1e-4)
    assert min(means.values()) > 1e-3


def test_all_texts_alike_and_one_text_have_the_loss_0():
    states = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(1))
    for first, second, same in (
        (states[0], states[1], torch.ones(2, 2, dtype=torch.bool)),
        (states[0, :1], states[1, :1], torch.ones(1, 1, dtype=torch.bool)),
    ):
        first.requires_grad_()
        losses = contrastive_losses(first, second, same, 0.05)
        losses.sum().backward()
        torch.testing.assert_close(losses, torch.zeros(len(first)), atol=1e-6, rtol=0)
        assert first.grad.abs().max() < 1e-5
        first.requires_grad_(False)


def test_rows_without_a_negative_are_counted(make_model, trainer_of):
    trainer = trainer_of(make_model(), methods=[SimCSE()], task_training={"same": TaskTraining(batch_size=1)})
    trainer.train()
    for entry in trainer.state.log_history[:2]:
        assert entry["simcse_alone"] == 1 and entry["simcse_same"] == 0 and entry["simcse_close"] > 0


def test_only_the_named_tasks_are_contrasted(make_model, trainer_of):
    plain, chosen = (
        trainer_of(make_model(), methods=methods) for methods in ([], [SimCSE(tasks=("close",), weight=3.0)])
    )
    inputs = first_batch(plain)
    losses = []
    for trainer in (plain, chosen):
        torch.manual_seed(5)
        losses.append(trainer.losses(trainer.model.train(), inputs, inputs["labelled"])[0])
    assert {name for name in losses[0] if not torch.equal(losses[0][name], losses[1][name])} == {"close"}
    assert chosen.methods["simcse"].logs(lambda values: values, {}).keys() == {"simcse_close", "simcse_alone"}


def test_steps_without_those_tasks_have_no_second_pass(make_model, trainer_of):
    calls = []
    model = make_model()
    trainer = trainer_of(
        model, methods=[SimCSE(tasks=("close",))], schedule=Schedule("round_robin", steps_per_epoch=4), max_steps=4
    )
    model.encoder.register_forward_hook(lambda *_: calls.append(1))
    trainer.train()
    assert len(calls) == 5  # four steps, one of them of `close`


def test_it_is_off_with_a_weight_of_0_and_in_evaluation(make_model, trainer_of):
    assert SimCSE(0.0).build() is None
    trainer, plain = trainer_of(make_model(), methods=[SimCSE(5.0)]), trainer_of(make_model())
    inputs = first_batch(trainer)
    with torch.no_grad():
        found, expected = (each.compute_loss(each.model.eval(), inputs) for each in (trainer, plain))
    torch.testing.assert_close(found, expected)


def test_rows_without_a_label_are_negatives_only(make_model, trainer_of):
    trainer = trainer_of(make_model(), methods=[SimCSE(5.0)])
    inputs = first_batch(trainer)
    inputs["labels"]["stars"][1:] = -100
    trainer.model.train()
    _, changed = trainer.losses.forward(trainer.model, inputs)
    before = changed.row_losses["stars"].clone()
    trainer.methods["simcse"].change_rows(inputs, changed)
    assert torch.equal(changed.row_losses["stars"][1:], torch.zeros(len(before) - 1))
    assert changed.row_losses["stars"][0] > before[0]


def test_embeddings_of_different_texts_move_apart(make_model, trainer_of):
    cosines = []
    for methods in ([], [SimCSE(5.0, temperature=0.2)]):
        trainer = trainer_of(make_model(), methods=methods, max_steps=40, learning_rate=3e-3)
        trainer.train()
        texts = ["the cat runs", "a dog eats", "the bird flies", "a good fish sleeps"]
        states = torch.from_numpy(trainer.model.eval().embed(texts, task="stars", normalize=True))
        cosines.append((states @ states.T).triu(1).sum() / 6)
    assert cosines[1] < cosines[0] - 0.2
    first, last = ([e["simcse_topics"] for e in trainer.state.log_history if "loss" in e][i] for i in (0, -1))
    assert last < first


def test_doubts_are_of_runs_in_which_no_task_had_a_loss():
    assert SimCSEPenalty.doubts({"simcse_a": 0.3}, ["a", "b"]) == []
    assert SimCSEPenalty.doubts({"simcse_a": 0.0}, ["a", "b"]) == ["simcse is within rounding for every task"]


def test_settings_that_are_wrong(make_model, trainer_of, encoder_dir):
    found = {problem.path[0]: problem.message for problem in SimCSE(-1.0, 0.0, ()).problems()}
    assert found.keys() == {"weight", "temperature", "tasks"} and "must name one task or more" in found["tasks"]
    assert "each once" in SimCSE(tasks=("a", "a")).problems()[0].message
    assert SimCSE().problems() == [] == SimCSE(tasks=("a",)).problems()
    with pytest.raises(InputError, match=r"simcse: tasks names \['sters'\], but the tasks are: stars, same"):
        trainer_of(make_model(), methods=[SimCSE(tasks=("sters",))])
    tasks = {"one": {"labels": 2, "data": {"train": "a.csv"}}}
    recipe = {"encoder": encoder_dir, "tasks": tasks, "training": {"output_dir": "out", "use_cpu": True}}
    with pytest.raises(RecipeError, match=r"simcse.tasks names \['two'\], but the tasks are: one"):
        mtbert.train({**recipe, "simcse": {"tasks": ["two"]}})


def test_a_pair_in_one_input_is_one_text_and_both_have_three(make_model, tasks, trainer_of, splits):
    specs = [replace(tasks[2], name=name, pair=name) for name in ("cross", "both")]
    data = {name: splits()["close"] for name in ("cross", "both")}
    trainer = trainer_of(make_model(specs), methods=[SimCSE()], train_dataset=data)
    trainer.train()
    assert all(entry[f"simcse_{name}"] > 0 for name in data for entry in trainer.state.log_history[:2])
