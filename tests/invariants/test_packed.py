"""Invariant 1: packed outputs and gradients are the padded ones."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from families import family_config
from transformers import AutoModel

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PACKED_FAMILIES, PackedLayout, packed_attention
from mtbert.modeling.routing import encode_packed
from mtbert.modeling.task_spec import TaskSpec

PADDED_FAMILIES = ("megatron-bert", "squeezebert")

# lengths of the encoder inputs of each task: cls, mean and max pooling, and a Siamese one with two inputs a row
LENGTHS = {
    "all lengths": ([1, 20, 3, 7, 12], [2, 19, 8, 5, 15], [4, 18, 9, 6, 16, 11], [10, 13, 17, 14]),
    "equal lengths": ([6] * 3, [6] * 2, [6] * 4, [6]),
    "one sequence": ([13], [], [], []),
    "one token": ([], [1], [], []),
}


def make_tasks() -> list[TaskSpec]:
    return [
        TaskSpec("first", labels=3),
        TaskSpec("average", range=(0, 5), texts=2, pooling="mean"),
        TaskSpec("twins", "binary_classification", labels=2, texts=2, pair="siamese"),
        TaskSpec("highest", "multi_label_classification", labels=4, pooling="max"),
    ]


def make_model(family: str, packed: bool) -> MtBertForMultiTask:
    """The same random weights at each call, far larger than an initialisation's, so that every part matters."""
    config = MtBertConfig(encoder=family_config(family), tasks=make_tasks(), packed=packed)
    model = MtBertForMultiTask(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty_like(parameter).normal_(0, 0.2, generator=generator)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    return model


def make_batch(lengths) -> dict:
    """Padded inputs of all tasks with their labels; the padding holds real tokens, which must not matter."""
    generator = torch.Generator().manual_seed(11)
    every = torch.tensor([length for own in lengths for length in own])
    shape = (len(every), int(every.max()))
    rows = [len(lengths[0]), len(lengths[1]), len(lengths[2]) // 2, len(lengths[3])]
    labels = {
        "first": torch.randint(3, (rows[0],), generator=generator),
        "average": 5 * torch.rand(rows[1], generator=generator),
        "twins": torch.randint(2, (rows[2],), generator=generator),
        "highest": torch.randint(2, (rows[3], 4), generator=generator).float(),
    }
    return {
        "input_ids": torch.randint(5, 100, shape, generator=generator),
        "token_type_ids": torch.randint(2, shape, generator=generator),
        "attention_mask": (torch.arange(shape[1]) < every[:, None]).long(),
        "task_ids": torch.repeat_interleave(torch.arange(4), torch.tensor(rows)),
        "labels": {name: value for name, value in labels.items() if len(value)},
    }


def assert_near(one, other, where: str):
    """Equal to 1e-5 of the largest entry (or of 1), which is what fp32 can give."""
    assert (one is None) == (other is None), where
    if one is not None:
        assert one.isfinite().all(), where
        scale = max(1.0, float(other.detach().abs().max()))
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * scale, msg=lambda text: f"{where}: {text}")


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", sorted(PACKED_FAMILIES))
def test_packed_outputs_and_gradients_are_the_padded_ones(family, lengths):
    batch, found = make_batch(lengths), []
    for packed in (True, False):
        model = make_model(family, packed)
        assert model._packs == packed
        output = model(**batch)
        sum(losses.sum() for losses in output.row_losses.values()).backward()
        found.append((output, dict(model.named_parameters())))
    (packed, packed_parameters), (padded, padded_parameters) = found
    assert packed.task_logits.keys() == padded.task_logits.keys() == batch["labels"].keys()
    for name in padded.task_logits:
        assert_near(packed.task_logits[name], padded.task_logits[name], f"logits of {name}")
        assert_near(packed.pooled[name], padded.pooled[name], f"pooled outputs of {name}")
        assert_near(packed.row_losses[name], padded.row_losses[name], f"losses of {name}")
    for name, parameter in padded_parameters.items():
        assert_near(packed_parameters[name].grad, parameter.grad, f"gradient of {name}")
    gradients = [parameter.grad for parameter in padded_parameters.values() if parameter.grad is not None]
    assert max(float(gradient.abs().max()) for gradient in gradients) > 1e-2


def one_by_one(model: MtBertForMultiTask, family: str, batch: dict) -> torch.Tensor:
    """First states of each sequence alone, by transformers' own encoder with eager attention."""
    encoder = AutoModel.from_config(family_config(family), attn_implementation="eager").eval()
    encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    typed = getattr(encoder.config, "type_vocab_size", 0) > 1
    states = []
    for number, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        inputs = {"input_ids": batch["input_ids"][number : number + 1, :length]}
        if typed:
            inputs["token_type_ids"] = batch["token_type_ids"][number : number + 1, :length]
        states.append(encoder(**inputs).last_hidden_state[0])
    return torch.cat(states)


@torch.no_grad()
@pytest.mark.parametrize("lowest", [5, 0], ids=["words", "padding tokens in texts"])
@pytest.mark.parametrize("family", [*sorted(PACKED_FAMILIES), *PADDED_FAMILIES])
def test_hidden_states_are_those_of_each_sequence_alone(family, lowest):
    batch = make_batch(LENGTHS["all lengths"])
    if lowest == 0:  # RoBERTa and its kin do not count a padding token, which a text may name
        batch["input_ids"] %= 7
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make_model(family, packed=True)
    mask = batch["attention_mask"].bool()
    layout = PackedLayout.build(mask.sum(-1).tolist(), [(0, len(mask), 1)])
    values = (batch[key][mask].unsqueeze(0) for key in ("input_ids", "token_type_ids"))
    hidden = encode_packed(model, *values, None, layout).last_hidden_state
    assert_near(hidden, one_by_one(model, family, batch), "hidden states")


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("family", PADDED_FAMILIES)
def test_padding_within_a_few_lengths_gives_what_one_pass_gives(family, lengths, monkeypatch):
    batch, found, passes = make_batch(lengths), [], []
    for several_processes in (False, True):  # where others may have to make as many passes, there is one
        monkeypatch.setattr("torch.distributed.is_initialized", lambda several=several_processes: several)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = make_model(family, packed=True)
        shapes = []
        model.encoder.embeddings.register_forward_hook(lambda *args, to=shapes: to.append(args[-1].shape[:2]))
        output = model(**batch)
        sum(losses.sum() for losses in output.row_losses.values()).backward()
        found.append((output.task_logits, {name: p.grad for name, p in model.named_parameters()}))
        passes.append(shapes)
    every = [length for own in lengths for length in own]
    assert passes[1] == [(len(every), max(every))]
    assert sum(rows for rows, _ in passes[0]) == len(every)
    if len(set(every)) > 1:
        assert sum(rows * length for rows, length in passes[0]) < len(every) * max(every)
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert_near(one[name], other[name], name)


@torch.no_grad()
def test_a_layout_gives_what_padded_inputs_give():
    batch, model = make_batch(LENGTHS["all lengths"]), make_model("bert", packed=True)
    mask = batch["attention_mask"].bool()
    rows = [len(LENGTHS["all lengths"][task]) // (2 if task == 2 else 1) for task in range(4)]
    tasks = [(task, rows[task], 2 if task == 2 else 1) for task in range(4)]
    packed = {key: batch[key][mask].unsqueeze(0) for key in ("input_ids", "token_type_ids")}
    one = model(**packed, layout=PackedLayout.build(mask.sum(-1).tolist(), tasks))
    other = model(**batch)
    assert all(torch.equal(one.task_logits[name], other.task_logits[name]) for name in other.task_logits)


def padding_warnings(found) -> list:
    return [each for each in found if "computed with padding" in str(each.message)]


@pytest.mark.parametrize("family", PADDED_FAMILIES)
def test_a_family_that_cannot_pack_warns_once_and_works(family):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        packed = make_model(family, packed=True)
    assert len(padding_warnings(found)) == 1
    assert family in str(padding_warnings(found)[0].message)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        padded = make_model(family, packed=False)
    assert not padding_warnings(found)
    batch = make_batch(LENGTHS["all lengths"])
    one, other = packed(**batch), padded(**batch)
    one.loss.backward()
    assert all(torch.equal(one.task_logits[name], other.task_logits[name]) for name in other.task_logits)


@pytest.mark.parametrize("family", PADDED_FAMILIES)
def test_from_encoder_warns_once_too(family, tmp_path):
    AutoModel.from_config(family_config(family)).save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        MtBertForMultiTask.from_encoder(str(tmp_path), make_tasks())
    assert len(padding_warnings(found)) == 1


def near_share(dropped: torch.Tensor, p: float) -> bool:
    """Whether a share of dropped weights is within five standard deviations of p."""
    return abs(float(dropped.float().mean()) - p) < 5 * (p * (1 - p) / dropped.numel()) ** 0.5


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropped_attention_weights_have_share_p_and_the_others_are_scaled(p):
    """Zero queries make all weights 1/n, and unit vectors as values show each of them."""
    heads, size, lengths = 8, 20, list(range(1, 21)) * 10
    layout = PackedLayout.build(lengths, [(0, len(lengths), 1)])
    value = torch.cat([torch.eye(size)[:length] for length in lengths])[:, None].expand(-1, heads, -1)
    zeros = torch.zeros(sum(lengths), heads, size)
    weights = packed_attention(zeros, zeros, value, layout, dropout=p)
    counts = torch.from_numpy(np.repeat(lengths, lengths))[:, None, None].expand_as(weights)
    inside = torch.arange(size) < counts
    assert (weights[~inside] == 0).all()
    kept = inside & (weights != 0)
    torch.testing.assert_close(weights[kept], 1 / (counts[kept] * (1 - p)))
    assert near_share(weights[inside] == 0, p)
    for length in (1, 7, 20):  # in every bucket
        assert near_share(weights[inside & (counts == length)] == 0, p)


@torch.no_grad()
def test_a_packed_encoder_drops_attention_weights_in_train_mode_only():
    """With values of 1 a head's output is kept / (n (1 − p)): its mean is 1, and it counts what was dropped."""
    p, lengths = 0.3, list(range(1, 21)) * 8
    config = family_config("bert", attention_probs_dropout_prob=p, hidden_dropout_prob=0.0)
    model = MtBertForMultiTask(MtBertConfig(encoder=config, tasks=[TaskSpec("first", labels=2, dropout=0.0)]))
    layer = model.encoder.encoder.layer[0].attention
    for matrix in (layer.self.query, layer.self.key, layer.self.value):
        matrix.weight.zero_()
        matrix.bias.fill_(1.0 if matrix is layer.self.value else 0.0)
    seen = []
    layer.output.dense.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    layout = PackedLayout.build(lengths, [(0, len(lengths), 1)])
    ids = torch.randint(5, 100, (1, sum(lengths)))
    for training in (True, False):
        model.train(training)(input_ids=ids, layout=layout)
    trained, evaluated = (states.reshape(-1, 4, 8)[..., 0] for states in seen)
    torch.testing.assert_close(evaluated, torch.ones_like(evaluated))
    count = torch.from_numpy(np.repeat(lengths, lengths))[:, None].expand_as(trained)
    dropped = count * (1 - trained * (1 - p))
    torch.testing.assert_close(dropped, dropped.round(), rtol=0, atol=1e-4)
    total = int(count.sum())
    assert abs(float(dropped.sum()) / total - p) < 5 * (p * (1 - p) / total) ** 0.5
    assert abs(float(trained.mean()) - 1) < 5 * float(trained.std()) / trained.numel() ** 0.5
