"""Several labels of a text in every usual form: columns of 0 and 1, vectors, lists, separated names; empty cells."""

import math

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value

from mtbert.data.spec import DataSpec
from mtbert.data.splits import check_rows, load_task
from mtbert.modeling.heads import labelled, row_losses
from mtbert.modeling.task_spec import TaskSpec
from mtbert.recipe import TaskRecipe
from mtbert.training.objective import TaskTraining, class_weights, training_losses

MULTI = "multi_label_classification"
TAGS = TaskSpec("tags", MULTI, labels=("art", "law", "war"))
NAN = math.nan


def read(cells: dict | list, split: str = "train", task: TaskSpec = TAGS, **keys):
    """Checked labels, nan as None, and the report."""
    cells = cells if isinstance(cells, dict) else {"label": cells}
    rows = Dataset.from_dict({"text": [f"t{i}" for i in range(len(next(iter(cells.values()))))], **cells})
    checked, report = check_rows(
        task, split, rows, DataSpec(**{"label": tuple(cells) if len(cells) > 1 else "label", **keys}), "memory"
    )
    if "label" not in checked.column_names:
        return None, report
    labels = checked["label"][:]
    return [[None if x != x else x for x in row] if isinstance(row, list) else row for row in labels], report


class TestColumns:
    @pytest.mark.parametrize(
        "cells",
        [
            {"art": [0, 1], "law": [1, 1], "war": [0, 0]},
            {"war": ["0", "0.0"], "art": ["no", "Yes "], "law": ["true", "T"]},
            {"art": [False, True], "law": [True, True], "war": [False, False]},
            {"art": [0.0, 1.0], "law": [1, 1], "war": ["off", "n"]},
            {"a": [0, 1], "b": [1, 1], "c": [0, 0]},
        ],
        ids=["numbers", "other order", "bools", "mixed types", "other names"],
    )
    def test_each_is_a_label(self, cells):
        assert read(cells)[0] == [[0, 1, 0], [1, 1, 0]]

    def test_the_labels_of_a_recipe_are_their_names(self):
        task = TaskRecipe(data=DataSpec(label=["x", "y"], train="a.csv"))
        assert (task.spec("t").classes, task.spec("t").problem_type) == (("x", "y"), MULTI)
        named = TaskRecipe(data=DataSpec(label=["x", "y"], train="a.csv"), labels=("one", "two"))
        assert named.spec("t").classes == ("one", "two")

    def test_a_class_label_column_must_mean_false_and_true(self):
        for names, expected in ((["no", "yes"], [[0], [1]]), (["yes", "no"], None)):
            features = Features({"text": Value("string"), "x": ClassLabel(names=names)})
            rows = Dataset.from_dict({"text": ["a", "b"], "x": [0, 1]}, features=features)
            task = TaskSpec("t", MULTI, labels=("x",))
            if expected is None:
                with pytest.raises(
                    ValueError, match=r"column 'x' has the classes \['yes', 'no'\]; make it a column of 0"
                ):
                    check_rows(task, "train", rows, DataSpec(label=("x",)), "memory")
            else:
                assert check_rows(task, "train", rows, DataSpec(label=("x",)), "memory")[0]["label"][:] == expected

    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            (
                {"art": [0, 1], "law": [0, 2], "war": [0, 1]},
                r"wrong in 1 row: row 2, column 'law': 2; each cell must be 0",
            ),
            ({"art": ["maybe"], "law": ["1"], "war": ["0"]}, r"row 1, column 'art': 'maybe'; each cell"),
            ({"art": [0, None], "law": [0, 1], "war": [0, 1]}, r"row 2, column 'art': None; an empty cell may mean"),
            ({"art": ["", "1"], "law": ["", "1"], "war": [" ", "0"]}, "write empty: unlabelled .* or empty: none"),
            ({"art": [0.5], "law": [1], "war": [0]}, r"row 1, column 'art': 0.5"),
        ],
    )
    def test_cells_that_are_refused(self, cells, message):
        with pytest.raises(
            ValueError,
            match=f"memory: the columns of labels are wrong in 1 row: .*{message}"
            if "wrong" not in message
            else message,
        ):
            read(cells)

    def test_an_empty_cell_is_masked_or_none(self):
        cells = {"art": [1, None, None], "law": [None, 1, None], "war": [0, 0, None]}
        masked, report = read(cells, empty="unlabelled")
        assert masked == [[1, None, 0], [None, 1, 0]] and report.left_out == {"no label": (3,)} and not report.untagged
        assert read(cells, empty="none")[0] == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]

    def test_a_test_split_may_lack_labels(self):
        assert read({"art": [None, 1], "law": [None, 0], "war": [None, 0]}, "test")[0] == [[None] * 3, [1, 0, 0]]
        for empty in (None, "none", "unlabelled"):
            assert read({"art": [None], "law": [None], "war": [None]}, "test", empty=empty)[0] is None
        rows = Dataset.from_dict({"text": ["a"]})
        spec = DataSpec(label=("art", "law", "war"))
        assert check_rows(TAGS, "test", rows, spec, "memory")[0].column_names == ["text", "row"]
        with pytest.raises(ValueError, match="no column 'law' for label"):
            check_rows(TAGS, "test", rows.add_column("art", [1]), spec, "memory")

    @pytest.mark.parametrize(
        ("task", "label", "problem"),
        [
            (TAGS, ("art", "law"), "data.label names 2 columns, but the task has 3 labels"),
            (TAGS, ("law", "x", "y"), "data.label and labels both have 'law', but not all names are the same"),
            (TaskSpec("t", labels=2), ("a", "b"), "names 2 columns, but a single_label_classification has one"),
            (TAGS, ("art", "art", "law"), "names column 'art' twice"),
            (TAGS, (), "names no column"),
            (TAGS, ("text", "art", "law"), "and text both name column 'text'"),
        ],
    )
    def test_columns_that_do_not_fit(self, task, label, problem, tmp_path):
        with pytest.raises(ValueError, match=problem):
            load_task(task, DataSpec(label=label, train="a.csv"), tmp_path)


class TestForms:
    @pytest.mark.parametrize(
        ("cells", "keys"),
        [
            (["art|war", "law"], {}),
            (["art; war", "law"], {}),
            (["art, war", "law"], {}),
            (["art|war", "law"], {"label_separator": "|"}),
            (["art::war", "law"], {"label_separator": "::"}),
            (["art  war", "law"], {"label_separator": " "}),
            (["art\twar", "law"], {"label_separator": "tab"}),
            (["['art', 'war']", "['law']"], {}),
            (['["art", "war"]', '["law"]'], {}),
            (["['art' 'war']", "['law']"], {}),
            (["('art', 'war')", "('law',)"], {}),
            (["{'war', 'art'}", "{'law'}"], {}),
            ([["art", "war"], ["law"]], {}),
            (["1 0 1", "0 1 0"], {}),
            (["[1, 0, 1]", "[0, 1, 0]"], {}),
            (["[1 0 1]", "[0 1 0]"], {}),
            (["[1. 0. 1.]", "[0. 1. 0.]"], {}),
            (["[True, False, True]", "[False, True, False]"], {}),
            (["1,0,1", "0,1,0"], {}),
            ([[1, 0, 1], [0, 1, 0]], {}),
        ],
        ids=str,
    )
    def test_each_is_read(self, cells, keys):
        assert read(cells, **keys)[0] == [[1, 0, 1], [0, 1, 0]]

    @pytest.mark.parametrize(
        ("cells", "message"),
        [
            (
                ["art|law", "law|war", "art;law"],
                r"row 3: 'art;law'; these are separated by ';', 2 other rows are separated by '\|'; write all in one "
                "form, or name the separator: label_separator",
            ),
            (
                ["['art']", "['art', 'law']", "art, law"],
                r"row 3: 'art, law'; these are separated by ',', 2 other rows are lists; write all in one form",
            ),
            (["art|law", "war|law", '{"art": 1, "law": 0, "war": 0}'], "row 3: .*these are mappings, 2 other rows"),
            (["1 0 1", "0 1 1", "art|law"], "others lists of labels; write all in one form"),
            (["1 0 1", "0 1 1", "[0, 0, 1]"], "row 3: .* these are lists, 2 other rows are separated by white space"),
        ],
    )
    def test_a_mixture_is_refused(self, cells, message):
        with pytest.raises(ValueError, match=f"column 'label' is wrong in .*{message}"):
            read(cells)

    def test_a_bare_name_and_none_fit_every_form(self):
        assert read(["art|law", "war", "[]"])[0] == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]
        assert read(["['art', 'law']", "war", "[]"])[0] == [[1, 1, 0], [0, 0, 1], [0, 0, 0]]

    def test_brackets_within_names_and_missing_entries(self):
        task = TaskSpec("t", MULTI, labels=("(misc)", "law", "[x]"))
        assert read(["(misc)|law", "[x]"], task=task)[0] == [[1, 1, 0], [0, 0, 1]]
        assert read([[1, None, 0], [0, 1, 1]], empty="unlabelled")[0] == [[1, None, 0], [0, 1, 1]]
        with pytest.raises(ValueError, match=r"row 1: \[1, None, 0\]"):
            read([[1, None, 0], [0, 1, 1]])

    def test_a_stated_separator_is_the_only_one(self):
        task = TaskSpec("t", MULTI, labels=("arts, crafts", "R&D; more", "law"))
        assert read(["arts, crafts|law", "R&D; more"], task=task, label_separator="|")[0] == [[1, 0, 1], [0, 1, 0]]
        with pytest.raises(ValueError, match=r"row 1: 'art;law'; labels must be .* names separated by '\|', out of"):
            read(["art;law"], label_separator="|")
        ambiguous = TaskSpec("t", MULTI, labels=("a", "b", "a,b"))
        assert read(["a,b|a"], task=ambiguous, label_separator="|")[0] == [[1, 0, 1]]

    @pytest.mark.parametrize(
        ("empty", "labels", "untagged"),
        [(None, [[1, 0, 0]], (2, 3)), ("unlabelled", [[1, 0, 0]], ()), ("none", [[1, 0, 0], [0] * 3, [0] * 3], ())],
    )
    def test_an_empty_cell(self, empty, labels, untagged):
        found, report = read(["art", "", None], empty=empty)
        assert found == labels and report.untagged == untagged
        assert any("write empty: none" in line for line in report.lines()) == bool(untagged)

    @pytest.mark.parametrize(
        ("keys", "problem"),
        [
            ({"empty": "zero"}, "data.empty is 'zero', but must be unlabelled or none"),
            ({"label_separator": ""}, "data.label_separator is '', but must be such as"),
            ({"label_separator": "x"}, "data.label_separator is 'x', but must be such as"),
            ({"label_separator": "|", "label": ("a", "b")}, "but label names a column for each label"),
        ],
    )
    def test_keys_that_are_refused(self, keys, problem):
        assert any(problem in str(found.under("data")) for found in DataSpec(train="a.csv", **keys).problems())

    @pytest.mark.parametrize("keys", [{"empty": "none"}, {"label_separator": "|"}])
    def test_keys_for_several_labels_are_refused_elsewhere(self, keys, tmp_path):
        with pytest.raises(ValueError, match="but is for multi-label tasks, and this is a regression; drop it"):
            load_task(TaskSpec("t"), DataSpec(train="a.csv", **keys), tmp_path)
        assert DataSpec(empty="unlabelled").problems_with(TaskSpec("t")) == []


class TestMaskedLabels:
    logits = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.1, -1.0], [2.0, 0.0, 1.0]])
    labels = torch.tensor([[1.0, NAN, 0.0], [1.0, 0.0, 1.0], [NAN, NAN, NAN]])

    def by_hand(self, weights=None, smoothing=0.0, gamma=0.0) -> list[float]:
        """The mean over the known labels of each row, one label at a time."""
        losses = []
        for row, known in zip(self.logits.double(), self.labels.double(), strict=True):
            parts = []
            for i, (z, y) in enumerate(zip(row, known, strict=True)):
                if not y.isnan():
                    p, (of_zero, of_one) = torch.sigmoid(z), (1.0, 1.0) if weights is None else weights[i]
                    t = y * (1 - smoothing) + smoothing / 2
                    one, zero = -of_one * t * p.log() * (1 - p) ** gamma, -of_zero * (1 - t) * (1 - p).log() * p**gamma
                    parts.append(float(one + zero))
            losses.append(sum(parts) / len(parts) if parts else 0.0)
        return losses

    def test_they_do_not_count(self):
        losses, mask = row_losses(TAGS, self.logits, self.labels)
        assert mask.tolist() == [True, True, False] == labelled(TAGS, self.labels).tolist()
        assert losses.tolist() == pytest.approx(self.by_hand(), abs=1e-6)

    def test_whole_rows_have_the_same_bits_as_before(self):
        whole = torch.nan_to_num(self.labels)
        expected = torch.nn.functional.binary_cross_entropy_with_logits(self.logits, whole, reduction="none").mean(-1)
        assert torch.equal(row_losses(TAGS, self.logits, whole)[0], expected)

    @pytest.mark.parametrize(
        ("settings", "by_hand"),
        [
            (TaskTraining(label_smoothing=0.2), {"smoothing": 0.2}),
            (TaskTraining(class_weights=(1.0, 2.0, 3.0)), {"weights": [(1, 1), (1, 2), (1, 3)]}),
            (TaskTraining(loss="focal", focal_gamma=2.0), {"gamma": 2.0}),
        ],
        ids=str,
    )
    def test_other_losses(self, settings, by_hand):
        weights = torch.tensor(by_hand["weights"], dtype=torch.float32) if "weights" in by_hand else None
        losses = training_losses(TAGS, self.logits, self.labels, weights, settings)
        assert losses.tolist() == pytest.approx(self.by_hand(**by_hand), abs=1e-6)

    def test_gradients_are_finite(self):
        logits = self.logits.clone().requires_grad_()
        row_losses(TAGS, logits, self.labels)[0].sum().backward()
        assert torch.isfinite(logits.grad).all() and logits.grad[0, 1] == 0 and logits.grad[2].tolist() == [0, 0, 0]

    def test_balanced_weights_count_known_labels(self):
        labels = np.array([[1, NAN, 0], [1, 0, 1], [0, 1, NAN], [0, 0, 0]])
        weights = class_weights(TAGS, "balanced", labels)
        ratios = weights[:, 1] / weights[:, 0]
        assert ratios.tolist() == pytest.approx([1.0, 2.0, 2.0])
