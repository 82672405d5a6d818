"""A recipe's data and tokenizer: what is wrong with any of them is told at once, before any work."""

from __future__ import annotations

import json

import pytest
from families import family_config
from transformers import AutoModel

from mtbert.recipe import Recipe, RecipeError, load_data, load_tokenizer
from mtbert.recipe.preflight import check_model


def recipe(folder, **files) -> Recipe:
    tasks = {}
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
        tasks[name] = {"labels": ["bad", "good"], "data": {"train": f"{name}.csv"}}
    tree = {"encoder": str(folder), "data_dir": str(folder), "tasks": tasks, "training": {"output_dir": "out"}}
    return Recipe.from_dict(json.loads(json.dumps(tree)))


def test_data_of_every_task(tmp_path):
    loaded = load_data(recipe(tmp_path, a="text,label\nx,bad\n", b="text,label\ny,good\n"))
    assert {name: task.splits["train"]["text"][:] for name, task in loaded.items()} == {"a": ["x"], "b": ["y"]}


def test_the_problems_of_all_tasks_come_at_once(tmp_path):
    given = recipe(tmp_path, a="text,label\nx,sad\n", b="text,label\nx,bad\n", c="text,label\nx,bad,1\n")
    (tmp_path / "b.csv").unlink()
    with pytest.raises(RecipeError) as error:
        load_data(given)
    first, second, third = error.value.problems
    assert "task 'a', train split" in first and "row 1: 'sad'; labels must be one of: bad, good" in first
    assert "task 'b': data.train" in second and "there is no such file" in second
    assert "c.csv can not be read as csv: " in third and "has 3 fields, but the header names 2" in third


def test_an_encoder_without_a_tokenizer(tmp_path):
    with pytest.raises(RecipeError, match=f"encoder is '{tmp_path}', whose tokenizer can not be loaded: "):
        load_tokenizer(recipe(tmp_path, a="text,label\nx,bad\n"))


@pytest.mark.parametrize(
    ("family", "key", "value", "problems"),
    [
        ("bert", "attention_dropout", 0.2, []),
        ("fnet", "attention_dropout", 0.2, ["attention_dropout is 0.2, but 'fnet' enc"]),
        ("bert", "reinitialized_layers", 1, []),
        ("bert", "reinitialized_layers", 9, ["model.reinitialized_layers is 9, but the 'bert' encoder has "]),
    ],
)
def test_an_encoder_without_what_the_recipe_changes(family, key, value, problems, tmp_path, tokenizer):
    AutoModel.from_config(family_config(family)).save_pretrained(tmp_path)
    tree = recipe(tmp_path, a="text,label\nx,bad\n").to_dict()
    given = Recipe.from_dict(tree | {"model": {key: value}})
    found = []
    try:
        check_model(given, tokenizer)
    except RecipeError as error:
        found = error.problems
    assert [line[: len(start)] for line, start in zip(found, problems, strict=True)] == problems
