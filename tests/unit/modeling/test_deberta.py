"""DeBERTa-v2 and v3 within a few lengths: its variants, and adapters where layers are computed again."""

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
    "v3": {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False},
    "xlarge": {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3, "conv_act": "gelu"},
}
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
HOULSBY = {"type": "houlsby", "size": 6, "init": "published"}

pytestmark = pytest.mark.filterwarnings("ignore:deberta-v2 encoders are computed with padding")
every_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)


def make_model(adapter=None, **values) -> MtBertForMultiTask:
    torch.manual_seed(0)
    config = family_config("deberta-v2", initializer_range=0.3, **values)
    return MtBertForMultiTask(MtBertConfig(encoder=config, tasks=TASKS, adapter=adapter))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    inputs = padded_batch(LENGTHS)
    return {key: inputs[key] for key in ("input_ids", "attention_mask")}


def passes_of(model) -> list:
    """The shapes that the encoder's passes get, as they are made."""
    shapes: list = []
    model.encoder.embeddings.register_forward_hook(lambda *args: shapes.append(tuple(args[-1].shape[:2])))
    return shapes


@torch.no_grad()
@every_variant
def test_each_text_is_as_alone(variant, batch):
    """A convolution, too, sees no padding: transformers sets its inputs there to 0."""
    model = make_model(**variant).eval()
    plain = AutoModel.from_config(model.config.encoder)
    plain.load_state_dict(model.encoder.state_dict())
    shapes = passes_of(model)
    found = model(**batch, task="average").pooled["average"]
    assert 1 < len(shapes) < len(set(LENGTHS))
    for row, length in enumerate(LENGTHS):
        alone = plain.eval()(input_ids=batch["input_ids"][row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(found[row : row + 1], alone.mean(1), rtol=1e-4, atol=1e-5)


@every_variant
@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_have_the_gradients_of_one_pass(checkpointing, variant, batch, monkeypatch):
    found = []
    for several_processes in (False, True):
        monkeypatch.setattr("torch.distributed.is_initialized", lambda several=several_processes: several)
        model = make_model(HOULSBY, **variant, **STILL).double().train()
        if checkpointing and not several_processes:
            model.gradient_checkpointing_enable()
        shapes = passes_of(model)
        model(**batch, tasks="all", labels=LABELS).loss.backward()
        assert (len(shapes) == 1) == several_processes
        found.append({name: p.grad for name, p in model.named_parameters()})
    for name, expected in found[1].items():
        if expected is None:
            assert found[0][name] is None, name
        else:
            atol = 1e-10 * max(1.0, float(expected.abs().max()))
            torch.testing.assert_close(found[0][name], expected, rtol=0, atol=atol, msg=lambda text, n=name: n + text)
    assert all(p.grad is not None and p.grad.any() for p in model.adapters.parameters())
