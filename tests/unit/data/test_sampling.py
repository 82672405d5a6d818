"""Schedules, plans and the sampler: properties, and counts recomputed by hand."""

import itertools
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mtbert.data.balancing import BalancedRows
from mtbert.data.permutation import permute
from mtbert.data.sampling import BLOCK, SAMPLED, SCHEDULES, Plan, Schedule, StepSampler
from tests.support.bounded import bounded

NAMES = ("a", "b", "c")


def make_plan(schedule="proportional", rows=(40, 24, 9), batch=4, epochs=3, seed=0, batches=None, sizes=None, **kwargs):
    if schedule == "temperature":
        kwargs.setdefault("temperature", 2.0)
    return Plan(Schedule(schedule, **kwargs), NAMES[: len(rows)], rows, batch, epochs, seed, batches, sizes)


def epoch_of(sampler, epoch):
    """[[(task, rows), …] for each micro-batch] of an epoch, as plain values."""
    sampler.set_epoch(epoch)
    return [[(task, rows.tolist()) for task, rows in step.parts] for step in sampler]


def walk(epochs, task):
    """The rows of one task in the order in which they are passed."""
    return [row for steps in epochs for step in steps for own, rows in step for row in rows if own == task]


ALL = [*((name, False) for name in SCHEDULES), *((name, True) for name in SAMPLED)]


class TestSchedule:
    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_known_ones_are_fine(self, name, mixed):
        temperature = 3.0 if name == "temperature" else None
        assert Schedule(name, mixed, 5, temperature).problems() == []

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"name": "random"}, f"schedule.name is 'random', but must be one of: {', '.join(SCHEDULES)}"),
            ({"steps_per_epoch": 0}, "schedule.steps_per_epoch is 0, but must be 1 or more"),
            (
                {"name": "temperature", "temperature": 0},
                "schedule.temperature is 0, but must be positive",
            ),
        ],
    )
    def test_each_rule(self, values, message):
        (found,) = Schedule(**values).problems()
        assert re.match(re.escape(message), str(found.under("schedule")))

    def test_all_problems_at_once(self):
        assert len(Schedule("random", True, -1, -2.0).problems()) == 3

    @pytest.mark.parametrize(
        ("name", "alphas"),
        [
            ("proportional", [1, 1, 1, 1, 1]),
            ("sqrt", [0.5] * 5),
            ("uniform", [0] * 5),
            ("annealed", [1, 0.8, 0.6, 0.4, 0.2]),
            ("min_annealed", [0.5, 0.5, 0.46, 0.28, 0.1]),
            ("temperature", [0.25] * 5),
        ],
    )
    def test_probabilities(self, name, alphas):
        schedule = Schedule(name, temperature=4.0 if name == "temperature" else None)
        sizes = (1000, 50, 3)
        for epoch, alpha in enumerate(alphas, 1):
            total = sum(size**alpha for size in sizes)
            found = schedule.probabilities(sizes, epoch, 5)
            np.testing.assert_allclose(found, [size**alpha / total for size in sizes])

    def test_annealing_over_one_epoch(self):
        np.testing.assert_allclose(Schedule("annealed").probabilities((3, 1), 1, 1), [0.75, 0.25])


class TestPermute:
    @pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
    def test_is_a_permutation(self, size):
        for key in range(20):
            assert sorted(permute(np.arange(size), size, (key, 5))) == list(range(size))

    @pytest.mark.parametrize("size", [7, 64, 1000])
    def test_is_a_function_of_its_arguments(self, size):
        places = np.arange(size)
        whole = permute(places, size, (1, 2, 3))
        assert np.array_equal(places, np.arange(size))  # the argument is left alone
        for start in range(0, size, 3):
            assert np.array_equal(permute(places[start : start + 3], size, (1, 2, 3)), whole[start : start + 3])
        shuffled = np.random.default_rng(0).permutation(size)
        assert np.array_equal(permute(shuffled, size, (1, 2, 3)), whole[shuffled])

    def test_differs_by_each_part_of_the_key(self):
        keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1)]
        found = [permute(np.arange(64), 64, key) for key in keys]
        for one, other in itertools.combinations(found, 2):
            assert (one == other).mean() < 0.2

    def test_every_order_of_3_rows_is_as_likely(self):
        orders = [tuple(permute(np.arange(3), 3, (0, 0, number))) for number in range(3000)]
        counts = [orders.count(order) for order in itertools.permutations(range(3))]
        assert stats.chisquare(counts).pvalue > 1e-3

    @pytest.mark.parametrize("size", [2, 7, 64])
    def test_every_place_is_as_likely_for_every_row(self, size):
        table = np.zeros((size, size))
        for number in range(2000):
            table[np.arange(size), permute(np.arange(size), size, (3, 1, number))] += 1
        # Rows and columns are tied to 2000, so the statistic has (size - 1)² degrees of freedom.
        statistic = ((table - 2000 / size) ** 2 / (2000 / size)).sum() * (size - 1) / size
        assert stats.chi2.sf(statistic, (size - 1) ** 2) > 1e-3

    def test_neighbours_do_not_stay_neighbours(self):
        found = permute(np.arange(1000), 1000, (0, 0, 0))
        assert (np.abs(np.diff(found)) == 1).mean() < 0.02
        assert abs(np.corrcoef(np.arange(1000), found)[0, 1]) < 0.1


class TestPlan:
    @pytest.mark.parametrize(
        ("schedule", "batches", "sizes", "steps"),
        [
            ("proportional", None, None, 19),  # ⌈73 / 4⌉
            ("annealed", (4, 8, 3), None, 16),  # 10 + 3 + 3
            ("uniform", None, (10, None, 100), 34),  # ⌈134 / 4⌉
            ("temperature", (3, None, None), None, 22),  # ⌈13.33 + 6 + 2.25⌉
            ("round_robin", None, None, 19),
            ("sequential", None, None, 19),  # 10 + 6 + 3
            ("sequential", (7, 7, 7), None, 12),  # 6 + 4 + 2
            ("simultaneous", None, None, 7),  # ⌈73 / 12⌉
            ("simultaneous", (4, 8, 1), None, 6),  # ⌈73 / 13⌉
        ],
    )
    def test_an_epoch_has_as_many_steps_as_pass_all_rows(self, schedule, batches, sizes, steps):
        assert make_plan(schedule, batches=batches, sizes=sizes).steps_per_epoch == steps

    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_a_given_epoch_length_is_kept(self, name, mixed):
        plan = make_plan(name, mixed=mixed, steps_per_epoch=11)
        assert plan.steps_per_epoch == 11 == len(StepSampler(plan)) == len(epoch_of(StepSampler(plan), 1))

    @pytest.mark.parametrize("name", SAMPLED)
    def test_one_task_a_step_is_drawn(self, name):
        plan = make_plan(name, batches=(4, None, 7), steps_per_epoch=900, epochs=2)
        for epoch in range(2):
            counts = np.concatenate([plan.counts(epoch, block) for block in range(plan.blocks)])
            assert counts.shape == (900, 3)
            assert ((counts > 0).sum(1) == 1).all()
            assert all(set(counts[:, task]) <= {0, batch} for task, batch in enumerate((4, 4, 7)))
            expected = 900 * plan.schedule.probabilities((40, 24, 9), epoch + 1, 2)
            assert stats.chisquare((counts > 0).sum(0), expected).pvalue > 1e-3

    @pytest.mark.parametrize("name", SAMPLED)
    def test_mixed_steps_are_full(self, name):
        plan = make_plan(name, mixed=True, batch=6, steps_per_epoch=700, epochs=2)
        for epoch in range(2):
            counts = np.concatenate([plan.counts(epoch, block) for block in range(plan.blocks)])
            assert (counts.sum(1) == 6).all()
            assert ((counts > 0).sum(1) > 1).any()
            expected = 4200 * plan.schedule.probabilities((40, 24, 9), epoch + 1, 2)
            assert stats.chisquare(counts.sum(0), expected).pvalue > 1e-3

    def test_round_robin_goes_on_in_the_next_epoch(self):
        plan = make_plan("round_robin", steps_per_epoch=4, batches=(4, 2, 1))
        tasks = [np.flatnonzero(step).tolist() for epoch in range(3) for step in plan.counts(epoch, 0)]
        assert tasks == [[i % 3] for i in range(12)]
        assert plan.counts(0, 0).sum(0).tolist() == [8, 2, 1]

    def test_round_robin_over_several_blocks(self):
        plan = make_plan("round_robin", steps_per_epoch=BLOCK + 5)
        counts = np.concatenate([plan.counts(1, block) for block in range(plan.blocks)])
        assert counts.argmax(1).tolist() == [(BLOCK + 5 + i) % 3 for i in range(BLOCK + 5)]

    @pytest.mark.parametrize("epoch", [0, 1])
    def test_sequential_passes_every_task_once_an_epoch(self, epoch):
        plan = make_plan("sequential", batches=(7, 4, 4))
        expected = [[7, 0, 0]] * 5 + [[5, 0, 0]] + [[0, 4, 0]] * 6 + [[0, 0, 4]] * 2 + [[0, 0, 1]]
        assert plan.counts(epoch, 0).tolist() == expected
        assert plan.epoch_rows(epoch).tolist() == [40, 24, 9]

    def test_sequential_with_sizes(self):
        plan = make_plan("sequential", sizes=(10, 3, None))
        assert plan.counts(0, 0).tolist() == [[4, 0, 0]] * 2 + [[2, 0, 0], [0, 3, 0]] + [[0, 0, 4]] * 2 + [[0, 0, 1]]

    @pytest.mark.parametrize(
        ("rows", "steps", "shares"),
        [
            ((40, 40, 20), 5, (2, 2, 1)),
            ((40, 24, 12), 4, (2, 1, 1)),  # 2.11, 1.26, 0.63
            ((100, 10, 10), 7, (6, 1, 0)),  # 5.83, 0.58, 0.58: of equal remainders the first one
            ((30, 30, 30), 10, (4, 3, 3)),
            ((1000, 1, 1), 3, (3, 0, 0)),
        ],
    )
    def test_sequential_shares_a_given_length_by_largest_remainders(self, rows, steps, shares):
        plan = make_plan("sequential", rows=rows, steps_per_epoch=steps)
        counts = plan.counts(0, 0)
        assert (counts > 0).sum(0).tolist() == list(shares)
        tasks = counts.argmax(1).tolist()
        assert tasks == sorted(tasks)
        assert set(counts.sum(1)) == {4}

    def test_sequential_over_several_blocks(self):
        plan = make_plan("sequential", rows=(2500, 999, 1))
        counts = np.concatenate([plan.counts(0, block) for block in range(plan.blocks)])
        assert len(counts) == 625 + 250 + 1 == plan.steps_per_epoch
        assert counts.sum(0).tolist() == [2500, 999, 1]
        assert counts[[624, 625, 874, 875]].tolist() == [[4, 0, 0], [0, 4, 0], [0, 3, 0], [0, 0, 1]]

    def test_simultaneous_steps_hold_every_task(self):
        assert make_plan("simultaneous", batches=(3, 1, None)).counts(2, 0).tolist() == [[3, 1, 4]] * 10

    @pytest.mark.parametrize("rows", [1, 5, 9])
    def test_take_walks_one_permutation_after_the_other(self, rows):
        plan = make_plan(rows=(rows, 3, 3))
        taken = plan.take(0, 0, 4 * rows)
        for number in range(4):
            one_pass = taken[number * rows : (number + 1) * rows]
            assert sorted(one_pass) == list(range(rows))
            assert np.array_equal(one_pass, permute(np.arange(rows), rows, (0, 0, number)))
        for first, count in ((0, 0), (2, 1), (rows - 1, 3), (2 * rows, rows)):
            assert np.array_equal(plan.take(0, first, count), taken[first : first + count])

    def test_the_passes_of_a_task_differ(self):
        taken = make_plan().take(0, 0, 120).reshape(3, 40)
        assert (taken[0] == taken[1]).mean() < 0.3 and (taken[1] == taken[2]).mean() < 0.3

    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_describe_agrees_with_what_the_sampler_yields(self, name, mixed):
        plan = make_plan(name, mixed=mixed, batches=None if mixed else (4, 2, 5), sizes=(20, None, 18))
        sampler = StepSampler(plan)
        epochs = [epoch_of(sampler, epoch) for epoch in range(3)]
        for task, row in enumerate(plan.describe()):
            examples = len(walk(epochs, task))
            assert row["task"] == NAMES[task]
            assert row["rows"] == plan.rows[task]
            mean = examples / sum(map(len, epochs))
            assert row["batch"] == (pytest.approx(mean) if mixed else (4, 2, 5)[task])
            assert row["examples"] == examples
            assert row["passes"] == pytest.approx(examples / plan.rows[task])
            if name in SAMPLED:
                ends = [plan.schedule.probabilities((20, 24, 18), epoch, 3)[task] for epoch in (1, 3)]
                assert row["probability"] == pytest.approx(ends)
            else:
                assert row["probability"] is None

    @pytest.mark.parametrize(
        ("epochs", "max_steps"), [(3, -1), (0.4, -1), (2.5, -1), (3, 4), (1, 40), (0.1, 1), (1, 0)]
    )
    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_a_run_that_ends_within_an_epoch_is_described_as_it_is(self, name, mixed, epochs, max_steps):
        """By the steps that transformers takes: max_steps where it is positive, else epochs × steps, rounded up."""
        plan = make_plan(name, mixed=mixed, epochs=1, batches=None if mixed else (4, 2, 5)).lasting(epochs, max_steps)
        steps = max_steps if max_steps > 0 else math.ceil(epochs * plan.steps_per_epoch)
        assert plan.total_steps == steps and plan.epochs == math.ceil(steps / plan.steps_per_epoch)
        sampler = StepSampler(plan)
        taken = [step for epoch in range(plan.epochs) for step in epoch_of(sampler, epoch)][:steps]
        for task, row in enumerate(plan.describe()):
            rows = [rows for step in taken for own, rows in step if own == task]
            assert row["examples"] == sum(map(len, rows)) == plan.total_rows()[task]
            assert np.array_equal(plan.taken(task), np.unique(np.concatenate([[], *rows])))
            assert row["batch"] == (pytest.approx(row["examples"] / steps) if mixed else (4, 2, 5)[task])

    def test_a_plan_of_one_epoch_has_one_probability(self):
        assert [len(row["probability"]) for row in make_plan("annealed", epochs=1).describe()] == [1, 1, 1]

    def test_examples_per_epoch_changes_the_odds_not_the_rows(self):
        plan = make_plan("proportional", rows=(1000, 10, 10), sizes=(10, None, 20))
        np.testing.assert_allclose(plan.probabilities(0), [0.25, 0.25, 0.5])
        assert plan.steps_per_epoch == 10
        assert sorted(plan.take(0, 0, 1000)) == list(range(1000))  # in time, all of its rows


class TestResampledEpochs:
    """`resample`: each epoch draws a fresh sample of each task, without repetition within a pass."""

    @pytest.mark.parametrize("name", ["round_robin", "simultaneous", "proportional", "sequential"])
    def test_each_epoch_draws_distinct_rows_in_an_order_of_its_own(self, name):
        plan = make_plan(name, steps_per_epoch=9, epochs=4, batches=(2, 2, 2), rows=(60, 40, 30), resample=True)
        sampler = StepSampler(plan)
        epochs = [epoch_of(sampler, epoch) for epoch in range(4)]
        for task in range(3):
            orders = [walk([epoch], task) for epoch in epochs]
            assert all(len(set(order)) == len(order) for order in orders)
            assert len({tuple(order) for order in orders if order}) == sum(map(bool, orders))
            assert np.array_equal(plan.taken(task), np.unique(np.concatenate([[], *orders])))
        assert epoch_of(StepSampler(plan), 2) == epochs[2]  # a resumed run sees the same rows

    def test_rows_may_come_again_before_all_have_come(self):
        plan = make_plan("round_robin", steps_per_epoch=30, epochs=3, batches=(2, 2, 2), rows=(40, 40, 40))
        taken = [len(replace(plan, schedule=replace(plan.schedule, resample=on)).taken(0)) for on in (False, True)]
        assert taken[0] == 40 > taken[1]

    def test_a_balanced_task_is_resampled_too(self):
        balanced = {0: BalancedRows(np.arange(40) % 4)}
        plan = replace(make_plan("round_robin", steps_per_epoch=9, rows=(40, 40, 40), resample=True), balanced=balanced)
        first, second = (plan.take(0, 0, 12, epoch) for epoch in (0, 1))
        assert sorted(first % 4) == sorted(second % 4) == sorted(np.arange(12) % 4)
        assert first.tolist() != second.tolist()


class TestSampler:
    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_every_row_once_before_any_row_twice(self, name, mixed):
        plan = make_plan(name, mixed=mixed, epochs=5)
        sampler = StepSampler(plan)
        epochs = [epoch_of(sampler, epoch) for epoch in range(5)]
        for task, rows in enumerate(plan.rows):
            order = walk(epochs, task)
            assert np.array_equal(order, plan.take(task, 0, len(order)))
            for start in range(0, len(order) - rows + 1, rows):
                assert sorted(order[start : start + rows]) == list(range(rows))

    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_steps_hold_what_the_plan_counts(self, name, mixed):
        plan = make_plan(name, mixed=mixed, steps_per_epoch=40)
        for step, counts in zip(epoch_of(StepSampler(plan), 2), plan.counts(2, 0), strict=True):
            assert [task for task, _ in step] == np.flatnonzero(counts).tolist()
            assert [len(rows) for _, rows in step] == counts[counts > 0].tolist()

    @pytest.mark.parametrize(("name", "mixed"), ALL)
    def test_beginning_at_a_later_epoch_equals_going_on(self, name, mixed):
        plan = make_plan(name, mixed=mixed, epochs=4)
        going = StepSampler(plan)
        epochs = [epoch_of(going, epoch) for epoch in range(4)]
        for epoch in (3, 1):
            assert epoch_of(StepSampler(plan), epoch) == epochs[epoch]
        assert epoch_of(going, 2) == epochs[2]  # and back again
        assert epoch_of(going, 2) == epochs[2]

    @pytest.mark.parametrize("seed", [0, 1, 2**31])
    def test_the_seed_names_the_run(self, seed):
        one, same, other = (StepSampler(make_plan(seed=each)) for each in (seed, seed, seed + 1))
        assert epoch_of(one, 0) == epoch_of(same, 0)
        assert epoch_of(one, 0) != epoch_of(other, 0)
        assert epoch_of(one, 0) != epoch_of(one, 1)

    @pytest.mark.parametrize("accumulation", [1, 3])
    def test_len(self, accumulation):
        plan = make_plan(steps_per_epoch=7)
        sampler = StepSampler(plan, accumulation)
        assert len(sampler) == 7 * accumulation == len(list(sampler))

    @pytest.mark.parametrize(("name", "mixed"), [("annealed", False), ("sqrt", True), ("simultaneous", False)])
    @pytest.mark.parametrize(("accumulation", "processes"), [(1, 2), (3, 1), (2, 2), (3, 4)])
    def test_shares_of_a_step_make_up_the_step(self, name, mixed, accumulation, processes):
        plan = make_plan(name, mixed=mixed, batch=5, steps_per_epoch=30)
        shares = accumulation * processes
        whole = epoch_of(StepSampler(plan), 1)
        samplers = [StepSampler(plan, accumulation, processes, process) for process in range(processes)]
        parts = []
        for sampler in samplers:
            sampler.set_epoch(1)
            parts.append(list(sampler))
            assert len(parts[-1]) == 30 * accumulation
        for number, step in enumerate(whole):
            micro = [part[number * accumulation + i] for i in range(accumulation) for part in parts]
            real = [share for share in micro if not share.filler]
            assert all(len(share) > 0 for share in micro)
            total = sum(len(rows) for _, rows in step)
            assert len(real) == min(shares, total)
            assert max(map(len, real)) - min(map(len, real)) <= (1 if len(real) == shares else 0)
            for task, rows in step:
                own = [dict(share.parts).get(task, np.zeros(0, int)) for share in real]
                assert sorted(np.concatenate(own).tolist()) == sorted(rows)
                assert max(map(len, own)) - min(map(len, own)) <= 1
            assert all(len(share) == 1 for share in micro if share.filler)

    def test_10_million_rows_cost_nothing(self):
        with bounded(calls=10_000, memory=50e6):
            plan = make_plan("annealed", rows=(10_000_000,) * 3, batch=32)
            sampler = StepSampler(plan)
            step = next(iter(sampler))
        assert len(step) == 32 and plan.steps_per_epoch == 937_500
        assert max(rows.max() for _, rows in step.parts) > 100_000

        def sizes(value):
            if isinstance(value, np.ndarray):
                yield value.size
            elif isinstance(value, (list, tuple, dict, set)):
                yield len(value)
                for each in value.values() if isinstance(value, dict) else value:
                    yield from sizes(each)
            elif hasattr(value, "__dict__"):
                yield from sizes(vars(value))

        assert max(sizes(sampler)) < 100_000

    def test_an_epoch_holds_little_memory_while_it_runs(self):
        import tracemalloc

        sampler = StepSampler(make_plan("sqrt", rows=(10_000_000,) * 3, batch=32, steps_per_epoch=3 * BLOCK))
        tracemalloc.start()
        for _ in sampler:
            pass
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 8 * 2**20
