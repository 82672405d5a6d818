"""Invariant 10: the tasks of a long run follow p_t, and p_t is what the papers say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from mtbert.data.sampling import SAMPLED, Plan, Schedule

ROWS = (8544, 141498, 6040, 300)
EPOCHS = 5
BATCH = 16
STEPS = 6000
ALPHAS = {  # of epochs 1, 3 and 5 of 5, by hand
    "proportional": (1.0, 1.0, 1.0),
    "sqrt": (0.5, 0.5, 0.5),
    "annealed": (1.0, 0.6, 0.2),
    "min_annealed": (0.5, 0.46, 0.1),
    "uniform": (0.0, 0.0, 0.0),
    "temperature": (0.25, 0.25, 0.25),
}


def schedule(name: str, **values) -> Schedule:
    return Schedule(name, temperature=4.0 if name == "temperature" else None, **values)


def make_plan(name: str, seed: int = 0, **values) -> Plan:
    names = tuple(f"task{number}" for number in range(len(ROWS)))
    return Plan(schedule(name, steps_per_epoch=STEPS, **values), names, ROWS, BATCH, EPOCHS, seed)


def steps_of(plan: Plan, epoch: int) -> np.ndarray:
    """Rows of each task in each step of an epoch, `(steps, tasks)`."""
    return np.concatenate([plan.counts(epoch, block) for block in range(plan.blocks)])


def shares(alpha: float) -> np.ndarray:
    powers = [rows**alpha for rows in ROWS]
    return np.array([power / sum(powers) for power in powers])


@pytest.mark.parametrize("position", range(3), ids=["first epoch", "middle epoch", "last epoch"])
@pytest.mark.parametrize("name", SAMPLED)
def test_drawn_tasks_follow_their_probabilities(name, position):
    epoch, expected = (0, 2, 4)[position], shares(ALPHAS[name][position])
    plan = make_plan(name)
    np.testing.assert_allclose(plan.probabilities(epoch), expected, rtol=1e-12)
    counts = steps_of(plan, epoch)
    assert counts.shape == (STEPS, len(ROWS))
    assert ((counts > 0).sum(1) == 1).all() and (counts.sum(1) == BATCH).all()
    assert chisquare((counts > 0).sum(0), expected * STEPS).pvalue > 1e-4


@pytest.mark.parametrize("position", range(3), ids=["first epoch", "middle epoch", "last epoch"])
@pytest.mark.parametrize("name", SAMPLED)
def test_mixed_rows_follow_the_same_probabilities(name, position):
    epoch, p = (0, 2, 4)[position], shares(ALPHAS[name][position])
    counts = steps_of(make_plan(name, mixed=True), epoch)
    assert counts.shape == (STEPS, len(ROWS)) and (counts.sum(1) == BATCH).all()
    assert chisquare(counts.sum(0), p * STEPS * BATCH).pvalue > 1e-4
    spread = BATCH * p * (1 - p)  # a multinomial's, so that rows are drawn one by one
    np.testing.assert_allclose(counts.var(0), spread, rtol=0.15)


@pytest.mark.parametrize("name", SAMPLED)
def test_neighbouring_steps_are_independent(name):
    """The share of steps whose task is the one before is Σ p_t², across the blocks in which steps are drawn too."""
    plan = make_plan(name)
    tasks, p = steps_of(plan, 0).argmax(1), plan.probabilities(0)
    again, expected = (tasks[1:] == tasks[:-1]).sum(), (p**2).sum() * (STEPS - 1)
    assert chisquare([again, STEPS - 1 - again], [expected, STEPS - 1 - expected]).pvalue > 1e-4


def test_draws_are_a_function_of_seed_epoch_and_step():
    one, same, other = (steps_of(make_plan("sqrt", seed), 1) for seed in (5, 5, 6))
    assert (one == same).all()
    assert (one != other).any()
    assert (one != steps_of(make_plan("sqrt", 5), 2)).any()
    plan = make_plan("sqrt", 5)
    last_first = [plan.counts(1, block) for block in reversed(range(plan.blocks))]
    assert (np.concatenate(last_first[::-1]) == one).all()


def test_annealed_falls_from_proportional_to_the_power_of_a_fifth():
    found = [schedule("annealed").exponent(epoch, 5) for epoch in range(1, 6)]
    assert found == pytest.approx([1.0, 0.8, 0.6, 0.4, 0.2])
    assert schedule("annealed").exponent(25, 25) == pytest.approx(0.2)
    assert schedule("annealed").exponent(2, 25) == pytest.approx(1 - 0.8 / 24)
    assert schedule("annealed").exponent(1, 1) == 1.0


def test_min_annealed_is_the_square_root_until_it_falls_below():
    found = [schedule("min_annealed").exponent(epoch, 10) for epoch in range(1, 11)]
    assert found == pytest.approx([0.5, 0.5, 0.5, 0.5, 0.5, 0.46, 0.37, 0.28, 0.19, 0.1])
    assert schedule("min_annealed").exponent(1, 1) == pytest.approx(0.1)
    assert schedule("min_annealed").exponent(1, 2) == 0.5


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (2.0, 0.5), (5.0, 0.2)])
def test_temperature_is_the_power_of_its_inverse(temperature, alpha):
    found = Schedule("temperature", temperature=temperature).probabilities((100, 1, 9), 3, 7)
    np.testing.assert_allclose(found, np.array([100, 1, 9]) ** alpha / (100**alpha + 1 + 9**alpha))


def test_probabilities_of_small_tasks_by_hand():
    np.testing.assert_allclose(schedule("proportional").probabilities((6, 3, 1), 1, 3), [0.6, 0.3, 0.1])
    np.testing.assert_allclose(schedule("sqrt").probabilities((16, 4, 1), 1, 3), [4 / 7, 2 / 7, 1 / 7])
    np.testing.assert_allclose(schedule("uniform").probabilities((16, 4, 1), 1, 3), [1 / 3] * 3)
    np.testing.assert_allclose(schedule("annealed").probabilities((32, 1), 3, 3), [2 / 3, 1 / 3])  # 32^0.2 = 2


def test_counted_sizes_take_the_place_of_the_number_of_rows():
    plan = Plan(Schedule("proportional"), ("a", "b"), (1000, 10), 5, 2, sizes=(30, None))
    np.testing.assert_allclose(plan.probabilities(0), [0.75, 0.25])
    assert plan.steps_per_epoch == 8


def test_an_epoch_after_the_last_keeps_the_last_probabilities():
    plan = make_plan("annealed")
    np.testing.assert_array_equal(plan.probabilities(EPOCHS + 3), plan.probabilities(EPOCHS - 1))


def test_schedules_that_do_not_draw_have_fixed_counts():
    names, rows = ("a", "b", "c"), (9, 4, 6)
    turns = steps_of(Plan(Schedule("round_robin"), names, rows, 4, 2), 0).argmax(1)
    assert turns.tolist() == [0, 1, 2, 0, 1]
    assert steps_of(Plan(Schedule("round_robin"), names, rows, 4, 2), 1).argmax(1).tolist() == [2, 0, 1, 2, 0]
    expected = [[4, 0, 0], [4, 0, 0], [1, 0, 0], [0, 4, 0], [0, 0, 4], [0, 0, 2]]
    assert steps_of(Plan(Schedule("sequential"), names, rows, 4, 2), 1).tolist() == expected
    together = Plan(Schedule("simultaneous"), names, rows, 4, 2, batches=(None, 1, 2))
    assert steps_of(together, 0).tolist() == [[4, 1, 2]] * 3
