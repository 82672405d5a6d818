"""Keys of a recipe, in a file and on the command line: known names, types, and what is required."""

import re
from dataclasses import fields, is_dataclass

import pytest
import yaml
from written_recipes import GOOD, only_problem, problems

from mtbert.data.sampling import Schedule
from mtbert.data.spec import DataSpec
from mtbert.model_card import CardSettings
from mtbert.modeling.task_spec import AdapterSpec, HeadSpec, TaskSpec
from mtbert.recipe import (
    ModelRecipe,
    Recipe,
    RecipeError,
    TaskRecipe,
    help_text,
    load_recipe,
    pretraining_arguments_class,
    training_arguments_class,
)
from mtbert.recipe.fields import documentation, known_fields
from mtbert.training.arguments import TaskTraining
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.surgery import Surgery
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings


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
        ("--tasks.sst.data.id=[a]", "[a]"),
        ("--tasks.sst.data.train=[a.csv, b.csv]", ("a.csv", "b.csv")),
        ("--tasks.sst.data.dev=10%", "10%"),
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
        ("--model.attention_dropout=1", "model.attention_dropout is 1, but must be in [0, 1)"),
        ("--model.attention_dropout=-.1", "model.attention_dropout is -0.1, but must be in [0, 1)"),
        ("--model.reinitialized_layers=-1", "model.reinitialized_layers is -1, but must be 0 or more"),
        ("--model.reinitialized_layers=.5", "model.reinitialized_layers is 0.5, but must be an integer"),
        ("--model.attention_dropout=off", "model.attention_dropout is text 'off', but must be a number or null"),
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
