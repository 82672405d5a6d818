"""Poolings by hand, and encoders: kinds, poolers, freezing, LoRA."""

import pytest
import torch
from texts_alone import SIZES, TINY, close, naive_hidden, padded_texts
from torch import nn
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    ElectraConfig,
    GPT2Config,
    T5Config,
)

from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

POOLINGS = ("cls", "pooler", "mean", "max")


@pytest.fixture
def batch(tokenizer):
    return padded_texts(tokenizer)


class TestPooling:
    @pytest.mark.parametrize("packed", [True, False])
    def test_by_hand(self, make_model, batch, packed):
        specs = [TaskSpec(f"by-{pooling}", labels=2, pooling=pooling) for pooling in POOLINGS]
        model = make_model(specs, packed=packed).eval()
        output = model(**batch, tasks="all")
        dense = model.encoder.pooler.dense
        by_hand = {
            "cls": lambda states: states[0],
            "pooler": lambda states: torch.tanh(dense.weight @ states[0] + dense.bias),
            "mean": lambda states: sum(states) / len(states),
            "max": lambda states: torch.stack([column.max() for column in states.T]),
        }
        for pooling, function in by_hand.items():
            expected = torch.stack([function(states) for states in naive_hidden(model, batch)])
            close(output.pooled[f"by-{pooling}"], expected)

    def test_an_attention_head_reads_its_rows_own_tokens(self, make_model, batch):
        specs = [TaskSpec("plain", labels=2), TaskSpec("looks", labels=3, head={"type": "attention"})]
        model = make_model(specs).eval()
        output = model(**batch, task_ids=[0, 0, 1, 1, 1, 1])
        for row, states in enumerate(naive_hidden(model, batch)[2:]):
            mask = torch.ones(1, len(states), dtype=torch.bool)
            close(output.task_logits["looks"][row], model.heads["looks"](states[:1], states[None], mask)[0])


class TestEncoder:
    def test_an_unused_pooler_is_dropped(self, make_model):
        model = make_model([TaskSpec("t", labels=2)])
        assert model.encoder.pooler is None
        assert not [name for name, _ in model.named_parameters() if "pooler" in name]

    def test_a_used_pooler_is_the_pretrained_one(self, make_model, encoder_dir):
        model = make_model([TaskSpec("t", labels=2), TaskSpec("p", labels=2, pooling="pooler")])
        pretrained = AutoModel.from_pretrained(encoder_dir)
        assert torch.equal(model.encoder.pooler.dense.weight, pretrained.pooler.dense.weight)

    @pytest.mark.parametrize("pooling", ["cls", "pooler"])
    def test_saved_and_loaded_with_and_without_pooler(self, make_model, batch, tmp_path, pooling):
        model = make_model([TaskSpec("t", labels=2, pooling=pooling)]).eval()
        model.save_pretrained(tmp_path)
        loaded, info = MtBertForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert torch.equal(loaded.eval()(**batch).logits, model(**batch).logits)

    @pytest.mark.parametrize(
        "config",
        [ElectraConfig(**TINY, **SIZES), DistilBertConfig(**TINY, dim=16, n_layers=1, n_heads=2, hidden_dim=24)],
        ids=lambda config: config.model_type,
    )
    def test_encoders_without_a_pooler(self, config, batch, tmp_path):
        AutoModel.from_config(config).save_pretrained(tmp_path)
        message = rf"tasks \['p'\]: pooling is 'pooler', but {config.model_type} encoders have none; use cls, mean or"
        with pytest.raises(ValueError, match=message):
            MtBertForMultiTask.from_encoder(tmp_path, [TaskSpec("p", labels=2, pooling="pooler")])
        model = MtBertForMultiTask.from_encoder(tmp_path, [TaskSpec("t", labels=2)]).eval()
        assert model(**batch).logits.shape == (6, 2)

    def test_weights_are_the_pretrained_ones(self, make_model, encoder_dir):
        model, pretrained = make_model(), AutoModel.from_pretrained(encoder_dir)
        own = model.encoder.state_dict()
        for name, value in pretrained.state_dict().items():
            if "pooler" not in name:
                assert torch.equal(own[name], value), name

    def test_the_encoder_is_built_once(self, encoder_dir, tasks, monkeypatch):
        built = []
        original = BertModel.__init__
        monkeypatch.setattr(BertModel, "__init__", lambda *args, **kwargs: built.append(1) or original(*args, **kwargs))
        model = MtBertForMultiTask.from_encoder(encoder_dir, tasks, {"size": 12})
        assert len(built) == 1
        assert "_loaded_encoder" not in vars(model.config)

    @pytest.mark.parametrize("name", ["eager", "sdpa"])
    def test_the_attention_that_is_asked_for_is_taken(self, encoder_dir, name):
        tasks = [TaskSpec("t", labels=2)]
        model = MtBertForMultiTask.from_encoder(encoder_dir, tasks, packed=False, attn_implementation=name)
        assert model.encoder.config._attn_implementation == name

    def test_a_subclass_with_an_init_of_its_own_starts_from_an_encoder(self, encoder_dir, tasks):
        class Own(MtBertForMultiTask):
            def __init__(self, config):
                super().__init__(config)
                self.extra = torch.nn.Linear(2, 2)

        model = Own.from_encoder(encoder_dir, tasks)
        word = AutoModel.from_pretrained(encoder_dir).embeddings.word_embeddings.weight
        assert torch.equal(model.encoder.embeddings.word_embeddings.weight, word)

    def test_heads_follow_the_seed(self, make_model):
        one, other = make_model(), make_model()
        for (name, a), (_, b) in zip(one.named_parameters(), other.named_parameters(), strict=True):
            assert torch.equal(a, b), name

    def test_new_heads_are_initialised_like_the_encoder(self, make_model):
        model = make_model([TaskSpec("t", labels=2, head={"type": "mlp", "layers": 2, "hidden_size": 200})])
        linear = [module for module in model.heads.modules() if isinstance(module, nn.Linear)]
        assert all(not module.bias.any() for module in linear)
        weights = torch.cat([module.weight.flatten() for module in linear])
        assert abs(weights.std() - 0.2) < 0.005 and abs(weights.mean()) < 0.005

    def test_dtype_follows_the_encoder(self, make_model):
        model = make_model(dtype=torch.bfloat16)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}

    def test_an_unknown_model_type(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "nonsense"}')
        with pytest.raises(ValueError, match="nonsense"):
            MtBertForMultiTask.from_encoder(tmp_path, [TaskSpec("t", labels=2)])

    def test_a_checkpoint_of_our_own_is_no_encoder(self, make_model, tmp_path):
        make_model().save_pretrained(tmp_path)
        with pytest.raises(ValueError, match="'mtbert' is not an encoder of transformers; give one that is"):
            MtBertForMultiTask.from_encoder(tmp_path, [TaskSpec("t", labels=2)])

    @pytest.mark.parametrize(
        "config",
        [
            GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=1, n_head=2),
            T5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2),
            BertConfig(**TINY, **SIZES, is_decoder=True),
        ],
        ids=["gpt2", "t5", "bert decoder"],
    )
    def test_decoders_are_refused(self, config, tmp_path):
        AutoModel.from_config(config).save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"'{config.model_type}' has a decoder; give an encoder-only model"):
            MtBertForMultiTask.from_encoder(tmp_path, [TaskSpec("t", labels=2)])

    def test_freeze(self, make_model, batch):
        model = make_model()
        model.freeze_encoder()
        model(**batch, task="stars", labels=torch.tensor([0, 1, 2, 0, 1, 2])).loss.backward()
        assert all(not p.requires_grad and p.grad is None for p in model.encoder.parameters())
        assert all(p.requires_grad for p in model.heads.parameters())
        assert all(p.grad is not None for p in model.heads["stars"].parameters())
        assert all(p.grad is None for p in model.heads["topics"].parameters())
        model.freeze_encoder(False)
        assert all(p.requires_grad for p in model.parameters())
