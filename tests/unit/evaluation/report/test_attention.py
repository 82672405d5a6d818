"""What a head's attention reads: recorded weights against its matrices in numpy, and means against loops over rows."""

from dataclasses import replace
from math import log

import numpy as np
import pytest
import torch

from mtbert.data.tokenize import encode_dataset
from mtbert.evaluation.report import TokenWeights, recording
from mtbert.evaluation.report.analysis import analyse_task
from mtbert.evaluation.report.attention import attention_shares
from mtbert.modeling.task_spec import TaskSpec
from mtbert.training.peft import wrap

HEAD = {"type": "attention", "attention_heads": 4}
TASKS = (
    TaskSpec("stars", labels=3, head=HEAD),
    TaskSpec("close", range=(0, 5), texts=2, pooling="mean", separator=["[SEP]", "cat"], head=HEAD),
    TaskSpec("plain", labels=2),
)
ROWS = 70  # several batches


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.fixture(params=["packed", "padded", "peft"])
def trainer(request, make_model, make_trainer, splits):
    model = make_model(TASKS, packed=request.param != "padded")
    if request.param == "peft":
        model = wrap(model, {"r": 2, "target_modules": ["query"]})
    return make_trainer(model, train_dataset=splits((ROWS,) * 3, specs=TASKS), per_device_eval_batch_size=16)


def test_weights_are_those_of_the_head_s_matrices_for_each_row(trainer, tokenizer, splits):
    model, raw = trainer.model, splits((ROWS, ROWS, 3), seed=5, specs=TASKS)
    encoded = {task.name: encode_dataset(task, raw[task.name], tokenizer, model.config.encoder)[0] for task in TASKS}
    plain = trainer.predict(encoded).predictions
    with recording(model.heads.items()) as recorded:
        noted = trainer.predict(encoded).predictions
    assert set(recorded) == {"stars", "close"}
    assert all(np.array_equal(plain[name], noted[name]) for name in plain)  # not even rounded otherwise
    model.eval()
    for task in TASKS[:2]:
        found = TokenWeights.of(recorded[task.name], task, encoded[task.name], tokenizer)
        sep, cat = tokenizer.convert_tokens_to_ids(["[SEP]", "cat"])
        assert set(found.separators) == ({sep} if task.name == "stars" else {sep, cat})
        (attention,) = (
            each
            for name, each in model.heads[task.name].named_modules()
            if isinstance(each, torch.nn.MultiheadAttention) and "original" not in name
        )
        weight, bias = attention.in_proj_weight.detach().numpy(), attention.in_proj_bias.detach().numpy()
        for row in (0, 1, ROWS - 1):
            ids = encoded[task.name][row]["input_ids"]
            assert found.ids[row].tolist() == list(ids) and len(found.weights[row]) == len(ids)
            types = encoded[task.name][row].get("token_type_ids", [0] * len(ids))
            with torch.no_grad():
                output = model(
                    torch.tensor([ids]), None, torch.tensor([types]), tasks=task.name, output_hidden_states=True
                )
            states, pooled = output.hidden_states[-1][0].numpy(), output.pooled[task.name][0].numpy()
            query = (weight[:32] @ pooled + bias[:32]).reshape(4, 8)
            keys = (states @ weight[32:64].T + bias[32:64]).reshape(-1, 4, 8)
            expected = softmax(np.einsum("hd,lhd->hl", query, keys) / np.sqrt(8)).mean(0)
            assert found.weights[row] == pytest.approx(expected, abs=1e-5)
    with recording(()) as none:
        trainer.predict({"stars": encoded["stars"]})
    assert none == {} and len(recorded["stars"]) == ROWS  # nothing is recorded after the end


@pytest.fixture
def read_rows(make_rows):
    """A function: rows as (ids, weights) → TaskRows with them; 1 begins a row and 2 separates."""

    def make(*read, task="stars"):
        ids, weights = ([np.array(each[side]) for each in read] for side in (0, 1))
        tokens = TokenWeights(ids, weights, (2,), lambda row: [f"t{number}" for number in row])
        return replace(make_rows(task, len(read)), attention=tokens)

    return make


def test_means_over_rows(read_rows):
    first, second = ([1, 7, 2, 8, 2], [0.5, 0.2, 0.1, 0.15, 0.05]), ([1, 9, 2], [0.0, 1.0, 0.0])
    found = attention_shares(read_rows(first, second))
    assert found["rows"] == 2
    assert [found[key] for key in ("first", "separators", "rest")] == pytest.approx([0.25, 0.075, 0.675])
    assert list(found["uniform"].values()) == pytest.approx(
        [(1 / 5 + 1 / 3) / 2, (2 / 5 + 1 / 3) / 2, (2 / 5 + 1 / 3) / 2]
    )
    entropy = -sum(w * log(w) for w in first[1]) / log(5)
    assert found["entropy"] == pytest.approx(entropy / 2)  # the second row's is 0
    assert [example["tokens"] for example in found["examples"]] == [["t1", "t7", "t2", "t8", "t2"], ["t1", "t9", "t2"]]
    assert [example["weights"] for example in found["examples"]] == [first[1], second[1]]


def test_equal_weights_have_entropy_one_and_are_uniform(read_rows):
    found = attention_shares(read_rows(*(([1, *range(3, 3 + n), 2], [1 / (n + 2)] * (n + 2)) for n in (1, 5, 9))))
    assert found["entropy"] == pytest.approx(1)
    assert {key: found[key] for key in found["uniform"]} == pytest.approx(found["uniform"])


def test_a_first_token_that_separates_counts_once_and_one_token_has_no_entropy(read_rows):
    found = attention_shares(read_rows(([2], [1.0])))
    assert (found["first"], found["separators"], found["rest"]) == (1, 0, 0) and np.isnan(found["entropy"])


def test_eight_rows_are_shown_and_none_if_texts_are_hidden(read_rows):
    rows = read_rows(*[([1, 5, 2], [0.2, 0.5, 0.3])] * 50)
    shown = [example["row"] for example in attention_shares(rows)["examples"]]
    assert shown == ["1", "8", "15", "22", "29", "36", "43", "50"]
    hidden = attention_shares(replace(rows, show_texts=False))
    assert hidden["examples"] == [] and hidden["rows"] == 50


def test_rows_without_labels_are_left_out(make_rows):
    rows = make_rows("stars", 3)
    tokens = TokenWeights([np.array([i]) for i in range(3)], [np.ones(1)] * 3, (), lambda row: list(map(str, row)))
    assert [each.tolist() for each in tokens.select([0, 2]).ids] == [[0], [2]]
    assert attention_shares(rows) is None and "attention" not in analyse_task(rows, "accuracy")
    assert attention_shares(replace(make_rows("stars", 0), attention=tokens.select([]))) is None


def test_weights_are_put_back_in_the_order_of_the_rows(tokenizer, make_model, splits):
    """A prediction reads the longest rows first."""
    task, model = TASKS[0], make_model(TASKS)
    encoded = encode_dataset(task, splits((9,), specs=[task])["stars"], tokenizer, model.config.encoder)[0]
    lengths = [len(row) for row in encoded["input_ids"]]
    order = sorted(range(9), key=lambda row: -lengths[row])
    recorded = [np.pad(np.full(lengths[row], row + 0.5), (0, 20 - lengths[row])) for row in order]
    found = TokenWeights.of(recorded, task, encoded, tokenizer)
    assert [each.tolist() for each in found.weights] == [[row + 0.5] * lengths[row] for row in range(9)]
