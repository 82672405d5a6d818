"""Models that are copied, pickled, cast, or asked for what they do not have."""

import copy
import io
import pickle

import pytest
import torch

from mtbert.modeling import adapted_layers
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask

IDS = torch.tensor([[2, 6, 7, 3], [2, 8, 3, 0], [2, 9, 3, 0], [2, 7, 6, 3]])
BATCH = {"input_ids": IDS, "attention_mask": (IDS > 0).long(), "tasks": "all"}


def saved(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def in_another_process(model):
    """What a process that has just been started makes of it: it has adapted no layer yet."""
    data = pickle.dumps(model)
    adapted_layers._adapted.cache_clear()
    return pickle.loads(data)


def logits(model):
    return list(model(**BATCH).task_logits.values())


@torch.no_grad()
@pytest.mark.parametrize("adapter", [None, {"type": "pal", "size": 8, "heads": 2}, {"type": "houlsby", "size": 4}])
@pytest.mark.parametrize("copied", [saved, in_another_process, copy.deepcopy])
def test_a_copy_gives_the_same_and_is_apart(make_model, adapter, copied):
    model = make_model(adapter=adapter).eval()
    for parameter in model.adapters.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    expected = logits(model)
    other = copied(model)
    assert all(torch.equal(one, two) for one, two in zip(logits(other), expected, strict=True))
    assert other._packs and other.encoder.config is other.config.encoder is not model.config.encoder
    for parameter in other.parameters():
        parameter.zero_()
    assert all(torch.equal(one, two) for one, two in zip(logits(model), expected, strict=True))
    assert logits(copied(copied(model)))[0].shape == expected[0].shape


@torch.no_grad()
@pytest.mark.parametrize("cast", [lambda m: m.half(), lambda m: m.to(torch.bfloat16), lambda m: m.bfloat16()])
@pytest.mark.parametrize("adapter", [None, {"type": "pal", "size": 8, "heads": 2}])
def test_half_precision_is_near_and_packed_is_padded(make_model, adapter, cast):
    expected, found = logits(make_model(adapter=adapter).eval()), []
    for implementation in ("mtbert_packed", "sdpa", "eager"):
        model = cast(make_model(adapter=adapter).eval())
        model.set_attn_implementation(implementation)
        found.append(logits(model))
    for other in found:
        for one, two in zip(other, expected, strict=True):
            assert one.dtype == model.dtype
            torch.testing.assert_close(one.float(), two, atol=0.1, rtol=0.1)


def test_a_missing_tokenizer_is_no_attribute(make_model, tokenizer, tmp_path):
    model = MtBertForMultiTask(make_model().config)
    assert not hasattr(model, "tokenizer") and getattr(model, "tokenizer", None) is None
    for kind in (AttributeError, ValueError):
        with pytest.raises(kind, match="tokenizer is missing; this model was not loaded from a checkpoint"):
            _ = model.tokenizer
    assert not hasattr(model, "tokeniser")
    with pytest.raises(AttributeError, match="no attribute 'tokeniser'"):
        _ = model.tokeniser
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    loaded = MtBertForMultiTask.from_pretrained(tmp_path)
    assert hasattr(loaded, "tokenizer") and loaded.tokenizer is loaded.tokenizer


def test_meta_is_no_device_to_load_on(make_model, tmp_path):
    make_model().save_pretrained(tmp_path)
    with torch.device("meta"):
        with pytest.raises(ValueError, match="meta as PyTorch's default device.*load it outside of"):
            MtBertForMultiTask.from_pretrained(tmp_path)
        assert MtBertForMultiTask(make_config(tmp_path)).device.type == "meta"
    assert MtBertForMultiTask.from_pretrained(tmp_path, device_map="meta").device.type == "meta"
    with torch.device("cpu"):
        assert MtBertForMultiTask.from_pretrained(tmp_path).device.type == "cpu"


def make_config(folder):
    return MtBertForMultiTask.config_class.from_pretrained(folder)
