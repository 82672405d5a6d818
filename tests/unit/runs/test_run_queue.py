"""Runs at a time: those that need a folder which another run makes are passed over until it is there."""

import threading
import time
from pathlib import Path

import pytest

from mtbert.runs import run_queue
from mtbert.runs.run_queue import work_in_turns


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    monkeypatch.setattr(run_queue, "LOOK", 0.01)


class Record:
    """Notes when items begin and end; an item that begins with `m` makes its folder, when it is told to."""

    def __init__(self, folder: Path):
        self.folder, self.lines, self.lock = folder, [], threading.Lock()
        self.made, self.ended = threading.Event(), threading.Event()

    def needs(self, item: str) -> Path | None:
        return self.folder / "epoch-3" if item[0] in "mn" else None

    def note(self, line: str) -> None:
        with self.lock:
            self.lines.append(line)

    def work(self, item: str) -> None:
        self.note(f"{item} begins")
        if item == "m1":
            assert self.made.wait(10)
            (self.folder / "epoch-3").mkdir(parents=True)
            assert self.ended.wait(10)
        elif item == "free2":
            self.made.set()
        elif item == "n2":
            self.ended.set()
        self.note(f"{item} ends")


def test_others_go_on_while_a_folder_is_made_and_start_as_soon_as_it_is_there(tmp_path):
    record = Record(tmp_path / "mlm")
    work_in_turns(["m1", "n1", "n2", "free1", "free2"], 2, record.work, record.needs)
    begun = [line.split()[0] for line in record.lines if line.endswith("begins")]
    assert begun == ["m1", "free1", "free2", "n1", "n2"]  # n1 and n2 waited for the folder, not for the end of m1
    assert record.lines[-1] == "m1 ends"


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_one_makes_a_folder_at_a_time_and_a_failed_one_is_made_by_the_next(tmp_path, jobs):
    running, most, worked = [0], [0], []
    lock = threading.Lock()

    def work(item: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.005)
        with lock:
            worked.append(item)
            running[0] -= 1

    work_in_turns(range(6), jobs, work, lambda item: tmp_path / "mlm" / f"epoch-{item}")  # none is ever made
    assert worked == list(range(6)) and most == [1]


@pytest.mark.parametrize("count", [0, 1, 9])
def test_every_item_is_worked_on_once(count):
    done = []
    work_in_turns(range(count), 4, done.append, lambda item: None)
    assert sorted(done) == list(range(count))


def test_an_error_of_the_work_itself_is_raised():
    def work(item: int) -> None:
        if item == 1:
            raise RuntimeError("no disk")

    with pytest.raises(RuntimeError, match="no disk"):
        work_in_turns(range(3), 2, work, lambda item: None)
