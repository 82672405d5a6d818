"""Weights by group: against scikit-learn, in a step's loss, from files of a recipe and from Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional

import mtbert
from mtbert.data.sampling import Schedule
from mtbert.errors import CheckpointError, InputError, RecipeError
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.group_weights import GroupWeights, weights_of_groups

STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
TOGETHER = Schedule("simultaneous", steps_per_epoch=2)


def named(rows: int) -> list[str | None]:
    """Groups of unequal sizes; every tenth row has none."""
    return [None if row % 10 == 9 else "ab"[row % 3 == 0] for row in range(rows)]


@pytest.fixture
def grouped(splits):
    """A function: names of tasks → raw splits, in which these have the column `group`."""

    def make(*names):
        return {n: rows.add_column("group", named(len(rows))) if n in names else rows for n, rows in splits().items()}

    return make


@pytest.fixture
def make_trainer(make_trainer, make_model, tasks):
    """A function: weights, data, settings → a trainer of a model without dropout."""

    def make(weights, data, folder="run", **settings):
        model = make_model([replace(task, dropout=0.0) for task in tasks], **STILL)
        values = {"schedule": TOGETHER, "per_device_train_batch_size": 8, "num_train_epochs": 2} | settings
        return make_trainer(model, folder, train_dataset=data, methods=[weights] if weights else [], **values)

    return make


def test_the_weights_are_scikit_learns():
    groups = np.repeat(["a", "b", "c"], [6, 1, 3])
    names, counts = np.unique(groups, return_counts=True)
    found = weights_of_groups(counts, 1.0)
    assert found == pytest.approx(compute_class_weight("balanced", classes=names, y=groups))
    for power in (0.0, 0.5, 1.0, 2.0):
        weights = weights_of_groups(counts, power)
        assert (weights * counts).sum() / counts.sum() == pytest.approx(1)
        assert weights[1] / weights[0] == pytest.approx(6**power)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_a_steps_loss_has_the_weights_of_its_rows(make_trainer, grouped, power):
    """They multiply class weights; a task without the column, and every row in evaluation, has none."""
    data = grouped("stars", "close")
    training = {"stars": TaskTraining(class_weights=(1.0, 2.0, 4.0))}
    trainer = make_trainer(GroupWeights(power=power), data, task_training=training)
    (inputs, *_) = trainer.get_train_dataloader()
    model = trainer.model.train()
    found = trainer.compute_loss(model, inputs)
    logits = model(**{key: inputs[key] for key in ("input_ids", "token_type_ids", "layout") if key in inputs})
    expected = torch.zeros(())
    for task in trainer.tasks:
        scores, labels = logits.task_logits[task.name], inputs["labels"][task.name]
        if task.name == "stars":
            losses = functional.cross_entropy(scores, labels, trainer.losses.class_weights["stars"], reduction="none")
        elif task.name == "close":
            losses = (scores.squeeze(-1) - labels).square()
        else:
            target = labels.view(scores.shape).float()
            losses = functional.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(-1)
        if task.name in ("stars", "close"):
            groups = [group or "(none)" for group in named(len(data[task.name]))]
            counts = {group: groups.count(group) for group in groups}
            total = sum(count ** (1 - power) for count in counts.values())
            rows = inputs["rows"][task.name].tolist()
            weights = [counts[groups[row]] ** -power * len(groups) / total for row in rows]
            losses = losses * torch.tensor(weights)
        expected = expected + losses.mean()
    torch.testing.assert_close(found, expected)
    plain = make_trainer(None, grouped())
    with torch.no_grad():
        torch.testing.assert_close(
            trainer.losses(trainer.model.eval(), inputs, inputs["labelled"])[0]["close"],
            plain.losses(plain.model.eval(), inputs, inputs["labelled"])[0]["close"],
        )


def test_all_weights_are_1_where_groups_are_equal(make_trainer, splits):
    data = splits()
    data["same"] = data["same"].add_column("group", ["x", "y"] * 12)
    ends = []
    for weights in (None, GroupWeights()):
        trainer = make_trainer(weights, data)
        trainer.train()
        ends.append(torch.cat([each.detach().flatten() for each in trainer.model.parameters()]))
    assert torch.equal(*ends)
    assert GroupWeights(power=0).build() is None


def test_micro_batches_have_the_weights_of_the_whole_batch(make_trainer, grouped):
    ends = []
    for micro in (1, 2, 4):
        sizes = {"per_device_train_batch_size": 8 // micro, "gradient_accumulation_steps": micro}
        schedule = Schedule("annealed", mixed=True, steps_per_epoch=3)
        given = {"schedule": schedule, "optim": "sgd", "learning_rate": 0.05, **sizes}
        trainer = make_trainer(GroupWeights(), grouped("stars", "close"), f"micro-{micro}", **given)
        trainer.train()
        ends.append(torch.cat([each.detach().flatten() for each in trainer.model.parameters()]))
    for end in ends[1:]:
        torch.testing.assert_close(end, ends[0], rtol=1e-5, atol=1e-5)


def test_tokenised_rows_may_have_groups_too(make_trainer, grouped):
    first = make_trainer(GroupWeights(), grouped("same"))
    again = make_trainer(GroupWeights(), first.train_dataset)
    for trainer in (first, again):
        trainer.get_train_dataloader()
    assert again.methods["group_weights"].weights.keys() == {"same"}
    assert torch.equal(*(each.methods["group_weights"].weights["same"] for each in (first, again)))


def test_a_resumed_run_is_the_uninterrupted_one_and_needs_the_same_groups(make_trainer, grouped):
    settings = {"save_strategy": "steps", "save_steps": 2, "optim": "sgd", "learning_rate": 0.05}
    whole = make_trainer(GroupWeights(), grouped("stars"), "whole", **settings)
    whole.train()
    checkpoint = f"{whole.args.output_dir}/checkpoint-2"
    resumed = make_trainer(GroupWeights(columns={"stars": "group"}), grouped("stars"), "resumed", **settings)
    resumed.train(resume_from_checkpoint=checkpoint)
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    moved = grouped("stars")
    moved["stars"] = moved["stars"].remove_columns("group").add_column("group", named(41)[1:])
    for other in (make_trainer(GroupWeights(), moved), make_trainer(GroupWeights(power=0.5), grouped("stars"))):
        with pytest.raises(CheckpointError, match=r"group_weights\.(groups\.stars|power) was .* and is"):
            other.train(resume_from_checkpoint=checkpoint)
    with pytest.raises(CheckpointError, match="group_weights was .* and is null"):
        make_trainer(None, grouped("stars")).train(resume_from_checkpoint=checkpoint)


# ---- recipes ----


@pytest.fixture
def recipe(encoder_dir, tmp_path) -> dict:
    """Two tasks; the file of `stars` has groups, an empty cell, and a row without a label, which is left out."""
    rows = ["the cat runs,0,web", "a dog eats,1,web", "the bird flies,,news", "a fish sleeps,1,news", "the dog runs,2,"]
    (tmp_path / "stars.csv").write_text("text,label,source\n" + "\n".join(rows * 2) + "\n")
    pairs = [f"the cat runs,a dog eats {n},{n}.0,{'old' if n else 'new'}" for n in range(5)]
    (tmp_path / "close.csv").write_text("text,text_pair,label,age\n" + "\n".join(pairs) + "\n")
    close = {"train": "close.csv", "text": ["text", "text_pair"], "symmetric": True}
    training = {"output_dir": str(tmp_path / "out"), "report_to": "none", "disable_tqdm": True, "use_cpu": True}
    return {
        "encoder": encoder_dir,
        "data_dir": str(tmp_path),
        "tasks": {
            "stars": {"labels": 3, "data": {"train": "stars.csv"}},
            "close": {"range": [0, 5], "data": close},
        },
        "training": {**training, "max_steps": 2, "per_device_train_batch_size": 4, "save_strategy": "no"},
        "group_weights": {"columns": {"stars": "source", "close": "age"}},
    }


def test_a_recipe_names_columns_of_files(recipe, capsys):
    weights = mtbert.train(recipe).trainer.methods["group_weights"].weights
    web, news, none = (8 / (3 * count) for count in (4, 2, 2))
    assert weights["stars"].tolist() == pytest.approx([web, web, news, none] * 2)
    new, old = 10 / (2 * 2), 10 / (2 * 8)  # both orders of every pair
    assert weights["close"].tolist() == pytest.approx([new, *[old] * 4] * 2)
    printed = " ".join(capsys.readouterr().out.split())
    assert "Groups of stars (rows × weight): 'web' 4 × 0.667, '(none)' 2 × 1.33, 'news' 2 × 1.33" in printed
    assert "Groups of close (rows × weight): 'old' 8 × 0.625, 'new' 2 × 2.5" in printed


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"stars": "sauce"}, "stars.csv: no column 'sauce'; the columns are .*; did you mean 'source'"),
        ({"close": "text"}, "all training rows of task 'close' are of the group 'the cat runs', so that all weights"),
        ({"stairs": "source"}, r"group_weights.columns.stairs is of no task of the recipe; they are: stars, close"),
        ({}, "group_weights.columns is empty; name the column of at least one task"),
        ({"stars": 3}, "group_weights.columns.stars is 3, but must be the name of a column"),
        ({"stars": ""}, "group_weights.columns.stars is '', but must be the name of a column"),
    ],
)
def test_what_a_recipe_may_not_say(recipe, columns, message):
    recipe["group_weights"] = {"columns": columns}
    recipe["tasks"]["close"]["data"]["symmetric"] = False
    with pytest.raises((RecipeError, InputError), match=message):
        mtbert.train(recipe)


def test_texts_without_labels_have_their_groups_in_the_same_column(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr("mtbert.training.methods.teacher_cache.memory_folder", lambda: tmp_path / "memory")
    (tmp_path / "more.csv").write_text("text,source\nthe fish eats,talk\na cat flies,web\n")
    plain = {key: value for key, value in recipe.items() if key != "group_weights"}
    mtbert.train(plain)
    recipe["training"]["output_dir"] = str(tmp_path / "taught")
    recipe["tasks"]["stars"]["data"]["unlabelled"] = "more.csv"
    recipe["distillation"] = {"teachers": [str(tmp_path / "out")]}
    weights = mtbert.train(recipe).trainer.methods["group_weights"].weights
    web, news, none, talk = (10 / (4 * count) for count in (5, 2, 2, 1))
    assert weights["stars"].tolist() == pytest.approx([*[web, web, news, none] * 2, talk, web])


# ---- Python ----


def test_what_python_may_not_say(make_trainer, grouped, splits):
    with pytest.raises(InputError, match=r"columns names \['sters'\], but the tasks are: stars, same"):
        make_trainer(GroupWeights({"sters": "group"}), grouped("stars"))
    with pytest.raises(InputError, match="columns is .*, but must be a mapping to texts"):
        make_trainer(GroupWeights("group"), grouped("stars"))
    with pytest.raises(InputError, match="power is -1.0, but must be 0 or more"):
        make_trainer(GroupWeights(power=-1.0), grouped("stars"))
    with pytest.raises(InputError, match="no task's training rows have the column 'group'"):
        make_trainer(GroupWeights(), splits()).train()
    with pytest.raises(InputError, match="rows of task 'same' have no column 'group'"):
        make_trainer(GroupWeights({"same": "group"}), grouped("stars")).train()
