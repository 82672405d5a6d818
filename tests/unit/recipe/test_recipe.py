"""Recipes: reading, inheritance, overrides, types, rules, and that every problem is told at once."""

import json
import re
from dataclasses import asdict, fields, is_dataclass

import pytest
import yaml

from mtbert.data.sampling import Schedule
from mtbert.data.splits import DataSpec
from mtbert.model_card import CardSettings
from mtbert.modeling.configuration_mtbert import AdapterSpec, HeadSpec, TaskSpec
from mtbert.recipe import (
    COMBINATIONS,
    REFUSED_PRETRAINING,
    REFUSED_TRAINING,
    ModelRecipe,
    Recipe,
    RecipeError,
    TaskRecipe,
    help_text,
    load_recipe,
    pretraining_arguments_class,
    training_arguments_class,
)
from mtbert.recipe.fields import defaults, documentation, known_fields
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods import REGISTRY, sections
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings

GOOD = """\
encoder: some/encoder
tasks:
  sst:
    data: {text: sentence, label: sentiment, train: a.csv, dev: b.csv}
    labels: [no, yes]
  sts:
    data: {text: [first, second], train: c.csv, dev: d.csv}
    range: [0, 5]
training:
  output_dir: out
  learning_rate: 1e-5
"""
# Each line stands for three of the one before.
LAUGHS = "a: &a [x, x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijk", "bcdefghijkl"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a recipe file into the current folder, which is empty at first."""
    monkeypatch.chdir(tmp_path)

    def write_file(name: str, text: str) -> str:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return name

    write_file("good.yaml", GOOD)
    return write_file


def problems(path: str, *overrides: str) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    assert str(caught.value).splitlines() == list(caught.value.problems)
    return caught.value.problems


def only_problem(path: str, *overrides: str) -> str:
    (line,) = problems(path, *overrides)
    return line


# ---- what a good recipe becomes ----


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
    for part, left_out in ((TaskSpec, {"name", "texts"}), (TaskTraining, set())):
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


# ---- the command line ----


def test_from_cli(write):
    argv = ["--encoder", "folder", "good.yaml", "--data_dir=D", "--training.max_steps", "50", "--tasks.sst.weight=2"]
    recipe = Recipe.from_cli(argv)
    assert (recipe.encoder, recipe.data_dir) == ("folder", "D")
    assert (recipe.training["max_steps"], recipe.tasks["sst"].weight) == (50, 2)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("--encoder=1e-5", "1e-5"),
        ("--encoder=[odd", "[odd"),
        ("--encoder=a: b # c", "a: b # c"),
        ("--data_dir=null", None),
        ("--data_dir=12", "12"),
        ("--tasks.sst.data.text=[a, b]", ("a", "b")),
        ("--tasks.sst.data.text=a", ("a",)),
        ("--tasks.sst.data.label=[a]", "[a]"),
        ("--tasks.sst.labels=3", 3),
        ("--tasks.sst.head.dropout=1e-1", 0.1),
        ("--tasks.sst.head={type: mlp, layers: 2}", HeadSpec("mlp", 2)),
        ("--training.run_name=007", "007"),
        ("--training.save_strategy=no", "no"),
        ("--training.report_to=[tensorboard]", ["tensorboard"]),
        ("--schedule.steps_per_epoch=5", 5),
    ],
)
def test_override_values_have_their_fields_type(write, override, value):
    path = override[2:].partition("=")[0].split(".")
    assert load_recipe("good.yaml", [override]).value(tuple(path)) == value


def test_overrides_make_missing_mappings_and_drop_tasks(write):
    path = write("x.yaml", "base: good.yaml\ntraining:\n  lr_scheduler_kwargs: null\nmodel: null\n")
    recipe = load_recipe(path, ["--training.lr_scheduler_kwargs.k=1", "--model.packed", "false", "--tasks.sst", "null"])
    assert recipe.training["lr_scheduler_kwargs"] == {"k": 1}
    assert recipe.model.packed is False and list(recipe.tasks) == ["sts"]
    assert only_problem("good.yaml", "--tasks.new.labels=2").startswith("command line: tasks.new.data.train is missing")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "command line: one recipe is needed, but there are none; write RECIPE.yaml"),
        (["good.yaml", "b.yaml"], "command line: one recipe is needed, but there are ['good.yaml', 'b.yaml']; write"),
        (["good.yaml", "--model.packed"], "command line: --model.packed has no value; write --model.packed VALUE or"),
        (["good.yaml", "--encoder", "--x=1"], "command line: --encoder has no value; write"),
        (
            ["good.yaml", "--output_dir=x"],
            "command line: output_dir = text 'x': there is no such key; did you mean tra",
        ),
        (["good.yaml", "--tasks.sst.weight=[1"], "command line: tasks.sst.weight is '[1', which is no valid YAML: "),
        (["good.yaml", "--base=b.yaml"], "command line: base is for recipe files only; name it in the file"),
    ],
)
def test_command_lines_that_are_wrong(write, argv, message):
    with pytest.raises(RecipeError, match=f"^{re.escape(message)}"):
        Recipe.from_cli(argv)


def test_overrides_without_a_key(write):
    assert only_problem("good.yaml", "stray") == "command line: 'stray' belongs to no --key; write --key VALUE"


def test_arguments_of_pretraining_that_do_not_go_together(write):
    recipe = load_recipe("good.yaml", ["--pretraining={}"])
    with pytest.raises(RecipeError, match="At most one of fp16 and bf16"):
        recipe.pretraining_arguments(use_cpu=True, fp16=True, bf16=True)


def test_rates_of_a_task():
    found = [str(each) for each in TaskTraining(learning_rate=0, weight_decay=-1).problems()]
    assert found == [
        "learning_rate is 0, but must be positive",
        "weight_decay is -1, but must be 0 or more",
    ]


# ---- keys and types ----


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--encodr=x", "encodr = text 'x': there is no such key; did you mean encoder?"),
        ("--steps_per_epoch=5", "steps_per_epoch = 5: there is no such key; did you mean schedule.steps_per_epoch?"),
        ("--tasks.sst.lables=2", "tasks.sst.lables = 2: there is no such key; did you mean labels?"),
        ("--tasks.sst.train=a.csv", "tasks.sst.train = text 'a.csv': there is no such key; did you mean data.train?"),
        ("--tasks.sst.data.txt=a", "tasks.sst.data.txt = text 'a': there is no such key; did you mean text?"),
        ("--tasks.sst.head.layer=1", "tasks.sst.head.layer = 1: there is no such key; did you mean layers?"),
        ("--all_tasks.poling=cls", "all_tasks.poling = text 'cls': there is no such key; did you mean pooling?"),
        ("--schedule.zzz=1", "schedule.zzz = 1: there is no such key; known ones: name, mixed, steps_per_epoch, temp"),
        (
            "--training.zzz=1",
            "training.zzz = 1: there is no such key; known ones: output_dir, per_device_train_batch_size",
        ),
        ("--model.freeze=true", "model.freeze = true: there is no such key; did you mean freeze_encoder?"),
        ("--training.learning_rat=1", "training.learning_rat = 1: there is no such key; did you mean learning_rate?"),
        ("--tasks.sst.weight=true", "tasks.sst.weight is true, but must be a number"),
        ("--tasks.sst.weight=.nan", "tasks.sst.weight is nan, but must be a number; it must be finite"),
        (f"--tasks.sst.weight=1{'0' * 400}", f"tasks.sst.weight is 1{'0' * 299}…, but must be a number; it must be at"),
        ("--tasks.sst.weight='1e999'", "tasks.sst.weight is text '1e999', but must be a number; write 1e+999"),
        (f"--stages={'a' * 400}", f"stages is text '{'a' * 299}…, but must be a list of values"),
        ("--tasks.sst.labels=1000000001", "tasks.sst.labels is 1,000,000,001, but must be at most 100,000"),
        ("--tasks.sst.batch_size=2.0", "tasks.sst.batch_size is 2.0, but must be an integer or null"),
        (
            "--tasks.sst.labels=[0, 1]",
            "tasks.sst.labels is [0, 1], but must be a list of texts or an integer or null; put",
        ),
        ("--tasks.sts.range=[0, 1, 2]", "tasks.sts.range is [0, 1, 2], but must be a list of 2 numbers or null"),
        ("--tasks.sst.head=mlp", "tasks.sst.head is text 'mlp', but must be a mapping with the keys type, layers"),
        ("--tasks.sst=3", "tasks.sst is 3, but must be a mapping with the keys data"),
        ("--tasks=null", "tasks is null, but must be a mapping"),
        ("--all_tasks=3", "all_tasks is 3, but must be a mapping with the keys data"),
        ("--model.packed=yes", "model.packed is text 'yes', but must be true or false; write true without quotes"),
        ("--schedule.mixed=1", "schedule.mixed is 1, but must be true or false"),
        ("--training=3", "training is 3, but must be a mapping"),
        ("--training.max_steps=1.5", "training.max_steps is 1.5, but must be an integer"),
        ("--training.bf16=1", "training.bf16 is 1, but must be true or false"),
        (
            "--training.eval_strategy=never",
            "training.eval_strategy is text 'never', but must be one of no, steps, epoch",
        ),
        ("--training.seed='3'", "training.seed is text '3', but must be an integer; write 3 without quotes"),
    ],
)
def test_unknown_keys_and_wrong_types(write, override, message):
    assert only_problem("good.yaml", override).startswith(f"command line: {message}")


def test_a_quoted_number_is_text(write):
    path = write("x.yaml", GOOD.replace("1e-5", '"1e-5"'))
    expected = "training.learning_rate is text '1e-5', but must be a number; write 0.00001 without quotes"
    assert only_problem(path) == f"x.yaml:11: {expected}"


def test_required_keys(write):
    found = problems(write("x.yaml", ""))
    assert "x.yaml: encoder is missing" in found
    assert "x.yaml: tasks: there are none; give at least one, as a name with its settings" in found
    assert any(line.startswith("x.yaml: training.output_dir is missing; give it in the recipe or on") for line in found)
    assert len(found) == 3


def test_from_dict_checks_too():
    with pytest.raises(RecipeError, match="^recipe: tasks.sst.weight is 0, but must be positive"):
        tree = yaml.safe_load(GOOD) | {"training": {"output_dir": "out"}}
        tree["tasks"]["sst"] |= {"labels": 2, "weight": 0}
        Recipe.from_dict(tree)


# ---- rules ----


def test_every_problem_is_told_at_once(write):
    overrides = [
        "--tasks.sst.dropout=2",
        "--tasks.sst.pooling=sum",
        "--tasks.sst.head.type=cos",
        "--tasks.sst.weight=0",
    ]
    overrides += ["--tasks.sst.data.train=a.xyz", "--tasks.sts.labels=[a]", "--tasks.sts.head.type=cosine"]
    overrides += [
        "--schedule.steps_per_epoch=0",
        "--schedule.temperature=2",
        "--model.paced=true",
        "--training.fsdp=on",
    ]
    told = "\n".join(problems("good.yaml", *overrides))
    for key in ("sst.dropout", "sst.pooling", "sst.head.type", "sst.weight", "sst.data.train"):
        assert f"command line: tasks.{key} is " in told
    assert "tasks.sts.range is for regressions" in told
    assert "good.yaml:6: tasks.sts: a cosine head needs" in told
    for key in ("schedule.steps_per_epoch", "schedule.temperature", "model.paced", "training.fsdp"):
        assert f"command line: {key} " in told


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--tasks.sst.data.text=[a, b, c]", "tasks.sst.data.text names 3 columns, but must name 1, or 2 for pairs"),
        ("--tasks.sst.labels=[a, a]", "tasks.sst.labels ['a', 'a'] repeat a name"),
        (
            "--tasks.sts.metric=accuracy",
            "tasks.sts.metric is 'accuracy', which cannot score a regression; use one of: ",
        ),
        ("--tasks.sst.metric=best", "tasks.sst.metric is 'best', which is unknown; use one of: accuracy"),
        ("--tasks.sst.examples_per_epoch=0", "tasks.sst.examples_per_epoch is 0, but must be 1 or more"),
        ("--tasks.sst.class_weights=[1, 2, 3]", "tasks.sst.class_weights has 3 numbers, but must have 2"),
        ("--tasks.sst.class_weights=[1, 0]", "tasks.sst.class_weights is [1, 0], but must have positive numbers only"),
        ("--tasks.sts.balanced=true", "tasks.sts.balanced is True, but a regression has no classes"),
        ("--tasks.sst.label_smoothing=1", "tasks.sst.label_smoothing is 1, but must be 0 or more and below 1"),
        ("--loss.weighting=learned", "loss.weighting is 'learned', but must be fixed or uncertainty"),
        ("--optimizer.per_task=all", "optimizer.per_task is 'all', but must be separate, rates or null"),
        ("--encoder=", "encoder is empty; give a folder, or a name on the hub"),
        ("--averaging.type=mean", "averaging.type is 'mean', but must be one of: ema, swa"),
        ("--averaging.decay=1", "averaging.decay is 1, but must be in [0, 1)"),
        ("--averaging={type: swa, decay: 0.9}", "averaging.decay is 0.9, but swa weighs all epochs alike; drop it"),
        (
            "--distillation={}",
            "distillation.teachers is [], but must be folders of checkpoints, one or more, each once",
        ),
        ("--distillation={teachers: [a], weight: 2}", "distillation.weight is 2, but must be in [0, 1]"),
        ("--distillation={teachers: [a], temperature: 0}", "distillation.temperature is 0, but must be positive"),
        (
            "--card.license=Apache 2.0",
            "card.license is 'Apache 2.0', but must be as the hub names it, such as apache-2.0",
        ),
        ("--card.license=other", "card.license is 'other', but card.license_name does not say which; name it there"),
        ("--card={license: mit, license_name: Ours}", "card.license_name is 'Ours', which goes with license: other"),
        ("--card.language=English", "card.language has 'English', but must be of ISO 639 codes, such as en"),
        ("--card.language=[en, en]", "card.language is ['en', 'en'], but must have each once"),
        ("--card.datasets=[./mine]", "card.datasets has './mine', but must be of names on the hub, such as"),
        ("--card.tags=[a, a]", "card.tags is ['a', 'a'], but must have each once"),
        ("--averaging.start=1", "averaging.start is 1, but must be in [0, 1)"),
    ],
)
def test_rules_of_single_values(write, override, message):
    assert only_problem("good.yaml", override).startswith(f"command line: {message}")


REFUSED_VALUES = {
    "accelerator_config": "{split_batches: true}",
    "average_tokens_across_devices": "false",
    "dataloader_in_order": "false",
    "dataloader_multiprocessing_context": "spawn",
    "deepspeed": "zero.json",
    "eval_accumulation_steps": "2",
    "eval_do_concat_batches": "false",
    "fsdp": "full_shard",
    "fsdp_config": "{a: 1}",
    "hub_token": "hf_secret",
    "include_for_metrics": "[inputs]",
    "label_names": "[labels]",
    "label_smoothing_factor": "0.1",
    "length_column_name": "n",
    "liger_kernel_config": "{a: true}",
    "remove_unused_columns": "false",
    "train_sampling_strategy": "group_by_length",
}


@pytest.mark.parametrize("key", sorted(REFUSED_TRAINING))
def test_refused_training_arguments(write, key):
    if key == "parallelism_config":  # no YAML value has its type, where the library gives it one
        line = only_problem("good.yaml", f"--training.{key}={{a: 1}}")
        assert "training.parallelism_config is {'a': 1}, but must be" in line or line.endswith(REFUSED_TRAINING[key])
        return
    line = only_problem("good.yaml", f"--training.{key}={REFUSED_VALUES.get(key, 'true')}")
    assert line.startswith(f"command line: training.{key} is ") and line.endswith(REFUSED_TRAINING[key])
    assert "hf_secret" not in line
    default = load_recipe("good.yaml").training_default(key)
    text = default if isinstance(default, str) else json.dumps(default)
    assert load_recipe("good.yaml", [f"--training.{key}={text}"]).training_value(key) == default


SETTINGS = {  # the conflict of a row → overrides that make it
    "model.freeze_encoder: true": [
        ["--peft={type: lora}", "--model.freeze_encoder=true"],
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--model.freeze_encoder=true"],
    ],
    "model.train_layer_norms: true": [["--model.train_layer_norms=true"]],
    "tasks.*.adapter: false": [["--tasks.sts.adapter=false"]],
    "schedule.mixed: true": [
        *(["--schedule.mixed=true", f"--schedule.name={n}"] for n in ("round_robin", "simultaneous")),
        ["--schedule.mixed=true", "--optimizer.per_task=rates"],
    ],
    "schedule.temperature: null": [["--schedule.name=temperature"]],
    "schedule.temperature: a number": [["--schedule.temperature=2"]],
    "tasks.*.batch_size: a number": [["--schedule.mixed=true", "--tasks.sts.batch_size=2"]],
    "training.gradient_checkpointing: true": [
        ["--model.freeze_encoder=true", "--training.gradient_checkpointing=true"]
    ],
    "training.activation_checkpointing: true": [
        ["--model.freeze_encoder=true", "--training.activation_checkpointing=true"]
    ],
    "training.neftune_noise_alpha: a number": [
        ["--training.neftune_noise_alpha=5"],
        ["--training.neftune_noise_alpha=5", "--model.packed=false", "--smart={}"],
    ],
    "training.tf32: true": [["--smart={}", "--training.tf32=true"]],
    "training.activation_checkpointing_kwargs: use_reentrant: true": [
        ["--smart={}", "--training.activation_checkpointing_kwargs={use_reentrant: true}"]
    ],
    "training.gradient_checkpointing_kwargs: use_reentrant: true": [
        ["--smart={}", "--training.gradient_checkpointing_kwargs={use_reentrant: true}"]
    ],
    "training.ddp_find_unused_parameters: false": [["--training.ddp_find_unused_parameters=false"]],
    "training.eval_strategy: steps or epoch": [
        ["--training.eval_strategy=epoch", "--tasks.sst.data.dev=null", "--tasks.sts.data.dev=null"]
    ],
    "training.eval_strategy: no": [
        ["--training.load_best_model_at_end=true"],
        ["--training.early_stopping_patience=2", "--training.metric_for_best_model=overall"],
    ],
    "training.save_strategy: another than training.eval_strategy": [
        ["--training.load_best_model_at_end=true", "--training.eval_strategy=epoch"]
    ],
    "training.greater_is_better: not false": [
        ["--training.metric_for_best_model=sts_mse"],
        ["--training.metric_for_best_model=eval_loss", "--training.greater_is_better=true"],
    ],
    "schedule.mixed: false": [["--surgery.method=pcgrad"]],
    "schedule.name: round_robin or sequential": [["--surgery.method=pcgrad", "--schedule.name=sequential"]],
    "training.optim: lomo, adalomo, or a layerwise one": [
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--training.optim=adalomo"]
    ],
    "schedule.name: simultaneous": [["--optimizer.per_task=separate", "--schedule.name=simultaneous"]],
    "tasks.*.learning_rate: a number": [["--tasks.sts.learning_rate=1e-4"]],
    "tasks.*.weight_decay: a number": [["--tasks.sts.weight_decay=0.1"]],
    "training.learning_rate: 0": [
        ["--optimizer.per_task=rates", "--tasks.sts.learning_rate=1e-4", "--training.learning_rate=0"]
    ],
    "training.optim: any but AdamW": [["--optimizer.per_task=separate", "--training.optim=sgd"]],
    "training.optim: one with groups of its own": [
        ["--optimizer.layer_decay=0.9", "--training.optim=adafactor"],
        ["--loss.weighting=uncertainty", "--training.optim=adafactor"],
    ],
    "loss.learning_rate: a number": [["--loss.learning_rate=0.1"]],
    "distillation: null": [["--tasks.sst.data.unlabelled=more.csv"]],
    "tasks.*.balanced: true": [
        [
            *("--tasks.sts.range=null", "--tasks.sts.labels=2", "--tasks.sts.balanced=true"),
            *("--tasks.sts.data.unlabelled=more.csv", "--distillation={teachers: [a]}"),
        ],
        [
            "--tasks.sts.range=null",
            "--tasks.sts.labels=2",
            "--tasks.sts.balanced=true",
            "--tasks.sts.class_weights=[1, 2]",
        ],
    ],
    "optimizer.encoder_learning_rate: a number": [
        ["--model.freeze_encoder=true", "--optimizer.encoder_learning_rate=1e-3"],
        ["--peft={type: lora}", "--optimizer.encoder_learning_rate=1e-3"],
    ],
    "optimizer.layer_decay: a number": [["--model.freeze_encoder=true", "--optimizer.layer_decay=0.9"]],
    "optimizer.adapter_learning_rate: a number": [["--optimizer.adapter_learning_rate=1e-3"]],
    "training.resume_from_checkpoint: a folder": [["--stages=[{}]", "--training.resume_from_checkpoint=out/stage-1"]],
    "surgery.method: any": [
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--tasks.sst=null"],
        ["--surgery.method=pcgrad", "--schedule.name=simultaneous", "--training.shard_encoder=true"],
    ],
    "smart.weight: any": [["--smart={}", "--training.shard_encoder=true"]],
    "proximal.weight: any": [["--proximal={}", "--training.shard_encoder=true"]],
    "averaging.type: any": [["--averaging={type: ema}", "--training.shard_encoder=true"]],
    "peft: any": [["--peft={type: lora}", "--training.shard_encoder=true"]],
    "optimizer.per_task: any": [["--optimizer.per_task=rates", "--training.shard_encoder=true"]],
    "training.fp16: any": [["--training.fp16=true", "--training.shard_encoder=true"]],
    "training.torch_compile: any": [["--training.torch_compile=true", "--training.shard_encoder=true"]],
    "training.metric_for_best_model: null": [
        ["--training.early_stopping_patience=2", "--training.eval_strategy=epoch"]
    ],
}


@pytest.mark.parametrize("rule", COMBINATIONS, ids=lambda rule: f"{rule.when} + {rule.conflict}")
def test_every_combination_is_refused_with_its_reason(write, rule):
    section, _, name = rule.conflict.partition(":")[0].partition(".")
    if section == "training" and name not in known_fields(training_arguments_class()):
        pytest.skip(f"this version of transformers has no {name}")
    told = ["".join(problems("good.yaml", *overrides)) for overrides in SETTINGS[rule.conflict]]
    key = rule.conflict.partition(":")[0].replace("*", "sts")
    expected = f"which does not go with {rule.when}: {rule.reason}"
    assert any(re.fullmatch(rf"[\w .:]*: {re.escape(key)} is .*, {re.escape(expected)}", line) for line in told), told


@pytest.mark.parametrize(
    "overrides",
    [
        ["--schedule.name=temperature", "--schedule.temperature=2", "--schedule.mixed=true"],
        ["--schedule.name=round_robin", "--tasks.sts.batch_size=2", "--tasks.sst.examples_per_epoch=1000000"],
        ["--model.packed=false", "--training.neftune_noise_alpha=5"],
        ["--training.ddp_find_unused_parameters=false", "--tasks.sst=null"],
        ["--training.load_best_model_at_end=true", "--training.eval_strategy=epoch", "--training.save_strategy=best"],
        ["--training.metric_for_best_model=eval_sts_mse", "--training.greater_is_better=false"],
        ["--training.metric_for_best_model=loss", "--training.eval_strategy=epoch"],
        ["--training.eval_strategy=epoch", "--tasks.sst.data.dev=null"],
        ["--surgery.method=mgda", "--schedule.name=simultaneous"],
        ["--surgery.method=cagrad", "--surgery.c=0.5", "--schedule.mixed=true"],
        [
            "--surgery.method=pcgrad",
            "--schedule.name=simultaneous",
            "--model.freeze_encoder=true",
            "--model.train_layer_norms=true",
        ],
        ["--optimizer.per_task=separate", "--all_tasks.learning_rate=1e-6", "--tasks.sst.weight_decay=0"],
        ["--optimizer.per_task=rates", "--training.optim=sgd", "--schedule.name=sequential"],
        ["--model.freeze_encoder=true", "--model.train_layer_norms=true", "--optimizer.layer_decay=0.9"],
        ["--peft={type: lora}", "--optimizer.adapter_learning_rate=1e-3"],
        ["--tasks.sst.class_weights=balanced", "--tasks.sst.label_smoothing=0.1"],
        ["--tasks.sst.class_weights=[1, 2.5]", "--loss.weighting=uncertainty", "--loss.learning_rate=0.01"],
        ["--stages=[{}]", "--training.resume_from_checkpoint=true"],
    ],
)
def test_combinations_that_work(write, overrides):
    load_recipe("good.yaml", overrides)


def test_names_of_the_best_metric(write):
    for name in ("overall", "raw_mean", "loss", "sst_accuracy", "sts_spearman", "sst_matthews"):
        for prefix in ("", "eval_"):
            lower = ["--training.greater_is_better=false"] if name == "loss" else []
            arguments = [f"--training.metric_for_best_model={prefix}{name}", "--tasks.sst.metric=matthews", *lower]
            load_recipe("good.yaml", arguments)
    line = only_problem("good.yaml", "--training.metric_for_best_model=sst_acuracy")
    assert "which no evaluation has; did you mean eval_sst_accuracy? known ones: eval_overall, eval_raw_mean" in line
    dropped = ["--tasks.sts.data.dev=null", "--training.metric_for_best_model=sts_pearson"]
    assert "is text 'sts_pearson', which no evaluation has" in only_problem("good.yaml", *dropped)


# ---- training methods ----


def test_sections_of_methods_stand_beside_the_others(write):
    recipe = load_recipe("good.yaml", ["--smart={}", "--averaging=null"])
    assert recipe.methods == {"smart": Smart(), "loss": LossSettings()} and recipe.value(("smart", "weight")) == 1.0
    tree = recipe.to_dict()
    expected = {"smart": asdict(Smart()), "loss": asdict(LossSettings())}
    assert {key: tree[key] for key in sections()} == dict.fromkeys(sections()) | expected
    assert "methods" not in tree and Recipe.from_dict(json.loads(json.dumps(tree))) == recipe
    line = only_problem("good.yaml", "--methods={smart: {}}")
    assert line.startswith("command line: methods = {'smart': {}}: there is no such key; ")


def test_a_section_is_there_because_its_method_is_registered(write, monkeypatch):
    monkeypatch.delitem(REGISTRY, "smart")
    line = only_problem("good.yaml", "--smart={}")
    assert line.startswith("command line: smart = {}: there is no such key; ")
    assert "smart" not in load_recipe("good.yaml").to_dict() and "--smart." not in help_text()


def test_settings_for_the_trainer(write):
    recipe = load_recipe("good.yaml", ["--schedule.name=sqrt", "--tasks.sst.weight=2", "--optimizer.layer_decay=0.9"])
    settings = recipe.settings()
    assert (settings.schedule, settings.optimizer) == (Schedule("sqrt"), OptimizerSettings(layer_decay=0.9))
    assert settings.tasks == {name: task.training() for name, task in recipe.tasks.items()}
    assert settings.tasks["sst"].weight == 2


# ---- pre-training ----


def test_pretraining_arguments(write):
    recipe = load_recipe("good.yaml", ["--pretraining.use_epoch=3", "--training.use_cpu=true", "--training.seed=7"])
    assert recipe.pretraining == {"use_epoch": 3}
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    arguments = recipe.pretraining_arguments(report_to="none")
    assert isinstance(arguments, pretraining_arguments_class())
    assert (arguments.output_dir, arguments.use_cpu, arguments.seed) == ("out/pretraining", True, 42)
    assert (arguments.num_train_epochs, arguments.per_device_train_batch_size) == (40, 32)
    assert (arguments.learning_rate, arguments.warmup_steps, arguments.lr_scheduler_type) == (5e-5, 0.1, "linear")
    assert arguments.kept == (3, 18, 40)
    short = load_recipe("good.yaml", ["--pretraining.num_train_epochs=5", "--pretraining.use_epoch=4"])
    assert short.pretraining_arguments(use_cpu=True, report_to="none").kept == (3, 4, 5)
    assert load_recipe("good.yaml").pretraining is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--pretraining.mask_probability=1", "mask_probability is 1, but must be in (0, 1)"),
        ("--pretraining.max_length=2", "max_length is 2, but must be 3 or more"),
        ("--pretraining.num_train_epochs=2.5", "num_train_epochs is 2.5, but must be a whole number, 1 or more"),
        ("--pretraining.keep_epochs=[0]", "keep_epochs is [0], but must be numbers of epochs, 1 or more"),
        ("--pretraining.use_epoch=41", "use_epoch is 41, but must be in 1 … num_train_epochs, which is 40"),
        ("--pretraining.keep_epoch=[1]", "keep_epoch = [1]: there is no such key; did you mean keep_epochs?"),
        ("--pretraining.keep_epochs=3", "keep_epochs is 3, but must be a list of values"),
    ],
)
def test_values_of_pretraining_that_are_wrong(write, override, message):
    assert only_problem("good.yaml", override) == f"command line: pretraining.{message}"


@pytest.mark.parametrize("key", sorted(REFUSED_PRETRAINING))
def test_refused_arguments_of_pretraining(write, key):
    text = {"cpu_threads": "2", "max_steps": "5", "ddp_backend": "gloo", "ddp_timeout": "5"}.get(key)
    text = text or REFUSED_VALUES.get(key, "x" if key == "resume_from_checkpoint" else "true")
    if key == "parallelism_config":  # no YAML value has its type
        return
    line = only_problem("good.yaml", f"--pretraining.{key}={text}")
    assert line.startswith(f"command line: pretraining.{key} is ") and line.endswith(REFUSED_PRETRAINING[key])


# ---- help ----


def test_every_field_is_documented():
    docs = {
        cls: documentation(cls)
        for cls in (
            DataSpec,
            HeadSpec,
            Schedule,
            ModelRecipe,
            Recipe,
            TaskSpec,
            TaskTraining,
            OptimizerSettings,
            LossSettings,
        )
    }
    docs[Surgery] = documentation(Surgery)
    docs |= {cls: documentation(cls) for cls in (Averaging, CardSettings, Distillation)}
    docs[TaskRecipe] = TaskRecipe.documentation()
    for cls, texts in docs.items():
        assert is_dataclass(cls)
        assert [each.name for each in fields(cls) if not texts.get(each.name)] == [], cls


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_key_and_exits(capsys, flag):
    with pytest.raises(SystemExit) as left:
        Recipe.from_cli(["any.yaml", flag])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert text == help_text() + "\n"
    groups = {"tasks.NAME.": TaskRecipe, "tasks.NAME.data.": DataSpec, "tasks.NAME.head.": HeadSpec}
    groups |= {
        "model.adapter.": AdapterSpec,
        "schedule.": Schedule,
        "surgery.": Surgery,
        "model.": ModelRecipe,
        "averaging.": Averaging,
        "card.": CardSettings,
        "distillation.": Distillation,
        "training.": training_arguments_class(),
        "pretraining.": pretraining_arguments_class(),
    }
    for prefix, cls in groups.items():
        for name in set(known_fields(cls)) - {"data", "head", "adapter" if cls is ModelRecipe else ""}:
            assert f"  --{prefix}{name}  (" in text
    for line in ("--base", "--encoder", "--data_dir", "--all_tasks.KEY"):
        assert f"  {line}  (" in text
    assert "--schedule.name  (text, default: 'annealed')\n      `proportional` (p_t" in text
    assert re.search(r"--training\.use_liger_kernel .*\n      Refused: Liger kernels", text)


def test_a_long_list_of_known_keys_is_cut(write):
    line = only_problem("good.yaml", "--training.zzz=1")
    assert re.search(r", and \d{2,3} more \(--help lists them\)$", line) and len(line) < 1500
