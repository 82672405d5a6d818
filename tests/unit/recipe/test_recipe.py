"""Recipes are read from YAML into a typed tree, with those that they inherit from."""

import json
import re

import pytest
from written_recipes import GOOD, only_problem, problems

from mtbert.data.sampling import Schedule
from mtbert.data.spec import DataSpec
from mtbert.modeling.task_spec import HeadSpec, TaskSpec
from mtbert.recipe import (
    ModelRecipe,
    Recipe,
    RecipeError,
    TaskRecipe,
    load_recipe,
    training_arguments_class,
)
from mtbert.recipe.fields import defaults, known_fields
from mtbert.training.arguments import TaskTraining

# Each line stands for three of the one before.
LAUGHS = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl"))


def test_a_recipe_is_a_typed_tree(write):
    recipe = load_recipe("good.yaml")
    assert recipe.encoder == "some/encoder"
    assert list(recipe.tasks) == ["sst", "sts"]
    assert recipe.tasks["sst"].labels == ("no", "yes")
    assert recipe.tasks["sts"].data == DataSpec(text=("first", "second"), train="c.csv", dev="d.csv")
    assert recipe.schedule == Schedule() and recipe.model == ModelRecipe()
    assert recipe.training == {"output_dir": "out", "learning_rate": 1e-5}


def test_spec_and_training_of_a_task(write):
    recipe = load_recipe("good.yaml", ["--tasks.sts.weight", "2", "--tasks.sts.pair=siamese"])
    expected = TaskSpec("sts", range=(0, 5), texts=2, pair="siamese")
    assert recipe.tasks["sts"].spec("sts") == expected
    assert recipe.tasks["sts"].training() == TaskTraining(weight=2)


def test_task_recipe_has_the_fields_and_defaults_of_its_parts():
    own = defaults(TaskRecipe)
    for part, left_out in ((TaskSpec, {"name", "texts", "calibration"}), (TaskTraining, set())):
        for name, default in defaults(part).items():
            if name not in left_out:
                assert own[name] == default, name
                assert known_fields(TaskRecipe)[name] == known_fields(part)[name], name


def test_to_dict_is_json_and_from_dict_its_inverse(write):
    recipe = load_recipe(
        "good.yaml", ["--training.lr_scheduler_kwargs", "{num_cycles: 2}", "--tasks.sst.head.layers=0"]
    )
    tree = json.loads(json.dumps(recipe.to_dict()))
    assert tree == recipe.to_dict()
    before = json.dumps(tree)
    assert Recipe.from_dict(tree) == recipe
    assert json.dumps(tree) == before


def test_training_arguments(write, tmp_path):
    arguments = load_recipe("good.yaml").training_arguments(use_cpu=True, report_to="none")
    assert isinstance(arguments, training_arguments_class())
    assert (arguments.learning_rate, arguments.output_dir) == (1e-5, "out")
    with pytest.raises(RecipeError, match="training: At most one of fp16 and bf16"):
        load_recipe("good.yaml").training_arguments(use_cpu=True, fp16=True, bf16=True)


# ---- YAML ----


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("2E3", 2000.0), (".5", 0.5), ("3", 3), ("-1", -1), ("010", "010"), ("no", "no"), ("on", "on")]
    + [("2020-01-02", "2020-01-02"), ("1:30", "1:30"), ("true", True), ("null", None), ("", None), ("'1'", "1")],
)
def test_plain_scalars_are_those_of_yaml_1_2(write, text, value):
    path = write("x.yaml", GOOD + f"  lr_scheduler_kwargs: {{key: {text}}}\n")
    found = load_recipe(path).training["lr_scheduler_kwargs"]["key"]
    assert found == value and type(found) is type(value)


def test_anchors_and_merge_keys(write):
    path = write("x.yaml", GOOD + "all_tasks: &common {dropout: 0.2}\nmodel:\n  <<: {packed: false}\n")
    recipe = load_recipe(path)
    assert recipe.tasks["sst"].dropout == 0.2 and recipe.model.packed is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", r"^x\.yaml:2: no valid YAML: "),
        ("a: 'x\n", r"^x\.yaml:2: no valid YAML: "),
        ("a: !!python/object:os.system x\n", r"^x\.yaml:1: no valid YAML: could not determine a constructor"),
        ("encoder: a\nmodel: {packed: true}\nencoder: b\n", r"^x\.yaml:3: encoder is given twice, first in line 1$"),
        ("model:\n  packed: true\n  packed: true\n", r"^x\.yaml:3: model\.packed is given twice, first in line 2$"),
        ("tasks:\n  1: {}\n", r"^x\.yaml:2: the key 1 is read as int, but must be text; quote it$"),
        ("model: &a {packed: *a}\n", r"^x\.yaml:1: model\.packed is an alias of what it stands in$"),
        ("model: &a {<<: *a}\n", r"^x\.yaml:1: model\.<< is an alias of what it stands in$"),
        ("a: &a [*b]\n", r"^x\.yaml:1: no valid YAML: found undefined alias 'b'$"),
        (LAUGHS, r"^x\.yaml:\d: no valid YAML: its aliases stand for more than 100,000 values, here in j\..*less$"),
        ("[" * 3000, r"^x\.yaml: no valid YAML: its values lie too deep in each other; write fewer levels$"),
        ("\n? [a]\n: b\n", r"^x\.yaml:2: a key is read as seq, but must be text; quote it$"),
        ("model:\n  <<: {1: 2}\n", r"^x\.yaml:2: the key 1 is read as int, but must be text; quote it$"),
        ("a: !!set {b}\n", r"^x\.yaml:1: no valid YAML: could not determine a constructor for the tag .*set"),
        ("a: !!binary eA==\n", r"^x\.yaml:1: no valid YAML: could not determine a constructor for the tag .*binary"),
        ("a:\n  !!int x\n", r"^x\.yaml:2: no valid YAML: text 'x' can not be read as int; write another value"),
        ("a: !!bool x\n", r"^x\.yaml:1: no valid YAML: text 'x' can not be read as bool; write another"),
        ("a: " + "9" * 5000, r"^x\.yaml:1: no valid YAML: text '9{299}… can not be read as int; write another"),
        ("a: b\0", r"^x\.yaml: no valid YAML: unacceptable character #x0000"),
        (
            "a: b\n---\na: c\n",
            r"^x\.yaml:2: no valid YAML: expected a single document in the stream, but found another",
        ),
        ('base: "a\\0"\n', r"^x\.yaml:1: base is 'a\\x00', but there is no file a"),
        (
            f"base: {'a' * 5000}\n",
            r"^x\.yaml:1: base is 'a+ … \(5,0.*\) … a+', but there is no file a+ … .* … a+$",
        ),
        ("[1, 2]\n", r"^x\.yaml: a recipe must be a mapping of keys to values, but this is \[1, 2\]$"),
        ("base: [a]\n", r"^x\.yaml:1: base is \['a'\], but must be the path of a recipe$"),
        ("base: gone.yaml\n", r"^x\.yaml:1: base is 'gone\.yaml', but there is no file gone\.yaml$"),
    ],
)
def test_files_that_cannot_be_read(write, text, message):
    assert re.search(message, only_problem(write("x.yaml", text)))


def test_missing_and_undecodable_files(write, tmp_path):
    assert only_problem("gone.yaml") == "gone.yaml: cannot be read: No such file or directory"
    (tmp_path / "latin.yaml").write_bytes("encoder: é".encode("latin-1"))
    assert only_problem("a\0.yaml").endswith(".yaml: cannot be read: no name of a file: embedded null byte")
    assert only_problem("latin.yaml") == "latin.yaml: cannot be read: no UTF-8 text"


def test_several_repeated_keys_are_told_together(write):
    path = write("x.yaml", "encoder: a\nencoder: b\ndata_dir: a\ndata_dir: b\n")
    assert len(problems(path)) == 2


# ---- inheritance ----


def test_base_chain_merges_mappings_and_replaces_lists(write):
    write("sub/middle.yaml", "base: ../good.yaml\ntasks: {sst: {dropout: 0.3}}\ntraining: {max_steps: 7}\n")
    path = write("sub/top.yaml", "base: middle.yaml\ntasks: {sst: {labels: [a, b, c]}}\ntraining: {max_steps: 9}\n")
    recipe = load_recipe(path)
    assert recipe.tasks["sst"].labels == ("a", "b", "c")
    assert recipe.tasks["sst"].dropout == 0.3
    assert recipe.tasks["sst"].data.label == "sentiment"
    assert recipe.training == {"output_dir": "out", "learning_rate": 1e-5, "max_steps": 9}


def test_null_drops_a_task_and_resets_what_it_names(write):
    write("middle.yaml", "base: good.yaml\ntasks: {sst: null}\ndata_dir: data\nmodel: {packed: false}\n")
    recipe = load_recipe(write("top.yaml", "base: middle.yaml\ndata_dir: null\nmodel: null\n"))
    assert list(recipe.tasks) == ["sts"]
    assert recipe.data_dir is None and recipe.model == ModelRecipe()


def test_a_null_task_must_be_in_the_base(write):
    path = write("x.yaml", "base: good.yaml\ntasks:\n  stt: null\n")
    expected = "x.yaml:3: tasks.stt is null, which drops a task of the base, but the base has none of that name"
    assert only_problem(path) == expected


def test_a_circle_of_bases_is_named(write):
    write("a.yaml", "base: sub/b.yaml\n")
    write("sub/b.yaml", "base: ../a.yaml\n")
    assert only_problem("a.yaml") == "sub/b.yaml:1: base goes round in a circle: a.yaml → sub/b.yaml → a.yaml"


def test_a_problem_names_the_file_that_sets_the_key(write):
    write("middle.yaml", "base: good.yaml\nall_tasks:\n  dropout: 1.5\nschedule: {name: fastest}\n")
    path = write("top.yaml", "base: middle.yaml\nencoder: 3\ntasks:\n  sst:\n    max_length: 1\n")
    found = problems(path, "--tasks.sts.head.layers", "-1")
    assert "top.yaml:2: encoder is 3, but must be text" in found
    assert "top.yaml:5: tasks.sst.max_length is 1, but must be 3 or more" in found
    assert "middle.yaml:3: all_tasks.dropout is 1.5, but must be in [0, 1)" in found
    assert any(line.startswith("middle.yaml:4: schedule.name is 'fastest', but must be one of: prop") for line in found)
    assert "command line: tasks.sts.head.layers is -1, but must be 0 or more" in found
    assert len(found) == 5


def test_a_list_of_names_keeps_these_tasks_of_the_base(write):
    path = write("x.yaml", "base: good.yaml\ntasks: [sts]\n")
    assert list(load_recipe(path).tasks) == ["sts"]
    for overrides in (["--tasks", "[sst]"], ["--tasks=[sst]"], {"tasks": ["sst"]}):
        recipe = load_recipe("good.yaml", overrides)
        assert list(recipe.tasks) == ["sst"] and recipe.tasks["sst"] == load_recipe("good.yaml").tasks["sst"]
    both = load_recipe("good.yaml", ["--tasks", "[sts, sst]", "--tasks.sst.weight", "2"])
    assert list(both.tasks) == list(load_recipe("good.yaml").tasks) and both.tasks["sst"].weight == 2
    assert list(load_recipe(write("y.yaml", "base: x.yaml\ntraining: {seed: 1}\n")).tasks) == ["sts"]
    assert Recipe.from_dict(load_recipe(path).to_dict()) == load_recipe(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--tasks=[sts, stt]", "tasks keeps 'stt', but the base has: sst, sts; name some of these"),
        ("--tasks=[]", "tasks is an empty list, which keeps none of: sst, sts; name one or more"),
        ("--tasks=[1]", "tasks keeps 1, but the base has: sst, sts; name some of these"),
        ("--tasks=[{sst: 1}]", "tasks keeps {'sst': 1}, but the base has"),
    ],
)
def test_a_list_of_tasks_names_those_of_the_base(write, override, message):
    assert message in only_problem("good.yaml", override)


def test_a_list_of_tasks_needs_a_base(write):
    path = write("x.yaml", "encoder: e\ntasks: [sst]\ntraining: {output_dir: o}\n")
    assert only_problem(path).startswith("x.yaml:2: tasks is a list of names, which keeps tasks of the base, but there")
    write("middle.yaml", "base: good.yaml\ntasks: {sst: null}\n")
    path = write("top.yaml", "base: middle.yaml\ntasks: [sst]\n")
    assert "tasks keeps 'sst', but the base has: sts" in only_problem(path)


def test_a_task_redefined_after_a_null_forgets_its_old_lines(write):
    write("middle.yaml", "base: good.yaml\ntasks: {sst: null}\n")
    path = write("top.yaml", "base: middle.yaml\ntasks:\n  sst: {labels: 2}\n")
    assert only_problem(path).startswith("top.yaml:3: tasks.sst.data.train is missing")


def test_all_tasks_lies_under_every_task(write):
    text = GOOD.replace("    range:", "    dropout: 0.4\n    head: {type: mlp}\n    range:")
    path = write("x.yaml", text + "all_tasks: {dropout: 0.2, head: {layers: 1, type: attention}}\n")
    recipe = load_recipe(path, ["--all_tasks.pooling", "mean"])
    assert [task.dropout for task in recipe.tasks.values()] == [0.2, 0.4]
    assert recipe.tasks["sts"].head == HeadSpec(type="mlp", layers=1)
    assert {task.pooling for task in recipe.tasks.values()} == {"mean"}
