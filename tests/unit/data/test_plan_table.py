"""The printed plan is what the sampler yields: for every schedule and length, and from any step on."""

from collections import Counter

import numpy as np
import pytest

from mtbert.data.plan_table import counts_from
from mtbert.data.sampling import SAMPLED, SCHEDULES, Plan, Schedule, StepSampler, drawing
from mtbert.data.token_budget import TokenBudget
from mtbert.data.token_plan import TokenPlan
from mtbert.training.console import plan_title

NAMES, ROWS, BATCH = ("a", "b", "c"), (40, 24, 9), 4
WAYS = [*((name, False) for name in SCHEDULES), *((name, True) for name in SAMPLED)]
# (steps an epoch, epochs, max_steps): whole epochs, half of one, a part of the first, more than one, none whole
LENGTHS = [(None, 3, -1), (7, 2, -1), (None, 1.5, -1), (None, 9, 5), (6, 9, 20), (700, 9, 1200)]


def make_plan(name, mixed, length, tokens=None, resample=False):
    steps, epochs, most = length
    temperature = 2.0 if name == "temperature" else None
    schedule = Schedule(name, mixed, steps, temperature, resample)
    if tokens is None:
        return Plan(schedule, NAMES, ROWS, BATCH, 1).lasting(epochs, most)
    lengths = tuple(np.arange(rows) % 9 + 2 for rows in ROWS)
    return TokenPlan(schedule, NAMES, ROWS, BATCH, 1, budget=TokenBudget(tokens, lengths, {})).lasting(epochs, most)


def sampled(plan, first):
    """Rows of each task, as the sampler yields them from a step on."""
    rows, step = Counter(), 0
    sampler = StepSampler(plan)
    for epoch in range(plan.epochs):
        sampler.set_epoch(epoch)
        for micro_batch in sampler:
            if first <= step < plan.total_steps:
                rows.update({task: len(taken) for task, taken in micro_batch.parts})
            step += 1
    return rows


def check(plan, first):
    rows, table = sampled(plan, first), plan.describe(first)
    left = plan.total_steps - first
    assert sum(len(counts) for counts in counts_from(plan, first)) == left
    for task, row in enumerate(table):
        assert row["examples"] == rows[task]
        assert row["passes"] == rows[task] / ROWS[task]
        if plan.schedule.mixed:
            assert row["batch"] == pytest.approx(rows[task] / max(left, 1))
        if plan.schedule.name not in drawing():
            assert row["probability"] is None
            continue
        of_steps = [plan.probabilities(step // plan.steps_per_epoch)[task] for step in range(first, plan.total_steps)]
        if left:
            assert (row["probability"][0], row["probability"][-1]) == (of_steps[0], of_steps[-1])


@pytest.mark.parametrize("length", LENGTHS, ids=str)
@pytest.mark.parametrize(("name", "mixed"), WAYS)
def test_the_table_counts_what_the_sampler_yields(name, mixed, length):
    plan = make_plan(name, mixed, length)
    for first in sorted({0, 1, plan.steps_per_epoch, plan.total_steps // 2, plan.total_steps - 1, plan.total_steps}):
        if first <= plan.total_steps:
            check(plan, first)


@pytest.mark.parametrize("resample", [False, True])
@pytest.mark.parametrize(("name", "mixed"), [("annealed", False), ("annealed", True), ("simultaneous", False)])
def test_with_a_budget_of_tokens_and_with_samples_of_an_epoch(name, mixed, resample):
    for tokens in (None, 40):
        plan = make_plan(name, mixed, (6, 9, 20), tokens, resample)
        for first in (0, 7, 19):
            check(plan, first)


def test_fewest_and_most_rows_are_of_the_steps_that_are_left():
    plan = make_plan("proportional", False, (6, 9, 20), 40)
    for first in (0, 13):
        steps = np.concatenate(list(counts_from(plan, first)))
        for task, row in enumerate(plan.describe(first)):
            own = steps[:, task][steps[:, task] > 0]
            assert len(own) == 0 or (row["fewest"], row["most"]) == (own.min(), own.max())


@pytest.mark.parametrize(
    ("length", "first", "title"),
    [
        ((6, 2, -1), 0, "Plan: annealed, 2 epochs × 6 steps = 12 steps"),
        ((6, 1, -1), 0, "Plan: annealed, 1 epoch × 6 steps = 6 steps"),
        ((6, 9, 12), 0, "Plan: annealed, 2 epochs × 6 steps = 12 steps"),
        ((6, 9, 8), 0, "Plan: annealed, 8 steps = 1.333 epochs of 6 steps"),
        ((6, 9, 1), 0, "Plan: annealed, 1 step = 0.167 epochs of 6 steps"),
        ((6, 9, 8), 5, "Plan: annealed, 8 steps = 1.333 epochs of 6 steps; the 3 steps that are left"),
        ((6, 2, -1), 12, "Plan: annealed, 2 epochs × 6 steps = 12 steps; the 0 steps that are left"),
    ],
)
def test_titles(length, first, title):
    assert plan_title(make_plan("annealed", False, length), first) == title
