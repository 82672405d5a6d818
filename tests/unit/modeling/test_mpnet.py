"""MPNet without padding: the same numbers in double precision, one bias a pass, dropout, and plain passes."""

import copy
import pickle

import pytest
import torch
from families import family_config
from tiny import padded_batch
from transformers import AutoModel

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

TASKS = [TaskSpec("first", labels=3, dropout=0), TaskSpec("average", range=(0, 5), pooling="mean", dropout=0)]
LENGTHS = (20, 3, 7, 1, 12, 9, 40, 11)
LABELS = {"first": torch.arange(8) % 3, "average": torch.linspace(0, 5, 8)}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def make_model(packed: bool = True, adapter=None, **values) -> MtBertForMultiTask:
    torch.manual_seed(0)
    config = family_config("mpnet", initializer_range=0.3, **values)
    model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS, adapter=adapter, packed=packed))
    torch.nn.init.normal_(model.encoder.encoder.relative_attention_bias.weight)
    return model


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    inputs = padded_batch(LENGTHS)
    return {key: inputs[key] for key in ("input_ids", "attention_mask")}


def gradients(model, batch) -> dict[str, torch.Tensor]:
    output = model(**batch, tasks="all", labels=LABELS)
    output.loss.backward()
    return {"loss": output.loss.detach()} | {name: p.grad for name, p in model.named_parameters()}


def assert_near(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        atol = tolerance * max(1.0, float(value.detach().abs().max()))
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("adapter", [None, {"type": "pal", "size": 8, "heads": 2, "init": "published"}])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_gradients_are_those_of_padded_inputs(dtype, tolerance, adapter, batch):
    packed, padded = (make_model(each, adapter, **STILL).train().to(dtype) for each in (True, False))
    assert packed._packs and not padded._packs
    found = gradients(packed, batch)
    assert_near(found, gradients(padded, batch), tolerance)
    assert found["encoder.encoder.relative_attention_bias.weight"].abs().max() > 1e-3


def test_without_gradients_the_numbers_are_the_same(batch):
    """There PyTorch's own kernel computes attention."""
    packed, padded = (make_model(each).eval() for each in (True, False))
    with torch.no_grad():
        expected = padded(**batch, tasks="all").task_logits
        assert_near(packed(**batch, tasks="all").task_logits, expected, 1e-5)


@pytest.mark.parametrize("grad", [True, False])
def test_half_precision_is_near(grad, batch):
    model = make_model(**STILL).eval()
    with torch.set_grad_enabled(grad):
        expected = model(**batch, task="average").logits
        with torch.autocast("cpu", torch.bfloat16):
            autocast = model(**batch, task="average").logits
        half = model.to(torch.bfloat16)(**batch, task="average").logits
    for found in (autocast, half):
        torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1 * float(expected.detach().abs().max()))


def test_the_bias_is_computed_once_a_pass(batch):
    model, seen = make_model(), []
    model.encoder.encoder.relative_attention_bias.register_forward_hook(lambda *args: seen.append(args[2].shape))
    gradients(model, batch)
    assert seen == [(40, 40, 4)]


def test_attention_weights_are_dropped_in_train_mode_only(batch):
    model = make_model(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.5)
    one, other = (model.train()(**batch, task="first").logits for _ in range(2))
    assert not torch.allclose(one, other, atol=1e-3) and one.isfinite().all()
    one, other = (model.eval()(**batch, task="first").logits for _ in range(2))
    assert torch.equal(one, other)


@torch.no_grad()
def test_the_encoder_itself_takes_padded_inputs(batch):
    model = make_model().eval()
    plain = AutoModel.from_config(family_config("mpnet"))
    plain.load_state_dict(model.encoder.state_dict(), strict=False)
    assert model.encoder.state_dict().keys() == {key for key in plain.state_dict() if not key.startswith("pooler.")}
    expected = plain.eval()(**batch).last_hidden_state[batch["attention_mask"].bool()]
    for encoder in (model.encoder, copy.deepcopy(model).encoder, pickle.loads(pickle.dumps(model)).encoder):
        found = encoder(**batch).last_hidden_state[batch["attention_mask"].bool()]
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert type(model.export_encoder().encoder) is type(plain.encoder)


@torch.no_grad()
@pytest.mark.parametrize("adapter", [None, {"type": "houlsby", "size": 4, "init": "published"}])
def test_attention_weights_are_given_by_a_padded_pass(adapter, batch):
    model = make_model(adapter=adapter).eval()
    plain = model(**batch, task="first")
    output = model(**batch, task="first", output_attentions=True)
    assert model._packs and [weights.shape for weights in output.attentions] == [(8, 4, 40, 40)] * 3
    torch.testing.assert_close(output.logits, plain.logits, rtol=1e-5, atol=1e-5)
