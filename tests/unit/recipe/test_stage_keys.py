"""Stages of a recipe: what one may set, what it becomes, and where its mistakes are told."""

import json
import re
from dataclasses import fields, replace

import pytest

from mtbert.recipe import ModelRecipe, Recipe, RecipeError, TaskRecipe, load_recipe, training_arguments_class
from mtbert.recipe.stage_keys import REFUSED_IN_STAGES, STAGE_KEYS, refusal
from mtbert.training.methods import sections

TEXT = """\
encoder: some/encoder
tasks:
  sst:
    data: {text: sentence, train: a.csv, dev: b.csv}
    labels: 2
    weight: 3
  sts:
    data: {text: [first, second], train: c.csv, dev: d.csv}
    range: [0, 5]
training:
  output_dir: out
  learning_rate: 1e-5
stages:
  - model: {freeze_encoder: true}
    training:
      learning_rate: 1e-3
    all_tasks: {weight: 2}
    tasks: {sts: {batch_size: 4}}
  - {}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(TEXT)
    return "x.yaml"


def problems(path: str, *overrides: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return list(caught.value.problems)


def test_a_stage_is_the_recipe_with_its_settings_on_top(path):
    recipe = load_recipe(path)
    first, second = recipe.in_stages()
    assert (first.model.freeze_encoder, second.model.freeze_encoder) == (True, False)
    assert (first.training["learning_rate"], second.training["learning_rate"]) == (1e-3, 1e-5)
    assert [task.weight for task in first.tasks.values()] == [2, 2]
    assert [task.weight for task in second.tasks.values()] == [3, 1]
    assert [task.batch_size for task in first.tasks.values()] == [None, 4]
    for stage in (first, second):
        assert stage.stages == () and stage.training["output_dir"] == "out"
        assert stage.tasks["sst"].spec("sst") == recipe.tasks["sst"].spec("sst")


def test_without_stages_a_recipe_is_its_only_stage(path):
    recipe = load_recipe(path, ["--stages=[]"])
    assert recipe.in_stages() == (recipe,)


def test_stages_are_made_once_and_anew_for_a_recipe_with_another_stage(path):
    recipe = load_recipe(path)
    first, second = recipe.in_stages()
    assert recipe.in_stages()[0] is first and recipe.in_stages()[1] is second
    assert recipe == load_recipe(path) and repr(recipe) == repr(load_recipe(path))
    other = replace(recipe, stages=({"training": {"learning_rate": 1e-2}}, recipe.stages[1]))
    assert other.in_stages()[0].training["learning_rate"] == 1e-2
    assert other.in_stages()[1] == second and recipe.in_stages()[0] is first


def test_to_dict_and_from_dict_keep_the_stages(path):
    recipe = load_recipe(path)
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert again.in_stages() == recipe.in_stages()


def test_the_command_line_reaches_into_a_stage(path):
    overrides = ["--stages.0.training.learning_rate", "2e-3", "--stages.1.model.freeze_encoder=true"]
    first, second = load_recipe(path, [*overrides, "--stages.1.training.lr_scheduler_type=constant"]).in_stages()
    assert (first.training["learning_rate"], first.model.freeze_encoder) == (2e-3, True)
    assert second.model.freeze_encoder is True and second.training["lr_scheduler_type"] == "constant"
    assert load_recipe(path, ["--stages=[{}, {}, {}]"]).stages == ({}, {}, {})


@pytest.mark.parametrize("pattern", REFUSED_IN_STAGES)
def test_keys_of_the_run_are_refused_with_their_reason(path, pattern):
    key = {"model": "model.packed", "tasks": "tasks.sst.dropout", "all_tasks": "all_tasks.pooling"}.get(
        pattern, pattern
    )
    line = next(line for line in problems(path, f"--stages.0.{key}=1") if "may not set" in line)
    expected = rf"command line: stages\.0\.{re.escape(key)} is .*, which a stage may not set: "
    assert re.fullmatch(expected + re.escape(REFUSED_IN_STAGES[pattern]), line)


def test_every_key_is_decided():
    """A new section of recipes, or a new key of a task or a model, is either a stage's or refused with a reason."""
    keys = [(each.name,) for each in fields(Recipe) if each.name not in ("tasks", "model", "training", "methods")]
    keys += [(section,) for section in sections()]
    keys += [("model", each.name) for each in fields(ModelRecipe)]
    keys += [(*task, each.name) for task in (("tasks", "sst"), ("all_tasks",)) for each in fields(TaskRecipe)]
    keys += [("training", each.name) for each in fields(training_arguments_class())]
    assert [key for key in keys if refusal(key) == refusal(("no such key",))] == []
    allowed = {".".join(key).replace("sst", "*") for key in keys if refusal(key) is None}
    for pattern in STAGE_KEYS:
        assert any(key == pattern or key.startswith(f"{pattern}.") for key in allowed), pattern


def test_mistakes_are_told_where_they_stand(path):
    text = TEXT.replace("learning_rate: 1e-3", "learning_rate: fast\n      seed: 3\n      max_step: 2")
    with open(path, "w") as file:
        file.write(text.replace("sts: {batch_size: 4}", "sts: {batch_size: 0}, stt: {weight: 1}"))
    found = problems(path)
    assert "x.yaml:16: stages.0: training.learning_rate is text 'fast', but must be a number" in found
    assert (
        f"x.yaml:17: stages.0.training.seed is 3, which a stage may not set: {REFUSED_IN_STAGES['training.seed']}"
        in found
    )
    assert "x.yaml:18: stages.0: training.max_step = 2: there is no such key; did you mean max_steps?" in found
    assert "x.yaml:20: stages.0: tasks.sts.batch_size is 0, but must be 1 or more" in found
    assert "x.yaml:20: stages.0.tasks.stt.weight: the recipe has no task 'stt'; it has: sst, sts" in found


@pytest.mark.parametrize("tasks", ["3", "[1]", "null"])
def test_stages_beside_tasks_that_are_no_mapping(path, tasks):
    found = problems(path, f"--tasks={tasks}")
    assert any(line.startswith("command line: tasks") for line in found), found


@pytest.mark.parametrize("value", ["3", "{a: 1}", "[1]"])
def test_stages_are_a_list_of_mappings(path, value):
    assert any(line.startswith("command line: stages is ") for line in problems(path, f"--stages={value}"))


def test_a_section_can_not_be_reset_in_a_stage(path):
    line = next(line for line in problems(path, "--stages.1.training=null") if "may not set" in line)
    assert line.endswith("stages.1.training is null, which a stage may not set: write what the stage changes in it")


def test_rules_hold_for_every_stage(path):
    found = problems(path, "--stages.1.schedule.mixed=true", "--stages.1.schedule.name=sequential")
    assert any("stages.1: schedule.mixed is true, which does not go with" in line for line in found)
