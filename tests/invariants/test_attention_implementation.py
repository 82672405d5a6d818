"""Another attention implementation changes no output: rows of a packed batch never attend to each other."""

import copy
import pickle

import pytest
import torch
from families import family_config
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout
from mtbert.modeling.task_spec import TaskSpec

TASKS = [TaskSpec("first", labels=3), TaskSpec("average", range=(0, 5), pooling="mean", dropout=0.0)]
WAYS = {
    "the model": lambda model, name: model.set_attn_implementation(name),
    "a mapping": lambda model, name: model.set_attn_implementation({"encoder": name}),
    "a mapping with itself": lambda model, name: model.set_attn_implementation({"": name, "encoder": name}),
    "the encoder": lambda model, name: model.encoder.set_attn_implementation(name),
    "config": lambda model, name: setattr(model.config, "_attn_implementation", name),
    "config.encoder": lambda model, name: setattr(model.config.encoder, "_attn_implementation", name),
    "encoder.config": lambda model, name: setattr(model.encoder.config, "_attn_implementation", name),
}
DROPOUTS = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout"), 0.0)


def make_model(family: str = "bert", adapter=None) -> MtBertForMultiTask:
    torch.manual_seed(0)
    config = family_config(family, initializer_range=0.3, **DROPOUTS)
    model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS, adapter=adapter)).eval()
    for parameter in model.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture(scope="module")
def batch() -> dict:
    lengths = torch.tensor([9, 3, 6, 2, 7, 4])
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(5, 100, (6, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": (torch.arange(9) < lengths[:, None]).long()}


def packed(batch: dict) -> dict:
    mask = batch["attention_mask"].bool()
    layout = PackedLayout.build(mask.sum(-1).tolist(), [(0, 4, 1), (1, 2, 1)])
    return {"input_ids": batch["input_ids"][mask][None], "layout": layout}


def outputs(model, batch) -> list[torch.Tensor]:
    """Logits of padded inputs, of packed ones, and of every task on every row."""
    found = [
        model(**batch, task_ids=[0] * 4 + [1] * 2).task_logits,
        model(**packed(batch)).task_logits,
        model(**batch, tasks="all").task_logits,
    ]
    return [logits for each in found for logits in each.values()]


def assert_near(found, expected):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def register(name: str, with_mask: bool) -> None:
    """An attention implementation of a user's own."""
    AttentionInterface.register(name, sdpa_attention_forward)
    if with_mask:
        AttentionMaskInterface.register(name, sdpa_mask)


@torch.no_grad()
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("name", ["sdpa", "eager", "a_new_one"])
@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_outputs_stay_and_packing_comes_back(family, name, way, batch):
    register("a_new_one", with_mask=True)
    model = make_model(family)
    assert model._packs
    expected = outputs(model, batch)
    alone = [model(input_ids=batch["input_ids"][i : i + 1, :n], task="first").logits for i, n in [(1, 3), (3, 2)]]
    assert_near(alone, [expected[4][1:2], expected[4][3:4]])
    way(model, name)
    assert not model._packs
    assert_near(outputs(model, batch), expected)
    way(model, "mtbert_packed")
    assert model._packs
    for one, other in zip(outputs(model, batch), expected, strict=True):
        assert torch.equal(one, other)


@torch.no_grad()
def test_an_implementation_without_a_mask_is_refused(batch):
    register("without_mask", with_mask=False)
    model = make_model()
    ids = batch["input_ids"][:2, :3]
    expected = model(input_ids=ids, task="first").logits
    model.set_attn_implementation("without_mask")
    assert_near([model(input_ids=ids, task="first").logits], [expected])  # of one length: there is no padding
    with pytest.raises(ValueError, match="'without_mask' has no mask"):
        model(**batch, task="first")


@pytest.mark.parametrize("adapter", [None, {"type": "pal", "size": 8, "heads": 2}, {"type": "pal_top", "size": 8}])
@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert", "roberta"])
def test_gradients_stay(family, adapter, batch):
    adapter = adapter and {"heads": 2, **adapter}
    labels = {"first": torch.tensor([0, 1, 2, 0]), "average": torch.tensor([1.0, 4.5])}
    found = []
    for name in ("mtbert_packed", "sdpa", "eager"):
        model = make_model(family, adapter)
        for layer in (module for module in model.modules() if isinstance(module, torch.nn.Dropout)):
            layer.p = 0.0
        model.set_attn_implementation(name)
        output = model.train()(**packed(batch), labels=labels)
        output.loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        found.append([*output.task_logits.values(), output.loss, *gradients])
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            torch.testing.assert_close(one, two, atol=3e-5 * max(1, float(two.detach().abs().max())), rtol=0)


@torch.no_grad()
def test_copies_files_and_defaults(batch, tmp_path):
    model = make_model("bert", {"type": "low_rank", "size": 4})
    expected = outputs(model, batch)
    model.set_attn_implementation("eager")
    model.save_pretrained(tmp_path)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other._packs
        assert_near(outputs(other, batch), expected)
        other.set_attn_implementation("mtbert_packed")
        assert other._packs and not model._packs
        assert_near(outputs(other, batch), expected)
    for name in (None, "eager", "sdpa", {"encoder": "eager"}):
        loaded = MtBertForMultiTask.from_pretrained(tmp_path, attn_implementation=name).eval()
        assert loaded._packs == (name in (None, "sdpa"))  # the default is packed
        assert_near(outputs(loaded, batch), expected)
        loaded.set_attn_implementation("sdpa")
        assert_near(outputs(loaded, batch), expected)
    torch.set_default_dtype(torch.float64)
    try:
        assert_near(outputs(model, batch), expected)
    finally:
        torch.set_default_dtype(torch.float32)


def test_predictions_stay(make_model, tokenizer):
    texts = ["the cat sleeps .", "a dog", "is the old house not very good ?", "fish"]
    model = make_model()
    expected = model.predict(texts, tasks=["stars", "topics"], tokenizer=tokenizer)
    embeddings = model.embed(texts, tokenizer=tokenizer)
    model.set_attn_implementation("eager")
    for name, found in model.predict(texts, tasks=["stars", "topics"], tokenizer=tokenizer).items():
        assert abs(found.logits - expected[name].logits).max() < 1e-5
    assert abs(model.embed(texts, tokenizer=tokenizer) - embeddings).max() < 1e-5
