"""A browser shows the report at every width, light and dark, whatever tasks, labels and texts are called."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import page_checks
import pytest
from browser import BROWSER, browsing

from mtbert.evaluation.report import RunLog, analyse_run, compare_runs, write_report
from mtbert.modeling.task_spec import TaskSpec

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
METRICS = {"stars": "accuracy", "same": "f1", "close": "pearson", "topics": "f1_micro"}
LOOKS = [(1280, "light"), (1280, "dark"), (800, "light"), (400, "light"), (400, "dark")]
LONG, RIGHT_TO_LEFT = "w" * 200, "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def course(metrics) -> list[dict[str, float]]:
    """A log with scores before training and after three epochs."""
    log = []
    for epoch in range(4):
        scores = {f"eval_{task}_{metric}": 0.3 + 0.1 * epoch for task, metric in metrics.items()}
        losses = {f"eval_{task}_loss": 2 - 0.4 * epoch for task in metrics}
        log.append({"step": 10 * epoch, "epoch": float(epoch), **scores, **losses, "eval_overall": 0.3 + 0.1 * epoch})
        drawn = {f"examples_{task}": 20 for task in metrics} | {f"loss_{task}": 2 - 0.4 * epoch for task in metrics}
        log.append({"step": 10 * epoch + 5, "epoch": epoch + 0.5, **drawn})
    return log


def write(folder: Path, tasks, metrics, compared=False, **about) -> Path:
    """Write a report of tasks that were trained for three epochs."""
    setup = {"encoder": "a/b", "recipe": "annealed, 3 epochs", "commit": "0" * 40, "chosen_on_dev": True}
    log = RunLog(folder, course(metrics), {}, {})
    numbers = analyse_run(tasks, metrics, log, None, 5, None, setup=setup, resamples=50, **about)
    run = {"name": "runs/tickets", "against": None, "split": "dev", "examples": 5, "resamples": 20, "seed": 0}
    numbers["run"] = {**run, "notes": []}
    if compared:
        numbers["comparison"] = compare_runs(tasks, tasks, metrics, 0, 10)
        numbers["run"]["against"] = "runs/other"
    return write_report(folder / "report", numbers)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are not drawn, which takes seconds."""
    monkeypatch.setattr("mtbert.evaluation.report.write._png", lambda picture: b"png")
    monkeypatch.setattr("mtbert.evaluation.report.write._svg", lambda picture, prefix, title: [])


def check(page, file: Path, looks=LOOKS) -> None:
    """Check a report in all looks, with everything open."""
    for width, scheme in looks:
        page.look(width, scheme)
        page.open(file.as_uri())
        assert page.value("[...document.querySelectorAll('details.chapter')].map((each) => each.open)")[0]
        page.value(page_checks.OPEN_ALL)
        assert page.value(page_checks.FITS), (width, scheme)
        assert page.value(page_checks.OVERLAPS) == [], (width, scheme)
        ratio, text = page.value(page_checks.CONTRAST)
        assert ratio >= 4.5, (width, scheme, text)
    assert page.problems() == []
    assert all(address.startswith(("file:", "data:", "about:")) for address in page.addresses())


def test_a_report_of_four_tasks_in_every_look(page, make_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("mtbert.evaluation.report.write.DPI", 25)
    tasks = {name: make_rows(name, 90) for name in METRICS}
    file = write(tmp_path, tasks, METRICS)
    assert file.stat().st_size < 1_000_000
    check(page, file)
    page.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
    page.open(file.as_uri())
    assert page.value("document.querySelector('table.scores').getBoundingClientRect().bottom") < 800
    assert page.value("document.querySelectorAll('table.scores tbody tr').length") == 4
    assert page.value("document.querySelectorAll('details.chapter[open]').length") == 1
    assert page.value("document.querySelectorAll('svg.plot text').length") > 100  # words of figures are words


HARM = ["<script>document.title = 'hit'</script>", LONG, RIGHT_TO_LEFT, "a \"b\" 'c' & <i>d</i>", "</style></svg>"]


def test_names_and_texts_of_every_kind(page, make_rows, tmp_path, undrawn):
    tasks, metrics = {}, {}
    for number, name in enumerate(HARM):
        rows = make_rows(
            TaskSpec("t", labels=[*HARM[:3], HARM[3] + str(number)]), 40, groups={name: [*HARM, "x", "y", "z"] * 5}
        )
        object.__setattr__(rows, "texts", tuple((text,) for text in HARM * 8))
        tasks[name], metrics[name] = rows, "accuracy"
    file = write(tmp_path, tasks, metrics, compared=True)
    check(page, file, [(1280, "light"), (400, "dark")])
    assert page.value("document.title") == "tickets: evaluation"
    assert page.value("document.querySelectorAll('i, script').length") == 0


@pytest.mark.parametrize("count", [1, 12])
def test_one_task_and_twelve(count, page, make_rows, tmp_path, undrawn):
    tasks = {f"task {i}": make_rows("same", 0 if i == 3 else 20 + i, seed=i) for i in range(count)}
    file = write(tmp_path, tasks, dict.fromkeys(tasks, "f1"))
    check(page, file, [(1280, "light"), (400, "light")])
    assert page.value("document.querySelectorAll('table.scores tbody tr').length") == count


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification"])
def test_150_labels(kind, page, make_rows, tmp_path, undrawn):
    task = TaskSpec("many", kind, labels=[f"label number {i}" for i in range(150)])
    rows = make_rows(task, 200)
    metric = "accuracy" if kind.startswith("single") else "f1_micro"
    file = write(tmp_path, {"many": rows}, {"many": metric})
    check(page, file, [(1280, "light"), (400, "light")])
    assert file.stat().st_size < 400_000
    assert (
        page.value("[...document.querySelectorAll('caption')].filter((e) => /Each label/.test(e.innerText)).length")
        == 1
    )


def test_no_row_and_scores_that_are_not_defined(page, make_rows, tmp_path, undrawn):
    tasks = {"none": make_rows("stars", 0), "close": make_rows("close", 1, labels=[math.pi], logits=np.zeros((1, 1)))}
    file = write(tmp_path, tasks, {"none": "accuracy", "close": "pearson"})
    check(page, file, [(1280, "dark"), (400, "light")])
    assert "nan" not in page.value("document.body.innerText").lower()
