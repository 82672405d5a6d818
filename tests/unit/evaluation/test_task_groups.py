"""Groups of tasks: against all groupings, on made-up matrices, and what may be said of them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mtbert.evaluation.task_groups import Group, best_groups, interval, judge_groups, onto, score

NAMES = ("a", "b", "c", "d")
TWO_BLOCKS = np.array([[1, 2, -1, -1], [2, 1, -1, -1], [-1, -1, 1, 3], [-1, -1, 3, 1]], dtype=float)


def by_trying_all(affinity: np.ndarray, most: int) -> float:
    """The highest score of all choices of at most `most` groups that hold every task."""
    count, best = len(affinity), -np.inf
    groups = [g for size in range(1, count + 1) for g in itertools.combinations(range(count), size)]
    for size in range(1, most + 1):
        for chosen in itertools.combinations(groups, size):
            if set().union(*chosen) == set(range(count)):
                best_of = [max(onto(affinity, g, task) for g in chosen if task in g) for task in range(count)]
                best = max(best, float(np.mean(best_of)))
    return best


@pytest.mark.parametrize("tasks", [2, 3, 4])
@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_groups_are_the_best_of_all(tasks, most, seed):
    affinity = np.random.default_rng(seed).normal(size=(tasks, tasks))
    found = best_groups(affinity, most)
    assert score(affinity, found[-1]) == pytest.approx(by_trying_all(affinity, most))
    assert len(found) == most and all(len(groups) <= number for number, groups in enumerate(found, start=1))
    for groups in found:
        assert sorted(task for group in groups for task in group.serves) == list(range(tasks))
        assert all(set(group.serves) <= set(group.tasks) for group in groups)


def test_tasks_that_help_each_other_share_a_group():
    one, two, three = best_groups(TWO_BLOCKS, 3)
    assert one == [Group((0, 1, 2, 3), (0, 1, 2, 3))]
    assert two == [Group((0, 1), (0, 1)), Group((2, 3), (2, 3))]
    assert three == two  # a third model gains nothing, so there is none


def test_a_task_that_is_hurt_by_all_is_alone():
    affinity = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=float)
    affinity[:, 2] = -1
    groups = best_groups(affinity, 2)[-1]
    assert groups[1] == Group((2,), (2,)) and groups[0].serves == (0, 1)


def test_a_task_may_help_where_it_is_not_answered():
    affinity = np.array([[0, 1.0, -9], [1.0, 0, 0.5], [9, 9, 0]])  # c helps a and b; a hurts c
    groups = best_groups(affinity, 2)[-1]
    assert groups == [Group((0, 2), (0,)), Group((1, 2), (1, 2))]
    assert groups[0].named(("a", "b", "c")) == {"tasks": ["a", "c"], "serves": ["a"]}


def test_equal_choices_give_fewer_models_and_helpers():
    assert best_groups(np.zeros((4, 4)), 3) == [[Group((0, 1, 2, 3), (0, 1, 2, 3))]] * 3
    assert best_groups(np.ones((3, 3)), 3)[-1] == [Group((0, 1, 2), (0, 1, 2))]


def test_the_same_numbers_give_the_same_groups_in_any_order_of_tasks():
    order = [3, 1, 0, 2]
    found = best_groups(TWO_BLOCKS[np.ix_(order, order)], 2)[-1]
    named = {frozenset(order[task] for task in group.serves) for group in found}
    assert named == {frozenset({0, 1}), frozenset({2, 3})}


def test_one_task_and_twelve():
    assert best_groups(np.ones((1, 1)), 2) == [[Group((0,), (0,))]] * 2
    affinity = np.kron(np.eye(3), np.ones((4, 4))) * 2 - 1
    groups = best_groups(affinity, 4)[-1]
    assert [group.tasks for group in groups] == [(0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11)]


# ---- what may be said ----


def noisy(affinity: np.ndarray, noise: float, count: int = 20) -> np.ndarray:
    random = np.random.default_rng(0)
    return affinity + noise * random.normal(size=(count, *affinity.shape))


def test_clear_groups_are_said_to_be_better():
    found = judge_groups(noisy(TWO_BLOCKS, 0.5), 2)
    assert found["verdict"] == "groups" and 0 < found["low"] < found["difference"] < found["high"]


def test_noise_is_undecided_although_a_choice_fits_it():
    """Groups chosen from noise have a high score on the measurements that chose them, and none on others."""
    measured = noisy(np.zeros((5, 5)), 1.0)
    assert score(measured.mean(axis=0), best_groups(measured.mean(axis=0), 3)[-1]) > 0.05
    found = judge_groups(measured, 3)
    assert found["verdict"] == "undecided" and found["low"] < 0 < found["high"]


def test_few_measurements_are_undecided():
    found = judge_groups(noisy(TWO_BLOCKS, 0.0, 3), 2)
    assert found == {"difference": None, "low": None, "high": None, "verdict": "undecided"}


def test_intervals_hold_the_mean():
    values = np.random.default_rng(1).normal(1.0, 1.0, size=100)
    found = interval(values)
    assert found["difference"] == pytest.approx(values.mean())
    error = 1.96 * values.std() / 10
    assert found["low"] == pytest.approx(values.mean() - error, abs=0.05)
    assert found["high"] == pytest.approx(values.mean() + error, abs=0.05)
