"""Random weights for the top layers of a pretrained encoder."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from mtbert import MtBertForMultiTask, TaskSpec
from mtbert.errors import InputError
from mtbert.modeling.encoder_loading import reinitialize_layers

TASK = TaskSpec("a", labels=2)
SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 40}


def make_encoder(family: str, **sizes):
    config = AutoConfig.for_model(family, **{**SIZES, "num_hidden_layers": 3, **sizes})
    encoder = AutoModel.from_config(config)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.fill_(7.0)  # "pretrained"
    return encoder


def changed(encoder) -> set[str]:
    """Names of the parameters that are no longer all 7."""
    return {name for name, parameter in encoder.named_parameters() if not bool((parameter == 7.0).all())}


@pytest.mark.parametrize(
    ("family", "layers", "sizes"),
    [
        ("bert", "encoder.layer", {}),
        ("roberta", "encoder.layer", {}),
        ("electra", "encoder.layer", {"embedding_size": 16}),
        ("mpnet", "encoder.layer", {}),
        ("modernbert", "layers", {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}),
        ("distilbert", "transformer.layer", {"dim": 16, "n_heads": 2, "n_layers": 3, "hidden_dim": 24}),
        ("deberta-v2", "encoder.layer", {}),
    ],
)
@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_the_top_layers_and_the_pooler_change_and_no_others(family, layers, sizes, count):
    encoder = make_encoder(family, **sizes)
    torch.manual_seed(3)
    reinitialize_layers(encoder, count)
    prefixes = tuple(f"{layers}.{number}." for number in range(3 - count, 3))
    expected = {name for name, _ in encoder.named_parameters() if name.startswith(prefixes)} if count else set()
    poolers = {name for name, _ in encoder.named_parameters() if name.startswith("pooler.")} if count else set()
    assert changed(encoder) == expected | poolers


def test_the_weights_are_drawn_as_the_family_draws_them():
    encoder = make_encoder("bert", hidden_size=128, intermediate_size=256)
    torch.manual_seed(3)
    reinitialize_layers(encoder, 1)
    top = encoder.encoder.layer[2]
    assert top.attention.self.query.weight.std().item() == pytest.approx(0.02, rel=0.05)  # initializer_range
    assert bool((top.attention.self.query.bias == 0).all())
    assert bool((top.output.LayerNorm.weight == 1).all())
    first = top.attention.self.query.weight.clone()
    torch.manual_seed(3)
    reinitialize_layers(encoder, 1)
    assert torch.equal(top.attention.self.query.weight, first)


def test_albert_has_groups():
    encoder = make_encoder("albert", embedding_size=16, num_hidden_groups=1)
    with pytest.raises(InputError, match="reinitialized_layers is 2, but the 'albert' encoder has 1"):
        reinitialize_layers(encoder, 2)
    reinitialize_layers(encoder, 1)
    assert any(name.startswith("encoder.") for name in changed(encoder))


def test_adapters_keep_their_weights(encoder_dir):
    model = MtBertForMultiTask.from_encoder(encoder_dir, [TASK], adapter={"type": "pal", "size": 4, "heads": 2})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    reinitialize_layers(model.encoder, 1)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("encoder.") for name in moved)
    assert not any("adapter" in name for name in moved)


def test_too_many_layers(encoder_dir):
    model = MtBertForMultiTask.from_encoder(encoder_dir, [TASK])
    with pytest.raises(InputError, match=r"model\.reinitialized_layers is 99, but the 'bert' encoder has \d"):
        reinitialize_layers(model.encoder, 99)
