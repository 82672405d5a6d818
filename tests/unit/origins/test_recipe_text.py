"""A recipe without its defaults is the same recipe."""

from pathlib import Path

import pytest

from mtbert.origins.recipe_text import DEFAULTS, set_keys
from mtbert.recipe import Recipe, load_recipe

CONFIGS = Path(__file__).resolve().parents[3] / "recipes" / "configs"
SMALL = {
    "encoder": "a/b",
    "tasks": {"stars": {"labels": 3, "data": {"train": "a.csv", "text": "text", "label": "stars"}}},
    "training": {"output_dir": "runs/x"},
}


def test_what_is_left_of_a_small_recipe_is_what_was_written():
    kept = set_keys(Recipe.from_dict(SMALL).to_dict())
    assert kept.pop("schedule") == {"name": "annealed"}
    assert kept["tasks"]["stars"]["data"].pop("text") == ["text"] and kept["tasks"]["stars"].pop("labels")
    assert kept["tasks"] == {"stars": {"data": {"label": "stars", "train": "a.csv"}}}
    assert {key: value for key, value in kept.items() if key != "tasks"} == {
        "encoder": "a/b",
        "training": SMALL["training"],
    }


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml"))[::5], ids=lambda path: path.stem)
def test_recipes_of_the_package_are_the_same_without_their_defaults(path):
    recipe = load_recipe(path, ["--training.output_dir", "runs/x", "--encoder", "a/b"])
    assert Recipe.from_dict(set_keys(recipe.to_dict())) == recipe


def test_values_that_look_like_defaults_but_are_of_another_type_stay():
    assert set_keys({"model": {"packed": 1}, "leaks": "drop", "x": {"y": None}}) == {
        "model": {"packed": 1},
        "leaks": "drop",
    }
    assert DEFAULTS["model"]["packed"] is True
