"""The dropout of attention weights is set by itself, under the name that each family gives it."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from families import family_config
from transformers import AutoModel, set_seed

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.encoder_support import attention_dropout
from mtbert.modeling.errors import InputError
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

TASK = TaskSpec("one", labels=2, dropout=0.0)
NAMES = {
    "albert": "attention_probs_dropout_prob",
    "bert": "attention_probs_dropout_prob",
    "deberta-v2": "attention_probs_dropout_prob",
    "distilbert": "attention_dropout",
    "electra": "attention_probs_dropout_prob",
    "eurobert": "attention_dropout",
    "funnel": "attention_dropout",
    "modernbert": "attention_dropout",
    "mpnet": "attention_probs_dropout_prob",
    "roberta": "attention_probs_dropout_prob",
    "xlm": "attention_dropout",
}


@pytest.fixture(autouse=True)
def _quietly():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*(computed with padding|no kernel for its attention)")
        yield


@pytest.fixture
def folder(tmp_path):
    """A function: family → the folder of an encoder without any dropout."""

    def make(family: str) -> str:
        config = family_config(family)
        for name in [name for name in vars(config) if "drop" in name and getattr(config, name)]:
            setattr(config, name, 0.0)
        set_seed(0)
        AutoModel.from_config(config).save_pretrained(tmp_path / family)
        return str(tmp_path / family)

    return make


def differs(model: MtBertForMultiTask) -> bool:
    """Whether two passes in training differ."""
    ids = torch.randint(5, 100, (4, 12))
    return not torch.equal(model.train()(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("family", NAMES)
def test_it_drops_and_is_saved(family, folder, tmp_path):
    path = folder(family)
    assert not differs(MtBertForMultiTask.from_encoder(path, [TASK]))
    model = MtBertForMultiTask.from_encoder(path, [TASK], attention_dropout=0.5)
    assert differs(model)
    model.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["encoder"][NAMES[family]] == 0.5
    again = MtBertForMultiTask.from_pretrained(tmp_path / "saved")
    assert differs(again)
    kept = json.loads((tmp_path / family / "config.json").read_text())
    assert kept[NAMES[family]] == 0.0  # the encoder's own folder stays as it is


def test_other_dropout_stays(encoder_dir):
    model = MtBertForMultiTask.from_encoder(encoder_dir, [TASK], attention_dropout=0.0)
    assert model.config.encoder.attention_probs_dropout_prob == 0.0
    assert model.config.encoder.hidden_dropout_prob == 0.1
    layer = model.encoder.encoder.layer[0]
    assert (layer.attention.self.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p) == (0.0, 0.1, 0.1)


def test_none_leaves_the_config(encoder_dir):
    one, other = (MtBertForMultiTask.from_encoder(encoder_dir, [TASK], **given) for given in ({}, FROM_CONFIG))
    assert one.config.to_dict() == other.config.to_dict()
    assert one.config.encoder.attention_probs_dropout_prob == 0.1


FROM_CONFIG = {"attention_dropout": None}


@pytest.mark.parametrize("probability", [-0.1, 1.0, 2.0, float("nan")])
def test_out_of_range(probability, encoder_dir):
    with pytest.raises(InputError, match=r"attention_dropout is \S+, but must be in \[0, 1\)"):
        MtBertForMultiTask.from_encoder(encoder_dir, [TASK], attention_dropout=probability)


@pytest.mark.parametrize("family", ["fnet", "mra", "nystromformer", "yoso"])
def test_a_family_without_it_is_refused(family, folder):
    message = f"attention_dropout is 0.5, but '{family}' encoders have no dropout of attention weights; drop it"
    with pytest.raises(InputError, match=message):
        MtBertForMultiTask.from_encoder(folder(family), [TASK], attention_dropout=0.5)
    config = family_config(family)  # what its config says does nothing in transformers
    for name in ("attention_probs_dropout_prob", "attention_dropout"):
        setattr(config, name, 0.5)
    config.hidden_dropout_prob = 0.0
    assert not differs(MtBertForMultiTask(MtBertConfig(encoder=config, tasks=[TASK])))


def test_a_config_says_it_itself(encoder_dir):
    config = family_config("bert")
    assert attention_dropout(config, 0.2) == {"attention_probs_dropout_prob": 0.2}
    with pytest.raises(InputError, match="give either attention_dropout or a config"):
        MtBertForMultiTask.from_encoder(encoder_dir, [TASK], attention_dropout=0.2, config=config)
