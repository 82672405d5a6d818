"""`mtbert.train` does what `mtbert finetune` does, and gives back the trainer and the scores."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

import mtbert
from mtbert import MtBertForMultiTask, TrainResult
from mtbert.cli import finetune
from mtbert.errors import RecipeError
from mtbert.recipe import Recipe, load_recipe

TEXTS = ["the cat runs", "a dog eats the fish"]


@pytest.fixture
def tree(tmp_path, monkeypatch, encoder_dir) -> dict:
    """A recipe of two tasks as a mapping; the current folder is an empty one."""
    monkeypatch.chdir(tmp_path)
    Path("rows.csv").write_text("text,label\n" + "the cat runs,0\na dog eats,1\n" * 4)
    data = {"train": "rows.csv", "dev": "rows.csv"}
    return {
        "encoder": encoder_dir,
        "tasks": {"one": {"labels": 2, "data": data}, "two": {"labels": 2, "data": data}},
        "training": {
            **{"output_dir": "out", "max_steps": 2, "learning_rate": 1e-3, "report_to": "none", "use_cpu": True},
            **{"disable_tqdm": True, "cpu_threads": 1},
        },
    }


def weights(folder: str) -> dict[str, np.ndarray]:
    return {name: each.numpy() for name, each in load_file(f"{folder}/model.safetensors").items()}


def logits(model) -> dict[str, np.ndarray]:
    return {name: each.logits for name, each in model.predict(TEXTS, tasks="all").items()}


def words(printed: str) -> str:
    """What was printed without numbers, of which times and memory differ, and the blanks that their lengths cost."""
    return " ".join(re.sub(r"[\d.e-]*\d", "", printed).split())


def assert_equal(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, each in wanted.items():
        np.testing.assert_array_equal(found[name], each, err_msg=name)


def test_the_command_and_train_give_the_same_files_and_print_the_same(tree, capsys):
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    finetune.main(["recipe.yaml"])
    printed = words(capsys.readouterr().out)
    Path("out").rename("command")
    result = mtbert.train("recipe.yaml")
    assert words(capsys.readouterr().out) == printed and "The model is in out" in printed
    assert_equal(weights("out"), weights("command"))
    assert result.scores == json.loads(Path("out/scores.json").read_text())
    assert result.trainer.state.global_step == 2


def test_a_file_a_mapping_and_a_recipe_train_the_same_twice_in_one_process(tree):
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    forms = {"file": "recipe.yaml", "path": Path("recipe.yaml"), "mapping": tree, "recipe": Recipe.from_dict(tree)}
    for name, recipe in forms.items():
        result = mtbert.train(recipe, {"training.output_dir": Path("runs", name)})
        assert isinstance(result, TrainResult) and result.scores["eval_one_accuracy"] >= 0
        assert_equal(weights(f"runs/{name}"), weights("runs/file"))


def test_overrides_are_keys_with_values_or_arguments(tree):
    two = mtbert.train(tree, overrides={"training.max_steps": 1, "tasks.two": None, "tasks.one.labels": ["0", "1"]})
    assert two.trainer.state.global_step == 1 and [task.name for task in two.trainer.tasks] == ["one"]
    one = load_recipe(tree, ["--training.max_steps", "1", "--tasks.two=null", "--tasks.one.labels=['0', '1']"])
    assert one == load_recipe(tree, {"training.max_steps": 1, "tasks.two": None, "tasks.one.labels": ("0", "1")})
    assert one.to_dict() == json.loads(Path("out/recipe.json").read_text())


def test_a_mapping_may_have_a_base_and_settings_of_python(tree):
    Path("recipe.yaml").write_text(yaml.safe_dump(tree))
    settings = {"surgery": mtbert.Surgery(), "schedule": mtbert.Schedule("simultaneous")}
    found = load_recipe({"base": "recipe.yaml", **settings})
    other = ["--surgery.method=pcgrad", "--schedule.name=simultaneous"]
    assert found.to_dict() == load_recipe("recipe.yaml", other).to_dict()


@pytest.mark.parametrize(
    ("recipe", "overrides", "message"),
    [
        ("gone.yaml", (), r"^gone.yaml: cannot be read: No such file or directory$"),
        (3, (), r"^a recipe must be a YAML file's path, a mapping of keys to values or a Recipe, but is of "),
        (None, {"training.max_step": 3}, r"^overrides: training.max_step = 3: there is no such key; did you"),
        (None, {"tasks.one.weight": "much"}, r"^overrides: tasks.one.weight is text 'much', but must be"),
        (None, {"training": {"seed": -1}, "loss.weighting": 1}, r"loss.weighting is 1(.|\n)*training.seed is -1"),
        (None, ["training.max_steps", "3"], r"^command line: 'training.max_steps' belongs to no --key; write"),
        (None, "--training.max_steps 3", r"^overrides is text .* write \{'training.max_steps': 50\} or \['--training."),
        (None, [3], r"^overrides is \[3\], but must map keys to values, or list arguments"),
        (None, {"tasks.one.data.train": "gone.csv"}, r"gone.csv"),
    ],
)
def test_what_is_wrong_is_one_recipe_error(tree, recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        mtbert.train(tree if recipe is None else recipe, overrides)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"peft": {"target_modules": ["query"]}},
        {"averaging": {"decay": 0.5}},
        {"stages": [{}, {"training": {"max_steps": 1}}]},
    ],
    ids=["plain", "peft", "averaging", "stages"],
)
def test_the_model_predicts_at_once_what_its_folder_predicts(tree, changes, encoder_dir):
    tree |= changes
    result = mtbert.train(tree, {"training.save_strategy": "steps", "training.save_steps": 1})
    trained = logits(result.trainer.model)
    result.trainer.model.save_pretrained("copy")
    for folder in ("out", "copy"):
        if "peft" not in changes:
            assert_equal(logits(MtBertForMultiTask.from_pretrained(folder)), trained)
        assert Path(folder, "tokenizer.json").is_file()
    # a run that has ended gives the same model and scores, and leaves its folder as it is
    before = {file: file.stat().st_mtime_ns for file in Path("out").rglob("*")}
    again = mtbert.train(
        tree,
        {"training.save_strategy": "steps", "training.save_steps": 1, "training.resume_from_checkpoint": "auto"},
    )
    assert_equal(logits(again.trainer.model), trained)
    assert again.scores == result.scores
    assert again.trainer.state.global_step == result.trainer.state.global_step
    assert {file: file.stat().st_mtime_ns for file in Path("out").rglob("*")} == before
