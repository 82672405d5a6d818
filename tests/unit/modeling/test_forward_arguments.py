"""What forward refuses: words it does not have, masks and inputs that do not fit, and tasks that contradict."""

import numpy as np
import pytest
import torch

from mtbert.modeling.packing import PackedLayout

IDS = torch.tensor([[2, 6, 7, 3], [2, 8, 3, 0], [2, 9, 3, 0], [2, 7, 6, 3]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 0], [1, 1, 1, 1]])


@pytest.fixture
def model(make_model):
    return make_model().eval()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lables", torch.zeros(4), "no argument 'lables': the nearest one is 'labels'"),
        ("atention_mask", MASK, "nearest one is 'attention_mask'"),
        ("return_dic", False, "nearest one is 'return_dict'"),
        ("output_hiden_states", True, "nearest one is 'output_hidden_states'"),
        ("tasc", "stars", "nearest one is 'task"),
        ("position_ids", torch.arange(4)[None], "positions are counted"),
        ("head_mask", torch.ones(2, 4), "head can be masked"),
        ("use_cache", True, "no cache"),
        ("special_tokens_mask", MASK, "tokenizer's alone"),
        ("label", torch.zeros(4), "give the labels as labels"),
    ],
)
def test_an_unknown_word_is_refused(model, name, value, message):
    with pytest.raises(TypeError, match=message):
        model(IDS, MASK, task="stars", **{name: value})


def test_an_unknown_word_that_asks_for_nothing(model):
    assert torch.equal(model(IDS, MASK, task="stars", position_ids=None).logits, model(IDS, MASK, task="stars").logits)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], "sequence 1 has no real token"),
        (torch.zeros(4, 4), "sequence 0 has no real token"),
        ([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 1, 0], [1, 1, 1, 1]], "sequence 2 has padding between real tokens"),
        (MASK[:, :3], r"shape \(4, 3\), but must have \(4, 4\)"),
        (MASK[0], r"shape \(4,\)"),
        (MASK[:, None, None], r"shape \(4, 1, 1, 4\)"),
        (MASK * 2, "values such as 2"),
        ((1.0 - MASK) * -1e4, "values such as -10000"),
        (MASK * 0.5, "values such as 0.5"),
        (MASK.float().masked_fill(MASK == 0, torch.nan), "values such as nan"),
        ([["a"] * 4] * 4, "attention_mask can not be read as numbers"),
    ],
)
@pytest.mark.parametrize("implementation", ["mtbert_packed", "eager"])
def test_a_mask_that_says_no_sequence_is_refused(model, implementation, mask, message):
    model.set_attn_implementation(implementation)
    with pytest.raises(ValueError, match=message):
        model(IDS, mask, task="stars")


@pytest.mark.parametrize("form", [MASK.bool(), MASK.float(), MASK.to(torch.uint8), MASK.tolist(), MASK.numpy()])
def test_a_mask_may_be_of_any_type(model, form):
    assert torch.equal(model(IDS, form, task="stars").logits, model(IDS, MASK, task="stars").logits)


def test_padding_on_both_sides(model):
    ids, mask = torch.nn.functional.pad(IDS, (2, 3)), torch.nn.functional.pad(MASK, (2, 3))
    assert torch.equal(model(ids, mask, task="stars").logits, model(IDS, MASK, task="stars").logits)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"input_ids": IDS[0]}, r"input_ids has shape \(4,\)"),
        ({"input_ids": IDS.float()}, "input_ids are torch.float32, but must be integers"),
        ({"inputs_embeds": torch.zeros(4, 4)}, r"inputs_embeds has shape \(4, 4\)"),
        ({"input_ids": IDS, "token_type_ids": MASK[:, :2]}, r"token_type_ids has shape \(4, 2\)"),
        ({"input_ids": IDS, "token_type_ids": MASK[:1]}, r"token_type_ids has shape \(1, 4\)"),
        ({"input_ids": IDS, "layout": PackedLayout.build([4, 3], [(0, 2, 1)])}, "layout has 7 tokens in one row"),
        ({"input_ids": IDS, "task_ids": [0] * 4}, "^give either tasks or task_ids$"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(model, inputs, message):
    task = {} if "layout" in inputs else {"task": "stars"}
    with pytest.raises(ValueError, match=message):
        model(**inputs, **task)


@pytest.mark.parametrize("more", [{"attention_mask": MASK}, {"task_ids": [0] * 4}])
def test_a_layout_stands_alone(model, more):
    layout = PackedLayout.build([4] * 4, [(3, 4, 1)])
    with pytest.raises(ValueError, match="drop attention_mask and task_ids"):
        model(IDS.reshape(1, -1), layout=layout, **more)


def test_a_layout_has_no_sequence_without_tokens():
    with pytest.raises(ValueError, match="sequence 1 has 0 tokens"):
        PackedLayout.build([3, 0, 2], [(0, 3, 1)])


@pytest.mark.parametrize(
    "ids", [[0.0] * 4, [True] * 4, torch.zeros(2, 2, dtype=torch.long), ["stars"] * 4, [[0, 1]] * 4]
)
def test_ids_of_no_tasks_are_refused(model, ids):
    with pytest.raises(ValueError, match="task_ids"):
        model(IDS, MASK, task_ids=ids)


@pytest.mark.parametrize("ids", [[[0]] * 4, np.zeros(4, dtype=np.int32), torch.zeros(4, 1, dtype=torch.int8)])
def test_ids_of_tasks_in_other_forms(model, ids):
    assert torch.equal(model(IDS, MASK, task_ids=ids).logits, model(IDS, MASK, task="stars").logits)


@pytest.mark.parametrize("packed", [True, False])
def test_an_empty_batch_gives_no_rows(make_model, packed):
    model = make_model(packed=packed).eval()
    empty = {"input_ids": IDS[:0], "attention_mask": MASK[:0]}
    for task in model.tasks:
        output = model(**empty, task=task.name, labels=torch.zeros(0, *[3] * (task.name == "topics")))
        assert output.logits.shape == (0, task.num_labels) and output.loss == 0
    assert all(len(logits) == 0 for logits in model(**empty, tasks="all").task_logits.values())
