"""The thread of the model: short jobs pass long ones, long ones come to an end, and one bad input fails alone."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

from mtbert import Prediction, TaskSpec
from mtbert.serving.lanes import Job
from mtbert.serving.limits import Limits
from mtbert.serving.metrics import Metrics
from mtbert.serving.worker import SHARE, Worker

TASK = TaskSpec("mood", labels=["bad", "good"])


class Layers:
    """A model of some linear layers; `before` is called with the rows and the number of each layer."""

    def __init__(self, layers: int, before):
        self.module = nn.Sequential(*(nn.Linear(1, 1) for _ in range(layers)))
        self.tasks, self.before, self.done = (TASK,), before, []

    def between_layers(self, function):
        for layer in self.module:
            layer.register_forward_pre_hook(lambda *_: function())

    def predict(self, rows, tasks):
        assert tasks == ["mood"]
        for number, layer in enumerate(self.module):
            self.before(rows, number)
            layer(torch.zeros(1, 1))
        self.done.append([text for text, _ in rows])
        if any(text == "bad" for text, _ in rows):
            raise ValueError("a text in a message")
        logits = [[0.0, float("nan") if text == "nan" else len(text)] for text, _ in rows]
        return {"mood": Prediction.of(TASK, np.array(logits, dtype=np.float32))}


class Asked(Job):
    """A job of one row that can be waited for."""

    def __init__(self, text: str, tokens: int):
        self.event = threading.Event()
        super().__init__([(text, None)], [tokens], ("mood",), "key", self.event.set)

    def wait(self) -> dict:
        assert self.event.wait(60)
        return self.answers[0]["mood"] if self.problem is None else {"problem": self.problem}


@pytest.fixture
def run():
    """A function: model, limits → its worker, started; stopped at the end."""
    workers = []

    def start(model, **limits) -> Worker:
        workers.append(Worker(model, Limits(**{"gather_ms": 0} | limits), Metrics()))
        workers[-1].start()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()
        assert not worker.alive


def test_a_short_job_is_answered_in_the_middle_of_a_long_one(run):
    started, short = threading.Event(), Asked("short", 10)

    def before(rows, number):
        if rows[0][0] == "long" and number == 1:
            started.set()
            while not model.submitted:
                time.sleep(0.001)

    model = Layers(4, before)
    model.submitted = False
    worker, long = run(model), Asked("long", 500)
    worker.submit([long])
    assert started.wait(60)
    worker.submit([short])
    model.submitted = True
    assert short.wait()["label"] == "good" and long.wait()["label"] == "good"
    assert model.done == [["short"], ["long"]]
    assert worker.metrics.text("")[0].count(b'mtbert_batch_seconds_count{lane="up to 64 tokens"} 1.0') == 1


def test_a_long_job_ends_however_many_short_ones_come(run):
    shorts, long = [], Asked("long", 500)

    def before(rows, number):
        if rows[0][0] == "short" and not long.event.is_set() and len(shorts) < 3000:
            shorts.append(Asked("short", 10))
            worker.submit([shorts[-1]])
        time.sleep(0.002 if rows[0][0] == "short" else 0.001)

    model = Layers(8, before)
    worker = Worker(model, Limits(gather_ms=0), Metrics())
    shorts.append(Asked("short", 10))
    worker.submit([long, shorts[0]])
    worker.start()
    assert long.wait()["label"] == "good" and len(shorts) < 3000
    order = [texts[0] for texts in model.done]
    assert order[0] == "short" and 0 < SHARE < 0.5  # short ones first, but not for ever
    worker.stop()
    assert all(each.wait()["label"] == "good" for each in shorts)


def shorts_before(late: bool) -> int:
    """Number of short jobs, of which each pass brings another, that come before a long one has its answer.

    Args:
        late: whether another long job has waited for more than half of the time limit.
    """
    shorts, long, other = [Asked("short", 10)], Asked("long", 500), Asked("long", 500)
    other.arrived -= 40 * late

    def before(rows, number):
        if rows[0][0] == "short" and not long.event.is_set() and len(shorts) < 3000:
            shorts.append(Asked("short", 10))
            worker.submit([shorts[-1]])
        time.sleep(0.001)

    worker = Worker(Layers(8, before), Limits(gather_ms=0, timeout=60), Metrics())
    worker.submit([long, other, shorts[0]])
    worker.start()
    assert long.wait()["label"] == "good"
    count = len(shorts)
    worker.stop()
    return count


def test_a_job_that_has_waited_for_long_gets_as_much_time_as_short_ones():
    assert shorts_before(late=True) < shorts_before(late=False) < 3000


def test_jobs_that_wait_share_a_pass_and_keep_their_answers(run):
    hold = threading.Event()
    model = Layers(1, lambda rows, number: hold.wait(60) if rows[0][0] == "first" else None)
    worker, jobs = run(model, batch_tokens=100), [Asked("x" * number, 10) for number in range(1, 15)]
    worker.submit([Asked("first", 10)])
    while worker.lanes.first() is not None:
        time.sleep(0.001)
    worker.submit(jobs)
    hold.set()
    for number, each in enumerate(jobs, 1):
        assert each.wait()["probabilities"]["good"] == pytest.approx(1 / (1 + np.exp(-number)))
    assert [len(texts) for texts in model.done] == [1, 10, 4]


def test_an_input_on_which_the_model_fails_fails_alone_and_is_not_logged(run, caplog):
    hold = threading.Event()
    model = Layers(1, lambda rows, number: hold.wait(60) if rows[0][0] == "first" else None)
    worker, jobs = run(model), [Asked("fine", 5), Asked("bad", 5), Asked("nan", 5), Asked("good", 5)]
    worker.submit([Asked("first", 10)])
    while worker.lanes.first() is not None:
        time.sleep(0.001)
    worker.submit(jobs)
    hold.set()
    fine, bad, nan, good = (each.wait() for each in jobs)
    assert fine["label"] == good["label"] == "good"
    assert bad == {"problem": "the model failed on this request; the server's log has the kind of error"}
    assert nan["problem"].startswith("task 'mood': the model's output for an input is not finite")
    assert "ValueError" in caplog.text and "a text in a message" not in caplog.text


def test_jobs_are_gathered_for_a_short_time_only(run):
    model = Layers(1, lambda *_: None)
    worker, jobs = run(model, gather_ms=300, batch_tokens=30), [Asked(str(number), 10) for number in range(4)]
    start = time.perf_counter()
    worker.submit([jobs[0]])
    time.sleep(0.05)
    worker.submit([jobs[1]])
    jobs[1].wait()
    assert 0.3 <= time.perf_counter() - start < 5 and model.done == [["0", "1"]]
    start = time.perf_counter()
    worker.submit([jobs[2], jobs[3], Asked("4", 10)])  # enough for a batch
    jobs[3].wait()
    assert time.perf_counter() - start < 0.3


def test_a_stop_answers_what_waits(run):
    model = Layers(1, lambda *_: time.sleep(0.01))
    worker, jobs = run(model, gather_ms=60_000, batch_tokens=10_000), [Asked("text", 100) for _ in range(5)]
    worker.submit(jobs)
    worker.stop()
    assert all(each.wait()["label"] == "good" for each in jobs)
