"""Invariant 11: every row that the plan names is seen exactly once, whatever the number of processes."""

from __future__ import annotations

import numpy as np
import pytest

from mtbert.data.permutation import permute
from mtbert.data.sampling import BLOCK, SAMPLED, SCHEDULES, Plan, Schedule, StepSampler

NAMES = ("a", "b", "c", "d")
ROWS = (41, 24, 1, 17)
EPOCHS = 3
LAYOUTS = [(processes, accumulation) for processes in (1, 2, 4) for accumulation in (1, 2, 3)]
CASES = {
    **{name: Schedule(name, temperature=2.0 if name == "temperature" else None) for name in SCHEDULES},
    **{
        f"{name} mixed": Schedule(name, mixed=True, temperature=2.0 if name == "temperature" else None)
        for name in SAMPLED
    },
    "sequential of 7 steps": Schedule("sequential", steps_per_epoch=7),
    "annealed of 50 steps": Schedule("annealed", steps_per_epoch=50),
}
every_case = pytest.mark.parametrize("schedule", CASES.values(), ids=CASES)
every_layout = pytest.mark.parametrize(("processes", "accumulation"), LAYOUTS)


def chunks(items: list, size: int) -> list[list]:
    return [items[first : first + size] for first in range(0, len(items), size)]


def make_plan(schedule: Schedule, batches=(None, 5, None, 3)) -> Plan:
    """Unequal batches; a step of 12 rows, so that they do not divide the rows of any task."""
    return Plan(schedule, NAMES, ROWS, 12, EPOCHS, seed=9, batches=None if schedule.mixed else batches)


def micro_batches(plan: Plan, processes: int, accumulation: int, epoch: int) -> list[list]:
    """What each process yields in an epoch, from fresh samplers as after a resume."""
    samplers = [StepSampler(plan, accumulation, processes, process) for process in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [list(sampler) for sampler in samplers]


def steps(plan: Plan, processes: int, accumulation: int, epoch: int) -> list[dict[int, list[int]]]:
    """For each step of all processes together, the rows of each task that count, in ascending order."""
    grouped = [chunks(own, accumulation) for own in micro_batches(plan, processes, accumulation, epoch)]
    found = []
    for step in zip(*grouped, strict=True):
        rows: dict[int, list[int]] = {}
        for micro in (micro for own in step for micro in own if not micro.filler):
            for task, taken in micro.parts:
                rows.setdefault(task, []).extend(taken.tolist())
        found.append({task: sorted(rows[task]) for task in sorted(rows)})
    return found


@every_case
def test_all_processes_together_see_the_steps_of_one_process(schedule):
    plan = make_plan(schedule)
    for epoch in range(EPOCHS):
        alone = steps(plan, 1, 1, epoch)
        for layout in LAYOUTS:
            assert steps(plan, *layout, epoch) == alone, layout


@every_case
def test_every_process_has_the_same_number_of_micro_batches_and_none_is_empty(schedule):
    plan = make_plan(schedule)
    for processes, accumulation in LAYOUTS:
        for own in micro_batches(plan, processes, accumulation, epoch=1):
            assert len(own) == plan.steps_per_epoch * accumulation == len(StepSampler(plan, accumulation, processes))
            for micro in own:
                assert len(micro) >= 1
                assert not micro.filler or len(micro) == 1
                ids = [task for task, _ in micro.parts]
                assert ids == sorted(set(ids))
                assert all(0 <= row < ROWS[task] for task, rows in micro.parts for row in rows)


@every_case
def test_shares_of_a_step_differ_by_at_most_one_row(schedule):
    plan = make_plan(schedule)
    for processes, accumulation in LAYOUTS:
        grouped = [chunks(own, accumulation) for own in micro_batches(plan, processes, accumulation, epoch=0)]
        for step in zip(*grouped, strict=True):
            sizes = [0 if micro.filler else len(micro) for own in step for micro in own]
            assert max(sizes) - min(sizes) <= 1


@every_case
def test_steps_hold_what_the_plan_counts(schedule):
    plan = make_plan(schedule)
    for epoch in range(EPOCHS):
        counts = np.concatenate([plan.counts(epoch, block) for block in range(plan.blocks)])
        for step, count in zip(steps(plan, 2, 3, epoch), counts, strict=True):
            assert [len(step.get(task, ())) for task in range(len(NAMES))] == count.tolist()


@every_layout
def test_a_sequential_epoch_covers_every_row_of_every_task_once(processes, accumulation):
    plan = make_plan(Schedule("sequential"))
    for epoch in range(EPOCHS):
        found = steps(plan, processes, accumulation, epoch)
        order = [next(iter(step)) for step in found]
        assert order == sorted(order)
        for task, rows in enumerate(ROWS):
            assert sorted(row for step in found for row in step.get(task, ())) == list(range(rows))


@every_case
def test_each_pass_over_a_task_is_a_permutation_of_its_rows_across_epochs(schedule):
    """The rows of all epochs, one step after the other: whole passes hold each row once, the last one none twice."""
    plan = make_plan(schedule)
    walk: dict[int, list[int]] = {task: [] for task in range(len(NAMES))}
    for epoch in range(EPOCHS):
        for micro in micro_batches(plan, 1, 1, epoch)[0]:
            for task, rows in micro.parts:
                walk[task].extend(rows.tolist())
    assert sum(map(len, walk.values())) > sum(ROWS)
    for task, taken in walk.items():
        for one in chunks(taken, ROWS[task]):
            assert len(set(one)) == len(one)


def test_passes_and_tasks_and_seeds_are_shuffled_differently():
    rows, other = (41, 41, 41, 41), {}
    for seed in (0, 1):
        plan = Plan(Schedule("sequential"), NAMES, rows, 12, 2, seed=seed)
        for task in range(4):
            for number in range(3):
                other[seed, task, number] = tuple(plan.take(task, number * 41, 41).tolist())
    assert len(set(other.values())) == len(other)
    assert all(order != tuple(range(41)) for order in other.values())


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_the_steps_of_one_sampler_are_those_of_fresh_ones(processes):
    """Epoch after epoch, as in an uninterrupted run."""
    plan = make_plan(Schedule("annealed"))
    sampler = StepSampler(plan, 2, processes, processes - 1)
    for epoch in range(EPOCHS):
        sampler.set_epoch(epoch)
        for one, other in zip(sampler, micro_batches(plan, processes, 2, epoch)[-1], strict=True):
            assert str(one) == str(other)


def test_an_epoch_of_many_blocks_walks_on_from_block_to_block():
    plan = Plan(Schedule("proportional", steps_per_epoch=2 * BLOCK + 5), ("a", "b"), (3001, 700), 3, 1, seed=2)
    walk = {0: [], 1: []}
    for micro in StepSampler(plan):
        for task, rows in micro.parts:
            walk[task].extend(rows.tolist())
    for task, taken in walk.items():
        assert taken == plan.take(task, 0, len(taken)).tolist()
        for one in chunks(taken, plan.rows[task]):
            assert len(set(one)) == len(one)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 100, 1025])
def test_permute_is_a_permutation(size):
    for number in range(3):
        assert sorted(permute(np.arange(size), size, (4, 1, number)).tolist()) == list(range(size))


def test_every_row_is_as_likely_in_every_place():
    """Over 2000 shuffles of 5 rows, each of the 25 (place, row) pairs has its share within 5 standard deviations."""
    orders = np.array([permute(np.arange(5), 5, (seed, 0, 0)) for seed in range(2000)])
    found = np.array([(orders == row).mean(0) for row in range(5)])
    assert np.abs(found - 0.2).max() < 5 * (0.2 * 0.8 / 2000) ** 0.5


def test_rows_taken_one_by_one_are_those_taken_together():
    plan = make_plan(Schedule("uniform"))
    for task, rows in enumerate(ROWS):
        together = plan.take(task, 0, 2 * rows + 3)
        assert together.tolist() == [int(plan.take(task, place, 1)[0]) for place in range(2 * rows + 3)]
        assert together[5:12].tolist() == plan.take(task, 5, 7)[: max(0, len(together) - 5)].tolist()
