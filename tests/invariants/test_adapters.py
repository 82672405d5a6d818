"""Invariants 1, 2, 8 and 9 for every adapter, head and family: packed, mixed, at the start, saved and loaded."""

from __future__ import annotations

import pytest
import torch
from families import family_config
from torch import nn
from transformers import set_seed

from mtbert.modeling.adapters import Decoder
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.task_spec import TaskSpec

FAMILIES = (
    *("bert", "camembert", "deberta-v2", "distilbert", "electra", "ernie", "modernbert", "mpnet", "roberta"),
    "xlm-roberta",
)
PARALLEL = {
    "pal": {"type": "pal", "size": 12, "heads": 3},
    "pal without GELU": {"type": "pal", "size": 12, "heads": 3, "activation": "identity", "layers": [0, 2]},
    "low_rank": {"type": "low_rank", "size": 8},
    "houlsby": {"type": "houlsby", "size": 6},
}
ADAPTERS = {
    **PARALLEL,
    "pal_top": {"type": "pal_top", "size": 12, "heads": 3},
    "pal_top on all": {"type": "pal_top", "size": 12, "heads": 3, "input": "all"},
    "top_layers": {"type": "top_layers", "size": 12, "heads": 3, "depth": 2},
}
TASKS = (
    TaskSpec("linear", labels=3, pooling="mean", dropout=0),
    TaskSpec(
        "mlp", "multi_label_classification", labels=4, pooling="max", dropout=0, head={"type": "mlp", "layers": 1}
    ),
    TaskSpec("bare", "binary_classification", labels=2, texts=2, dropout=0, adapter=False),
    TaskSpec("attention", "binary_classification", labels=2, dropout=0, head={"type": "attention"}),
    TaskSpec("cosine", range=(0, 5), texts=2, pair="siamese", dropout=0, head={"type": "cosine", "layers": 1}),
)
# lengths of each task's encoder inputs; a row of the Siamese one has two
LENGTHS = ([1, 20, 3], [12, 7], [5, 18], [2, 19, 8], [4, 17, 9, 6])
STARTS = [0, 3, 5, 7, 10, 14]
ROWS = (3, 2, 2, 3, 2)

every_family = pytest.mark.parametrize("family", FAMILIES)
every_adapter = pytest.mark.parametrize("adapter", ADAPTERS.values(), ids=ADAPTERS)
every_parallel_adapter = pytest.mark.parametrize("adapter", PARALLEL.values(), ids=PARALLEL)


def make_model(family: str, adapter: dict | None, packed: bool = True) -> MtBertForMultiTask:
    """The same weights at each call, so large that every part matters; decoders stay 0 where that is their start."""
    set_seed(1)
    encoder = family_config(family)
    model = MtBertForMultiTask(MtBertConfig(encoder=encoder, tasks=list(TASKS), adapter=adapter, packed=packed)).eval()
    generator = torch.Generator().manual_seed(7)
    still = {id(p) for m in model.modules() if isinstance(m, Decoder) for p in m.parameters() if not m.weight.any()}
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(0, 0.2, generator=generator)
            if id(parameter) not in still:
                parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model


def published(adapter: dict) -> dict:
    """With decoders that are not 0."""
    return {**adapter, "init": "published"}


@pytest.fixture(scope="module")
def batch() -> dict:
    """Padded inputs of all tasks with their labels; the padding holds real tokens, which must not matter."""
    generator = torch.Generator().manual_seed(11)
    lengths = torch.tensor([length for own in LENGTHS for length in own])
    shape = (len(lengths), int(lengths.max()))
    return {
        "input_ids": torch.randint(5, 100, shape, generator=generator),
        "token_type_ids": torch.randint(2, shape, generator=generator),
        "attention_mask": (torch.arange(shape[1]) < lengths[:, None]).long(),
        "task_ids": torch.repeat_interleave(torch.arange(5), torch.tensor(ROWS)),
        "labels": {
            "linear": torch.tensor([0, 2, -100]),
            "mlp": torch.randint(2, (2, 4), generator=generator).float(),
            "bare": torch.tensor([0, 1]),
            "attention": torch.tensor([1, 0, 1]),
            "cosine": torch.tensor([4.5, 1.0]),
        },
    }


def alone(batch: dict, task: int) -> dict:
    """The rows of one task."""
    own = slice(STARTS[task], STARTS[task + 1])
    name = TASKS[task].name
    inputs = {key: batch[key][own] for key in ("input_ids", "token_type_ids", "attention_mask")}
    return {**inputs, "task": name, "labels": {name: batch["labels"][name]}}


def gradients(model: nn.Module, *batches: dict) -> dict[str, torch.Tensor | None]:
    model.zero_grad()
    for batch in batches:
        sum(losses.sum() for losses in model(**batch).row_losses.values()).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def assert_near(one: dict, other: dict, tolerance: float):
    """Equal to this share of the largest entry (or of 1)."""
    assert one.keys() == other.keys()
    for name in one:
        assert (one[name] is None) == (other[name] is None), name
        if one[name] is not None:
            assert one[name].isfinite().all(), name
            atol = tolerance * max(1.0, float(other[name].detach().abs().max()))
            torch.testing.assert_close(
                one[name], other[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
            )


@every_family
@every_adapter
def test_packed_logits_and_gradients_are_the_padded_ones(adapter, family, batch):
    found = []
    for packed in (True, False):
        model = make_model(family, published(adapter), packed)
        assert model._packs == packed
        with torch.no_grad():
            output = model(**batch)
        found.append((output, gradients(model.double(), batch)))
    (one, one_gradients), (other, other_gradients) = found
    assert_near(one.task_logits, other.task_logits, 1e-5)
    assert_near(one.pooled, other.pooled, 1e-5)
    assert_near(one_gradients, other_gradients, 1e-6)
    assert {name.split(".")[1] for name in one_gradients if name.startswith("adapters.")} == {
        "linear",
        "mlp",
        "attention",
        "cosine",
    }


@every_family
@every_adapter
def test_a_mixed_batch_is_the_same_rows_task_by_task(adapter, family, batch):
    for packed in (True, False):
        model = make_model(family, published(adapter), packed)
        with torch.no_grad():
            mixed = model(**batch)
            parts = [model(**alone(batch, task)) for task in range(5)]
        assert list(mixed.task_logits) == [task.name for task in TASKS]
        assert_near(mixed.task_logits, {k: v for part in parts for k, v in part.task_logits.items()}, 1e-5)
        assert_near(mixed.row_losses, {k: v for part in parts for k, v in part.row_losses.items()}, 1e-5)
    # in fp64, because a sum of many fp32 rows is rounded differently in another order
    model.double()
    expected = gradients(model, *(alone(batch, task) for task in range(5)))
    assert_near(gradients(model, batch), expected, 1e-9)


@every_family
@every_parallel_adapter
def test_a_parallel_adapter_changes_nothing_at_the_start(adapter, family, batch):
    for packed in (True, False):
        model, plain = make_model(family, adapter, packed), make_model(family, None, packed)
        own = {name: p for name, p in model.state_dict().items() if not name.startswith("adapters.")}
        plain.load_state_dict(own)
        with torch.no_grad():
            found, expected = (each(**batch).task_logits for each in (model, plain))
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    found, expected = gradients(model, batch), gradients(plain, batch)
    assert_near({name: found[name] for name in expected}, expected, 1e-5)
    moving = [name for name, gradient in found.items() if name.startswith("adapters.") and gradient.any()]
    assert moving and all(".decode." in name for name in moving)  # all else waits until its decoder is not 0


@torch.no_grad()
@every_family
@every_adapter
def test_a_loaded_model_has_the_same_logits(adapter, family, batch, tmp_path):
    model = make_model(family, published(adapter))
    model.save_pretrained(tmp_path)
    loaded, info = MtBertForMultiTask.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.config.adapter == model.config.adapter and loaded.tasks == model.tasks and loaded._packs
    for parameter in loaded.parameters():  # mapped from the file, elsewhere than torch would put them
        parameter.data = parameter.data.clone()
    loaded.eval()
    found, expected = (each(**batch).task_logits for each in (loaded, model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    inputs = {key: batch[key] for key in ("input_ids", "token_type_ids", "attention_mask")}
    found, expected = (each(**inputs, tasks="all").task_logits for each in (loaded, model))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
