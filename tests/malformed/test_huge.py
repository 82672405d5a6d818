"""Recipes and configs with values of any size: each is read or refused within ten million Python calls and 500 MB."""

from __future__ import annotations

import copy
import json
from contextlib import suppress

import pytest
import yaml
from hypothesis import given, strategies as st
from malformed import GOOD, places, tries

from mtbert import MtBertConfig, MtBertForMultiTask, TaskSpec
from mtbert.recipe import Recipe, RecipeError, load_recipe

CALLS = 10_000_000  # of Python: a hundred for each of the 100,000 values that the largest may hold


def nested(value, levels: int):
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


HUGE = st.one_of(
    st.integers(3, 40).map(lambda power: 10**power),
    st.integers(3, 18).map(lambda power: -(10**power)),
    st.sampled_from([2**31 - 1, 2**31, 2**63 - 1, 2**64, 1e300, 65_536, 10_000_000, 999_999, "9" * 6000]),
    st.builds(
        lambda text, power: text * 10**power, st.sampled_from(["a", "\U0001f600", "\n", "{", "%"]), st.integers(2, 6)
    ),
    st.builds(lambda item, power: [item] * 10**power, st.sampled_from(["x", 0, None, {}, []]), st.integers(2, 5)),
    st.integers(2, 5).map(lambda power: [f"name {number}" for number in range(10**power)]),
    st.integers(2, 5).map(lambda power: {f"key{number}": number for number in range(10**power)}),
    st.builds(nested, st.integers(), st.sampled_from([20, 99, 101, 400])),
)


@st.composite
def swollen(draw, tree: dict) -> dict:
    """A tree of which up to three values are huge."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        node, path = tree, draw(st.sampled_from(places(tree)[:200]))
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = draw(HUGE)
    return tree


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("huge") / "recipe.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    with suppress(RecipeError):  # what is imported at the first is not counted
        load_recipe(path, ()).training_arguments(use_cpu=True)
    return path


@tries(25, shrink=False)
@given(tree=swollen(GOOD))
def test_recipes(tally, recipe_file, tree):
    recipe_file.write_text(json.dumps(tree))  # which is YAML, and written a hundred times faster
    limits = {"allowed": (RecipeError,), "calls": CALLS}
    recipe = tally.judge(lambda: load_recipe(recipe_file, ()), str(recipe_file), **limits)
    for stage in recipe.in_stages() if isinstance(recipe, Recipe) else ():
        tally.judge(lambda stage=stage: stage.training_arguments(use_cpu=True), "training", **limits)


@tries(25, shrink=False)
@given(path=st.sampled_from([".".join(map(str, path)) for path in places(GOOD)]), value=HUGE)
def test_command_lines(tally, recipe_file, path, value):
    recipe_file.write_text(json.dumps(GOOD))
    argument = f"--{path}={json.dumps(value)}"[:131_071]  # no argument of Linux is longer
    places = str(recipe_file), "command line"
    tally.judge(lambda: load_recipe(recipe_file, [argument]), *places, allowed=(RecipeError,), calls=CALLS)


@pytest.fixture(scope="module")
def checkpoint(encoder_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swollen")
    tasks = [TaskSpec("stars", labels=["bad", "good"]), TaskSpec("close", range=(0, 5), texts=2, pair="siamese")]
    MtBertForMultiTask.from_encoder(encoder_dir, tasks, adapter={"size": 12}).save_pretrained(folder)
    MtBertForMultiTask.from_pretrained(folder)
    return folder, json.loads((folder / "config.json").read_text())


@tries(25, shrink=False)
@given(data=st.data())
def test_configs(tally, checkpoint, data):
    """Read by itself, and with the weights that it does not describe."""
    folder, config = checkpoint
    (folder / "config.json").write_text(json.dumps(data.draw(swollen(config))))
    tally.judge(lambda: MtBertConfig.from_pretrained(folder), allowed=(ValueError, OSError), calls=CALLS)
    tally.judge(lambda: MtBertForMultiTask.from_pretrained(folder), str(folder), calls=CALLS)
