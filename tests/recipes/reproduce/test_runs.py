"""Runs of a table: those that fail, are killed, shared, waited for or run once."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from forked import start, wait
from table_runs import RECIPE, SST, record

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import main, planned
from mtbert.runs import row_runs, table_plan

FINETUNE = Path(__file__).resolve().parents[3] / "recipes" / "finetune.py"


def test_a_row_that_fails_leaves_the_others_and_what_has_ended_is_not_run_again(
    arguments, write_recipe, tmp_path, monkeypatch, capsys
):
    """Two real runs, in processes of their own; the second has no data."""

    def run(command, stdout=None, **more):
        if command[:4] != [sys.executable, "-m", "mtbert", "finetune"]:
            return subprocess.run(command, **more)
        return SimpleNamespace(returncode=wait(start(FINETUNE, *command[4:], log=stdout.name), 300))

    monkeypatch.setattr(row_runs, "subprocess", SimpleNamespace(run=run, STDOUT=subprocess.STDOUT))
    lost = {**RECIPE["tasks"]["sst"], "data": {**SST, "train": "lost.csv"}}
    rows = [write_recipe("good"), write_recipe("bad", tasks={"sst": lost})]
    command = arguments(*rows, "--seeds", "1", "--mixed_precision", "no", "--title", "two")
    command += ["--schedule.name", "round_robin", "--training.logging_steps", "1"]
    assert main(command) == 1
    shown = capsys.readouterr().out
    assert "good seed 1: overall" in shown and "bad seed 1: ended with 1; see" in shown
    table = json.loads((tmp_path / "runs" / "two.json").read_text())["rows"]
    assert [(row["row"], row["seeds"], len(row["failed"])) for row in table] == [("good", [1], 0), ("bad", [], 1)]
    assert table[0]["doubts"] == [] and table[0]["what"] == "What it is." and table[0]["steps"] == 4
    assert "lost.csv" in next((tmp_path / "runs").rglob("bad/seed-*/log.txt")).read_text()

    started = []
    monkeypatch.setattr(row_runs.Run, "execute", lambda run, *_: started.append(run.row))
    args = arguments_of(command)
    row_runs.execute_all(table_plan.plan_runs(planned(args)), 1)
    assert started == ["bad"]
    row_runs.execute_all(table_plan.plan_runs(planned(arguments_of([*command, "--training.weight_decay", "0.1"]))), 1)
    assert started == ["bad", "good", "bad"]  # another recipe is another run


@pytest.mark.parametrize("left", ["nothing", "files", "checkpoint", "torn scores"])
def test_a_run_that_was_killed_is_run_again(make_run, monkeypatch, left):
    run = make_run()
    (run.output / "scores.json").unlink()
    if left == "nothing":
        row_runs.shutil.rmtree(run.output)
    if left == "checkpoint":
        (run.output / "checkpoint-5").mkdir()
        (run.output / "checkpoint-5" / "trainer_state.json").write_text("{}")
    if left == "torn scores":
        (run.output / "scores.json").write_text('{"eval_overall": 0.')
    commands = []

    def finetune(command, **_):
        if command[0] == "git":
            return SimpleNamespace(stdout="c0ffee\n")
        commands.append(command)
        # nothing is overwritten, so what is left is removed
        assert any(run.output.glob("*")) == (left == "checkpoint")
        run.output.mkdir(exist_ok=True)
        for name in ("scores", "record"):
            (run.output / f"{name}.json").write_text('{"eval_overall": 0.5}')
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(row_runs.subprocess, "run", finetune)
    row_runs.execute_all([run], 1)
    assert len(commands) == 1 and not run.failed and run.scores == {"eval_overall": 0.5}
    assert (commands[0][-4:-2] == ["--training.resume_from_checkpoint", "auto"]) == (left == "checkpoint")
    row_runs.execute_all([run], 1)
    assert len(commands) == 1 and run.commits() == ["c0ffee"]


def test_a_run_that_another_process_has_is_waited_for(make_run, monkeypatch):
    """What a killed table has started goes on without it, and holds the log."""
    run = make_run()
    scores = run.output / "scores.json"
    scores.rename(run.folder / "later.json")
    hold = (
        f"import time, pathlib; time.sleep(1); pathlib.Path({str(run.folder / 'later.json')!r}).rename({str(scores)!r})"
    )
    with (run.folder / "log.txt").open("a") as log:
        row_runs.fcntl.flock(log, row_runs.fcntl.LOCK_EX)
        other = subprocess.Popen([sys.executable, "-c", hold], stdout=log)
    monkeypatch.setattr(row_runs.Run, "_execute", lambda *_: pytest.fail("it was begun a second time"))
    row_runs.execute_all([run], 1)
    assert other.wait() == 0 and not run.failed and run.scores["eval_sst_accuracy"] == 0.5


def test_rows_that_a_budget_makes_the_same_are_run_once(arguments, write_recipe, tmp_path, monkeypatch):
    rates = [{**RECIPE["training"], "learning_rate": rate} for rate in (1e-5, 3e-5)]
    rows = [write_recipe(name, training=rates[number]) for number, name in enumerate(("one", "two"))]
    started = []

    def execute(run, *_):
        started.append(run.row)
        run.scores, run.record = {"eval_overall": 0.5}, record()
        run.output.mkdir(parents=True)
        (run.output / "recipe.json").write_text(json.dumps(RECIPE | {"schedule": {"name": "annealed"}}))

    monkeypatch.setattr(row_runs.Run, "execute", execute)
    assert main(arguments(*rows, "--seeds", "1,2", "--title", "same")) == 0
    assert started == ["one", "one"]
    table = json.loads((tmp_path / "runs" / "same.json").read_text())["rows"]
    assert table[0]["scores"] == table[1]["scores"] == {"overall": [0.5, 0.5]}
    assert [each["same_as"] for each in table] == [None, "one"]
    assert "the run of one" in (tmp_path / "runs" / "same.md").read_text()
    main(arguments(*rows, "--seeds", "1", "--budget", "published", "--title", "other"))
    assert started == ["one", "one", "one", "two"]


def test_another_pooling_stands_in_for_the_pooler_alone(arguments, write_recipe):
    tasks = {"sst": RECIPE["tasks"]["sst"], "sts": {**RECIPE["tasks"]["sts"], "pooling": "cls"}}
    command = arguments(write_recipe("a", tasks=tasks, all_tasks={"pooling": "pooler"}), "--seeds", "1")
    for more, expected in (([], "pooler"), (["--instead_of_pooler", "mean"], "mean")):
        run = table_plan.plan_runs(planned(arguments_of([*command, *more])))[0]
        recipe = table_plan.load(run.path, run.overrides)
        assert {name: task.pooling for name, task in recipe.tasks.items()} == {"sst": expected, "sts": "cls"}


def test_rows_share_a_pretraining_which_one_of_them_writes(arguments, write_recipe, monkeypatch):
    rows = [write_recipe(f"e{epoch}", pretraining={"use_epoch": epoch}) for epoch in (3, 18)]
    rows += [write_recipe("rate", pretraining={"use_epoch": 3, "learning_rate": 1e-3}), write_recipe("none")]
    runs = table_plan.plan_runs(planned(arguments_of(arguments(*rows, "--seeds", "1,2"))))
    folders = {run.row: run.pretrained.parent for run in runs if run.pretrained}
    assert folders.keys() == {"e3", "e18", "rate"} and folders["e3"] == folders["e18"] != folders["rate"]
    assert {run.pretrained.name for run in runs if run.row == "e18"} == {"epoch-18"}
    writing, most = [], []

    def execute(run, *_):
        assert not run.pretrained.is_dir()
        writing.append(run.pretrained.parent)
        most.append(max(map(writing.count, writing)))
        time.sleep(0.05)
        writing.remove(run.pretrained.parent)

    monkeypatch.setattr(row_runs.Run, "execute", execute)
    row_runs.execute_all([run for run in runs if run.pretrained], 4)
    assert len(most) == 6 and max(most) == 1


def test_a_run_that_ends_without_scores_has_failed(make_run, monkeypatch):
    run = make_run()
    (run.output / "record.json").unlink()
    monkeypatch.setattr(row_runs.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=""))
    row_runs.execute_all([run], 1)
    assert run.failed.startswith("ended with 0; see")


def test_more_jobs_than_gpus_share_them(make_run, monkeypatch):
    runs, used = [make_run(seed=seed) for seed in range(6)], []
    for run in runs:
        (run.output / "scores.json").unlink()
    monkeypatch.setattr(row_runs.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(row_runs.Run, "execute", lambda run, device, threads: used.append(device))
    row_runs.execute_all(runs, 3)
    assert set(used) <= {0, 1} and len(used) == 6
