"""`dev: 10%`: within each label the rows with the smallest hashes; texts stay together; the order does not matter."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from mtbert.data.cut_splits import NONE_OF_THEM, cut, strata_of
from mtbert.data.spec import DataSpec, share_of
from mtbert.data.splits import load_column, load_task
from mtbert.modeling.task_spec import TaskSpec

MOOD = TaskSpec("mood", labels=("bad", "good", "odd"))
PAIR = TaskSpec("pair", "binary_classification", labels=("no", "yes"), texts=2)
TAGS = TaskSpec("tags", "multi_label_classification", labels=("a", "b", "c"))
SCORE = TaskSpec("score", range=(0, 5))


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


class TestCut:
    def test_the_smallest_hashes_of_each_label(self):
        texts, labels = [f"text {i}" for i in range(300)], np.arange(300) % 3
        parts = cut([texts], labels, {"dev": 0.1, "test": 0.2})
        for label in range(3):
            ranked = sorted(np.flatnonzero(labels == label), key=lambda row: digest(texts[row]))
            assert [row for row in parts["dev"] if labels[row] == label] == sorted(ranked[:10])
            assert [row for row in parts["test"] if labels[row] == label] == sorted(ranked[10:30])

    def test_it_does_not_depend_on_the_order_of_rows(self):
        random = np.random.default_rng(0)
        pairs = [(f"a{random.integers(400)}", f"b{i}") for i in range(500)]
        labels = random.integers(4, size=500)
        first = cut(list(zip(*pairs, strict=True)), labels, {"dev": 0.2, "test": 0.1})
        order = random.permutation(500)
        again = cut(list(zip(*[pairs[i] for i in order], strict=True)), labels[order], {"dev": 0.2, "test": 0.1})
        for split, rows in first.items():
            assert sorted(order[again[split]]) == rows.tolist()

    def test_groups_of_texts_stay_together(self):
        random = np.random.default_rng(1)
        firsts, seconds = ([f"t{i}" for i in random.integers(600, size=400)] for _ in range(2))
        parts = cut([firsts, seconds], random.integers(2, size=400), {"dev": 0.15, "test": 0.15})
        rest = np.setdiff1d(np.arange(400), np.concatenate(list(parts.values())))
        sides = [{text for row in rows for text in (firsts[row], seconds[row])} for rows in (*parts.values(), rest)]
        assert all(parts["dev"]) and all(len(rows) > 20 for rows in parts.values())
        assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]

    def test_a_text_in_both_places_of_pairs_is_one_text(self):
        parts = cut([["a", "x", "m"], ["b", "a", "n"]], [0, 0, 0], {"dev": 0.67})
        assert parts["dev"].tolist() in ([0, 1], [2])

    def test_no_more_than_the_share_and_a_row_stays(self):
        labels = np.repeat([0, 1, 2, 3], [1, 4, 10, 85])
        parts = cut([[f"t{i}" for i in range(100)]], labels, {"dev": 0.5, "test": 0.49})
        counts = {split: Counter(labels[rows].tolist()) for split, rows in parts.items()}
        assert counts["dev"] == {1: 2, 2: 5, 3: 43} and counts["test"] == {1: 1, 2: 4, 3: 41}

    def test_a_row_that_is_added_moves_few_others(self):
        texts = [f"t{i}" for i in range(200)]
        before = set(cut([texts], [0] * 200, {"dev": 0.1})["dev"])
        after = set(cut([[*texts, "new"]], [0] * 201, {"dev": 0.1})["dev"])
        assert len(before - after) <= 1

    def test_the_same_text_many_times(self):
        parts = cut([["same"] * 50 + [f"t{i}" for i in range(50)]], [0] * 100, {"dev": 0.2})
        assert len(parts["dev"]) == 20 and (parts["dev"] >= 50).all()


class TestStrata:
    def test_classes_and_scores(self):
        numbers, names = strata_of(MOOD, np.array([0.0, 2, 1]))
        assert (numbers.tolist(), names) == ([0, 2, 1], ["bad", "good", "odd"])
        scores = np.repeat([0.0, 1.0, 2.5, 5.0], [5, 55, 20, 20])
        numbers, names = strata_of(SCORE, scores)
        assert len({(score, number) for score, number in zip(scores, numbers, strict=True)}) == 4
        assert (np.diff(numbers) >= 0).all() and numbers.max() < len(names)
        numbers, _ = strata_of(SCORE, np.linspace(0, 5, 1000))
        assert np.bincount(numbers).tolist() == [100] * 10

    def test_a_row_of_several_labels_is_in_that_of_the_rarest(self):
        labels = np.array([[1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0], [1, 1, 0], [np.nan, 1, np.nan]])
        numbers, names = strata_of(TAGS, labels)
        assert [names[i] for i in numbers] == ["b", "a", "c", NONE_OF_THEM, "b", "b"]


def write(folder, rows, name="train.csv"):
    (folder / name).write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in rows))


class TestRecipes:
    rows = [(f"text {i}", ("bad", "good")[i % 2]) for i in range(100)] + [("rare", "odd")]

    def test_the_splits_and_their_reports(self, tmp_path):
        write(tmp_path, self.rows)
        loaded = load_task(MOOD, DataSpec(train="train.csv", dev="10%", test="20%"), tmp_path)
        assert {split: len(rows) for split, rows in loaded.splits.items()} == {"train": 71, "dev": 10, "test": 20}
        assert sorted(row for rows in loaded.splits.values() for row in rows["row"]) == list(range(1, 102))
        assert Counter(loaded.splits["dev"]["label"][:]) == {0: 5, 1: 5}
        lines = [line for report in loaded.reports for line in report.lines()]
        read = "101 rows read from train.csv, 101 kept"
        how = "split (dev 10% and test 20%, by the hashes of the texts)"
        assert lines[0] == f"mood train: {read}; 71 of these are the train {how}"
        assert lines[1] == (
            "warning: mood train: dev or test has no row of the labels 'odd' (1), which have too few rows (in "
            "brackets), or rows that share texts; name a file, or give a larger share"
        )
        assert lines[2:] == [
            f"mood dev: {read}; 10 of these are the dev {how}",
            f"mood test: {read}; 20 of these are the test {how}",
        ]

    def test_the_order_of_rows_and_a_sample_do_not_matter(self, tmp_path):
        write(tmp_path, self.rows)
        write(tmp_path, self.rows[::-1], "back.csv")
        spec = DataSpec(train="train.csv", dev="12.5 %")
        dev = load_task(MOOD, spec, tmp_path).splits["dev"]["text"][:]
        back = load_task(MOOD, DataSpec(train="back.csv", dev="12.5%", sample=20), tmp_path)
        assert back.splits["dev"]["text"][:] == dev[::-1] and len(back.splits["train"]) == 20
        assert not set(back.splits["train"]["text"]) & set(dev)
        values = load_column(MOOD, spec, "dev", "text", tmp_path)
        assert [values[row] for row in load_task(MOOD, spec, tmp_path).splits["dev"]["row"]] == dev

    def test_pairs_in_both_orders(self, tmp_path):
        rows = "".join(f"a{i // 2},b{i},{'no' if i % 4 else 'yes'}\n" for i in range(80))
        (tmp_path / "train.csv").write_text("one,two,label\n" + rows)
        spec = DataSpec(("one", "two"), train="train.csv", dev="25%", symmetric=True)
        splits = load_task(PAIR, spec, tmp_path).splits
        assert len(splits["train"]) == 2 * (80 - len(splits["dev"])) and not set(splits["dev"]["text"]) & set(
            splits["train"]["text"]
        )

    def test_a_hub_s_train_split(self, tmp_path):
        (tmp_path / "data").mkdir()
        write(tmp_path / "data", self.rows)
        loaded = load_task(MOOD, DataSpec(hub=str(tmp_path / "data"), train="train", dev="10%"), tmp_path)
        assert len(loaded.splits["dev"]) == 10

    @pytest.mark.parametrize(
        ("keys", "message"),
        [
            ({"dev": "0%"}, "data.dev is '0%', but must be above 0% and below 100%"),
            ({"dev": "100%"}, "data.dev is '100%', but must be above 0%"),
            ({"dev": "60%", "test": "40%"}, "data.test and dev are 60% and 40%, which leaves no train rows"),
            ({"dev": "10%", "dev_share": 0.1}, "data.dev_share is 0.1, but dev is '10%'; drop one"),
            ({"test": "10%", "dev_share": 0.1}, "data.test is '10%', which does not go with dev_share"),
            ({"train": "10%"}, "10%"),
            ({"dev": "0.4%"}, "data.dev is '0.4%', which makes no row of the 101 usable rows of train.csv: each label"),
        ],
    )
    def test_shares_that_are_refused(self, tmp_path, keys, message):
        write(tmp_path, self.rows)
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_task(MOOD, DataSpec(**{"train": "train.csv", **keys}), tmp_path)

    def test_names_that_are_no_share(self):
        assert [share_of(name) for name in ("10%", "2.5 %", "a10%.csv", "train[:10%]", "ten%", None, ("10%",))] == [
            0.1,
            0.025,
            *[None] * 5,
        ]
