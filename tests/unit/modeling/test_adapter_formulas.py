"""Each adapter against its formula in plain padded torch, in every family of encoders."""

import copy
from functools import partial

import pytest
import torch
from adapter_models import LENGTHS, SMALL, TASK_IDS, TASKS, make_model, randomised
from families import family_config
from tiny import padded_batch
from transformers import AutoModel

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-5)


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return padded_batch(LENGTHS)


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
