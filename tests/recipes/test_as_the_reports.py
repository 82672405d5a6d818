"""The recipes of the five reports as they are resolved: what the reports print, and choices where they do not."""

from __future__ import annotations

import re

import pytest

from mtbert.data.sampling import Plan
from mtbert.recipe import load_recipe
from mtbert.runs.bundled import recipes

ROWS = sorted(name for name in recipes() if re.fullmatch(r"cs224n/[A-E]\d+.*", name))


@pytest.fixture(scope="module")
def resolved():
    """A function: row → its recipe."""
    made = {}

    def resolve(row: str):
        if row not in made:
            overrides = ["--encoder", "e", "--data_dir", "d", "--training.output_dir", "o"]
            made[row] = load_recipe(recipes()[f"cs224n/{row}"], overrides)
        return made[row]

    return resolve


def comment(row: str) -> str:
    lines = recipes()[f"cs224n/{row}"].read_text().splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", ROWS)
def test_no_report_clips_gradients(resolved, name):
    recipe = resolved(name.removeprefix("cs224n/"))
    assert recipe.training["max_grad_norm"] == 0
    assert recipe.pretraining is None or recipe.pretraining_arguments().max_grad_norm == 0


@pytest.mark.parametrize("name", ROWS)
def test_token_types_are_zeros_but_in_e10_and_e12(resolved, name):
    row = name.removeprefix("cs224n/")
    assert {task.token_types for task in resolved(row).tasks.values()} == {row in ("E10", "E12")}


@pytest.mark.parametrize(("row", "frozen"), [("C1", True), ("C1-full", False), ("C2", False)])
def test_report_c_trains_all_models_with_one_rate_batch_and_length(resolved, row, frozen):
    recipe = resolved(row)
    training = [recipe.training[key] for key in ("learning_rate", "per_device_train_batch_size", "num_train_epochs")]
    assert training == [1e-5, 32, 20]
    assert recipe.model.freeze_encoder is frozen


def test_c1_is_run_both_ways_and_says_so(resolved):
    frozen, full = (resolved(row).to_dict() for row in ("C1", "C1-full"))
    frozen["model"]["freeze_encoder"] = False
    assert frozen == full
    assert "only the last linear layer" in comment("C1") and "C1-full" in comment("C1") and ".505" in comment("C1")


@pytest.mark.parametrize(("row", "batch"), [("B4", 16), ("B5", 16)])
def test_smart_is_that_of_the_public_library(resolved, row, batch):
    """A perturbation of norm about 1; KL summed over the rows: 0.02 · batch of our mean over the rows."""
    recipe = resolved(row)
    first, second = recipe.in_stages()
    assert first.smart is None and first.model.freeze_encoder
    assert (second.smart.projection, second.smart.radius, second.smart.step_size) == ("published", 1e-6, 1e-3)
    assert second.smart.weight == pytest.approx(0.02 * batch) and second.smart.scale == "labels"
    assert recipe.training["per_device_train_batch_size"] == batch
    assert second.proximal.weight == 1 and "The library has no proximal point" in comment("B4")


def test_the_comparison_of_smart_has_both_projections():
    both = [
        load_recipe(recipes()[f"compare/{name}"], ["--encoder", "e", "--training.output_dir", "o"]).smart
        for name in ("smart", "smart_published")
    ]
    assert [(smart.projection, smart.radius, smart.scale) for smart in both] == [
        ("ball", 1e-5, "range"),
        ("published", 1e-6, "labels"),
    ]


def test_surgery_of_b5_averages_the_projected_gradients(resolved):
    _, second = resolved("B5").in_stages()
    assert (second.surgery.method, second.surgery.reduction) == ("pcgrad", "mean")
    assert "averages the projected gradients" in comment("B5")


def test_an_epoch_of_b5_draws_as_many_rows_as_one_of_b4(resolved):
    rows = (8544, 14212, 6040)
    drawn = []
    for row in ("B4", "B5"):
        recipe = resolved(row)
        plan = Plan(recipe.schedule, tuple(recipe.tasks), rows, recipe.training["per_device_train_batch_size"], 1)
        drawn.append(int(plan.epoch_rows(0).sum()))
    assert drawn[0] == sum(rows) and 0 <= drawn[1] - drawn[0] < 3 * 16
    assert "Not stated: the length of an epoch" in comment("B5")


def test_the_decoders_of_d5_have_no_activation(resolved):
    for task in resolved("D5").tasks.values():
        assert (task.head.type, task.head.layers, task.head.activation) == ("attention", 1, "identity")


def test_the_heads_of_c2(resolved):
    heads = {name: task.head for name, task in resolved("C2").tasks.items()}
    assert {name: (head.type, head.layers, head.activation) for name, head in heads.items()} == {
        "sst": ("mlp", 2, "identity"),
        "para": ("mlp", 2, "identity"),
        "sts": ("cosine", 3, "identity"),
    }
    assert heads["para"].features == "u;v;|u-v|" and heads["sts"].output == "relu"
    assert "default project" in comment("C2")


def test_c2_draws_its_examples_once(resolved):
    recipe = resolved("C2")
    assert {(task.data.sample, task.data.sample_seed) for task in recipe.tasks.values()} == {(1000, 0)}
    assert {task.examples_per_epoch for task in recipe.tasks.values()} == {None}


@pytest.mark.parametrize("row", ["E7", "E8", "E9", "E10", "E12", "E13"])
def test_mlm_sees_every_sentence_as_often_as_it_occurs(resolved, row):
    arguments = resolved(row).pretraining_arguments()
    assert arguments.remove_duplicates is False and arguments.num_train_epochs == 40
    assert arguments.use_epoch == {"E8": 18, "E9": 40, "E13": 40}.get(row, 3)


@pytest.mark.parametrize("row", ["D2", "D3", "D4", "D5"])
def test_report_d_samples_each_epoch_anew_and_averages_by_raw_mean(resolved, row):
    recipe = resolved(row)
    assert recipe.schedule.resample and recipe.training["metric_for_best_model"] == "eval_raw_mean"


@pytest.mark.parametrize("row", ["D1-sst", "D1-para", "D1-sts"])
def test_single_task_models_of_report_d_see_all_rows(resolved, row):
    recipe = resolved(row)
    assert not recipe.schedule.resample and recipe.schedule.steps_per_epoch is None


@pytest.mark.parametrize("row", ["D4", "D5"])
def test_weight_decay_of_each_task_is_a_stated_choice(resolved, row):
    assert {task.weight_decay for task in resolved(row).tasks.values()} == {0.01}
    assert "Not stated: the values of weight decay" in comment("D4")


def test_every_choice_that_a_report_leaves_open_is_named():
    for row in ("A4", "B1", "B4", "B5", "C1", "C2", "D2", "D4", "D5"):
        assert re.search(r"Not stated", comment(row)), row
