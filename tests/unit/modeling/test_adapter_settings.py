"""Adapters' settings: numbers of weights, published sizes, rules and their messages."""

import re
import warnings

import pytest
import torch
from adapter_models import SMALL, TASKS, make_model
from families import family_config
from torch import nn
from transformers import AutoConfig, BertConfig

from mtbert.modeling.adapters import dropouts, make_adapter
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import ADAPTERS, AdapterSpec, TaskSpec

every_type = pytest.mark.parametrize("adapter", SMALL.values(), ids=SMALL)
every_parallel_type = pytest.mark.parametrize("kind", ["pal", "low_rank", "houlsby"])
BASE = BertConfig()  # BERT-base


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


PUBLISHED = {
    "pal": 1_819_836,  # 1.82 M, as report A says
    "pal_top": linear(768, 204) + 3 * linear(204, 204) + linear(204, 768),
    "low_rank": 12 * (linear(768, 100) + linear(100, 768)),
    "houlsby": 2 * 12 * (linear(768, 50) + linear(50, 768)),
    "top_layers": linear(768, 204) + 6 * (4 * linear(204, 204) + 2 * 204) + linear(204, 768),
}


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


class TestCounts:
    @pytest.mark.parametrize(("kind", "expected"), PUBLISHED.items())
    def test_published_sizes_on_bert_base(self, kind, expected):
        with torch.device("meta"):
            assert count(make_adapter(AdapterSpec(kind), BASE)) == expected

    def test_pals_formula(self):
        assert PUBLISHED["pal"] == linear(768, 204) + 12 * 3 * linear(204, 204) + linear(204, 768)

    def test_the_number_of_heads_changes_nothing_and_two_layers_are_two(self):
        with torch.device("meta"):
            assert count(make_adapter(AdapterSpec("pal", heads=12), BASE)) == PUBLISHED["pal"]
            two = count(make_adapter(AdapterSpec("pal", layers=(3, 11)), BASE))
            assert two == linear(768, 204) + 2 * 3 * linear(204, 204) + linear(204, 768)
            assert count(make_adapter(AdapterSpec("low_rank", layers=[0]), BASE)) == PUBLISHED["low_rank"] / 12
            assert count(make_adapter(AdapterSpec("houlsby", layers=[5, 6]), BASE)) == PUBLISHED["houlsby"] / 6

    def test_eight_tasks_with_pals_are_1_13_encoders(self):
        specs = [TaskSpec(f"task-{i}", labels=2, pooling="pooler") for i in range(8)]
        with torch.device("meta"):
            table = MtBertForMultiTask(
                MtBertConfig(encoder=BASE, tasks=specs, adapter={"type": "pal"})
            ).parameter_table()
        assert [row["component"] for row in table] == ["encoder", *["adapter"] * 8, *["head"] * 8, "total"]
        assert [row["task"] for row in table[1:9]] == [row["task"] for row in table[9:17]] == [t.name for t in specs]
        assert [row["parameters"] for row in table[1:9]] == [1_819_836] * 8
        assert [row["parameters"] for row in table[9:17]] == [linear(768, 2)] * 8
        assert table[0]["parameters"] == 109_482_240 and table[0]["ratio"] == 1
        assert table[-1]["parameters"] == sum(row["parameters"] for row in table[:-1])
        assert f"{table[-1]['ratio']:.2f}" == "1.13"
        assert all(row["trainable"] == row["parameters"] for row in table)

    @every_type
    def test_trainable_counts_with_a_frozen_encoder(self, adapter):
        model = make_model(adapter)
        encoder, whole = count(model.encoder), count(model)
        norms = (1 + 2 * 3) * 2 * 32  # after the embeddings and each sublayer, a weight and a bias each

        def trainable() -> int:
            rows = model.parameter_table()
            assert rows[-1]["trainable"] == sum(row["trainable"] for row in rows[:-1])
            assert rows[-1]["trainable"] == sum(p.numel() for p in model.parameters() if p.requires_grad)
            return rows[-1]["trainable"]

        assert trainable() == whole
        model.freeze_encoder()
        assert trainable() == whole - encoder
        model.freeze_encoder(layer_norms=False)
        assert trainable() == whole - encoder + norms
        model.freeze_encoder(frozen=False)
        assert trainable() == whole


# ------------------------------------------------------------------------------------------------------------- rules


RULES = [
    ({"type": "lora"}, f"adapter.type is 'lora', but must be one of: {', '.join(ADAPTERS)}"),
    ({"activation": "relu"}, "adapter.activation is 'relu', but must be one of: gelu, identity"),
    ({"type": "pal_top", "input": "mean"}, "adapter.input is 'mean', but must be one of: cls, all"),
    ({"init": "normal"}, "adapter.init is 'normal', but must be one of: zero, published"),
    ({"size": 0}, "adapter.size is 0, but must be 1 or more"),
    ({"type": "low_rank", "size": -1}, "adapter.size is -1, but must be 1 or more"),
    ({"type": "top_layers", "depth": 0}, "adapter.depth is 0, but must be 1 or more"),
    ({"type": "low_rank", "heads": 4}, "adapter.heads is 4, but low_rank has no attention; drop it"),
    ({"type": "houlsby", "heads": 0}, "adapter.heads is 0, but houlsby has no attention; drop it"),
    ({"heads": 0}, "adapter.heads is 0, but must be 1 or more"),
    (
        {"size": 200, "heads": 12},
        "adapter.size is 200, which 12 heads do not divide; the nearest sizes that fit: 192 and 204",
    ),
    (
        {"type": "top_layers", "size": 100},
        "adapter.size is 100, which 12 heads do not divide; the nearest sizes that fit: 96 and 108",
    ),
    ({"size": 5}, "adapter.size is 5, which 6 heads do not divide; the nearest sizes that fit: 6"),
    ({"type": "pal_top", "layers": [1]}, "adapter.layers is [1], but pal_top stands on top of the last layer"),
    ({"type": "top_layers", "layers": (0, 1)}, "adapter.layers is [0, 1], but top_layers stands on top of the last"),
    (
        {"type": "pal_top", "init": "zero"},
        "adapter.init is 'zero', but pal_top replaces the hidden states, which would be 0",
    ),
    ({"type": "top_layers", "init": "zero"}, "adapter.init is 'zero', but top_layers replaces the hidden states"),
    (
        {"type": "low_rank", "activation": "identity"},
        "adapter.activation is 'identity', which is for pal and pal_top only",
    ),
    ({"input": "all"}, "adapter.input is 'all', which is for pal_top only"),
    ({"depth": 3}, "adapter.depth is 3, which is for top_layers only"),
]


class TestSpec:
    @pytest.mark.parametrize(
        ("kind", "size", "heads", "init"),
        [
            ("pal", 204, 6, "zero"),
            ("pal_top", 204, 6, "published"),
            ("low_rank", 100, None, "zero"),
            ("houlsby", 50, None, "zero"),
            ("top_layers", 204, 12, "published"),
        ],
    )
    def test_defaults_are_the_published_ones(self, kind, size, heads, init):
        spec = AdapterSpec(kind)
        assert (spec.size, spec.heads, spec.init) == (size, heads, init)
        assert (spec.activation, spec.layers, spec.depth, spec.input) == ("gelu", None, 6, "cls")
        assert spec.problems() == []
        assert AdapterSpec(**spec.to_dict()) == spec

    @pytest.mark.parametrize(("values", "message"), RULES)
    def test_each_rule_is_found_once(self, values, message):
        with pytest.raises(ValueError, match=re.escape(message)) as error:
            AdapterSpec(**values)
        assert len(str(error.value).splitlines()) == 1
        with pytest.raises(ValueError, match=re.escape(message)):
            MtBertConfig(encoder=BASE, tasks=list(TASKS), adapter=values)

    def test_all_problems_come_at_once_one_a_line(self):
        with pytest.raises(ValueError) as error:
            AdapterSpec("pal_top", size=13, layers=(1,), init="zero", activation="relu", input="mean", depth=3)
        keys = [line.split()[0] for line in str(error.value).splitlines()]
        assert sorted(keys) == [f"adapter.{key}" for key in ("activation", "depth", "init", "input", "layers", "size")]

    def test_unknown_keys_are_named(self):
        with pytest.raises(ValueError, match=r"adapter has unknown keys \['width'\]; known ones: type, size, heads"):
            MtBertConfig(encoder=BASE, tasks=list(TASKS), adapter={"type": "pal", "width": 12})

    @every_parallel_type
    @pytest.mark.parametrize("layers", [(3,), (0, -1), (1, 7, 2)])
    def test_layers_out_of_range(self, kind, layers):
        outside = [layer for layer in layers if layer not in (0, 1, 2)]
        message = f"adapter.layers has {outside}, but the encoder's layers are 0 to 2"
        with pytest.raises(ValueError, match=re.escape(message)):
            make_model({**SMALL[kind], "layers": layers})

    @pytest.mark.parametrize("family", ["megatron-bert", "deberta", "albert"])
    def test_families_without_a_place_for_adapters(self, family):
        encoder = family_config(family)
        known = "bert, camembert, deberta-v2, distilbert, electra, ernie, modernbert, mpnet, roberta, xlm-roberta"
        message = f"adapter: {family} encoders work without adapters only; with one: {known}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that they are computed with padding
            MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(TASKS)))
            with pytest.raises(ValueError, match=re.escape(message)):
                MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(TASKS), adapter=SMALL["pal"]))

    @pytest.mark.parametrize(
        ("family", "values"),
        [
            ("bert", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}),
            ("roberta", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}),
            ("electra", {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}),
            ("distilbert", {"dropout": 0.3, "attention_dropout": 0.2}),
            ("modernbert", {"mlp_dropout": 0.3, "attention_dropout": 0.2}),
        ],
    )
    def test_dropouts_are_the_encoders(self, family, values):
        config = AutoConfig.for_model(family, **values)
        assert dropouts(config) == (0.3, 0.2)
        block = make_adapter(AdapterSpec("top_layers"), config).blocks[0]
        assert (block.dropout.p, block.attention.dropout) == (0.3, 0.2)
        assert make_adapter(AdapterSpec("pal"), config).attention["0"].dropout == 0.2
        assert make_adapter(AdapterSpec("pal_top"), config).attention.dropout == 0.2
