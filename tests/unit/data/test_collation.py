"""Batches and evaluation steps, against collation in plain Python, one row after the other."""

import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import BertConfig

from mtbert.data.collation import LengthSortedSteps, MultiTaskDataset
from mtbert.data.sampling import Step
from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows
from mtbert.data.tokenize import encode_dataset
from mtbert.modeling.packing import PackedLayout

STEPS = [
    Step(((0, np.array([3])),)),
    Step(((2, np.array([5, 0, 5])),)),
    Step(((0, np.array([7, 2])), (1, np.array([1])), (2, np.array([4, 9, 0])), (3, np.array([16, 3])))),
    Step(((1, np.array([23, 0, 11])), (3, np.array([0])))),
]


@pytest.fixture
def encoded(tasks, splits, tokenizer):
    """Encoded rows of each task, by name."""
    raw, found = splits(), {}
    for task in tasks:
        columns = DataSpec(text=("text", "text_pair")[: task.texts])
        rows, _ = check_rows(task, "train", raw[task.name], columns, "memory")
        found[task.name], _ = encode_dataset(task, rows, tokenizer, BertConfig(max_position_embeddings=64))
    return found


def naive_batch(tasks, splits, step):
    ids, types, lengths, plan, labels = [], [], [], [], {}
    for task_id, rows in step.parts:
        task = tasks[task_id]
        plan.append((task_id, len(rows), 2 if task.siamese else 1))
        for row in rows.tolist():
            example = splits[task.name][row]
            ids += example["input_ids"]
            types += example.get("token_type_ids", [0] * len(example["input_ids"]))
            if task.siamese:
                lengths += [example["first_length"], len(example["input_ids"]) - example["first_length"]]
            else:
                lengths.append(len(example["input_ids"]))
            labels.setdefault(task.name, []).append(example["label"])
    return ids, types, lengths, plan, labels


class TestBatches:
    @pytest.mark.parametrize("shuffled", [False, True])
    @pytest.mark.parametrize("step", STEPS)
    def test_against_a_loop(self, tasks, encoded, step, shuffled):
        if shuffled:  # an index in between, or several chunks, must not matter
            encoded = {name: split.select(range(len(split))[::-1]) for name, split in encoded.items()}
        batch = MultiTaskDataset(tasks, encoded, token_types=True).__getitems__(step)
        ids, types, lengths, plan, labels = naive_batch(tasks, encoded, step)
        assert batch["input_ids"].tolist() == [ids] and batch["input_ids"].dtype == torch.int64
        assert batch["token_type_ids"].tolist() == [types] and batch["token_type_ids"].dtype == torch.int64
        layout = PackedLayout.build(lengths, plan)
        assert (batch["layout"].lengths, batch["layout"].segments) == (layout.lengths, layout.segments)
        assert torch.equal(batch["layout"].gather, layout.gather)
        assert {name: own.tolist() for name, own in batch["labels"].items()} == labels
        assert {name: rows.tolist() for name, rows in batch["rows"].items()} == {
            tasks[task_id].name: rows.tolist() for task_id, rows in step.parts
        }
        counts = {task_id: len(rows) for task_id, rows in step.parts}
        assert batch["labelled"].tolist() == [counts.get(task_id, 0) for task_id in range(4)]

    def test_label_types_and_shapes(self, tasks, encoded):
        labels = MultiTaskDataset(tasks, encoded, True).__getitems__(STEPS[2])["labels"]
        assert {name: (each.dtype, tuple(each.shape)) for name, each in labels.items()} == {
            "stars": (torch.int64, (2,)),
            "same": (torch.int64, (1,)),
            "close": (torch.float32, (3,)),
            "topics": (torch.float32, (2, 3)),
        }

    def test_token_types_are_left_out_for_encoders_without(self, tasks, encoded):
        assert "token_type_ids" not in MultiTaskDataset(tasks, encoded, False).__getitems__(STEPS[2])

    def test_fillers_count_for_nothing(self, tasks, encoded):
        data = MultiTaskDataset(tasks, encoded, True)
        for task_id, task in enumerate(tasks):
            row = np.array([5])
            filler = data.__getitems__(Step(((task_id, row),), filler=True))
            real = data.__getitems__(Step(((task_id, row),)))
            assert filler["labelled"].tolist() == [0, 0, 0, 0]
            assert torch.equal(filler["input_ids"], real["input_ids"])
            label = filler["labels"][task.name]
            assert label.shape == real["labels"][task.name].shape
            assert label.dtype == real["labels"][task.name].dtype
            assert (label.isnan() if label.is_floating_point() else label == -100).all()

    def test_a_filler_does_not_spoil_the_data(self, tasks, encoded):
        data = MultiTaskDataset(tasks, encoded, True)
        step = Step(((3, np.array([5])),))
        before = data.__getitems__(step)["labels"]["topics"].clone()
        data.__getitems__(Step(step.parts, filler=True))
        assert torch.equal(data.__getitems__(step)["labels"]["topics"], before)

    def test_missing_labels_are_not_counted(self, tasks, encoded):
        spoilt = {
            "stars": [0, -100, 2, -100],
            "close": [float("nan"), 1.0, 2.0, float("nan")],
            "topics": [[1.0, 0, 0], [float("nan")] * 3, [0, float("nan"), 0], [1.0, 1, 1]],
        }
        splits = {}
        for name, labels in spoilt.items():
            rows = encoded[name].select(range(4))
            feature = rows.features["label"]
            splits[name] = rows.remove_columns("label").add_column("label", labels, feature=feature)
        step = Step(((0, np.arange(4)), (2, np.arange(3)), (3, np.arange(4))))
        batch = MultiTaskDataset(tasks, splits, True).__getitems__(step)
        assert batch["labelled"].tolist() == [2, 0, 2, 3]  # a row that lacks one of its labels counts

    def test_splits_without_labels(self, tasks, encoded):
        unlabelled = {name: split.remove_columns("label") for name, split in encoded.items()}
        batch = MultiTaskDataset(tasks, unlabelled, True).__getitems__(STEPS[2])
        assert "labels" not in batch
        assert batch["labelled"].tolist() == [0, 0, 0, 0]
        half = {**unlabelled, "stars": encoded["stars"]}
        batch = MultiTaskDataset(tasks, half, True).__getitems__(STEPS[2])
        assert list(batch["labels"]) == ["stars"]
        assert batch["labelled"].tolist() == [2, 0, 0, 0]

    def test_some_tasks_only(self, tasks, encoded):
        data = MultiTaskDataset(tasks, {"close": encoded["close"]}, True)
        assert len(data) == 33
        assert list(data.__getitems__(STEPS[1])["labels"]) == ["close"]

    def test_len_is_all_rows(self, tasks, encoded):
        assert len(MultiTaskDataset(tasks, encoded, True)) == 40 + 24 + 33 + 17


def split_of(lengths):
    return Dataset.from_dict({"input_ids": [[1] * length for length in lengths]})


class TestLengthSortedSteps:
    @pytest.fixture
    def lengths(self):
        return np.random.default_rng(0).integers(3, 65, size=101)

    @pytest.mark.parametrize("batch", [1, 4, 7, 200])
    @pytest.mark.parametrize("processes", [1, 2, 3])
    def test_every_row_once_over_all_processes(self, lengths, processes, batch):
        split = split_of(lengths)
        samplers = [LengthSortedSteps(2, split, batch, processes, process) for process in range(processes)]
        rows = []
        for sampler in samplers:
            steps = list(sampler)
            assert len(steps) == len(sampler)
            assert all(not step.filler and [task for task, _ in step.parts] == [2] for step in steps)
            own = [row for step in steps for _, part in step.parts for row in part.tolist()]
            assert sampler.order.tolist() == own
            rows += own
        assert sorted(rows) == list(range(101))
        counts = [len(sampler) for sampler in samplers]
        assert max(counts) - min(counts) <= 1

    @pytest.mark.parametrize("processes", [1, 3])
    def test_longest_first(self, lengths, processes):
        split = split_of(lengths)
        for process in range(processes):
            order = LengthSortedSteps(0, split, 4, processes, process).order
            assert (np.diff(lengths[order]) <= 0).all()

    def test_equal_lengths_keep_their_order(self):
        assert LengthSortedSteps(0, split_of([5, 7, 5, 7, 5]), 2).order.tolist() == [1, 3, 0, 2, 4]

    @pytest.mark.parametrize("batch", [1, 2, 8, 32])
    @pytest.mark.parametrize("longest", [20, 64, 65, 500])
    def test_batches_are_bounded_in_rows_and_tokens_and_not_cut_early(self, longest, batch):
        lengths = np.random.default_rng(longest).integers(3, longest + 1, size=150)
        parts = [step.parts[0][1] for step in LengthSortedSteps(0, split_of(lengths), batch)]
        for part, following in zip(parts, [*parts[1:], None]):
            padded = len(part) * lengths[part].max()
            assert len(part) <= batch
            assert padded <= batch * 64 or len(part) == 1
            if following is not None:  # one row more would have been too many
                assert len(part) == batch or padded + lengths[part].max() > batch * 64

    def test_short_rows_need_the_fewest_batches(self, lengths):
        assert len(LengthSortedSteps(0, split_of(lengths), 8)) == math.ceil(101 / 8)

    @pytest.mark.parametrize("processes", [1, 2])
    def test_no_rows(self, encoded, processes):
        empty = encoded["stars"].select([])
        for process in range(processes):
            sampler = LengthSortedSteps(0, empty, 4, processes, process)
            assert (len(sampler), list(sampler), sampler.order.tolist()) == (0, [], [])

    def test_fewer_batches_than_processes(self):
        samplers = [LengthSortedSteps(0, split_of([4, 5]), 4, 3, process) for process in range(3)]
        assert [sampler.order.tolist() for sampler in samplers] == [[1, 0], [], []]

    def test_selected_rows(self, encoded):
        """Rows are counted within the selection, not within the file behind it."""
        chosen = encoded["stars"].select([30, 3, 17])
        sampler = LengthSortedSteps(0, chosen, 4)
        lengths = [len(ids) for ids in chosen["input_ids"][:]]
        assert sorted(sampler.order.tolist()) == [0, 1, 2]
        assert [lengths[row] for row in sampler.order] == sorted(lengths, reverse=True)
