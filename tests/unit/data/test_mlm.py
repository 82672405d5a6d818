"""Masks of texts: their statistics, and that nothing but (seed, epoch, row) decides them."""

import numpy as np
import pytest
from datasets import Dataset

from mtbert.data.mlm import EpochSteps, MaskedTexts, Texts, mask_tokens
from mtbert.data.sampling import Plan, Schedule, Step, StepSampler
from mtbert.data.splits import in_both_orders

MASK, VOCABULARY, SPECIAL = 4, 1000, (0, 1, 2, 3, 4)


def test_chosen_tokens_are_as_published():
    """15 % chosen; of these 80 % masked, 10 % random, 10 % as they were; within 4 standard deviations."""
    tokens = np.full(200_000, 500)
    inputs, labels = mask_tokens(tokens, (1, 2, 3), 0.15, MASK, VOCABULARY, SPECIAL)
    chosen = labels != -100

    def near(count: int, total: int, p: float) -> bool:
        return abs(count - total * p) < 4 * (total * p * (1 - p)) ** 0.5

    assert near(chosen.sum(), len(tokens), 0.15)
    assert (labels[chosen] == 500).all() and (inputs[~chosen] == 500).all()
    masked, same = chosen & (inputs == MASK), chosen & (inputs == 500)
    assert near(masked.sum(), chosen.sum(), 0.8)
    assert near(same.sum(), chosen.sum(), 0.1)
    words = inputs[chosen & ~masked & ~same]
    assert near(len(words), chosen.sum(), 0.1)
    assert words.min() < VOCABULARY / 20 and words.max() > VOCABULARY * 0.95 and words.max() < VOCABULARY
    assert abs(words.mean() - VOCABULARY / 2) < 4 * VOCABULARY / (12 * len(words)) ** 0.5


def test_special_tokens_are_never_chosen():
    tokens = np.random.default_rng(0).integers(0, 10, 50_000)
    inputs, labels = mask_tokens(tokens, (0,), 0.9, MASK, VOCABULARY, SPECIAL)
    special = np.isin(tokens, SPECIAL)
    assert (labels[special] == -100).all() and (inputs[special] == tokens[special]).all()
    assert (labels[~special] != -100).mean() > 0.85


@pytest.fixture
def texts(tokenizer):
    words = ("the", "cat", "dog", "runs", "sleeps", "is", "very", "good", "bad", "old")
    random = np.random.default_rng(0)
    rows = [" ".join(random.choice(words, size=random.integers(3, 15))) for _ in range(23)]
    return Dataset.from_dict({"input_ids": [tokenizer(row)["input_ids"] for row in rows]})


def masks(dataset: MaskedTexts, epoch: int, rows: list[int]) -> dict[int, tuple]:
    """Row → (the tokens that the model reads, labels), without padding."""
    batch = dataset.__getitems__((epoch, Step(((0, np.array(rows)),))))
    lengths = batch["attention_mask"].sum(1).tolist()
    assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
    columns = (batch["input_ids"], batch["labels"])
    return {row: tuple(tuple(c[i, :n].tolist()) for c in columns) for i, (row, n) in enumerate(zip(rows, lengths))}


def test_a_mask_is_a_function_of_seed_epoch_and_row(texts, tokenizer):
    dataset = MaskedTexts(texts, tokenizer, 0.3, (7, 0))
    whole = masks(dataset, 2, list(range(23)))
    for rows in ([5], [22, 5, 0], list(range(22, -1, -1))):
        assert masks(dataset, 2, rows) == {row: whole[row] for row in rows}
    for other in (masks(dataset, 3, list(range(23))), masks(MaskedTexts(texts, tokenizer, 0.3, (8, 0)), 2, range(23))):
        assert sum(other[row] != whole[row] for row in whole) > 15


def test_processes_and_micro_batches_see_the_masks_of_one(texts, tokenizer):
    """Every text once an epoch, whatever the share; and the same order in every run."""
    dataset = MaskedTexts(texts, tokenizer, 0.3, (7, 0))

    def epoch(number: int, accumulation: int, processes: int) -> dict[int, tuple]:
        found: dict[int, tuple] = {}
        for process in range(processes):
            plan = Plan(Schedule("sequential"), ("texts",), (23,), 8, 3, seed=7)
            steps = EpochSteps(StepSampler(plan, accumulation, processes, process))
            steps.set_epoch(number)
            assert len(steps) == 3 * accumulation
            for index in steps:
                own = masks(dataset, index[0], index[1].parts[0][1].tolist())
                if not index[1].filler:
                    assert not own.keys() & found.keys()
                    found |= own
        assert sorted(found) == list(range(23))
        return found

    for number in (0, 2):
        one = epoch(number, 1, 1)
        assert one == epoch(number, 2, 1) == epoch(number, 1, 2) == epoch(number, 2, 2)
    assert epoch(0, 1, 1) != epoch(2, 1, 1)


def test_a_filler_counts_for_nothing(texts, tokenizer):
    batch = MaskedTexts(texts, tokenizer, 0.9, (7, 0)).__getitems__((0, Step(((0, np.array([3])),), filler=True)))
    assert (batch["labels"] == -100).all()


@pytest.fixture
def splits():
    pairs = {"text": ["a b", "c", "a b"], "text_pair": ["d", "a b", "e"]}
    return {
        "one": {
            "train": Dataset.from_dict({"text": ["x", "c", "x"], "label": [0, 1, 0]}),
            "dev": Dataset.from_dict({"text": ["dev only", "c", "dev only"]}),
            "test": Dataset.from_dict({"text": ["test only"]}),
        },
        "two": {"train": Dataset.from_dict(pairs), "dev": Dataset.from_dict({"text": ["e"], "text_pair": ["new"]})},
    }


def test_texts_count_as_often_as_they_occur_in_training_splits(splits):
    texts = Texts.of(splits)
    assert texts.train == ("x", "c", "x", "a b", "c", "a b", "d", "a b", "e")
    assert texts.dev == ("dev only", "dev only", "new")  # what training contains would make the dev loss too low
    assert texts.lines() == [
        "pre-training: 9 texts in the training splits, as often as they occur (5 distinct)",
        "pre-training: 3 texts of 5 in the dev splits, unseen in training",
    ]
    assert texts.digest() != Texts.of({"one": splits["one"]}).digest()


def test_removing_duplicates_keeps_each_text_once(splits):
    texts = Texts.of(splits, remove_duplicates=True)
    assert texts.train == ("x", "c", "a b", "d", "e")
    assert texts.dev == ("dev only", "new")
    assert texts.read == (9, 5)
    assert texts.lines() == [
        "pre-training: 5 distinct texts of 9 in the training splits",
        "pre-training: 2 distinct texts of 5 in the dev splits, unseen in training",
    ]
    assert texts.digest() != Texts.of(splits).digest()


def test_the_other_order_of_a_pair_does_not_count():
    """`symmetric` appends each row once more, with the same number and exchanged texts."""
    pairs = Dataset.from_dict({"text": ["a", "c"], "text_pair": ["b", "a"], "row": [1, 4]})
    both = {"two": {"train": in_both_orders(pairs)}}
    assert len(both["two"]["train"]) == 4
    assert Texts.of(both) == Texts.of({"two": {"train": pairs}})
    assert Texts.of(both).train == ("a", "c", "b", "a")
