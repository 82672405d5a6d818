"""Waiting jobs: their lanes, the batches that are taken of them, and the limit of waiting tokens."""

from __future__ import annotations

import pytest

from mtbert.serving.lanes import Job, Lanes, QueueFullError


def job(*tokens: int, key: str = "a") -> Job:
    return Job([(f"{key}{number}", None) for number in range(len(tokens))], list(tokens), ("t",), key, lambda: None)


def taken(lanes: Lanes, lane: int) -> list[tuple[Job, int, int]]:
    return [(piece.job, piece.first, piece.last) for piece in lanes.take(lane)]


@pytest.mark.parametrize(
    ("tokens", "lane"), [([1], 0), ([64], 0), ([60, 5], 1), ([200], 2), ([512], 3), ([300] * 9, 4)]
)
def test_a_job_s_lane_follows_from_all_its_tokens(tokens, lane):
    assert job(*tokens).lane == lane


def test_a_batch_holds_jobs_of_one_key_in_their_order_up_to_its_tokens():
    lanes, jobs = Lanes(100, 10_000), [job(40), job(50), job(20), job(10, key="b"), job(30)]
    lanes.add(jobs)
    assert lanes.first() == 0 and lanes.first(before=0) is None
    assert taken(lanes, 0) == [(jobs[0], 0, 1), (jobs[1], 0, 1)]
    assert taken(lanes, 0) == [(jobs[3], 0, 1)]  # each key has its turn
    assert taken(lanes, 0) == [(jobs[2], 0, 1), (jobs[4], 0, 1)]
    assert lanes.first() is None and lanes.tokens == [0] * 5


def test_jobs_with_many_rows_take_turns():
    lanes, first, second = Lanes(100, 10_000), job(*[50] * 6), job(*[50] * 7)
    lanes.add([first, second])
    assert taken(lanes, 3) == [(first, 0, 2)]
    assert taken(lanes, 3) == [(second, 0, 2)]
    assert taken(lanes, 3) == [(first, 2, 4)]


def test_a_row_longer_than_a_batch_is_one_by_itself():
    lanes, single = Lanes(100, 10_000), job(500, 10)
    lanes.add([single])
    assert taken(lanes, 3) == [(single, 0, 1)] and taken(lanes, 3) == [(single, 1, 2)]


def test_dropped_jobs_are_left_out():
    lanes, jobs = Lanes(100, 10_000), [job(10), job(20), job(30)]
    lanes.add(jobs)
    jobs[0].cancelled = True
    jobs[1].fail("it failed")
    assert taken(lanes, 0) == [(jobs[2], 0, 1)] and lanes.tokens[0] == 0
    lanes.add([gone := job(10)])
    gone.cancelled = True
    assert taken(lanes, 0) == [] and lanes.first() is None


def test_a_full_lane_takes_no_more_but_others_do():
    lanes = Lanes(100, 100)
    lanes.add([job(60)])
    with pytest.raises(QueueFullError):
        lanes.add([job(10), job(50)])
    assert lanes.tokens == [60, 0, 0, 0, 0]  # none of the request was added
    lanes.add([job(40), job(500)])  # a lane in which nothing waits takes any job
    with pytest.raises(QueueFullError):
        lanes.add([job(400)])
    assert lanes.full()


def test_the_last_answer_and_the_first_problem_end_a_job():
    ended = []
    two = Job([("a", None), ("b", None)], [1, 1], ("t",), "k", lambda: ended.append("two"))
    two.answer(1, [{"t": {"label": "b"}}])
    assert ended == []
    two.answer(0, [{"t": {"label": "a"}}])
    assert ended == ["two"] and [each["t"]["label"] for each in two.answers] == ["a", "b"]
    failed = Job([("a", None)], [1], ("t",), "k", lambda: ended.append("failed"))
    failed.fail("first")
    failed.fail("second")
    failed.answer(0, [{}])
    assert ended == ["two", "failed"] and failed.problem == "first"
