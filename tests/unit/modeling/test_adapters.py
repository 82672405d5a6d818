"""Each adapter against its formula in plain padded torch; sizes, rules, initialisation, gradients."""

import copy
import re
import warnings
from functools import partial

import peft
import pytest
import torch
from families import family_config
from torch import nn
from transformers import AutoConfig, AutoModel, BertConfig, set_seed

from mtbert.modeling.adapters import Decoder, ProjectedAttention, TopNorm, dropouts, make_adapter
from mtbert.modeling.configuration_mtbert import ADAPTERS, AdapterSpec, MtBertConfig, TaskSpec
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout

LENGTHS = (3, 11, 1, 7, 9, 4, 11)
TASKS = (
    TaskSpec("first", labels=3),
    TaskSpec("bare", labels=2, adapter=False),
    TaskSpec("average", range=(0, 5), pooling="mean"),
)
TASK_IDS = [0, 0, 0, 1, 2, 2, 2]
SMALL = {
    "pal": {"type": "pal", "size": 12, "heads": 3},
    "pal_top": {"type": "pal_top", "size": 12, "heads": 3},
    "low_rank": {"type": "low_rank", "size": 8},
    "houlsby": {"type": "houlsby", "size": 6},
    "top_layers": {"type": "top_layers", "size": 12, "heads": 3, "depth": 2},
}
every_type = pytest.mark.parametrize("adapter", SMALL.values(), ids=SMALL)
every_parallel_type = pytest.mark.parametrize("kind", ["pal", "low_rank", "houlsby"])
BASE = BertConfig()  # BERT-base

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


def make_model(adapter, specs=TASKS, packed=True, **settings) -> MtBertForMultiTask:
    """Freshly initialised, in eval mode, with the same weights at each call."""
    set_seed(1)
    encoder = family_config("bert", **settings)
    return MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(specs), adapter=adapter, packed=packed)).eval()


@torch.no_grad()
def randomised(model: MtBertForMultiTask) -> MtBertForMultiTask:
    """The same weights at each call, so large that every part matters."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        noise = torch.empty_like(parameter).normal_(0, 0.2, generator=generator)
        parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Inputs of mixed lengths; the padding holds real tokens, which must not matter."""
    shape, lengths = (len(LENGTHS), max(LENGTHS)), torch.tensor(LENGTHS)
    return {
        "input_ids": torch.randint(5, 100, shape),
        "token_type_ids": torch.randint(2, shape),
        "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).long(),
    }


# ----------------------------------------------------------------- a BERT with adapters, written from the formulas


class Reference:
    """BERT in padded torch, `(rows, length, width)`, with TS, LR1 and LR2 as the papers' formulas have them."""

    def __init__(self, model: MtBertForMultiTask, task: str):
        self.encoder = model.encoder.state_dict()
        adapter = f"adapters.{task}."
        self.adapter = {k.removeprefix(adapter): v for k, v in model.state_dict().items() if k.startswith(adapter)}
        self.spec = model.config.adapter

    @staticmethod
    def linear(w, name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    @staticmethod
    def norm(w, name, x):
        x = x - x.mean(-1, keepdim=True)
        return w[f"{name}.weight"] * x / (x.square().mean(-1, keepdim=True) + 1e-12).sqrt() + w[f"{name}.bias"]

    @staticmethod
    def gelu(x):
        return 0.5 * x * (1 + torch.erf(x / 2**0.5))

    def attention(self, w, name, x, mask, heads):
        """softmax(q kᵀ / √size) v of each head; keys in the padding count nothing."""
        q, k, v = (self.linear(w, f"{name}.{part}", x).chunk(heads, -1) for part in ("query", "key", "value"))
        outputs = []
        for head in range(heads):
            scores = q[head] @ k[head].transpose(1, 2) / q[head].shape[-1] ** 0.5
            outputs.append(scores.masked_fill(mask[:, None, :] == 0, -1e30).softmax(-1) @ v[head])
        return torch.cat(outputs, -1)

    def bottleneck(self, name, x):
        return self.linear(self.adapter, f"{name}.decode", self.gelu(self.linear(self.adapter, f"{name}.encode", x)))

    def projected(self, name, x, mask):
        """TS(h) = act(V_D g(V_E h)), g being the module of this name."""
        x = self.linear(self.adapter, "encode", x)
        x = self.attention(self.adapter, name, x, mask, self.spec["heads"])
        x = self.linear(self.adapter, "decode", x)
        return self.gelu(x) if self.spec["activation"] == "gelu" else x

    def after_attention(self, layer, x):
        """LR1."""
        return self.bottleneck(f"attention.{layer}", x) if self.spec["type"] == "houlsby" else 0

    def beside(self, layer, h, a, mask):
        """TS(h), or LR2(a)."""
        if self.spec["type"] == "pal":
            return self.projected(f"attention.{layer}", h, mask)
        if self.spec["type"] == "low_rank":
            return self.bottleneck(f"layers.{layer}", h)
        return self.bottleneck(f"ffn.{layer}", a) if self.spec["type"] == "houlsby" else 0

    def on_top(self, h, mask):
        if self.spec["type"] == "pal_top" and self.spec["input"] == "all":
            return self.projected("attention", h, mask)
        if self.spec["type"] == "pal_top":
            first = self.projected("attention", h[:, :1], mask[:, :1])
            return torch.cat([first, h[:, 1:]], 1)
        if self.spec["type"] == "top_layers":
            x, w = self.linear(self.adapter, "encode", h), self.adapter
            for block in range(self.spec["depth"]):
                g = self.attention(w, f"blocks.{block}.attention", x, mask, self.spec["heads"])
                x = self.norm(w, f"blocks.{block}.norm", x + self.linear(w, f"blocks.{block}.dense", g))
            return self.linear(w, "decode", x)
        return h

    def hidden(self, input_ids, token_type_ids, attention_mask):
        """Last hidden states."""
        w, mask = self.encoder, attention_mask
        h = (
            w["embeddings.word_embeddings.weight"][input_ids]
            + w["embeddings.token_type_embeddings.weight"][token_type_ids]
        )
        h = self.norm(w, "embeddings.LayerNorm", h + w["embeddings.position_embeddings.weight"][: input_ids.shape[1]])
        chosen = range(3) if self.spec["layers"] is None else self.spec["layers"]
        for i in range(3):
            layer, here = f"encoder.layer.{i}", i in chosen
            x = self.attention(w, f"{layer}.attention.self", h, mask, 4)
            x = self.linear(w, f"{layer}.attention.output.dense", x)
            a = self.norm(w, f"{layer}.attention.output.LayerNorm", x + (self.after_attention(i, x) if here else 0) + h)
            ffn = self.gelu(self.linear(w, f"{layer}.intermediate.dense", a))
            ffn = self.linear(w, f"{layer}.output.dense", ffn)
            h = self.norm(w, f"{layer}.output.LayerNorm", ffn + a + (self.beside(i, h, a, mask) if here else 0))
        return self.on_top(h, mask)


FORMULAS = {
    **SMALL,
    "pal without GELU": {**SMALL["pal"], "activation": "identity"},
    "pal in layer 1": {**SMALL["pal"], "layers": [1]},
    "low_rank in layer 1": {**SMALL["low_rank"], "layers": [1]},
    "houlsby in layers 0 and 2": {**SMALL["houlsby"], "layers": [0, 2]},
    "pal_top on all positions": {**SMALL["pal_top"], "input": "all"},
    "pal_top without GELU": {**SMALL["pal_top"], "activation": "identity"},
    "six top_layers": {**SMALL["top_layers"], "depth": 6},
}


class TestFormulas:
    @torch.no_grad()
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @pytest.mark.parametrize("adapter", FORMULAS.values(), ids=FORMULAS)
    def test_every_type(self, adapter, packed, batch):
        model = randomised(make_model({**adapter, "init": "published"}, packed=packed))
        pooled = model(**batch, task_ids=TASK_IDS).pooled
        first = Reference(model, "first").hidden(**{key: value[:3] for key, value in batch.items()})
        close(pooled["first"], first[:, 0])
        average = Reference(model, "average").hidden(**{key: value[4:] for key, value in batch.items()})
        real = batch["attention_mask"][4:, :, None]
        close(pooled["average"], (average * real).sum(1) / real.sum(1))
        bare = randomised(make_model({**adapter, "init": "published"}, packed=packed))
        bare.adapters.clear()
        without = bare(**batch, task_ids=TASK_IDS).pooled
        assert all((pooled[name] - without[name]).abs().max() > 1e-2 for name in ("first", "average"))

    @torch.no_grad()
    def test_pal_top_on_cls_changes_the_first_token_alone(self, batch):
        model = randomised(make_model(SMALL["pal_top"], [TaskSpec("t", labels=2, pooling="max")]))
        one = {key: value[1:2] for key, value in batch.items()}  # the longest
        before = model(**one).pooled["t"]
        model.adapters["t"].decode.bias.fill_(-1e3)  # after GELU: 0 at the first token, where the maximum is not
        others = Reference(model, "t").hidden(**one)[:, 1:].amax(1)
        close(model(**one).pooled["t"], others.clamp(min=0))
        assert not torch.allclose(before, others, atol=1e-3)

    @torch.no_grad()
    def test_eager_attention_works_too(self, batch):
        model = randomised(make_model({**SMALL["pal"], "init": "published"}))
        eager = copy.deepcopy(model.config)
        eager.encoder._attn_implementation = "eager"
        eager = MtBertForMultiTask(eager).eval()
        eager.load_state_dict(model.state_dict())
        assert eager.encoder.config._attn_implementation == "eager" and not eager._packs
        for name, logits in model(**batch, tasks="all").task_logits.items():
            close(eager(**batch, tasks="all").task_logits[name], logits)


BERT_TO_DISTILBERT = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


class TestFamilies:
    """The families whose layers have another form than BERT's."""

    @torch.no_grad()
    @pytest.mark.parametrize("adapter", FORMULAS.values(), ids=FORMULAS)
    def test_distilbert_is_bert_by_other_names(self, adapter, batch):
        bert = randomised(make_model({**adapter, "init": "published"}))
        bert.encoder.embeddings.token_type_embeddings.weight.zero_()  # DistilBERT has none
        config = MtBertConfig(encoder=family_config("distilbert"), tasks=list(TASKS), adapter=bert.config.adapter)
        distilbert, state = MtBertForMultiTask(config).eval(), {}
        for name, value in bert.state_dict().items():
            if name.startswith("encoder."):
                for one, other in BERT_TO_DISTILBERT.items():
                    name = name.replace(one, other)
            state[name] = value
        del state["encoder.embeddings.token_type_embeddings.weight"]
        distilbert.load_state_dict(state)
        expected = bert(**batch, task_ids=TASK_IDS).task_logits
        for name, logits in distilbert(**batch, task_ids=TASK_IDS).task_logits.items():
            close(logits, expected[name])

    @torch.no_grad()
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @pytest.mark.parametrize("adapter", FORMULAS.values(), ids=FORMULAS)
    def test_modernbert_adds_before_the_next_norm(self, adapter, packed, batch):
        """a = h + x + LR1(x), x the attention's output; then a + FFN(LN(a)) + TS(h)."""
        encoder = family_config("modernbert")
        config = MtBertConfig(
            encoder=encoder, tasks=list(TASKS), adapter={**adapter, "init": "published"}, packed=packed
        )
        model = randomised(MtBertForMultiTask(config).eval())
        pooled = model(**batch, task_ids=TASK_IDS).pooled
        plain = AutoModel.from_config(copy.deepcopy(encoder), attn_implementation="eager")
        plain.load_state_dict(model.encoder.state_dict())
        given = []  # masks and rotations of each layer, as the encoder itself makes them
        for layer in plain.eval().layers:
            layer.register_forward_pre_hook(lambda _, args, kwargs: given.append((args, kwargs)), with_kwargs=True)
        chosen = range(3) if adapter.get("layers") is None else adapter["layers"]
        found = {"first": [], "average": []}
        for row, name in enumerate(["first"] * 3 + ["bare"] + ["average"] * 3):
            if name == "bare":
                continue
            given.clear()
            plain(batch["input_ids"][row : row + 1, : LENGTHS[row]])
            reference, mask = Reference(model, name), torch.ones(1, LENGTHS[row])
            h = given[0][0][0]
            for i, (layer, (_, kwargs)) in enumerate(zip(plain.layers, given, strict=True)):
                x, _ = layer.attn(layer.attn_norm(h), **kwargs)
                a = h + x + (reference.after_attention(i, x) if i in chosen else 0)
                h = a + layer.mlp(layer.mlp_norm(a)) + (reference.beside(i, h, a, mask) if i in chosen else 0)
            h = reference.on_top(plain.final_norm(h), mask)[0]
            found[name].append(h[0] if name == "first" else h.mean(0))
        for name, expected in found.items():
            close(pooled[name], torch.stack(expected), atol=2e-5)


# ------------------------------------------------------------------------------------------------ numbers of weights


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
        assert spec.problems("adapter") == []
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

    @pytest.mark.parametrize("family", ["mpnet", "deberta-v2", "albert"])
    def test_families_without_a_place_for_adapters(self, family):
        encoder = family_config(family)
        known = "bert, camembert, distilbert, electra, ernie, modernbert, roberta, xlm-roberta"
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


# ------------------------------------------------------------------------------------------------- tasks and adapters


class TestTasks:
    def test_each_task_has_its_own_unless_it_says_no(self):
        model = make_model(SMALL["pal"])
        assert list(model.adapters) == ["first", "average"]
        assert list(make_model(None).adapters) == []

    @torch.no_grad()
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @every_type
    def test_a_task_without_adapter_passes_through(self, adapter, packed, batch):
        model = randomised(make_model({**adapter, "init": "published"}, packed=packed))
        plain = make_model(None, packed=packed)
        plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("adapters.")})
        mixed, expected = (each(**batch, task_ids=TASK_IDS).task_logits for each in (model, plain))
        close(mixed["bare"], expected["bare"], rtol=1e-6, atol=1e-6)
        assert not torch.allclose(mixed["first"], expected["first"], atol=1e-3)
        alone, expected = (each(**batch, task="bare").logits for each in (model, plain))
        assert torch.equal(alone, expected)

    @torch.no_grad()
    @every_type
    def test_all_tasks_on_every_row_equal_one_after_the_other(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        for name, logits in model(**batch, tasks="all").task_logits.items():
            close(logits, model(**batch, task=name).logits)
        some = model(**batch, tasks=["average", "bare"]).task_logits
        assert list(some) == ["average", "bare"]
        close(some["average"], model(**batch, task="average").logits)

    @torch.no_grad()
    def test_tasks_asked_for_count_and_not_those_of_the_layout(self, batch):
        model = randomised(make_model({**SMALL["pal"], "init": "published"}))
        mask = batch["attention_mask"].bool()
        packed = {key: batch[key][mask][None] for key in ("input_ids", "token_type_ids")}
        packed["layout"] = PackedLayout.build(LENGTHS, [(0, 3, 1), (1, 1, 1), (2, 3, 1)])
        for names in (["bare"], ["average"], ["bare", "first"]):
            for name, logits in model(**packed, tasks=names).task_logits.items():
                close(logits, model(**batch, task=name).logits, msg=lambda text, names=names: f"{names}: {text}")

    @every_type
    def test_no_tensor_stands_in_the_state_twice(self, adapter, tmp_path):
        model = make_model(adapter)
        state = model.state_dict()
        assert len({tensor.data_ptr() for tensor in state.values()}) == len(state)
        assert len({id(parameter) for parameter in model.parameters()}) == len(dict(model.named_parameters()))
        model.save_pretrained(tmp_path)  # which refuses, or drops, tensors that share memory
        again = MtBertForMultiTask.from_pretrained(tmp_path).state_dict()
        assert again.keys() == state.keys() and all(torch.equal(again[name], state[name]) for name in state)

    @every_type
    def test_gradients_reach_the_adapters_of_the_batch_only(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        rows = {key: value[:4] for key, value in batch.items()}
        model(**rows, task_ids=[0, 0, 0, 1], labels=torch.tensor([0, 1, 2, 1])).loss.backward()
        for name, parameter in model.adapters["first"].named_parameters():
            assert parameter.grad is not None, name
        reached = [name for name, p in model.adapters["first"].named_parameters() if p.grad.abs().sum() > 0]
        # on one position attention is trivial, and a key's bias never matters
        dead = ("query", "key") if adapter["type"] == "pal_top" else ()
        expected = [name for name, _ in model.adapters["first"].named_parameters() if not any(d in name for d in dead)]
        assert set(expected) - set(reached) <= {name for name in expected if name.endswith("key.bias")}
        assert all(parameter.grad is None for parameter in model.adapters["average"].parameters())

    @torch.no_grad()
    @every_type
    def test_a_pretrained_encoder_gets_them_too(self, adapter, batch, tmp_path):
        model = randomised(make_model({**adapter, "init": "published"}))
        model.export_encoder().save_pretrained(tmp_path)
        spec = AdapterSpec(**adapter, init="published")
        started = MtBertForMultiTask.from_encoder(tmp_path, list(TASKS), adapter=spec).eval()
        for own, trained in ((started.heads, model.heads), (started.adapters, model.adapters)):
            own.load_state_dict(trained.state_dict())
        expected, found = (each(**batch, task_ids=TASK_IDS).task_logits for each in (model, started))
        assert started.config.adapter == model.config.adapter
        for name in expected:
            close(found[name], expected[name])

    @every_type
    def test_a_model_can_be_copied(self, adapter, batch):
        model = randomised(make_model({**adapter, "init": "published"}))
        other = copy.deepcopy(model)
        with torch.no_grad():
            expected = model(**batch, task_ids=TASK_IDS).task_logits
            for parameter in model.parameters():
                parameter.zero_()
            found = other(**batch, task_ids=TASK_IDS).task_logits
        assert all(torch.equal(found[name], expected[name]) for name in expected)

    @torch.no_grad()
    @pytest.mark.parametrize("kind", ["pal", "pal_top", "top_layers"])
    def test_dropout_in_train_mode_only(self, kind, batch):
        read = {"input": "all"} if kind == "pal_top" else {}
        model = randomised(make_model({**SMALL[kind], **read, "init": "published"}))
        adapter = model.adapters["average"]
        rows = {key: value[4:] for key, value in batch.items()}
        still = [model(**rows, task="average").logits for _ in range(2)]
        assert torch.equal(*still)
        adapter.train()
        drawn = [model(**rows, task="average").logits for _ in range(2)]
        assert not torch.equal(*drawn) and not torch.equal(drawn[0], still[0])

    @pytest.mark.parametrize("reentrant", [False, True])
    @pytest.mark.parametrize("packed", [True, False], ids=["packed", "padded"])
    @every_parallel_type
    def test_gradient_checkpointing_gives_the_same_gradients(self, kind, packed, reentrant, batch):
        still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        specs = [TaskSpec.from_dict({**task.to_dict(), "dropout": 0.0}) for task in TASKS]
        found = []
        for checkpointing in (False, True):
            model = randomised(make_model({**SMALL[kind], "init": "published"}, specs, packed, **still)).train()
            if checkpointing:
                model.gradient_checkpointing_enable({"use_reentrant": reentrant})
            calls = []
            inner = next(m for m in model.adapters["first"].modules() if isinstance(m, (ProjectedAttention, Decoder)))
            inner.register_forward_hook(lambda *_, calls=calls: calls.append(1))
            labels = torch.tensor([0.0, 1, 2, 1, 3.5, 0.5, 5])
            model(**batch, task_ids=TASK_IDS, labels=labels).loss.backward()
            found.append((len(calls), {name: p.grad for name, p in model.named_parameters()}))
        (once, expected), (twice, recomputed) = found
        assert twice == 2 * once  # so checkpointing did happen
        for name, gradient in expected.items():
            close(recomputed[name], gradient, rtol=1e-6, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


# ---------------------------------------------------------------------------------------------------- initialisation


def assert_normal(values: list[torch.Tensor], std: float):
    """Mean 0 and this standard deviation, within five standard errors."""
    flat = torch.cat([value.detach().flatten() for value in values])
    assert abs(float(flat.mean())) < 5 * std / len(flat) ** 0.5
    assert abs(float(flat.std()) - std) < 5 * std / (2 * len(flat)) ** 0.5


class TestInitialisation:
    @pytest.mark.parametrize("kind", ADAPTERS)
    def test_published(self, kind):
        """All weights from N(0, .02), biases 0; norms too, weights and biases, which is the authors' slip."""
        adapter = {**SMALL[kind], "init": "published", "size": 24}
        model = make_model(adapter, [TaskSpec("t", labels=2)], hidden_size=96)
        modules = list(model.adapters["t"].modules())
        dense = [module for module in modules if isinstance(module, nn.Linear)]
        assert_normal([module.weight for module in dense], 0.02)
        for module in dense:
            assert_normal([module.weight], 0.02)
            assert not module.bias.any()
        norms = [module for module in modules if isinstance(module, nn.LayerNorm)]
        assert len(norms) == (2 if kind == "top_layers" else 0)
        if norms:
            assert_normal([module.weight for module in norms], 0.02)
            assert_normal([module.bias for module in norms], 0.02)
        owned = sum(count(module) for module in [*dense, *norms])
        assert owned == count(model.adapters["t"])  # nothing else is there to initialise

    def test_the_standard_deviation_is_the_encoders(self):
        model = make_model({**SMALL["top_layers"], "size": 24}, [TaskSpec("t", labels=2)], initializer_range=0.3)
        modules = list(model.adapters["t"].modules())
        assert_normal([module.weight for module in modules if isinstance(module, nn.Linear)], 0.3)
        assert_normal([module.weight for module in modules if isinstance(module, TopNorm)], 0.3)

    @every_parallel_type
    def test_zero_makes_decoders_zero_and_nothing_else(self, kind):
        model = make_model(SMALL[kind])
        dense = {name: module for name, module in model.adapters.named_modules() if isinstance(module, nn.Linear)}
        decoders = [name for name in dense if name.endswith("decode")]
        assert len(decoders) == {"pal": 2, "low_rank": 6, "houlsby": 12}[kind]
        for name, module in dense.items():
            assert bool(module.weight.any()) == (name not in decoders), name
            assert not module.bias.any()

    @every_parallel_type
    def test_published_is_not_zero(self, kind):
        model = make_model({**SMALL[kind], "init": "published"})
        assert all(module.weight.any() for module in model.adapters.modules() if isinstance(module, nn.Linear))

    @every_type
    def test_tasks_start_from_different_weights(self, adapter):
        model = make_model(adapter)
        one, other = (dict(model.adapters[name].named_parameters()) for name in ("first", "average"))
        different = [name for name in one if one[name].any() and not torch.equal(one[name], other[name])]
        assert different == [name for name in one if one[name].any()]

    @every_type
    def test_the_encoder_starts_as_without_adapters(self, adapter):
        one, other = make_model(adapter).encoder.state_dict(), make_model(None).encoder.state_dict()
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in other)


# --------------------------------------------------------------------------------------------------------------- peft


class TestPeft:
    CONFIG = {"r": 2, "target_modules": r"encoder\..*\.(query|value)", "init_lora_weights": False}

    @pytest.mark.parametrize("saved", [False, True], ids=["alone", "with modules_to_save"])
    def test_lora_leaves_the_adapters_own_projections_alone(self, saved, batch):
        """Frozen like everything that LoRA does not name; trained where modules_to_save names the adapter."""
        own = [f"{part}.{name}" for part in ("adapters", "heads") for name in ("first", "average")]
        config = peft.LoraConfig(**self.CONFIG, modules_to_save=own if saved else None)
        model = peft.get_peft_model(randomised(make_model({**SMALL["pal"], "init": "published"})), config)
        lora = {name.split(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
        assert len(lora) == 2 * 3 and all(".encoder.encoder.layer." in name for name in lora)
        trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        inside = [name for name in trained if ".adapters." in name and re.search(r"\.(query|value)\.", name)]
        assert len(inside) == (2 * 3 * 2 * 2 if saved else 0)  # tasks × layers × (query, value) × (weight, bias)
        assert all(".lora_" in name or ".modules_to_save." in name for name in trained)

        model.train()(**batch, task_ids=TASK_IDS, labels=torch.tensor([0.0, 1, 2, 1, 3.5, 0.5, 5])).loss.backward()
        reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
        assert reached == trained

    @torch.no_grad()
    def test_lora_and_adapters_add_up(self, batch):
        model = randomised(make_model({**SMALL["pal"], "init": "published"}))
        before = model(**batch, task_ids=TASK_IDS).task_logits
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**self.CONFIG)).eval()
        during = wrapped(**batch, task_ids=TASK_IDS).task_logits
        after = wrapped.merge_and_unload()(**batch, task_ids=TASK_IDS).task_logits
        for name in before:
            assert not torch.allclose(during[name], before[name], atol=1e-4)
            close(after[name], during[name])
