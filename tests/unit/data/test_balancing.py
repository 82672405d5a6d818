"""Balanced sampling: exact frequencies, all rows of a class before any comes again, and purity."""

import numpy as np
import pytest

from mtbert.data.balancing import BalancedRows
from mtbert.data.sampling import Plan, Schedule, StepSampler

LABELS = np.array([2] * 50 + [0] * 5 + [-100] * 7 + [4] * 12)
LABELS = np.random.default_rng(0).permutation(LABELS)


def test_every_class_is_drawn_equally_often_and_its_rows_in_turn():
    taken = BalancedRows(LABELS).take(np.arange(900), (3, 1))
    classes, counts = np.unique(LABELS[taken], return_counts=True)
    assert classes.tolist() == [0, 2, 4] and counts.tolist() == [300] * 3
    for own, rows in ((0, 5), (2, 50), (4, 12)):
        walked = taken[LABELS[taken] == own]
        for first in range(0, 300 - rows, rows):
            assert sorted(walked[first : first + rows]) == np.flatnonzero(own == LABELS).tolist()
        assert walked[:rows].tolist() != walked[rows : 2 * rows].tolist()


def test_a_batch_of_any_size_has_equal_shares_in_expectation():
    """Batches of 4 of 3 classes: the class that comes twice is each one equally often."""
    taken = LABELS[BalancedRows(LABELS).take(np.arange(12_000), (0, 0))].reshape(-1, 4)
    assert all(len(np.unique(batch)) == 3 or (np.unique(batch, return_counts=True)[1] == 2).all() for batch in taken)
    first = np.unique(taken[:, 0], return_counts=True)[1] / len(taken)
    np.testing.assert_allclose(first, 1 / 3, atol=0.03)


def test_the_walk_is_a_pure_function_of_seed_task_and_place():
    rows = BalancedRows(LABELS)
    whole = rows.take(np.arange(200), (7, 2))
    assert rows.take(np.arange(120, 200), (7, 2)).tolist() == whole[120:].tolist()
    for other in ((8, 2), (7, 3)):
        assert rows.take(np.arange(200), other).tolist() != whole.tolist()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_plan_takes_balanced_rows_and_processes_share_them(processes):
    balanced = {1: BalancedRows(LABELS)}
    plan = Plan(Schedule("proportional"), ("a", "b"), (30, len(LABELS)), 6, 2, balanced=balanced)
    samplers = [StepSampler(plan, 1, processes, rank) for rank in range(processes)]
    drawn = []
    for epoch in range(2):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        for steps in zip(*samplers, strict=True):
            parts = [part for step in steps if not step.filler for part in step.parts if part[0] == 1]
            drawn += [np.sort(np.concatenate([rows for _, rows in parts]))] if parts else []
    walked = balanced[1].take(np.arange(sum(map(len, drawn))), (0, 1))
    expected = np.split(walked, np.cumsum([len(each) for each in drawn])[:-1])
    assert all((np.sort(one) == other).all() for one, other in zip(expected, drawn, strict=True))


def test_labels_are_needed():
    with pytest.raises(ValueError, match="needs labels, but no row has one"):
        BalancedRows(np.array([-100, -100]))
