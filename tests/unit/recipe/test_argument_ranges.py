"""Every range of a training argument: its ends work, what lies beyond them is refused with the key and the range."""

import json
import re

import pytest

from mtbert.recipe import Recipe, RecipeError, pretraining_arguments_class, training_arguments_class
from mtbert.recipe.fields import known_fields
from mtbert.training.distributed.feasible import RANGES

BEYOND = {"1 or more": (0, 1), "0 or more": (-1, 0), "in [0, 1)": (1.0, 0.0), "in 0 … 4294967295": (2**32, 2**32 - 1)}
CLASSES = {"training": training_arguments_class(), "pretraining": pretraining_arguments_class()}
SHARED = ("cpu_threads", "ddp_timeout")  # are refused in pretraining whatever their value


def recipe(section: str, **values) -> Recipe:
    task = {"labels": 2, "data": {"train": "a.csv", "dev": "b.csv"}}
    tree = {"encoder": "some/encoder", "tasks": {"one": task}, "training": {"output_dir": "out"}}
    tree.setdefault(section, {}).update(values)
    return Recipe.from_dict(json.loads(json.dumps(tree)))


CASES = [(section, key) for section, cls in CLASSES.items() for key in RANGES if key in known_fields(cls)]


@pytest.mark.parametrize(
    ("section", "key"), [case for case in CASES if case not in [("pretraining", k) for k in SHARED]]
)
def test_a_value_beyond_its_range_is_refused(section, key):
    rule = RANGES[key][1]
    beyond, last = BEYOND[rule]
    needs = {"training": {"early_stopping_patience": {"metric_for_best_model": "overall", "eval_strategy": "epoch"}}}
    more = needs.get(section, {}).get(key, {})
    with pytest.raises(RecipeError) as error:
        recipe(section, **more, **{key: beyond})
    assert f"recipe: {section}.{key} is {beyond!r}, but must be {rule}" in error.value.problems
    if section == "training" or key != "num_train_epochs":  # whose own rule is stricter
        recipe(section, **more, **{key: last})


def test_every_range_belongs_to_a_key():
    assert set(RANGES) == {key for _, key in CASES}
    assert {rule for _, rule in RANGES.values()} == set(BEYOND)


def test_null_is_no_value(tmp_path):
    assert recipe("training", data_seed=None, cpu_threads=None).training["data_seed"] is None


def test_a_stage_is_checked_too():
    with pytest.raises(RecipeError, match=r"training.learning_rate is -1, but must be 0 or more"):
        tree = recipe("training").to_dict()
        Recipe.from_dict(tree | {"stages": [{"training": {"learning_rate": -1}}, {}]})


@pytest.mark.parametrize(("section", "key"), CASES)
def test_python_refuses_it_too(section, key, tmp_path):
    rule = RANGES[key][1]
    for value in (BEYOND[rule][0], float("nan")):
        with pytest.raises(ValueError, match=re.escape(f"{key} is {value!r}, but must be {rule}")):
            CLASSES[section](output_dir=str(tmp_path), use_cpu=True, **{key: value})
