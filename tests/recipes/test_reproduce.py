"""Tables of recipes: rows by name, one budget for all, runs that are resumed or left alone, doubts, and the tables."""

from __future__ import annotations

import csv
import importlib
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.evaluation import run_tables
from mtbert.evaluation.table_files import main_metrics
from mtbert.recipe import load_recipe
from mtbert.training.methods import method_classes

ROOT = Path(__file__).resolve().parents[2]
COURSE = {"format": "cs224n", "id": "id"}
SST = {**COURSE, "text": "sentence", "label": "sentiment", "train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv"}
STS = {**COURSE, "text": ["sentence1", "sentence2"], "label": "similarity", "train": "sts-train.csv"}
RECIPE = {
    "encoder": "not/used",
    "tasks": {"sst": {"labels": 5, "data": SST}, "sts": {"range": [0, 5], "data": {**STS, "dev": "sts-dev.csv"}}},
    "training": {
        "report_to": "none",
        "eval_strategy": "epoch",
        "save_strategy": "epoch",
        "metric_for_best_model": "eval_overall",
    },
}


@pytest.fixture(scope="module")
def reproduce():
    """`mtbert.cli.reproduce`, imported."""
    return importlib.import_module("mtbert.cli.reproduce")


@pytest.fixture
def arguments(encoder_dir, course_dir, tmp_path):
    """A function: rows and further arguments → a command line whose runs take four steps."""

    def make(*more: str) -> list[str]:
        paths = ["--encoder", encoder_dir, "--data_dir", str(course_dir), "--output", str(tmp_path / "runs")]
        return [*more, *paths, "--schedule.steps_per_epoch", "2", "--training.num_train_epochs", "2"]

    return make


@pytest.fixture
def write_recipe(tmp_path):
    """A function: name, changes of the tree → a recipe file."""

    def write(name: str, **changes) -> str:
        path = tmp_path / f"{name}.yaml"
        path.write_text("# What it is.\n" + yaml.safe_dump({**RECIPE, **changes}))
        return str(path)

    return write


def record(**changes) -> dict:
    """What a run of ten epochs leaves."""
    parts = [
        {"component": "encoder", "task": "", "parameters": 90, "trainable": 90, "moved": 0.1},
        {"component": "head", "task": "sst", "parameters": 5, "trainable": 5, "moved": 0.2},
        {"component": "head", "task": "sts", "parameters": 5, "trainable": 5, "moved": 0.3},
        {"component": "total", "task": "", "parameters": 100, "trainable": 100},
    ]
    examples = {str(epoch): {"sst": 10 + epoch, "sts": 30 - epoch} for epoch in range(1, 11)}
    return {"seconds": 9.0, "steps": 20, "examples": examples, "parameters": parts, **changes}


@pytest.fixture
def make_run(reproduce, tmp_path):
    """A function: row, seed, … → a finished Run with made-up scores and files."""

    def make(row="A1", seed=1, values=(0.5, 0.6), schedule="annealed", adapter=None, failed="", **changes):
        settings = {key: changes.pop(key) for key in ("surgery", "smart", "proximal", "stages") if key in changes}
        folder = tmp_path / "made" / row / f"seed-{seed}"
        run = reproduce.Run(row, tmp_path / f"{row}.yaml", seed, folder, [], "no", failed)
        run.path.write_text("# Its sentence.\n# accelerate launch x\n")
        run.output.mkdir(parents=True)
        recipe = {
            "encoder": "not/used",
            "tasks": {"sst": {}, "sts": {}},
            "schedule": {"name": schedule},
            "model": {"adapter": adapter},
        }
        recipe |= settings
        sst, sts = values
        scores = {"eval_sst_loss": 1.0, "eval_sst_accuracy": sst, "eval_sst_f1_macro": 0.1, "eval_sts_loss": 2.0}
        scores |= {"eval_sts_pearson": sts, "eval_raw_mean": (sst + sts) / 2, "eval_overall": (2 * sst + 1 + sts) / 4}
        for name, content in (("recipe", recipe), ("scores", scores), ("record", record(**changes))):
            (run.output / f"{name}.json").write_text(json.dumps(content))
        assert failed or run.finished()
        return run

    return make


# ---- rows ----


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["A1-A12"], [f"A{i}" for i in range(1, 13)]),
        (["A10-12"], ["A10", "A11", "A12"]),
        (["E5,E6", "A4"], ["E5", "E6", "A4"]),
        (["A4", "A4,A3-A4"], ["A4", "A3"]),
        (["compare/pal"], ["pal"]),
        (["D1-D9"], ["D1-para", "D1-sst", "D1-sts", "D2", "D3", "D4", "D5"]),  # those that there are
    ],
)
def test_rows_by_name(reproduce, names, rows):
    found = reproduce.find_rows(names)
    assert list(found) == rows and all(path.is_file() and path.stem == row for row, path in found.items())


def test_every_row_of_the_reports_has_a_recipe_and_a_published_entry(reproduce):
    rows = reproduce.find_rows(["A1-A99", "B1-B99", "C1-C99", "D1-D99", "E1-E99"])
    numbers = {re.match(r"[A-E]\d+", row)[0] for row in rows}
    reports = {"A": 12, "B": 5, "C": 2, "D": 5, "E": 13}
    assert numbers == {f"{report}{n + 1}" for report, count in reports.items() for n in range(count)}
    assert set(reproduce.PUBLISHED) == set(rows)


@pytest.mark.parametrize("name", ["Z1", "A99", "A12-A1", "Z1-Z3", "compare/nothing", "none.yaml"])
def test_unknown_rows_are_refused_with_the_known_ones(reproduce, name):
    with pytest.raises(
        ValueError, match=f"there is no row '{name}'; there are: A1, A2, .*A10, A11, A12, .*folder/name"
    ):
        reproduce.find_rows(["A4", name])


def test_two_recipes_of_one_name_are_refused(reproduce, write_recipe):
    with pytest.raises(ValueError, match="two recipes are named A4: .*cs224n/A4.yaml and "):
        reproduce.find_rows(["A4", write_recipe("A4")])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--seeds=1,b", "--seeds is '1,b', but must be whole numbers, 0 or more, separated by commas"),
        ("--seeds=", "--seeds is '', but must be whole numbers"),
        ("--seeds=-1", "--seeds is '-1', but must be whole numbers"),
        ("--jobs=0", "--jobs is 0, but must be 1 or more"),
    ],
)
def test_seeds_and_jobs_that_are_refused(reproduce, option, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of(["A4", "--encoder", "e", "--data_dir", "d", option])
    assert message in capsys.readouterr().err


def test_a_seed_given_twice_is_one_run(reproduce, arguments, write_recipe):
    args = arguments_of(arguments(write_recipe("mine"), "--seeds", "3,1,3"))
    assert [run.seed for run in reproduce.plan_runs(args)] == [3, 1]


def test_all_recipes_are_checked_before_the_first_run(reproduce, arguments, write_recipe, monkeypatch):
    monkeypatch.setattr(reproduce, "execute_all", lambda *_: pytest.fail("a run began"))
    bad = [write_recipe("one", schedule={"name": "anealed"}), write_recipe("two", tasks={})]
    with pytest.raises(ValueError, match=r"(?s)one: .*'anealed'.*two: .*tasks: there are none"):
        reproduce.main(arguments(write_recipe("good"), *bad))


# ---- the small budget ----


@pytest.mark.parametrize(
    ("schedule", "batch_size", "steps"),
    [("annealed", None, 30), ("round_robin", 150, 30), ("simultaneous", None, 15), ("simultaneous", 16, 15)],
)
def test_the_small_budget_gives_every_schedule_as_many_examples(reproduce, write_recipe, schedule, batch_size, steps):
    task = {"batch_size": batch_size, "examples_per_epoch": 7}
    path = write_recipe(
        "mine",
        schedule={"name": schedule},
        all_tasks=task,
        training={**RECIPE["training"], "early_stopping_patience": 2, "load_best_model_at_end": True},
    )
    budget = reproduce.small_budget(path, [], 2e-4)
    recipe = load_recipe(path, [*budget, "--training.output_dir", "out"])
    assert recipe.schedule.steps_per_epoch == steps
    assert all(each.batch_size is None for each in recipe.tasks.values())
    assert steps * 32 * (len(recipe.tasks) if schedule == "simultaneous" else 1) == 30 * 32
    assert recipe.training["num_train_epochs"] == 10 and recipe.training["learning_rate"] == 2e-4
    assert all(each.examples_per_epoch is None for each in recipe.tasks.values())
    assert recipe.training["eval_strategy"] == "no" and not recipe.training["load_best_model_at_end"]


def test_rates_of_tasks_keep_their_ratios_below_the_budgets_rate(reproduce, write_recipe):
    tasks = {name: {**RECIPE["tasks"][name], "learning_rate": rate} for name, rate in (("sst", 1e-6), ("sts", 4e-6))}
    path = Path(write_recipe("a", tasks=tasks, optimizer={"per_task": "rates"}, schedule={"name": "round_robin"}))
    recipe = reproduce.load(path, ["--data_dir", "x", *reproduce.small_budget(path, ["--data_dir", "x"], 2e-4)])
    rates = {name: task.learning_rate for name, task in recipe.tasks.items()}
    assert rates == {"sst": pytest.approx(5e-5), "sts": pytest.approx(2e-4)}


def test_the_budget_is_that_of_the_recipe_with_the_command_line_s_keys(reproduce, arguments, write_recipe):
    command = arguments(write_recipe("mine"), "--seeds", "4", "--schedule.name", "simultaneous")
    args = arguments_of(command)
    (run,) = reproduce.plan_runs(args)
    assert run.overrides[run.overrides.index("--schedule.steps_per_epoch") + 1] == "15"


# ---- runs ----


def test_a_row_that_fails_leaves_the_others_and_what_has_ended_is_not_run_again(
    reproduce, arguments, write_recipe, tmp_path, monkeypatch, capsys
):
    """Two real runs; the second has no data."""
    lost = {**RECIPE["tasks"]["sst"], "data": {**SST, "train": "lost.csv"}}
    rows = [write_recipe("good"), write_recipe("bad", tasks={"sst": lost})]
    command = arguments(*rows, "--seeds", "1", "--mixed_precision", "no", "--title", "two")
    command += ["--schedule.name", "round_robin", "--training.logging_steps", "1"]
    assert reproduce.main(command) == 1
    shown = capsys.readouterr().out
    assert "good seed 1: overall" in shown and "bad seed 1: ended with 1; see" in shown
    table = json.loads((tmp_path / "runs" / "two.json").read_text())["rows"]
    assert [(row["row"], row["seeds"], len(row["failed"])) for row in table] == [("good", [1], 0), ("bad", [], 1)]
    assert table[0]["doubts"] == [] and table[0]["what"] == "What it is." and table[0]["steps"] == 4
    assert "lost.csv" in next((tmp_path / "runs").rglob("bad/seed-*/log.txt")).read_text()

    started = []
    monkeypatch.setattr(reproduce.Run, "execute", lambda run, *_: started.append(run.row))
    args = arguments_of(command)
    reproduce.execute_all(reproduce.plan_runs(args), 1)
    assert started == ["bad"]
    reproduce.execute_all(reproduce.plan_runs(arguments_of([*command, "--training.weight_decay", "0.1"])), 1)
    assert started == ["bad", "good", "bad"]  # another recipe is another run


@pytest.mark.parametrize("left", ["nothing", "files", "checkpoint", "torn scores"])
def test_a_run_that_was_killed_is_run_again(reproduce, make_run, monkeypatch, left):
    run = make_run()
    (run.output / "scores.json").unlink()
    if left == "nothing":
        reproduce.shutil.rmtree(run.output)
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

    monkeypatch.setattr(reproduce.subprocess, "run", finetune)
    reproduce.execute_all([run], 1)
    assert len(commands) == 1 and not run.failed and run.scores == {"eval_overall": 0.5}
    assert (commands[0][-4:-2] == ["--training.resume_from_checkpoint", "auto"]) == (left == "checkpoint")
    reproduce.execute_all([run], 1)
    assert len(commands) == 1 and run.commits() == ["c0ffee"]


def test_a_run_that_another_process_has_is_waited_for(reproduce, make_run, monkeypatch):
    """What a killed table has started goes on without it, and holds the log."""
    run = make_run()
    scores = run.output / "scores.json"
    scores.rename(run.folder / "later.json")
    hold = (
        f"import time, pathlib; time.sleep(1); pathlib.Path({str(run.folder / 'later.json')!r}).rename({str(scores)!r})"
    )
    with (run.folder / "log.txt").open("a") as log:
        reproduce.fcntl.flock(log, reproduce.fcntl.LOCK_EX)
        other = subprocess.Popen([sys.executable, "-c", hold], stdout=log)
    monkeypatch.setattr(reproduce.Run, "_execute", lambda *_: pytest.fail("it was begun a second time"))
    reproduce.execute_all([run], 1)
    assert other.wait() == 0 and not run.failed and run.scores["eval_sst_accuracy"] == 0.5


def test_rows_that_a_budget_makes_the_same_are_run_once(reproduce, arguments, write_recipe, tmp_path, monkeypatch):
    rates = [{**RECIPE["training"], "learning_rate": rate} for rate in (1e-5, 3e-5)]
    rows = [write_recipe(name, training=rates[number]) for number, name in enumerate(("one", "two"))]
    started = []

    def execute(run, *_):
        started.append(run.row)
        run.scores, run.record = {"eval_overall": 0.5}, record()
        run.output.mkdir(parents=True)
        (run.output / "recipe.json").write_text(json.dumps(RECIPE | {"schedule": {"name": "annealed"}}))

    monkeypatch.setattr(reproduce.Run, "execute", execute)
    assert reproduce.main(arguments(*rows, "--seeds", "1,2", "--title", "same")) == 0
    assert started == ["one", "one"]
    table = json.loads((tmp_path / "runs" / "same.json").read_text())["rows"]
    assert table[0]["scores"] == table[1]["scores"] == {"overall": [0.5, 0.5]}
    assert [each["same_as"] for each in table] == [None, "one"]
    assert "the run of one" in (tmp_path / "runs" / "same.md").read_text()
    reproduce.main(arguments(*rows, "--seeds", "1", "--budget", "published", "--title", "other"))
    assert started == ["one", "one", "one", "two"]


def test_another_pooling_stands_in_for_the_pooler_alone(reproduce, arguments, write_recipe):
    tasks = {"sst": RECIPE["tasks"]["sst"], "sts": {**RECIPE["tasks"]["sts"], "pooling": "cls"}}
    command = arguments(write_recipe("a", tasks=tasks, all_tasks={"pooling": "pooler"}), "--seeds", "1")
    for more, expected in (([], "pooler"), (["--instead_of_pooler", "mean"], "mean")):
        run = reproduce.plan_runs(arguments_of([*command, *more]))[0]
        recipe = reproduce.load(run.path, run.overrides)
        assert {name: task.pooling for name, task in recipe.tasks.items()} == {"sst": expected, "sts": "cls"}


def test_rows_share_a_pretraining_which_one_of_them_writes(reproduce, arguments, write_recipe, monkeypatch):
    rows = [write_recipe(f"e{epoch}", pretraining={"use_epoch": epoch}) for epoch in (3, 18)]
    rows += [write_recipe("rate", pretraining={"use_epoch": 3, "learning_rate": 1e-3}), write_recipe("none")]
    runs = reproduce.plan_runs(arguments_of(arguments(*rows, "--seeds", "1,2")))
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

    monkeypatch.setattr(reproduce.Run, "execute", execute)
    reproduce.execute_all([run for run in runs if run.pretrained], 4)
    assert len(most) == 6 and max(most) == 1


def test_a_run_that_ends_without_scores_has_failed(reproduce, make_run, monkeypatch):
    run = make_run()
    (run.output / "record.json").unlink()
    monkeypatch.setattr(reproduce.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=0, stdout=""))
    reproduce.execute_all([run], 1)
    assert run.failed.startswith("ended with 0; see")


def test_more_jobs_than_gpus_share_them(reproduce, make_run, monkeypatch):
    runs, used = [make_run(seed=seed) for seed in range(6)], []
    for run in runs:
        (run.output / "scores.json").unlink()
    monkeypatch.setattr(reproduce.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(reproduce.Run, "execute", lambda run, device, threads: used.append(device))
    reproduce.execute_all(runs, 3)
    assert set(used) <= {0, 1} and len(used) == 6


# ---- doubts ----


def changed(part: int, **values) -> list[dict]:
    parts = record()["parameters"]
    parts[part].update(values)
    return parts


def test_a_run_in_which_all_acted_raises_no_doubt(reproduce, make_run):
    assert run_tables.doubts(make_run()) == []


@pytest.mark.parametrize(
    ("settings", "doubt"),
    [
        ({"parameters": changed(0, trainable=0)}, "encoder is frozen, but moved"),
        ({"parameters": changed(0, moved=0.0)}, "encoder did not move"),
        ({"parameters": changed(2, moved=0.0)}, "head sts did not move"),
        ({"examples": {"1": {"sst": 9}, "2": {"sst": 8}}}, "sts was not trained"),
        ({"examples": {"1": {"sst": 4, "sts": 5}}}, "α did not move"),
        ({"adapter": {"type": "pal"}}, "there is no adapter"),
        (
            {"adapter": {"type": "pal"}, "parameters": changed(1, component="adapter", moved=0.0)},
            "adapter sst did not move",
        ),
        ({"surgery": {"method": "pcgrad"}, "measured": {"conflicts": 0.0}}, "gradients never conflicted"),
        ({"stages": [{}, {"surgery": {"method": "mgda"}}]}, "gradients never conflicted"),
        ({"smart": {"weight": 1.0}, "measured": {"smart_sst": 1e-7}}, "smart of sts is within rounding"),
        (
            {"proximal": {"weight": 1.0}, "measured": {"proximal_sst": 1e-7, "proximal_sts": 1e-15}},
            "proximal of sts is within rounding",
        ),
    ],
)
def test_doubts(reproduce, make_run, settings, doubt):
    assert run_tables.doubts(make_run(**settings)) == [doubt]


def test_surgery_and_regularisers_that_acted_raise_none(reproduce, make_run):
    measured = {"conflicts": 0.4, "smart_sst": 1e-7, "smart_sts": 1e-9, "proximal_sst": 1e-3, "proximal_sts": 1e-4}
    acted = {"surgery": {"method": "pcgrad"}, "smart": {"weight": 1.0}, "proximal": {"weight": 1.0}}
    assert run_tables.doubts(make_run(**acted, measured=measured)) == []


def test_a_frozen_part_that_stayed_and_shares_that_need_not_move_raise_none(reproduce, make_run):
    assert run_tables.doubts(make_run(parameters=changed(0, trainable=0, moved=0.0))) == []
    same = {"1": {"sst": 4, "sts": 5}, "2": {"sst": 4, "sts": 5}}
    assert run_tables.doubts(make_run(row="A2", schedule="proportional", examples=same)) == []


# ---- tables ----


def test_main_metrics_of_tasks_whose_names_begin_alike(reproduce):
    scores = {"eval_sst_fine_loss": 1, "eval_sst_fine_f1_macro": 2, "eval_sst_loss": 3, "eval_sst_accuracy": 4}
    assert main_metrics(scores, ["sst_fine", "sst", "none"]) == {"sst_fine": 2, "sst": 4}


def test_markdown_csv_and_json_hold_the_same_mean_and_deviation(reproduce, make_run, tmp_path):
    values = {1: (0.501, 0.612), 2: (0.523, 0.655), 3: (0.498, 0.604)}
    rows = {"train": {"sst": 30, "sts": 60}, "dev": {"sst": 12}}
    runs = [make_run("A1", seed, pair, rows=rows) for seed, pair in values.items()]
    (runs[0].folder / "commits.txt").write_text("c0ffee\n")
    runs += [make_run("mine", 1, (0.4, 0.3)), make_run("mine", 2, failed="ended with 1; see a|b")]
    entries = run_tables.table(runs, reproduce.PUBLISHED, method_classes())
    about = run_tables.environment(runs, ["python", "x"])
    reproduce.write(entries, about, tmp_path, "table")
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"] == entries and saved["about"]["command"] == "python x"
    assert entries[0]["scores"]["sst"] == [0.501, 0.523, 0.498] and entries[0]["seeds"] == [1, 2, 3]
    assert entries[0]["published"] == {"overall": 0.514, "sst": 0.305, "para": 0.651, "sts": 0.171}

    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    markdown = (tmp_path / "table.md").read_text().splitlines()
    heading = [cell.strip() for cell in markdown[0].split("|")[1:-1]]
    cells = [cell.strip() for cell in markdown[2].split("|")[1:-1]]
    shown = dict(zip(heading, cells, strict=True))
    for name, numbers in entries[0]["scores"].items():
        assert shown[name] == f"{np.mean(numbers):.3f} ± {np.std(numbers, ddof=1):.3f}"
        own = [line for line in lines if (line["row"], line["score"]) == ("A1", name)]
        assert [float(line["value"]) for line in own] == numbers and [line["seed"] for line in own] == ["1", "2", "3"]
        assert {line["published"] for line in own} == {str(entries[0]["published"].get(name, ""))}
    assert (shown["row"], shown["trained parameters"], shown["steps"], shown["seconds"]) == ("A1", "100", "20", "9")
    assert markdown[3].startswith("| mine | Its sentence. | 0.400 | 0.300 |")  # one run has no deviation
    assert r"seed 2: ended with 1; see a\|b" in markdown[3]
    assert len([line for line in lines if line["row"] == "mine"]) == 4
    told = {"encoder": "not/used", "rows": "train: sst 30 sts 60; dev: sst 12", "commits": "c0ffee", "steps": "20"}
    assert {key: lines[0][key] for key in told} == told
    assert entries[0]["encoder"] == "not/used" and entries[0]["rows"]["train"] == {"sst": 30, "sts": 60}


def test_a_row_without_a_run_that_ended_stands_in_the_table(reproduce, make_run):
    (entry,) = run_tables.table([make_run(failed="ended with 1")], reproduce.PUBLISHED)
    assert entry["scores"] == {} and entry["steps"] is None
    assert "| A1 | encoder frozen" in reproduce.to_markdown([entry], {})
