"""DeBERTa-v2 and v3 without padding, and, with a convolution, padded within a few lengths."""

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
VARIANTS = {
    "v2": {},
    "v3": {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    "c2p": {"pos_att_type": ["c2p"]},
    "p2c": {"pos_att_type": ["p2c"], "position_buckets": 16},
    "no distances": {"relative_attention": False, "pos_att_type": None},
}
CONVOLUTION = {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3, "conv_act": "gelu"}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HOULSBY = {"type": "houlsby", "size": 6, "init": "published"}

every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
with_convolution = pytest.mark.filterwarnings("ignore:deberta-v2 encoders with a convolution are computed with padding")


def make_model(adapter=None, packed: bool = True, **values) -> MtBertForMultiTask:
    torch.manual_seed(0)
    config = family_config("deberta-v2", initializer_range=0.3, **values)
    return MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS, adapter=adapter, packed=packed))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    inputs = padded_batch(LENGTHS)
    return {key: inputs[key] for key in ("input_ids", "attention_mask")}


def passes_of(model) -> list:
    """The shapes that the encoder's passes get, as they are made."""
    shapes: list = []
    model.encoder.embeddings.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape[:2])))
    return shapes


def gradients(model, batch) -> dict[str, torch.Tensor | None]:
    model(**batch, tasks="all", labels=LABELS).loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def assert_near(found: dict, expected: dict, tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value is None:
            assert found[name] is None, name
        else:
            atol = tolerance * max(1.0, float(value.abs().max()))
            torch.testing.assert_close(found[name], value, rtol=0, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


@every_variant
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_all_gradients_are_those_of_padded_inputs(dtype, tolerance, variant, batch):
    packed, padded = (make_model(packed=each, **variant, **STILL).train().to(dtype) for each in (True, False))
    assert packed._packs and not padded._packs
    found = gradients(packed, batch)
    assert_near(found, gradients(padded, batch), tolerance)
    distances = [grad for name, grad in found.items() if "rel_embeddings" in name]
    assert all(grad.abs().max() > 1e-3 for grad in distances)


def test_with_adapters_and_layers_that_are_computed_again(batch):
    """Checkpointing runs the layers once more when the encoder's own pass is over."""
    again, once = (make_model(HOULSBY, **VARIANTS["v3"], **STILL).double().train() for _ in range(2))
    again.gradient_checkpointing_enable()
    found = gradients(again, batch)
    assert_near(found, gradients(once, batch), 1e-10)
    assert all(grad.any() for name, grad in found.items() if name.startswith("adapters."))


@pytest.mark.parametrize("grad", [True, False])
def test_half_precision_is_near(grad, batch):
    model = make_model(**VARIANTS["v3"], **STILL).eval()
    with torch.set_grad_enabled(grad):
        expected = model(**batch, task="average").logits
        with torch.autocast("cpu", torch.bfloat16):
            found = model(**batch, task="average").logits
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.1 * float(expected.detach().abs().max()))


@torch.no_grad()
def test_the_encoder_itself_takes_padded_inputs(batch):
    model = make_model(**VARIANTS["v3"]).eval()
    plain = AutoModel.from_config(model.config.encoder)
    plain.load_state_dict(model.encoder.state_dict())
    expected = plain.eval()(**batch).last_hidden_state
    for encoder in (model.encoder, copy.deepcopy(model).encoder, pickle.loads(pickle.dumps(model)).encoder):
        torch.testing.assert_close(encoder(**batch).last_hidden_state, expected, rtol=1e-5, atol=1e-5)
    assert type(model.export_encoder().encoder) is type(plain.encoder)


@torch.no_grad()
@with_convolution
def test_a_convolution_sees_the_tokens_of_its_own_text(batch):
    model = make_model(**CONVOLUTION).eval()
    assert not model._packs
    plain = AutoModel.from_config(model.config.encoder)
    plain.load_state_dict(model.encoder.state_dict())
    shapes = passes_of(model)
    found = model(**batch, task="average").pooled["average"]
    assert 1 < len(shapes) < len(set(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = plain.eval()(input_ids=batch["input_ids"][row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(found[row : row + 1], alone.mean(1), rtol=1e-4, atol=1e-5)


def test_a_convolution_is_why_it_is_padded():
    with pytest.warns(UserWarning, match="^deberta-v2 encoders with a convolution are computed with padding"):
        make_model(**CONVOLUTION)


@with_convolution
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_within_a_few_lengths_have_the_gradients_of_one_pass(checkpointing, batch, monkeypatch):
    found = []
    for several_processes in (False, True):  # where others may have to make as many passes, there is one
        monkeypatch.setattr("torch.distributed.is_initialized", lambda several=several_processes: several)
        model = make_model(HOULSBY, **CONVOLUTION, **STILL).double().train()
        if checkpointing and not several_processes:
            model.gradient_checkpointing_enable()
        shapes = passes_of(model)
        found.append(gradients(model, batch))
        assert (len(shapes) == 1) == several_processes
    assert_near(found[0], found[1], 1e-10)
    assert all(grad.any() for name, grad in found[1].items() if name.startswith("adapters."))
