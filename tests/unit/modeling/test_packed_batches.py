"""Rows of several tasks in one packed batch, against lists joined by hand, and logits in the rows' order."""

from types import SimpleNamespace

import numpy as np
import torch

from mtbert.modeling.packed_batches import TaskPart, collect_logits, pack_parts

SINGLE = TaskPart(1, np.array([2, 7, 3, 2, 3]), np.array([3, 2]))
PAIR = TaskPart(0, np.array([2, 9, 3, 2, 8, 8, 3]), np.array([7]), [np.array([3])], np.array([0, 0, 0, 1, 1, 1, 1]))


def test_a_batch_joins_the_parts_one_after_the_other():
    batch = pack_parts([SINGLE, PAIR], token_types=True)
    assert batch["input_ids"].tolist() == [[2, 7, 3, 2, 3, 2, 9, 3, 2, 8, 8, 3]]
    assert batch["token_type_ids"].tolist() == [[0] * 8 + [1] * 4]
    layout = batch["layout"]
    assert layout.lengths == (3, 2, 3, 4)
    assert [(each.task_id, each.rows, each.sequences) for each in layout.segments] == [
        (1, (0, 2), (0, 2)),
        (0, (2, 3), (2, 4)),
    ]
    assert "token_type_ids" not in pack_parts([SINGLE, PAIR], token_types=False)


def test_every_input_of_a_row_has_its_length():
    both = TaskPart(0, np.arange(13), np.array([6, 7]), [np.array([1, 2]), np.array([2, 1])])
    assert both.sequence_lengths.tolist() == [1, 2, 3, 2, 1, 4]
    assert both.plan == (0, 2, 3)


def test_logits_stand_in_the_rows_order(make_model):
    model, random = make_model().eval(), np.random.default_rng(0)
    lengths = random.integers(3, 9, size=10)
    tokens = [random.integers(5, 20, size=length) for length in lengths]
    seen = []

    def batches(order):
        for rows in np.split(order, [4, 7]):
            part = TaskPart(model.task_id("stars"), np.concatenate([tokens[row] for row in rows]), lengths[rows])
            yield {**pack_parts([part], token_types=True), "rows": {"stars": rows}}

    with torch.inference_mode():
        found = collect_logits(model, batches(random.permutation(10)), {"stars": 10}, lambda *given: seen.append(given))
        for row in range(10):
            alone = model(input_ids=torch.tensor(tokens[row])[None], task="stars").logits[0]
            torch.testing.assert_close(found["stars"][row], alone, atol=1e-5, rtol=1e-4)
        assert len(seen) == 3 and all(
            torch.equal(out.logits, found["stars"][batch["rows"]["stars"]]) for batch, out in seen
        )
        some = collect_logits(model, list(batches(np.arange(10)))[:1], {"stars": 10})["stars"]
        assert some[:4].abs().sum() > 0 and some[4:].abs().sum() == 0  # of rows that no batch holds


def test_half_precision_becomes_fp32():
    output = SimpleNamespace(task_logits={"one": torch.ones(2, 1, dtype=torch.bfloat16)})
    task = SimpleNamespace(name="one", num_labels=1)
    model = type("Model", (), {"device": "cpu", "tasks": [task], "__call__": lambda *args, **kwargs: output})()
    found = collect_logits(model, [{"input_ids": torch.zeros(1, 2), "rows": {"one": np.arange(2)}}], {"one": 2})
    assert found["one"].dtype == torch.float32 and found["one"].tolist() == [[1], [1]]
