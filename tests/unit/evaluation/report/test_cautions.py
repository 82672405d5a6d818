"""Each caution is there exactly where its rule says so; serious ones come first."""

import math

import pytest

from mtbert.evaluation.report.cautions import KINDS, first_cautions, ranked_cautions


def numbers(data=None, split="dev", measured=None, chosen=False, best=None, **task):
    """Numbers of one good task `a`, changed by the arguments."""
    good = {
        "problem_type": "single_label_classification",
        "main": "accuracy",
        "rows": 1000,
        "scores": {"accuracy": 0.9},
        "interval": {"low": 0.88, "high": 0.92},
        "baseline": {"answer": "x", "score": 0.5, "difference": 0.4, "difference_low": 0.37, "difference_high": 0.43},
        "calibration": {"ece": 0.01},
        "calibrated": False,
        "classes": {},
    }
    facts = {"rows": {"train": 1000, "dev": 1000}, "labels": {"counts": {"x": 500, "y": 500}, "total": 1000}}
    return {
        "tasks": {"a": {**good, **task}},
        "data": {"a": {**facts, **(data or {})}},
        "setup": {"split": split, "measured": measured or {}, "chosen_on_dev": chosen},
        "curves": {"tasks": {"a": {"best": best}}},
    }


def base(difference, low):
    return {"answer": "x", "score": 0.9 - difference, "difference": difference, "difference_low": low}


def counts(**rows):
    return {"labels": {"counts": rows, "total": sum(rows.values())}}


CASES = [  # what is changed, the caution's kind and whether it is serious, a part of its text
    ({}, None, None, ""),
    ({"baseline": base(0.1, -0.01)}, "baseline", True, "0.800 of the same answer (x)"),
    ({"baseline": base(0.1, 0.0)}, "baseline", True, ""),
    ({"baseline": base(0.1, 0.01)}, None, None, ""),
    (
        {"baseline": base(0.0, math.nan), "rows": 1, "interval": {"low": math.nan, "high": math.nan}},
        "baseline",
        True,
        "",
    ),
    ({"data": {"shared": 1}}, "leaks", True, "1 of 1,000 (0.1 %) dev rows have the text of a training row"),
    ({"data": {"leaks": {"same": 3, "phrases": 0}}}, "leaks", True, "3 of 1,000 (0.3 %) training rows have the text"),
    ({"data": {"leaks": {"same": 0, "phrases": 9}}}, None, None, ""),
    ({"data": {"leaks": {"same": 0, "phrases": 10}}}, "phrases", False, "10 of 1,000"),
    ({"data": {"leaks": {"same": 0, "phrases": 50}}}, "phrases", True, ""),
    ({"measured": {"nonfinite_skipped": 3}}, "skipped", True, "3 steps"),
    ({"measured": {"nonfinite_skipped": 0, "x": 5}}, None, None, ""),
    ({"data": {"repeated": {"rows": 49, "contradictory": 9}}}, None, None, ""),
    ({"data": {"repeated": {"rows": 49, "contradictory": 10}}}, "contradictory", False, "10 of 1,000 (1.0 %)"),
    ({"data": {"repeated": {"rows": 49, "contradictory": 49}}}, "contradictory", False, ""),
    ({"data": {"repeated": {"rows": 50, "contradictory": 0}}}, "repeated", False, "50 of 1,000"),
    ({"data": {"cut": {"rows": 9, "total": 1000, "tokens": 9}}}, None, None, ""),
    ({"data": {"cut": {"rows": 10, "total": 1000, "tokens": 9}}}, "cut", False, "does not read the ends"),
    ({"data": {"cut": {"rows": 50, "total": 1000, "tokens": 9}}}, "cut", True, ""),
    ({"data": counts(x=500, y=400, z=9)}, "rare", False, "z (9)"),
    ({"data": counts(x=500, y=400, z=0)}, "rare", True, "z (0)"),
    ({"data": counts(x=500, y=400, z=10)}, None, None, ""),
    ({"data": counts(x=800, y=200)}, "imbalance", True, "80 % of the training rows are x"),
    ({"data": counts(x=800, y=200), "main": "f1_macro", "scores": {"f1_macro": 0.9}}, "imbalance", False, ""),
    ({"data": counts(x=799, y=201)}, None, None, ""),
    ({"best": {"value": 0.92, "epoch": 2}}, "lost", False, "0.920 after epoch 2"),
    ({"best": {"value": 0.96, "epoch": 2}}, "lost", True, ""),
    ({"best": {"value": 0.91, "epoch": 2}}, None, None, ""),
    ({"best": {"value": 0.96, "epoch": 2}, "split": "test"}, None, None, ""),
    ({"calibration": {"ece": 0.05}}, "calibration", False, "calibration error 0.050"),
    ({"calibration": {"ece": 0.2}}, "calibration", True, ""),
    ({"calibration": {"ece": 0.2}, "calibrated": True}, None, None, ""),
    ({"calibration": {"ece": math.nan}}, None, None, ""),
    ({"chosen": True}, "chosen", False, "test split"),
    ({"chosen": True, "split": "test"}, None, None, ""),
    ({"interval": {"low": 0.8, "high": 0.95}}, "wide", False, "accuracy 0.80 to 0.95"),
    ({"rows": 0, "scores": {}, "interval": None, "baseline": None}, None, None, ""),
]


@pytest.mark.parametrize(("changed", "kind", "serious", "text"), CASES)
def test_a_caution_follows_its_rule(changed, kind, serious, text):
    found = ranked_cautions(numbers(**changed))
    assert [caution["kind"] for caution in found if caution["kind"] != "wide" or kind == "wide"] == (
        [kind] if kind else []
    )
    if kind:
        assert (found[0]["serious"], found[0]["tasks"]) == (serious, () if kind == "skipped" else ("a",))
        assert text in found[0]["text"] and "\n" not in found[0]["text"]


def test_serious_cautions_come_first_and_three_are_on_the_first_screen():
    everything = numbers(
        data={
            "shared": 5,
            "cut": {"rows": 20, "total": 1000, "tokens": 1},
            "repeated": {"rows": 90, "contradictory": 60},
            **counts(x=900, y=99, z=1),
        },
        calibration={"ece": 0.2},
        chosen=True,
    )
    found = ranked_cautions(everything)
    kinds = [caution["kind"] for caution in found]
    assert kinds == ["leaks", "contradictory", "imbalance", "calibration", "cut", "rare", "chosen", "repeated"]
    assert [caution["serious"] for caution in found] == [True] * 4 + [False] * 4
    assert [caution["kind"] for caution in first_cautions(found)] == kinds[:3]
    assert set(kinds) <= set(KINDS)


def test_a_caution_names_two_tasks_those_with_the_largest_figures_first():
    given = numbers()
    for name, rows in (("b", 30), ("c", 60), ("d", 20)):
        given["data"][name] = {"rows": {"train": 1000}, "cut": {"rows": rows, "total": 1000, "tokens": 1}}
    (found,) = ranked_cautions(given)
    assert found["tasks"] == ("c", "b", "d")
    assert found["text"].startswith("c: 60 of 1,000 (6.0 %) inputs; b: 30 of 1,000 (3.0 %) inputs; 1 more.")


def test_long_names_of_labels_are_cut():
    found = ranked_cautions(numbers(data=counts(**{"x" * 900: 3, "y": 500, "z": 500})))
    assert "x" * 40 + "…" in found[0]["text"] and len(found[0]["text"]) < 200
