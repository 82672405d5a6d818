"""Plans that are bounded by tokens: properties of their steps, and steps counted by hand."""

from dataclasses import replace

import numpy as np
import pytest

from mtbert.data.balancing import BalancedRows
from mtbert.data.sampling import BLOCK, SAMPLED, SCHEDULES, Plan, Schedule, StepSampler
from mtbert.data.token_budget import CHUNK, TaskWalk, TokenBudget, cut
from mtbert.data.token_plan import TokenPlan
from mtbert.errors import InputError

NAMES = ("a", "b", "c")
ROWS = (41, 24, 7)
EPOCHS = 3
TOKENS = 60
ALL = [*((name, False) for name in SCHEDULES), *((name, True) for name in SAMPLED)]
every_schedule = pytest.mark.parametrize(("name", "mixed"), ALL)
KINDS = [
    ("annealed", False),
    ("annealed", True),
    ("round_robin", False),
    ("sequential", False),
    ("simultaneous", False),
]
some_schedules = pytest.mark.parametrize(("name", "mixed"), KINDS)


def make_lengths(rows=ROWS, seed=0, longest=30):
    """Tokens of each row of each task; the tasks' means differ."""
    random = np.random.default_rng(seed)
    return [random.integers(3, longest // (task + 1), size=count) for task, count in enumerate(rows)]


def make_plan(name="annealed", mixed=False, tokens=TOKENS, batch=6, rows=ROWS, lengths=None, batches=None, **kwargs):
    kwargs.setdefault("temperature", 2.0 if name == "temperature" else None)
    schedule, budget = Schedule(name, mixed, **kwargs), TokenBudget(tokens, lengths or make_lengths(rows))
    return TokenPlan(schedule, NAMES[: len(rows)], rows, batch, EPOCHS, 5, batches, budget=budget)


def without_budget(plan):
    names = ("schedule", "names", "rows", "batch", "epochs", "seed", "batches", "sizes", "balanced", "steps")
    return Plan(**{name: getattr(plan, name) for name in names})


def all_counts(plan, epoch):
    return np.concatenate([plan.counts(epoch, block) for block in range(plan.blocks)])


def steps_of(plan, epoch, accumulation=1, processes=1):
    """For each step of an epoch, the rows of each task that count, in ascending order, from fresh samplers."""
    yielded = []
    for process in range(processes):
        sampler = StepSampler(plan, accumulation, processes, process)
        sampler.set_epoch(epoch)
        yielded.append(list(sampler))
        assert len(yielded[-1]) == len(sampler) == plan.steps_per_epoch * accumulation
    steps = []
    for number in range(plan.steps_per_epoch):
        rows = {}
        for own in yielded:
            for micro in own[number * accumulation : (number + 1) * accumulation]:
                for task, taken in () if micro.filler else micro.parts:
                    rows.setdefault(task, []).extend(taken.tolist())
        steps.append({task: sorted(rows[task]) for task in sorted(rows)})
    return steps


def tokens_of(plan, step):
    return sum(int(plan.budget.lengths[task][rows].sum()) for task, rows in step.items())


class TestCut:
    @pytest.mark.parametrize(
        ("lengths", "rows", "tokens", "ends"),
        [
            ([], 4, 10, []),
            ([3], 4, 10, []),  # further rows may fit
            ([3], 1, 10, [1]),
            ([4, 6, 1, 9, 10, 2], 9, 10, [2, 4, 5]),
            ([4, 6, 1, 9, 10, 2], 2, 100, [2, 4, 6]),
            ([1, 1, 1, 9, 1, 1], 3, 10, [3, 5]),
            ([5, 5, 5], 3, 15, [3]),
            ([5, 5, 5], 4, 15, []),
            ([20, 1, 1], 3, 10, [1]),  # at least one row
            ([0, 0, 0], 2, 1, [2]),
            ([1, 2, 3], 2, 10**30, [2]),
        ],
    )
    def test_by_hand(self, lengths, rows, tokens, ends):
        assert cut(np.array(lengths, dtype=np.int64), rows, tokens).tolist() == ends

    @pytest.mark.parametrize("seed", range(5))
    def test_equals_a_loop_over_the_rows(self, seed):
        lengths = np.random.default_rng(seed).integers(1, 12, size=200)
        ends, rows, tokens = [], 0, 0
        for place, length in enumerate(lengths.tolist()):
            if rows == 7 or tokens + length > 40:
                ends.append(place)
                rows = tokens = 0
            rows, tokens = rows + 1, tokens + length
        assert cut(lengths, 7, 40).tolist() == ends

    def test_a_walk_does_not_depend_on_where_it_is_asked(self):
        lengths = np.random.default_rng(3).integers(1, 90, size=3 * CHUNK)
        ends = cut(lengths, 9, 300)
        for first in (0, len(ends) // 3, len(ends) - 50):
            walk = TaskWalk(lambda at, count: lengths[at : at + count], 9, 300)
            sizes = walk.sizes(int(ends[first]), 40)
            assert sizes.tolist() == np.diff(ends[first : first + 41]).tolist()

    def test_a_period_ends_a_step(self):
        walk = TaskWalk(lambda first, count: np.full(count, 10), 100, 30, period=7)
        assert walk.sizes(0, 7).tolist() == [3, 3, 1, 3, 3, 1, 3]
        assert walk.passing(7) == (3, 7) and walk.passing(8) == (4, 10)


class TestSteps:
    @every_schedule
    def test_no_step_is_above_the_budget_and_none_is_empty(self, name, mixed):
        plan = make_plan(name, mixed)
        fewer = False
        for epoch in range(EPOCHS):
            for step in steps_of(plan, epoch):
                rows = sum(map(len, step.values()))
                assert 1 <= rows <= (18 if name == "simultaneous" else 6)
                assert tokens_of(plan, step) <= TOKENS
                fewer |= rows < 6
        assert fewer

    @every_schedule
    def test_every_row_once_before_any_row_twice(self, name, mixed):
        plan = make_plan(name, mixed)
        for task, rows in enumerate(ROWS):
            walk = [row for epoch in range(EPOCHS) for row in self.in_order(plan, epoch, task)]
            assert walk == plan.take(task, 0, len(walk)).tolist()
            for start in range(0, len(walk), rows):
                one_pass = walk[start : start + rows]
                assert len(set(one_pass)) == len(one_pass)

    def in_order(self, plan, epoch, task):
        sampler = StepSampler(plan)
        sampler.set_epoch(epoch)
        return [row for step in sampler for own, rows in step.parts for row in rows.tolist() if own == task]

    @every_schedule
    def test_a_row_that_is_left_for_the_next_step_did_not_fit(self, name, mixed):
        """With one task all schedules cut the same walk: a step is full, or the next row is too long for it."""
        plan = make_plan(name, mixed, rows=(41,), lengths=make_lengths((41,)))
        lengths, first = plan.budget.lengths[0], 0
        for rows in [len(step[0]) for epoch in range(EPOCHS) for step in steps_of(plan, epoch)]:
            taken = lengths[plan.take(0, first, rows + 1)]
            is_last_of_pass = name == "sequential" and (first + rows) % 41 == 0
            assert rows == 6 or taken.sum() > TOKENS or is_last_of_pass
            first += rows

    @some_schedules
    def test_any_epoch_and_block_first_equals_going_through_all(self, name, mixed):
        plan = make_plan(name, mixed, steps_per_epoch=BLOCK + 3)
        places = [(epoch, block) for epoch in range(EPOCHS) for block in range(plan.blocks)]
        walked = {place: plan.counts(*place) for place in places}
        for place in (places[-1], places[2]):
            assert np.array_equal(make_plan(name, mixed, steps_per_epoch=BLOCK + 3).counts(*place), walked[place])
        epoch = make_plan(name, mixed)
        assert steps_of(epoch, 2) == [steps_of(epoch, number) for number in range(EPOCHS)][2]

    @every_schedule
    def test_all_processes_together_see_the_steps_of_one(self, name, mixed):
        plan = make_plan(name, mixed)
        alone = steps_of(plan, 1)
        for processes, accumulation in ((2, 1), (4, 1), (1, 3), (2, 2)):
            assert steps_of(plan, 1, accumulation, processes) == alone

    @every_schedule
    @pytest.mark.parametrize("more", [{}, {"steps_per_epoch": 30}, {"resample": True}], ids=str)
    def test_a_budget_that_is_never_reached_changes_nothing(self, name, mixed, more):
        batches = None if mixed else (6, 5, 2)
        plan = make_plan(name, mixed, tokens=10**12, batches=batches, **more)
        other = without_budget(plan)
        assert plan.steps_per_epoch == other.steps_per_epoch
        for epoch in range(EPOCHS):
            assert np.array_equal(all_counts(plan, epoch), all_counts(other, epoch))
        for row, plain in zip(plan.describe(), other.describe(), strict=True):
            own = plain["examples"] / max(
                1, sum((all_counts(other, e)[:, NAMES.index(row["task"])] > 0).sum() for e in range(EPOCHS))
            )
            plain["batch"] = plain["batch"] if mixed else own
            assert {key: row[key] for key in plain} == plain

    @some_schedules
    def test_not_even_in_epochs_of_several_blocks(self, name, mixed):
        plan = make_plan(name, mixed, tokens=10**9, steps_per_epoch=BLOCK + 3)
        assert np.array_equal(all_counts(plan, 1), all_counts(without_budget(plan), 1))

    @pytest.mark.parametrize("batch", [7, 32])
    @pytest.mark.parametrize("rows", [(60, 12, 9), (3, 3, 3), (1, 1, 1)])
    @some_schedules
    def test_so_does_one_for_other_numbers_of_rows(self, name, mixed, rows, batch):
        plan = make_plan(name, mixed, tokens=10**9, batch=batch, rows=rows)
        assert plan.steps_per_epoch == without_budget(plan).steps_per_epoch
        assert np.array_equal(all_counts(plan, 1), all_counts(without_budget(plan), 1))

    def test_mixed_steps_of_a_huge_batch_are_bounded_by_tokens_alone(self):
        plan = make_plan("sqrt", True, batch=3_000, tokens=200)
        steps = steps_of(plan, 0)
        tokens = [tokens_of(plan, step) for step in steps]
        assert max(tokens) <= 200 and min(tokens) > 200 - 30
        assert all(len(step) > 1 for step in steps)

    def test_mixed_tasks_are_drawn_as_often_as_they_should(self):
        """Long rows are not drawn less often because they fit less often."""
        rows = (4000, 4000)
        lengths = [np.full(4000, 30), np.full(4000, 5)]
        plan = make_plan("uniform", True, tokens=100, batch=16, rows=rows, lengths=lengths, steps_per_epoch=2 * BLOCK)
        drawn = sum(plan.epoch_rows(epoch) for epoch in range(EPOCHS))
        assert abs(drawn[0] / drawn.sum() - 0.5) < 4 * 0.5 / drawn.sum() ** 0.5

    def test_resampled_epochs_have_orders_of_their_own(self):
        plan = make_plan("round_robin", resample=True, steps_per_epoch=6)
        first, second = steps_of(plan, 0), steps_of(plan, 1)
        assert first != second == steps_of(make_plan("round_robin", resample=True, steps_per_epoch=6), 1)
        for step in (*first, *second):
            assert tokens_of(plan, step) <= TOKENS

    @every_schedule
    def test_balanced_tasks_keep_the_budget(self, name, mixed):
        balanced = {0: BalancedRows(np.arange(41) % 4)}
        plan = replace(make_plan(name, mixed), balanced=balanced)
        walk = [row for epoch in range(EPOCHS) for row in self.in_order(plan, epoch, 0)]
        assert walk == balanced[0].take(np.arange(len(walk)), (plan.seed, 0)).tolist()
        assert all(tokens_of(plan, step) <= TOKENS for step in steps_of(plan, 1))


class TestEpochs:
    @every_schedule
    def test_an_epoch_draws_about_as_many_rows_as_there_are(self, name, mixed):
        rows = (3000, 900, 400)
        plan = make_plan(name, mixed, tokens=100, batch=12, rows=rows)
        assert plan.steps_per_epoch > without_budget(plan).steps_per_epoch
        drawn = sum(plan.epoch_rows(epoch).sum() for epoch in range(EPOCHS)) / EPOCHS
        assert drawn == pytest.approx(4300, rel=0.4 if "annealed" in name else 0.08)

    @pytest.mark.parametrize("name", ["sequential", "annealed", "simultaneous"])
    def test_the_first_sequential_epoch_passes_every_row_once(self, name):
        plan = make_plan(name)
        if name == "sequential":
            assert plan.epoch_rows(0).tolist() == list(ROWS)
        assert plan.steps_per_epoch == replace(plan, epochs=9).steps_per_epoch == plan.lasting(2.5).steps_per_epoch

    def test_the_steps_of_an_epoch_by_hand(self):
        """Rows of 10 tokens, 3 a step: 41 rows in 13 ⅔ steps, 24 in 8 and 7 in 2 ⅓."""
        lengths = [np.full(rows, 10) for rows in ROWS]
        steps = {name: make_plan(name, tokens=39, lengths=lengths).steps_per_epoch for name in SCHEDULES}
        assert steps.pop("sequential") == 14 + 8 + 3
        assert steps.pop("simultaneous") == 72 / 3  # a row of each task
        assert set(steps.values()) == {24}
        assert make_plan("sqrt", True, tokens=39, lengths=lengths).steps_per_epoch == 24

    def test_examples_per_epoch(self):
        lengths = [np.full(rows, 10) for rows in ROWS]
        plan = replace(make_plan("sequential", tokens=39, lengths=lengths), sizes=(10, None, 100))
        assert plan.steps_per_epoch == 4 + 8 + 34
        assert plan.epoch_rows(0).tolist() == [10, 24, 100] == plan.epoch_rows(2).tolist()

    @every_schedule
    def test_describe_agrees_with_the_steps(self, name, mixed):
        plan = make_plan(name, mixed).lasting(2.5)
        steps = [step for epoch in range(3) for step in steps_of(plan, epoch)][: plan.total_steps]
        for task, row in enumerate(plan.describe()):
            rows = [len(step.get(task, ())) for step in steps if mixed or task in step]
            assert row["examples"] == sum(rows) == plan.total_rows()[task]
            assert (row["batch"], row["fewest"], row["most"]) == (pytest.approx(np.mean(rows)), min(rows), max(rows))
            taken = {each for step in steps for each in step.get(task, ())}
            assert plan.taken(task).tolist() == sorted(taken)


class TestRefusals:
    def test_a_row_that_is_longer_than_the_budget(self):
        lengths = make_lengths()
        lengths[1][17] = 61
        with pytest.raises(InputError) as caught:
            make_plan(lengths=lengths)
        assert str(caught.value) == (
            "training.max_tokens_per_step is 60, but row 17 (from 0) of the task 'b' has 61 tokens; give 61 or more, "
            "or cut the task's texts with tasks.b.max_length"
        )
        make_plan(lengths=lengths, tokens=61)

    def test_a_row_that_is_longer_than_its_share(self):
        lengths = [np.full(rows, 10) for rows in ROWS]
        lengths[2][3] = 45
        message = r"is 60, of which 25 are .*'c' has 45 tokens; give (\d+) or more"
        with pytest.raises(InputError, match=message) as caught:
            make_plan("simultaneous", lengths=lengths)
        least = int(str(caught.value).split("give ")[1].split(" ")[0])
        make_plan("simultaneous", lengths=lengths, tokens=least)

    def test_one_row_and_one_token(self):
        plan = make_plan("proportional", rows=(1,), lengths=[np.array([1])], tokens=1)
        assert plan.steps_per_epoch == 1 and steps_of(plan, 2) == [{0: [0]}]
        assert make_plan("proportional", rows=(1,), lengths=[np.array([1])], tokens=4).epoch_rows(0).tolist() == [4]
