"""Groups of parameters: each part's and layer's learning rate, against closed forms, and what is refused."""

import pytest
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModel
from transformers.trainer_pt_utils import get_parameter_names

from mtbert.training.optimizers import (
    OptimizerSettings,
    layer_of,
    parameter_groups,
    part_of,
)

SMALL = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
DISTILBERT = {"dim": 8, "n_layers": 3, "n_heads": 2, "hidden_dim": 8, "vocab_size": 20}
FAMILIES = {
    **dict.fromkeys(("bert", "roberta", "electra", "mpnet", "modernbert", "camembert", "xlm-roberta"), SMALL),
    "deberta-v2": {**SMALL, "relative_attention": True, "position_biased_input": False},
    "distilbert": DISTILBERT,
    "albert": {**SMALL, "embedding_size": 4},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_familys_layers_are_found(family):
    small = {**FAMILIES[family], **({"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0})}
    model = AutoModel.from_config(AutoConfig.for_model(family, **small))
    places = {name: layer_of(f"encoder.{name}") for name, _ in model.named_parameters()}
    layers = {place for place in places.values() if place}
    assert layers == ({1} if family == "albert" else {1, 2, 3})  # ALBERT's layers share one set of weights
    embeddings = {name for name, place in places.items() if place == 0}
    assert {name for name in places if "embedding" in name} == embeddings != set()
    on_top = {name.partition(".")[0] for name, place in places.items() if place is None}
    assert on_top <= {"pooler", "final_norm", "encoder"}, on_top
    by_layer = [sum(place == layer for place in places.values()) for layer in sorted(layers)]
    assert max(by_layer) - min(by_layer) <= 1  # ModernBERT's first layer has no norm in front


def rates_by_name(model, settings, lr=1.0):
    decayed = get_parameter_names(model, [nn.LayerNorm], ["bias"])
    groups = parameter_groups(model.named_parameters(), decayed, lr, 0.3, settings)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {names[id(p)]: group for group in groups for p in group["params"]}
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert sum(len(group["params"]) for group in groups) == len(found)
    assert all(group["weight_decay"] == (0.3 if name in decayed else 0.0) for name, group in found.items())
    return {name: group["lr"] for name, group in found.items()}, groups


def test_rates_by_part_and_layer(make_model):
    model = make_model(adapter={"type": "low_rank", "size": 4})
    settings = OptimizerSettings(
        encoder_learning_rate=0.1, adapter_learning_rate=0.5, head_learning_rate=2.0, layer_decay=0.5
    )
    rates, groups = rates_by_name(model, settings)
    for name, rate in rates.items():
        if name.startswith("heads."):
            assert rate == 2.0
        elif name.startswith("adapters."):
            assert rate == 0.5
        else:
            expected = 0.025 if ".embeddings." in name else 0.05 if ".layer.0." in name else 0.1
            assert rate == pytest.approx(expected), name
    assert groups[0]["lr"] == pytest.approx(0.1)  # the first group's rate is the one that is logged


def test_default_settings_are_the_two_groups_of_transformers(make_trainer, make_model):
    model, rates = make_model(), {"weight_decay": 0.3, "learning_rate": 0.7}
    theirs = make_trainer(model, **rates).create_optimizer().param_groups
    ours = make_trainer(model, **rates, optimizer=OptimizerSettings(layer_decay=1.0)).create_optimizer().param_groups
    assert len(theirs) == len(ours) == 2
    for one, other in zip(theirs, ours, strict=True):
        assert {id(p) for p in one["params"]} == {id(p) for p in other["params"]}
        assert {key: one[key] for key in one if key != "params"} == {key: other[key] for key in one if key != "params"}


def test_frozen_parameters_are_in_no_group_and_pefts_have_the_adapters_rate(make_model):
    model = make_model()
    own = [f"heads.{task}" for task in model.heads]
    wrapped = get_peft_model(model, LoraConfig(r=2, target_modules=["query"], modules_to_save=own))
    settings = OptimizerSettings(adapter_learning_rate=0.5, head_learning_rate=2.0, layer_decay=0.1)
    rates, _ = rates_by_name(wrapped, settings)
    assert {"head", "adapter"} == {part_of(name)[0] for name in rates}
    for name, rate in rates.items():
        expected = 2.0 if ".heads." in name else 0.05 if ".layer.0." in name else 0.5
        assert rate == pytest.approx(expected), name
    assert {part_of(name)[1] for name in rates if ".heads." in name} == set(model.heads)


def test_frozen_encoder(make_model):
    model = make_model()
    model.freeze_encoder()
    rates, _ = rates_by_name(model, OptimizerSettings(head_learning_rate=3.0))
    assert set(rates.values()) == {3.0}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"per_task": "both"}, "optimizer.per_task is 'both', but must be separate, rates or null"),
        ({"head_learning_rate": 0}, "optimizer.head_learning_rate is 0, but must be positive"),
        ({"encoder_learning_rate": -1}, "optimizer.encoder_learning_rate is -1, but must be positive"),
        ({"layer_decay": 0}, "optimizer.layer_decay is 0, but must be above 0 and at most 1"),
        ({"layer_decay": 1.1}, "optimizer.layer_decay is 1.1, but must be above 0 and at most 1"),
    ],
)
def test_settings_that_are_wrong(values, message):
    assert [str(each.under("optimizer")) for each in OptimizerSettings(**values).problems()] == [message]
    assert OptimizerSettings().problems() == []
