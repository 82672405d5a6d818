"""Short forms of settings and data mean the same as their long forms, or are refused in a short message."""

from collections import OrderedDict
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from mtbert import MtBertForMultiTask, MtBertTrainer, MtBertTrainingArguments, Schedule, Surgery, TaskSpec, TaskTraining
from mtbert.data.given_splits import as_splits
from mtbert.data.splits import check_kind
from mtbert.errors import InputError, InputTypeError
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.task_spec import AdapterSpec
from mtbert.training.methods.averaging import Averaging
from mtbert.training.methods.distillation import Distillation
from mtbert.training.methods.proximal import Proximal
from mtbert.training.methods.smart import Smart
from mtbert.training.methods.uncertainty import LossSettings
from mtbert.training.optimizers import OptimizerSettings
from mtbert.training.settings import MultiTaskSettings, as_settings, as_task_training, build_methods, list_methods

STARS = TaskSpec("stars", labels=["bad", "fair", "good"])
CLOSE = TaskSpec("close", range=(0, 5), texts=2)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        (Schedule, "sqrt", Schedule("sqrt")),
        (Schedule, {"name": "uniform", "mixed": True}, Schedule("uniform", mixed=True)),
        (Schedule, OrderedDict(steps_per_epoch=3), Schedule(steps_per_epoch=3)),
        (Surgery, "cagrad", Surgery("cagrad")),
        (Surgery, {"method": "cagrad", "c": 0.4}, Surgery("cagrad", c=0.4)),
        (Averaging, "swa", Averaging("swa")),
        (LossSettings, "uncertainty", LossSettings("uncertainty")),
        (Smart, {"weight": 2.0}, Smart(weight=2.0)),
        (Proximal, {}, Proximal()),
        (OptimizerSettings, {"layer_decay": 0.9}, OptimizerSettings(layer_decay=0.9)),
        (Distillation, {"teachers": ("a",)}, Distillation(("a",))),
        (Schedule, None, None),
    ],
)
def test_settings(kind, value, expected):
    assert as_settings(kind, value, "x") == expected
    if expected is not None:
        assert as_settings(kind, expected, "x") is expected
        assert as_settings(kind, asdict(expected), "x") == expected


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Schedule, {"nam": "sqrt"}, r"^x has unknown fields \['nam'\]; did you mean name\? known ones: name, mixed"),
        (Schedule, {1: 2}, r"^x has unknown fields \[1\]; known ones: name"),
        (Schedule, 3, r"^x must be a Schedule or a mapping of its fields, but is of the type int$"),
        (Schedule, Surgery(), r"but is of the type Surgery$"),
        (Smart, "strong", r"^x must be a Smart or a mapping of its fields, but is of the type str$"),
        (Smart, {"weight": "much"}, r"^x\.weight is 'much', but must be"),
        (Surgery, ["pcgrad"], r"but is of the type list$"),
        (Schedule, Schedule, r"but is of the type type$"),
    ],
)
def test_settings_that_are_refused(kind, value, message):
    with pytest.raises(ValueError, match=message) as error:
        as_settings(kind, value, "x")
    assert len(str(error.value)) < 500


WEIGHTS = [
    [1, 2.0, 3],
    (1.0, 2.0, 3.0),
    np.array([1, 2, 3]),
    torch.tensor([1.0, 2.0, 3.0]),
    pd.Series([1, 2, 3]),
    {"good": 3, "bad": 1, "fair": 2},
]


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda weights: type(weights).__name__)
def test_class_weights(weights):
    expected = {"stars": TaskTraining(class_weights=(1.0, 2.0, 3.0))}
    assert as_task_training([STARS], {"stars": TaskTraining(class_weights=weights)}) == expected
    assert as_task_training([STARS], {"stars": {"class_weights": weights}}) == expected


def test_other_forms_of_task_training():
    assert as_task_training([STARS], None) == {}
    assert as_task_training([STARS], {"stars": None}) == {"stars": TaskTraining()}
    assert as_task_training([STARS], {"stars": {"weight": 2.0}}) == {"stars": TaskTraining(weight=2.0)}
    assert as_task_training([STARS], {"stars": {"class_weights": "balanced"}})["stars"].class_weights == "balanced"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"stars": {"class_weights": {"good": 1}}},
            r"class_weights is for \['good'\], but must have a number for each",
        ),
        ({"stars": {"class_weights": np.eye(3)}}, r"class_weights has the shape \(3, 3\)"),
        ({"stars": {"class_weights": ["a", "b", "c"]}}, r"class_weights is \['a', 'b', 'c'\], but must be"),
        ({"stars": {"wieght": 1.0}}, r"did you mean weight\?"),
        ({"stars": 2.0}, r"task_training\['stars'\] must be a TaskTraining or a mapping of its fields"),
        ([TaskTraining()], r"task_training must map names of tasks to TaskTraining, but is a list"),
    ],
)
def test_task_training_that_is_refused(given, message):
    with pytest.raises(ValueError, match=message) as error:
        as_task_training([STARS], given)
    assert len(str(error.value)) < 500


ROWS = {"text": ["secret word"] * 300, "label": [0] * 300}
MISTAKEN = {  # what is taken for settings or a spec by mistake
    "Dataset": Dataset.from_dict(ROWS),
    "wide Dataset": Dataset.from_dict({f"column {number}": ["secret word"] for number in range(300)}),
    "DataFrame": pd.DataFrame(ROWS),
    "rows": [{"text": "secret word " * 20, "label": 0}] * 300,
    "columns": ROWS,
    "names": dict.fromkeys(map(str, range(2000))),
    "array": np.zeros((300, 300)),
    "tensor": torch.zeros(2000),
}
PLACES = {
    "schedule": lambda value: as_settings(Schedule, value, "schedule"),
    "a setting": lambda value: as_settings(Schedule, {"name": value}, "schedule"),
    "teachers": lambda value: as_settings(Distillation, {"teachers": value}, "distillation"),
    "task_training": lambda value: as_task_training([STARS], {"stars": value}),
    "class_weights": lambda value: as_task_training([STARS], {"stars": {"class_weights": value}}),
    "data": lambda value: as_splits([STARS, CLOSE], [value], "train_dataset"),
    "tasks": lambda value: MtBertConfig(encoder={"model_type": "bert"}, tasks=[value]),
    "adapter": lambda value: MtBertConfig(encoder={"model_type": "bert"}, tasks=[STARS], adapter=value),
    "adapter.type": AdapterSpec,
    "head": lambda value: TaskSpec("stars", labels=2, head=value),
    "name": lambda value: TaskSpec(value, labels=2),
    "range": lambda value: TaskSpec("close", range=value),
    "pair": lambda value: TaskSpec("stars", labels=2, pair=value),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", MISTAKEN)
def test_a_refusal_is_short_and_prints_no_rows(place, kind):
    try:
        PLACES[place](MISTAKEN[kind])
    except (InputError, InputTypeError) as error:
        message = str(error)
    else:  # weights are judged with the task's labels; 2,000 zeros are a list of numbers
        assert place == "class_weights"
        (problem,) = TaskTraining(class_weights=tuple(MISTAKEN[kind].tolist())).problems()
        message = str(problem)
    assert len(message) < 500 and "secret" not in message


def test_rows_of_the_only_task():
    rows = Dataset.from_dict({"text": ["a"] * 10_000, "label": [0] * 10_000})
    assert as_splits([STARS], rows, "train_dataset") == {"stars": rows}
    assert as_splits([STARS], {"stars": rows}, "train_dataset") == {"stars": rows}
    with pytest.raises(ValueError, match="^train_dataset is a Dataset, but must map names of tasks") as error:
        as_splits([STARS, CLOSE], rows, "train_dataset")
    assert len(str(error.value)) < 500 and "'stars', 'close'" in str(error.value)


def test_a_trainer_takes_them(encoder_dir, tokenizer, tmp_path):
    """One task, one set of rows, short settings: trains as with the long forms."""
    rows = Dataset.from_dict({"text": ["the cat", "a dog", "fish", "the tree"] * 3, "label": [0, 1, 2, 1] * 3})
    weights = {}
    for form, (tasks, data, settings) in {
        "short": (
            STARS,
            rows,
            {
                "schedule": "sqrt",
                "loss": "uncertainty",
                "smart": {"weight": 0.5},
                "optimizer": {"layer_decay": 0.5},
                "averaging": "ema",
                "task_training": {"stars": {"class_weights": np.array([1, 2, 3])}},
            },
        ),
        "long": (
            [STARS],
            {"stars": rows},
            {
                "schedule": Schedule("sqrt"),
                "loss": LossSettings("uncertainty"),
                "smart": Smart(weight=0.5),
                "optimizer": OptimizerSettings(layer_decay=0.5),
                "averaging": Averaging("ema"),
                "task_training": {"stars": TaskTraining(class_weights=(1.0, 2.0, 3.0))},
            },
        ),
        "other": ([STARS], {"stars": rows}, {"schedule": "sqrt"}),
    }.items():
        torch.manual_seed(0)
        model = MtBertForMultiTask.from_encoder(encoder_dir, tasks)
        args = MtBertTrainingArguments(
            str(tmp_path / form), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, learning_rate=1e-2
        )
        MtBertTrainer(model, args, data, processing_class=tokenizer, **settings).train()
        weights[form] = torch.cat([each.flatten() for each in model.parameters()])
    assert torch.equal(weights["short"], weights["long"])
    assert not torch.equal(weights["short"], weights["other"])


NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (TaskTraining, TaskTraining(weight=NAN), r"^x.weight is nan, but must be a finite number$"),
        (TaskTraining, TaskTraining(weight="2"), r"^x.weight is '2', but must be a finite number$"),
        (TaskTraining, TaskTraining(class_weights=(1.0, NAN)), r"^x.class_weights is \(1.0, nan\), but must be"),
        (TaskTraining, TaskTraining(batch_size=2.5), r"^x.batch_size is 2.5, but must be an integer or null$"),
        (Schedule, Schedule("temperature", temperature=NAN), r"^x.temperature is nan, but must be a finite number"),
        (OptimizerSettings, OptimizerSettings(head_learning_rate=NAN), r"^x.head_learning_rate is nan"),
    ],
)
def test_values_of_finished_settings_are_checked_too(kind, value, message):
    with pytest.raises(InputError, match=message):
        as_settings(kind, value, "x")


def test_numbers_of_numpy_are_numbers():
    given = TaskTraining(weight=np.float32(2), batch_size=np.int64(4), class_weights=np.array([1.0, 2.0, 3.0]))
    assert as_settings(TaskTraining, given, "x") is given


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), []),
        (Proximal(), [Proximal()]),
        ([Smart(weight=2.0), None], [Smart(weight=2.0), None]),
        (iter([Averaging("swa")]), [Averaging("swa")]),
        ({"surgery": "cagrad", "smart": {"weight": 2.0}}, [Surgery("cagrad"), Smart(weight=2.0)]),
    ],
)
def test_methods(given, expected):
    assert list_methods(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("pcgrad", r"^methods is 'pcgrad'; it must be a list of methods"),
        ({"surgry": "pcgrad"}, r"^methods has unknown sections \['surgry'\]; known ones: .*surgery"),
        ({"surgery": 3}, r"^surgery must be a Surgery or a mapping of its fields"),
    ],
)
def test_methods_that_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        list_methods(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [(Surgery, r"^methods has the class Surgery; it must be"), ("x", r"^methods has 'x'; it must be")],
)
def test_no_method_is_built_of_anything_else(given, message):
    with pytest.raises(InputError, match=message):
        build_methods(MultiTaskSettings(), [given])


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (STARS, ["stars"]),
        ({"name": "one", "labels": 2}, ["one"]),
        ([STARS, {"name": "one", "labels": 2}], ["stars", "one"]),
        ({"one": {"labels": 2}, "two": {"range": (0, 1)}}, ["one", "two"]),
    ],
)
def test_tasks_of_a_new_model(given, names, encoder_dir):
    assert [task.name for task in MtBertForMultiTask.from_encoder(encoder_dir, given).tasks] == names


@pytest.mark.parametrize("given", [3, "one", {"one": 2}, {"one": STARS}, ["one"]])
def test_tasks_that_are_refused(given, encoder_dir):
    with pytest.raises(InputError, match="^tasks? (is|must)"):
        MtBertForMultiTask.from_encoder(encoder_dir, given)


@pytest.mark.parametrize(
    ("rows", "remedy"),
    [
        ([{"text": "a", "label": "bad"}], "list; write datasets.Dataset.from_list(rows)"),
        (pd.DataFrame({"text": ["a"]}), "DataFrame; write datasets.Dataset.from_pandas(frame)"),
        ({"text": ["a"]}, "dict; write datasets.Dataset.from_dict(columns)"),
        (3, "int"),
    ],
)
def test_rows_in_another_form_are_refused_with_the_call_to_write(rows, remedy):
    with pytest.raises(InputTypeError) as error:
        check_kind(rows, "train")
    assert str(error.value) == f"train: expected a datasets.Dataset, but got a {remedy}"
