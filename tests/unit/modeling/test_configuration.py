"""TaskSpec, HeadSpec and MtBertConfig: defaults, every rule once, and round trips."""

import dataclasses
import json
import re

import pytest
from transformers import AutoConfig, BertConfig

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.problem_types import PROBLEM_TYPES
from mtbert.modeling.task_spec import ACTIVATIONS, HEADS, PAIR_FEATURES, PAIRS, POOLINGS, HeadSpec, TaskSpec

SPECS = (
    TaskSpec("stars", labels=3),
    TaskSpec("same", "binary_classification", labels=["no", "yes"], texts=2, separator=["[SEP]", "[SEP]"]),
    TaskSpec("close", range=(0, 5), texts=2, pair="siamese", head={"output": "sigmoid", "features": "u;v"}),
    TaskSpec("topics", "multi_label_classification", labels=["cat", "dog"], max_length=16, dropout=0),
    TaskSpec("cosine", range=(-1, 1), texts=2, pair="siamese", head=HeadSpec("cosine", layers=1, output="relu")),
    TaskSpec("deep", labels=2, head=HeadSpec("mlp", layers=2, hidden_size=7, activation="tanh", dropout=0.3)),
    TaskSpec("looks", labels=2, head={"type": "attention", "attention_heads": 4}),
)


class TestDefaults:
    def test_head(self):
        assert dataclasses.asdict(HeadSpec()) == {
            "type": "linear",
            "layers": 0,
            "hidden_size": None,
            "activation": "relu",
            "dropout": 0.0,
            "attention_heads": 1,
            "features": "u;v;|u-v|",
            "output": "identity",
        }
        assert HeadSpec().problems() == []

    def test_task(self):
        task = TaskSpec("score")
        assert (task.problem_type, task.labels, task.range, task.texts) == ("regression", None, None, 1)
        assert (task.pair, task.pooling, task.dropout, task.head) == ("cross", "cls", 0.1, HeadSpec())
        assert (task.separator, task.token_types, task.max_length) == (None, True, None)

    @pytest.mark.parametrize(
        ("values", "problem_type", "num_labels", "labels"),
        [
            ({}, "regression", 1, None),
            ({"range": [0, 5]}, "regression", 1, None),
            ({"labels": 3}, "single_label_classification", 3, ("0", "1", "2")),
            ({"labels": ["a", "b"]}, "single_label_classification", 2, ("a", "b")),
            ({"labels": [1, 2]}, "single_label_classification", 2, ("1", "2")),
            ({"labels": 2, "problem_type": "binary_classification"}, "binary_classification", 1, ("0", "1")),
            ({"labels": 1, "problem_type": "multi_label_classification"}, "multi_label_classification", 1, ("0",)),
        ],
    )
    def test_problem_type_and_labels_are_inferred(self, values, problem_type, num_labels, labels):
        task = TaskSpec("t", **values)
        assert (task.problem_type, task.num_labels, task.labels) == (problem_type, num_labels, labels)

    @pytest.mark.parametrize(
        ("values", "sequences"),
        [
            ({}, 1),
            ({"texts": 2}, 1),
            ({"texts": 2, "pair": "siamese"}, 2),
            ({"texts": 2, "pair": "both"}, 3),
            ({"pair": "siamese"}, 1),
            ({"pair": "both"}, 1),
        ],
    )
    def test_the_encoder_inputs_of_an_example(self, values, sequences):
        task = TaskSpec("t", labels=2, **values)
        assert task.num_sequences == sequences
        assert task.siamese is (sequences == 2) and task.apart is (sequences > 1)

    def test_specs_are_frozen_and_hashable(self):
        assert len(set(SPECS)) == len(SPECS)
        with pytest.raises(dataclasses.FrozenInstanceError):
            SPECS[0].name = "other"
        with pytest.raises(dataclasses.FrozenInstanceError):
            SPECS[0].head.type = "mlp"


TASK_RULES = [
    ({"name": ""}, "the name must be made of letters, digits, '_' and '-'"),
    ({"name": "a.b"}, "task 'a.b': the name must be made of letters"),
    ({"name": "a b"}, "task 'a b': the name must be made of letters"),
    ({"name": "keys"}, "task 'keys': a module cannot have this name, which PyTorch uses itself; add a letter"),
    ({"name": "training"}, "task 'training': a module cannot have this name"),
    ({"problem_type": "ranking"}, f"problem_type is 'ranking', but must be one of: {', '.join(PROBLEM_TYPES)}"),
    ({"pair": "triplet"}, f"pair is 'triplet', but must be one of: {', '.join(PAIRS)}"),
    ({"pooling": "last"}, f"pooling is 'last', but must be one of: {', '.join(POOLINGS)}"),
    ({"texts": 3}, "texts is 3, but must be 1 or 2"),
    ({"dropout": 1.0}, "task 't': dropout is 1.0, but must be in [0, 1)"),
    ({"dropout": -0.1}, "task 't': dropout is -0.1, but must be in [0, 1)"),
    ({"max_length": 2}, "max_length is 2, but must be 3 or more"),
    ({"problem_type": "regression"}, "labels are for classifications; a regression has a range"),
    ({"range": (0, 1)}, "range is for regressions; a single_label_classification has labels"),
    (
        {"problem_type": "single_label_classification", "labels": None},
        "labels are missing; give the class names in id order, or their number",
    ),
    ({"labels": 0}, "labels are missing"),
    ({"labels": ["a", "b", "a"]}, "labels ['a', 'b', 'a'] repeat a name"),
    ({"labels": [1, "1"]}, "labels ['1', '1'] repeat a name"),
    ({"problem_type": "binary_classification", "labels": 3}, "labels has 3 names, but a binary classification has 2"),
    ({"labels": 1}, "labels has 1 name, but a classification needs at least 2"),
    ({"labels": None, "range": (5, 0)}, "range is (5, 0), but must be (lowest, highest)"),
    ({"labels": None, "range": (1, 1)}, "range is (1, 1), but must be (lowest, highest)"),
    ({"labels": None, "range": (0, 1, 2)}, "range is (0, 1, 2), but must be (lowest, highest)"),
    ({"labels": "ab"}, "labels is 'ab', but must be a list of names, or their number"),
    ({"labels": True}, "labels is True, but must be a list of names, or their number"),
    ({"name": 3}, "task 3: name is 3, but must be text"),
    ({"texts": True}, "texts is True, but must be an integer"),
    ({"dropout": "0.1"}, "dropout is '0.1', but must be a finite number"),
    ({"dropout": float("nan")}, "dropout is nan, but must be a finite number"),
    ({"max_length": 2.5}, "max_length is 2.5, but must be an integer or null"),
    ({"labels": 1.5}, "labels is 1.5, but must be a list of texts or an integer or null"),
    ({"labels": 10**400}, "labels is a number above 10^18, but must be at most 100,000; MTBERT_MAX_LABELS raises that"),
    ({"labels": None, "range": ("a", 10**400)}, f"range is ('a', 1{'0' * 93}…, but must be a list of numbers or null"),
    ({"separator": "[SEP]"}, "separator is '[SEP]', but must be a list of texts or null"),
    ({"token_types": 1}, "token_types is 1, but must be true or false"),
    ({"head": {"layers": "2"}}, "head.layers is '2', but must be an integer"),
    ({"head": {"type": ["mlp"]}}, "head.type is ['mlp'], but must be text"),
    ({"name": "../a"}, "task '../a': the name must be made of letters"),
    ({"head": {"output": "sigmoid"}}, "head.output 'sigmoid' needs a regression with a range to scale to"),
    ({"labels": None, "head": {"output": "sigmoid"}}, "head.output 'sigmoid' needs a regression with a range"),
    (
        {"head": {"type": "cosine"}},
        "a cosine head needs a regression with a range, texts: 2 and pair: siamese",
    ),
    ({"labels": None, "texts": 2, "range": (0, 1), "head": {"type": "cosine"}}, "a cosine head needs a regression"),
    ({"labels": None, "texts": 2, "pair": "siamese", "head": {"type": "cosine"}}, "a cosine head needs a regression"),
    (
        {"texts": 2, "pair": "both", "head": {"type": "attention"}},
        "an attention head reads one input; use pair: cross, or a linear or mlp head",
    ),
    (
        {"texts": 2, "pair": "siamese", "separator": ["[SEP]"]},
        "separator stands between two texts of one input; use pair: cross",
    ),
]

HEAD_RULES = [
    (
        {"type": "tree"},
        f"head.type is 'tree', but must be one of: {', '.join(HEADS)}; register one of your own first (register_head)",
    ),
    ({"activation": "swish"}, f"head.activation is 'swish', but must be one of: {', '.join(ACTIVATIONS)}"),
    ({"features": "u-v"}, f"head.features is 'u-v', but must be one of: {', '.join(PAIR_FEATURES)}"),
    ({"output": "tanh"}, "head.output is 'tanh', but must be one of: identity, sigmoid, relu"),
    ({"type": "attention", "layers": -1}, "head.layers is -1, but must be 0 or more"),
    ({"layers": 1}, "head.layers is 1, but a linear head has none; use type: mlp"),
    ({"type": "mlp"}, "head.layers is 0, but an mlp head needs at least 1; or use type: linear"),
    ({"hidden_size": 0}, "head.hidden_size is 0, but must be positive"),
    ({"attention_heads": 0}, "head.attention_heads is 0, but must be 1 or more"),
    ({"dropout": 1}, "head.dropout is 1, but must be in [0, 1)"),
    ({"output": "relu"}, "head.output is 'relu', which is for cosine heads; use identity or sigmoid"),
    (
        {"type": "cosine", "output": "sigmoid"},
        "head.output is 'sigmoid', but a cosine is bounded already; use identity or relu",
    ),
]


class TestRules:
    @pytest.mark.parametrize(("values", "message"), TASK_RULES)
    def test_each_rule_of_a_task(self, values, message):
        with pytest.raises(ValueError, match=re.escape(message)):
            TaskSpec(**{"name": "t", "labels": 2, **values})

    @pytest.mark.parametrize(("values", "message"), HEAD_RULES)
    def test_each_rule_of_a_head_is_found_once_and_stops_its_task(self, values, message):
        assert [str(each.under("head")) for each in HeadSpec(**values).problems()] == [message]
        with pytest.raises(ValueError, match=re.escape(f"task 't': {message}")):
            TaskSpec("t", labels=2, head=values)

    def test_all_problems_come_at_once_one_a_line(self):
        with pytest.raises(ValueError) as error:
            TaskSpec("a b", labels=["x"], texts=3, pooling="last", dropout=2, head={"type": "mlp", "dropout": -1})
        lines = str(error.value).splitlines()
        assert len(lines) == 7
        assert all(line.startswith("task 'a b': ") for line in lines)
        for word in ("the name", "pooling", "head.layers", "head.dropout", "texts", "dropout is 2", "labels has 1"):
            assert sum(word in line for line in lines) == 1, word

    @pytest.mark.parametrize("values", [{"texts": 2, "token_types": False}, {"max_length": 3}, {"dropout": 0}])
    def test_values_at_the_edge_are_fine(self, values):
        TaskSpec("t", labels=2, **values)

    def test_unknown_keys_are_named(self):
        with pytest.raises(ValueError, match=r"task has unknown keys \['label'\]; known ones: name, problem_type"):
            TaskSpec.from_dict({"name": "t", "label": 2})
        with pytest.raises(ValueError, match=r"task 't': head has unknown keys \['kind'\]; known ones: type, layers"):
            TaskSpec("t", labels=2, head={"kind": "mlp"})
        with pytest.raises(ValueError, match="task 't': head must be a mapping or a HeadSpec, but is 'mlp'"):
            TaskSpec("t", labels=2, head="mlp")


class TestRoundTrips:
    @pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
    def test_to_dict_and_back_through_json(self, spec):
        values = spec.to_dict()
        fields = [field.name for field in dataclasses.fields(TaskSpec)]
        left_out = ("calibration", "ordinal")  # the first where there is none; problem_type says the second
        assert list(values) == [name for name in fields if name not in left_out]
        assert TaskSpec.from_dict(json.loads(json.dumps(values))) == spec
        assert json.loads(json.dumps(values)) == values

    def test_from_dict_takes_a_spec_as_it_is(self):
        assert TaskSpec.from_dict(SPECS[0]) is SPECS[0]

    def test_config_is_saved_and_loaded_with_its_encoder(self, tmp_path):
        encoder = BertConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=1, vocab_size=77)
        config = MtBertConfig(encoder=encoder, tasks=list(SPECS), packed=False)
        config.save_pretrained(tmp_path)
        loaded = AutoConfig.from_pretrained(tmp_path)
        assert type(loaded) is MtBertConfig
        assert loaded.task_specs == config.task_specs == SPECS
        assert type(loaded.encoder) is BertConfig
        assert loaded.encoder.to_dict() == encoder.to_dict()
        assert loaded.packed is False
        assert loaded.hidden_size == 24
        again = MtBertConfig.from_pretrained(tmp_path)
        assert (again.task_specs, again.packed) == (SPECS, False)
        assert again.encoder.to_dict() == encoder.to_dict()

    def test_the_saved_file_is_plain_json(self, tmp_path):
        MtBertConfig(encoder=BertConfig(), tasks=list(SPECS)).save_pretrained(tmp_path)
        values = json.loads((tmp_path / "config.json").read_text())
        assert values["model_type"] == "mtbert"
        assert values["encoder"]["model_type"] == "bert"
        assert [task["name"] for task in values["tasks"]] == [spec.name for spec in SPECS]

    def test_the_encoder_may_be_a_mapping(self):
        config = MtBertConfig(encoder={"model_type": "electra", "hidden_size": 20}, tasks=[])
        assert (config.encoder.model_type, config.hidden_size) == ("electra", 20)

    def test_a_mapping_given_as_encoder_is_left_alone(self):
        values = {"model_type": "bert", "hidden_size": 24}
        MtBertConfig(encoder=values)
        assert values == {"model_type": "bert", "hidden_size": 24}

    def test_a_config_without_anything(self):
        config = MtBertConfig()
        assert (config.encoder, config.tasks, config.task_specs, config.packed) == (None, [], (), True)

    def test_names_given_twice_are_named(self):
        specs = [TaskSpec(name, labels=2) for name in ("a", "b", "a", "c", "b")]
        with pytest.raises(ValueError, match=r"the names \['a', 'b'\] are given twice; each task needs its own"):
            MtBertConfig(encoder=BertConfig(), tasks=specs)

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"tasks": 3}, "tasks is 3, but must be a list of tasks"),
            ({"tasks": "abc"}, "tasks is 'abc', but must be a list of tasks"),
            ({"tasks": [3]}, "task must be a mapping or a TaskSpec, but is 3"),
            ({"tasks": [{"labels": 2}]}, r"task has no name, only the keys \['labels'\]; give it one"),
            ({"adapter": "pal"}, "adapter must be a mapping or a AdapterSpec, but is 'pal'"),
            ({"adapter": {"size": "12"}}, "adapter.size is '12', but must be an integer or null"),
            ({"adapter": {"type": ["pal"]}}, r"adapter.type is \['pal'\], but must be text"),
            ({"adapter": {"layers": []}}, r"adapter.layers is \[\], but must name one layer or more, each once"),
            (
                {"adapter": {"layers": [1, 1]}},
                r"adapter.layers is \[1, 1\], but must name one layer or more, each once",
            ),
            ({"adapter": {"layers": 3}}, "adapter.layers is 3, but must be a list of integers or null"),
            (
                {"encoder": {"hidden_size": 8}},
                "encoder.model_type is None, which this version of transformers does not",
            ),
            (
                {"encoder": {"model_type": "brt"}},
                "encoder.model_type is 'brt', which this version of transformers does",
            ),
            ({"encoder": {"model_type": "bert", "hidden_size": "8"}}, "encoder: the fields of 'bert' are wrong: "),
        ],
    )
    def test_values_of_a_config_that_are_wrong(self, values, message):
        with pytest.raises(ValueError, match=message):
            MtBertConfig(**values)

    def test_a_wrong_task_in_a_config_says_so(self):
        with pytest.raises(ValueError, match="task 't': texts is 5"):
            MtBertConfig(encoder=BertConfig(), tasks=[{"name": "t", "labels": 2, "texts": 5}])
