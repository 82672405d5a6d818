"""Labels in all their forms, hidden states and attention weights at their places, and tuples."""

import numpy as np
import pytest
import torch
from families import family_config
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from transformers import AutoModel

from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.modeling_mtbert import MtBertForMultiTask
from mtbert.modeling.packing import PackedLayout
from mtbert.modeling.task_spec import TaskSpec

IDS = torch.tensor([[2, 6, 7, 3], [2, 8, 3, 0], [2, 9, 3, 0], [2, 7, 6, 3]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])
NAN = float("nan")
TASKS = [
    TaskSpec("one", labels=3),
    TaskSpec("binary", "binary_classification", labels=2),
    TaskSpec("score", range=(0, 5)),
    TaskSpec("free"),
    TaskSpec("many", "multi_label_classification", labels=3, pooling="mean"),
    TaskSpec("single", "multi_label_classification", labels=["only"]),
]
VECTORS = [[0, 1, 1], [0, 0, 0], [1, 0, 1], [1, 1, 1]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return MtBertForMultiTask(MtBertConfig(encoder=family_config("bert", initializer_range=0.3), tasks=TASKS)).eval()


def textbook(task: str, logits: torch.Tensor, labels) -> torch.Tensor:
    """The mean loss over the rows whose label is not missing, row by row; of several labels the known ones count."""
    losses = []
    for row, label in zip(logits, torch.tensor(labels, dtype=torch.float32).reshape(len(logits), -1), strict=True):
        known = ~(label.isnan() | ((label == -100) & (task != "free")))
        if not bool(known.any()):
            continue
        if task == "one":
            losses.append(cross_entropy(row[None], label.long()))
        elif task in ("score", "free"):
            losses.append((row[0] - label[0]) ** 2)
        else:
            losses.append(binary_cross_entropy_with_logits(row[known], label[known]))
    return torch.stack(losses).mean()


@torch.no_grad()
@pytest.mark.parametrize(
    ("task", "labels"),
    [
        ("one", [0, 2, 1, 1]),
        ("one", [0, -100, NAN, 1]),
        ("binary", [0, 1, 1, 0]),
        ("binary", [NAN, 1, -100, 0]),
        ("score", [0.5, 5, 2.25, 0]),
        ("score", [NAN, 5, -100, 0]),
        ("free", [-100.0, 7, NAN, 0.5]),
        ("many", VECTORS),
        ("many", [VECTORS[0], [NAN, 1, 0], [-100] * 3, VECTORS[3]]),
        ("single", [0, 1, 1, 0]),
    ],
)
def test_every_form_of_labels_has_the_textbooks_loss(model, task, labels):
    tensor = torch.tensor(labels)
    forms = [labels, np.array(labels), tensor, tensor.double(), {task: tensor}, [torch.tensor(each) for each in labels]]
    if tensor.dim() == 1:
        forms += [tensor[:, None], np.array(labels)[:, None], {task: [[each] for each in labels]}]
    if not tensor.isnan().any():
        forms += [tensor.half()] + ([] if tensor.is_floating_point() else [tensor.int(), tensor.to(torch.int8)])
    if set(tensor.flatten().tolist()) <= {0, 1}:
        forms += [tensor.bool(), tensor.to(torch.uint8)]
    for form in forms:
        output = model(IDS, MASK, task=task, labels=form)
        torch.testing.assert_close(output.loss, textbook(task, output.logits, labels))
        assert output.row_losses[task].shape == output.labelled[task].shape == (4,)


@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("one", [0, 1, 3, 0], "3 in row 2, but must be whole numbers from 0 to 2"),
        ("one", [0, -1, 1, 0], "-1 in row 1"),
        ("one", [0, 1.5, 1, 0], "1.5 in row 1"),
        ("one", torch.tensor([0, 156, 1, 0], dtype=torch.uint8), "156 in row 1"),  # -100, wrapped
        ("one", torch.eye(4)[:, :3], r"shape \(4, 3\), but must have \(4,\), one id a row"),
        ("one", torch.zeros(1, 4), r"shape \(1, 4\)"),
        ("one", torch.zeros(3), "the batch has 4 rows"),
        ("one", torch.tensor(1), r"shape \(\), but the batch has 4 rows"),
        ("one", {"one": torch.zeros(3)}, r"shape \(3,\), but must have \(4,\)"),
        ("one", ["good"] * 4, "labels can not be read as numbers"),
        ("one", [0, None, 1, 2], "labels can not be read as numbers"),
        ("one", torch.zeros(4, dtype=torch.complex64), "must be real numbers"),
        ("binary", [0, 2, 1, 0], "2 in row 1, but must be 0 or 1"),
        ("binary", [0, 0.5, 1, 0], "0.5 in row 1"),
        ("binary", torch.zeros(4, 2), r"shape \(4, 2\), but must have \(4,\)"),
        ("score", [0, float("inf"), 1, 0], "inf in row 1"),
        ("score", torch.zeros(4, 4), r"shape \(4, 4\), but must have \(4,\), one score a row"),
        ("free", [0, -float("inf"), 1, 0], "-inf in row 1, but must be finite"),
        ("many", [0, 1, 2, 0], r"shape \(4,\), but must have \(4, 3\), of 0 and 1"),
        ("many", [[each] for each in (0, 1, 2, 0)], r"shape \(4, 1\), but must have \(4, 3\)"),
        ("many", [[0, 2, 1]] * 4, "2 in row 0, but must be 0 or 1"),
        ("many", [[0, 0.5, 1]] * 4, "0.5 in row 0"),
        ("many", torch.zeros(4, 2), r"shape \(4, 2\)"),
        ("one", {"many": VECTORS}, r"no row of the batch is of the tasks \['many'\], but of: one"),
        ("one", {"unheard": [0] * 4}, r"tasks \['unheard'\]"),
    ],
)
def test_labels_that_are_none_are_refused(model, task, labels, message):
    with pytest.raises(ValueError, match=message):
        model(IDS, MASK, task=task, labels=labels)


@torch.no_grad()
def test_labels_of_a_mixed_batch(model):
    runs, one = [0, 0, 2, 1], torch.tensor([2.0, 0, 3.5, 1])
    ids, mask = IDS[[0, 1, 2, 3]], MASK
    order = {"one": one[:2], "score": one[2:3], "binary": one[3:]}
    outputs = [model(ids, mask, task_ids=runs, labels=form) for form in (one, one[:, None], one.tolist(), order)]
    for output in outputs:
        losses = [textbook(name, output.task_logits[name], given) for name, given in order.items()]
        torch.testing.assert_close(output.loss, (2 * losses[0] + losses[1] + losses[2]) / 4)
    part = model(ids, mask, task_ids=runs, labels={"score": one[2:3], "many": torch.zeros(0, 3)})
    assert list(part.row_losses) == ["score"]
    for labels in (one[:3], torch.cat([one, one])):
        with pytest.raises(ValueError, match="the batch has 4 rows"):
            model(ids, mask, task_ids=runs, labels=labels)


@torch.no_grad()
@pytest.mark.parametrize("task", ["one", "many"])
def test_micro_batches_share_a_number_of_labels_as_transformers_counts_it(model, task):
    labels = torch.tensor(VECTORS if task == "many" else [0, 2, -100, 1])
    whole = model(IDS, MASK, task=task, labels=labels).loss
    count = labels.ne(-100).sum()
    parts = [
        model(IDS[part], MASK[part], task=task, labels=labels[part], num_items_in_batch=count).loss
        for part in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), whole)


# ---- hidden states, attention weights, tuples ----


def family(name: str, **values) -> MtBertForMultiTask:
    torch.manual_seed(0)
    tasks = [TaskSpec("first", labels=3), TaskSpec("second", labels=2)]
    return MtBertForMultiTask(
        MtBertConfig(encoder=family_config(name, initializer_range=0.3), tasks=tasks, **values)
    ).eval()


def reference(model, ids, implementation: str = "eager"):
    """transformers' own encoder on each sequence alone."""
    encoder = AutoModel.from_config(family_config(model.encoder.config.model_type), attn_implementation=implementation)
    encoder.load_state_dict(model.encoder.state_dict(), strict=False)
    return [encoder.eval()(own[None], output_hidden_states=True, output_attentions=True) for own in ids]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "modernbert", "albert", "mpnet", "deberta-v2"])
def test_hidden_states_and_attentions_stand_where_the_tokens_stood(name):
    model = family(name)
    lengths = [4, 2, 3]
    tokens = [torch.tensor([2, 7, 6, 3]), torch.tensor([2, 3]), torch.tensor([2, 9, 3])]
    expected = reference(model, tokens)
    ids, mask = torch.zeros(3, 6, dtype=torch.long), torch.zeros(3, 6, dtype=torch.long)
    starts = [0, 3, 1]  # padded on the right, on the left and on both sides
    for row, (start, own) in enumerate(zip(starts, tokens, strict=True)):
        ids[row, start : start + len(own)], mask[row, start : start + len(own)] = own, 1
    layout = PackedLayout.build(lengths, [(0, 3, 1)])
    for implementation in (model.encoder.config._attn_implementation, "eager"):
        model.set_attn_implementation(implementation)
        padded = model(ids, mask, task="first", output_hidden_states=True)
        packed = model(torch.cat(tokens)[None], layout=layout, output_hidden_states=True)
        assert len(padded.hidden_states) == len(packed.hidden_states) == 4
        for layer, (one, other) in enumerate(zip(padded.hidden_states, packed.hidden_states, strict=True)):
            assert one.shape == (3, 6, 32) and other.shape == (1, 9, 32)
            states = [output.hidden_states[layer][0] for output in expected]
            torch.testing.assert_close(other[0], torch.cat(states), atol=1e-5, rtol=1e-4)
            assert not one[mask == 0].any()
            torch.testing.assert_close(one[mask == 1], torch.cat(states), atol=1e-5, rtol=1e-4)
    both = model(ids, mask, task="first", output_attentions=True, output_hidden_states=True)
    assert len(both.hidden_states) == 4 and len(both.attentions) == 3
    for layer, weights in enumerate(both.attentions):
        assert weights.shape == (3, 4, 6, 6)
        for row, (start, own) in enumerate(zip(starts, tokens, strict=True)):
            place = slice(start, start + len(own))
            one = expected[row].attentions[layer][0]
            torch.testing.assert_close(weights[row, :, place, place], one, atol=1e-5, rtol=1e-4)
            torch.testing.assert_close(weights[row].sum(), one.sum())
    packed = model(torch.cat(tokens)[None], layout=layout, output_attentions=True)
    assert packed.hidden_states is None and [weights.shape for weights in packed.attentions] == [(3, 4, 4, 4)] * 3


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["mtbert_packed", "eager"])
def test_hidden_states_of_copies_and_what_stands_on_top(implementation):
    model = family("bert", adapter={"type": "pal_top", "size": 8, "heads": 2, "input": "all"})
    model.set_attn_implementation(implementation)
    output = model(IDS, MASK, tasks="all", output_hidden_states=True)
    assert [states.shape for states in output.hidden_states] == [(8, 4, 32)] * 4
    for number, name in enumerate(("first", "second")):
        alone = model(IDS, MASK, task=name, output_hidden_states=True)
        for one, other in zip(output.hidden_states, alone.hidden_states, strict=True):
            torch.testing.assert_close(one[4 * number : 4 * number + 4], other, atol=1e-5, rtol=1e-4)
        assert torch.equal(alone.hidden_states[-1][:, 0], alone.pooled[name])


@torch.no_grad()
def test_the_config_may_ask_for_them(model):
    model.config.output_hidden_states = True
    try:
        assert len(model(IDS, MASK, task="one").hidden_states) == 4
        assert model(IDS, MASK, task="one", output_hidden_states=False).hidden_states is None
    finally:
        model.config.output_hidden_states = False
    chosen = model(IDS, MASK, task="one", output_hidden_states=[-1]).hidden_states
    assert [states is None for states in chosen] == [True, True, True, False]


@pytest.mark.parametrize("implementation", ["mtbert_packed", "sdpa"])
def test_attentions_need_eager_attention(implementation):
    model = family("bert")
    model.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=rf"{implementation}.*call model.set_attn_implementation\('eager'\) first"):
        model(IDS, MASK, task="first", output_attentions=True)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_families_without_hidden_states_say_so(monkeypatch):
    model = family("bert")
    forward = model.encoder.forward
    monkeypatch.setattr(
        model.encoder, "forward", lambda *args, output_hidden_states=None, **kwargs: forward(*args, **kwargs)
    )
    with pytest.raises(ValueError, match="bert encoders give no hidden_states; drop it"):
        model(IDS, MASK, task="first", output_hidden_states=True)


@torch.no_grad()
def test_tuples(model, tokenizer):
    labels = torch.tensor([0, 1, 2, 0])
    output = model(IDS, MASK, task="one", labels=labels, output_hidden_states=True)
    for values in (
        model(IDS, MASK, task="one", labels=labels, output_hidden_states=True, return_dict=False),
        as_config(model, lambda: model(IDS, MASK, task="one", labels=labels, output_hidden_states=True)),
    ):
        assert isinstance(values, tuple) and len(values) == len(output) == 7
        assert torch.equal(values[0], output.loss) and torch.equal(values[1], output.logits)
    assert as_config(model, lambda: model(IDS, MASK, task="one", return_dict=True)).logits is not None
    found = as_config(model, lambda: model.predict(["a cat ."], task="one", tokenizer=tokenizer))
    assert np.array_equal(found.logits, model.predict(["a cat ."], task="one", tokenizer=tokenizer).logits)


def as_config(model, call):
    """What a call gives while the config asks for tuples."""
    model.config.return_dict = False
    try:
        return call()
    finally:
        model.config.return_dict = True
