"""Summaries of measured affinities: means, spreads, courses, suggested groups and weights; with gaps and without."""

from __future__ import annotations

import numpy as np
import pytest

from mtbert.evaluation.task_affinity import HIGHEST, balancing_weights, stacked, suggest_groups, summarise

TASKS = ["a", "b", "c"]


def run(*matrices, norms=(1.0, 1.0, 1.0), first: int = 10) -> dict:
    """What a run with these affinities leaves; its cosines are a tenth of them."""
    measured = [
        {
            "step": first * (number + 1),
            "rate": 0.1,
            "losses": [1.0] * 3,
            "norms": list(norms),
            "cosines": [[None if v is None else v / 10 for v in row] for row in matrix],
            "affinity": matrix,
            "seconds": 0.5,
        }
        for number, matrix in enumerate(matrices)
    ]
    return {"tasks": TASKS, "every": first, "rows": 4, "measured": measured}


ONE = [[1.0, 2.0, -3.0], [4.0, 1.0, -1.0], [-2.0, -2.0, 1.0]]
TWO = [[3.0, 4.0, -1.0], [6.0, 3.0, 1.0], [0.0, 0.0, 3.0]]


def test_means_and_spreads_are_over_all_measurements_of_all_runs():
    found = summarise([run(ONE, TWO), run(TWO)])
    assert found["measurements"] == 3 and found["steps"] == [10, 20] and found["seconds"] == 1.5
    values = np.array([ONE, TWO, TWO])
    np.testing.assert_allclose(found["affinity"]["mean"], values.mean(axis=0))
    np.testing.assert_allclose(found["affinity"]["spread"], values.std(axis=0, ddof=1))
    np.testing.assert_allclose(found["cosines"]["mean"], values.mean(axis=0) / 10)


def test_the_course_is_the_mean_cosine_with_the_others():
    course = summarise([run(ONE, TWO)])["course"]
    assert [point["step"] for point in course["a"]] == [10, 20]
    assert course["a"][0]["value"] == pytest.approx((0.4 - 0.2) / 2)  # of b and c


def test_gaps_are_left_out():
    holes = [[None, None, -3.0], [4.0, 1.0, None], [None, -2.0, 1.0]]
    found = summarise([run(holes, TWO)])
    assert found["affinity"]["mean"][0][1] == 4.0 and np.isnan(found["affinity"]["spread"][0][1])
    assert found["affinity"]["mean"][1][0] == 5.0
    nothing = [[None] * 3] * 3
    empty = summarise([run(nothing)])
    assert np.isnan(empty["affinity"]["mean"]).all() and empty["course"] == {task: [] for task in TASKS}
    assert suggest_groups([run(nothing)], 2)["why_not"] == "there is no whole measurement"


def test_no_measurement_at_all():
    assert stacked([run()], "affinity").shape == (0, 0)
    assert suggest_groups([run()], 2)["verdict"] == "undecided"


def test_groups_are_named_for_each_number_of_models():
    found = suggest_groups([run(ONE, ONE, ONE, ONE)], 5)
    assert [row["models"] for row in found["by_models"]] == [1, 2, 3]  # no more than tasks
    assert found["suggested"] == found["by_models"][-1]["groups"]
    assert {"tasks": ["a", "b"], "serves": ["a", "b"]} in found["suggested"] and found["verdict"] == "groups"


def test_many_tasks_have_no_suggestion_and_it_says_why():
    many = {"tasks": [f"t{i}" for i in range(20)], "measured": run(ONE)["measured"]}
    assert suggest_groups([many], 2)["why_not"] == "groups are searched for at most 14 tasks"


def test_weights_make_gradients_equally_long():
    runs = [run(*[ONE] * 6, norms=(1.0, 2.0, 4.0))]
    found = balancing_weights(runs, {"a": 1.0, "b": 3.0, "c": 1.0})
    weights = np.array([found[task]["weight"] for task in TASKS]) / [1.0, 3.0, 1.0]
    np.testing.assert_allclose(weights * [1.0, 2.0, 4.0], 2.0)
    assert [found[task]["verdict"] for task in TASKS] == ["more", "undecided", "less"]
    assert found["a"]["low"] <= found["a"]["balanced"] <= found["a"]["high"]
    assert all(each["weight"] == pytest.approx(each["balanced"]) for each in found.values())


def test_weights_are_bounded_and_undecided_where_norms_vary():
    extreme = balancing_weights([run(*[ONE] * 6, norms=(1e-4, 1.0, 1.0))], dict.fromkeys(TASKS, 1.0))
    assert extreme["a"]["weight"] == HIGHEST < extreme["a"]["low"] <= extreme["a"]["balanced"]
    entries = [run(ONE, norms=norms)["measured"][0] for norms in ((1, 2, 1), (2, 1, 1), (1, 3, 1), (3, 1, 1))]
    varied = balancing_weights([{**run(), "measured": entries}], dict.fromkeys(TASKS, 1.0))
    assert varied["a"]["verdict"] == varied["b"]["verdict"] == "undecided"
    few = balancing_weights([run(ONE)], dict.fromkeys(TASKS, 2.0))
    assert few["a"] == {"weight": 2.0, "balanced": None, "low": None, "high": None, "verdict": "undecided"}
