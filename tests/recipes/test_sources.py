"""A table of tickets with label columns and blanks through every command: one text a row, all answers in it."""

from __future__ import annotations

import csv
import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtbert import Source, train
from mtbert.recipe import load_recipe

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905
QUEUES, TAGS = ["billing", "technical", "other"], ["slow", "broken", "rude"]
TASKS = {
    "queue": {"labels": QUEUES},
    "urgency": {"ordinal": True, "labels": ["1", "2", "3"], "head": {"type": "attention", "attention_heads": 2}},
    "angry": {"problem_type": "binary_classification", "labels": ["no", "yes"]},
    "score": {"range": [0, 5], "max_length": 8},
}


def write_tickets(file: Path, rows: int, seed: int, blank: float = 0.3) -> list[dict]:
    """Write invented tickets; the answers follow from their words."""
    random, tickets = np.random.default_rng(seed), []
    for number in range(rows):
        words = random.choice(WORDS, random.integers(3, 12)).tolist()
        answers = {
            "queue": QUEUES[0 if "cat" in words else 1 if "dog" in words else 2],
            "urgency": str(1 + ("not" in words) + ("bad" in words)),
            "angry": "yes" if "very" in words else "no",
            "score": str(min(5, len(words) / 2)),
        }
        has = random.random(len(answers)) >= blank
        cells = {name: value if keep else "" for (name, value), keep in zip(answers.items(), has, strict=True)}
        tickets.append({"ticket": f"t{number}", "body": " ".join(words), **cells})
    with file.open("w", newline="") as target:
        writer = csv.DictWriter(target, list(tickets[0]))
        writer.writeheader()
        writer.writerows(tickets)
    return tickets


@pytest.fixture(scope="module")
def run(finetune, encoder_dir, tmp_path_factory) -> Path:
    """The folder of a run on a table of tickets; its data lie in the parent folder."""
    folder = tmp_path_factory.mktemp("tickets")
    for split, rows in (("train", 60), ("dev", 40), ("test", 12)):
        write_tickets(folder / f"{split}.csv", rows, sum(map(ord, split)))
    files = {split: f"{split}.csv" for split in ("train", "dev", "test")}
    recipe = {
        "encoder": encoder_dir,
        "data_dir": str(folder),
        "sources": {"tickets": {"text": "body", "id": "ticket", **files}},
        "tasks": {name: {**task, "data": {"source": "tickets", "label": name}} for name, task in TASKS.items()},
        "schedule": {"name": "proportional"},
        "training": {
            "output_dir": str(folder / "run"),
            "num_train_epochs": 2,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.01,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "save_logits": True,
            "report_to": "none",
            "disable_tqdm": True,
            "cpu_threads": 1,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    finetune.main([str(folder / "recipe.yaml")])
    return folder / "run"


def command(name: str):
    return importlib.import_module(f"mtbert.cli.{name}")


def test_the_run_says_what_it_did(run):
    record = json.loads((run / "record.json").read_text())
    assert record["sources"] == {"tickets": list(TASKS)} and record["steps"] == 2 * 8
    rows = list(csv.DictReader((run.parent / "train.csv").open()))
    assert record["rows"]["train"] == {name: sum(row[name] != "" for row in rows) for name in TASKS}
    card = (run / "README.md").read_text() if (run / "README.md").exists() else None
    assert card is None or "source `tickets`, column `queue`" in card


def test_a_finished_run_is_not_trained_again_and_an_interrupted_one_goes_on(run, finetune, capsys):
    finetune.main([str(run.parent / "recipe.yaml"), "--training.resume_from_checkpoint", "true"])
    assert "this run has ended" in " ".join(capsys.readouterr().out.split())


def test_evaluation_has_the_scores_of_the_run(run, tmp_path):
    scores = json.loads((run / "scores.json").read_text())
    command("evaluate").main([str(run), "--output", str(tmp_path / "report"), "--resamples", "20"])
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    rows = list(csv.DictReader((run.parent / "dev.csv").open()))
    for name in TASKS:
        assert numbers["tasks"][name]["rows"] == sum(row[name] != "" for row in rows)
    text = json.dumps(numbers)
    assert "texts with labels of several tasks" in text
    assert np.isfinite(scores["eval_overall"])


def test_prediction_gives_a_row_for_each_text_with_all_answers(run, tmp_path, monkeypatch):
    from mtbert.modeling import prediction

    calls = []
    encode = prediction.encode_texts
    monkeypatch.setattr(prediction, "encode_texts", lambda *given: calls.append(given[0].name) or encode(*given))
    target = tmp_path / "answers.csv"
    given = [str(run), str(run.parent / "test.csv"), "--text", "body", "--id", "ticket", "--output", str(target)]
    command("predict").main(given)
    rows = list(csv.DictReader(target.open()))
    assert [row["ticket"] for row in rows] == [f"t{number}" for number in range(12)]
    assert all(row["queue"] in QUEUES and row["angry"] in ("no", "yes") for row in rows)
    assert all(0 <= float(row["angry:yes"]) <= 1 and float(row["score"]) == float(row["score"]) for row in rows)
    assert calls == ["queue", "score"]  # one encoding for three tasks, one for the task with another max_length


def test_calibration_export_rows_and_ensembles_find_their_data(run, tmp_path):
    given = [str(run), "--output", str(tmp_path / "calibrated"), "--tasks", "angry", "--coverage", "0.8"]
    command("calibrate").main(given)
    rows = list(csv.DictReader((run.parent / "dev.csv").open()))
    figures = json.loads((tmp_path / "calibrated" / "calibration.json").read_text())
    labelled = sum(row["angry"] != "" for row in rows)
    assert f'"rows": {labelled}' in json.dumps(figures)
    from mtbert.export.scored_rows import read_rows

    recipe = load_recipe(run / "recipe.json", {"training.output_dir": str(run)})
    specs = [task.spec(name) for name, task in recipe.tasks.items()]
    scored = read_rows(str(run), None, None, specs, 1000)
    assert {name: len(task.dev) for name, task in scored.items()} == {
        name: sum(row[name] != "" for row in rows) for name in TASKS
    }
    scores = command("ensemble").main([str(run), str(run), "--output", str(tmp_path / "both"), "--predict", "test"])
    alone = json.loads((run / "scores.json").read_text())
    assert scores["ensemble"]["queue_accuracy"] == pytest.approx(alone["eval_queue_accuracy"])
    assert len((tmp_path / "both" / "queue-test.csv").read_text().splitlines()) == 13


def test_python_trains_the_same_from_one_data_set(run, encoder_dir, tmp_path):
    """The same settings in Python, with one `Dataset`."""
    from datasets import Dataset
    from transformers import AutoTokenizer, set_seed

    from mtbert import MtBertForMultiTask, MtBertTrainer, MtBertTrainingArguments

    tree = json.loads((run / "recipe.json").read_text())
    tree["training"]["output_dir"] = str(tmp_path / "again")
    result = train(load_recipe(tree, {"training.save_strategy": "no", "training.eval_strategy": "no"}))
    recipe = load_recipe(tree)
    set_seed(42)
    model = MtBertForMultiTask.from_encoder(encoder_dir, [task.spec(name) for name, task in recipe.tasks.items()])
    arguments = {key: value for key, value in tree["training"].items() if not key.endswith(("strategy", "logits"))}
    args = MtBertTrainingArguments(**arguments | {"output_dir": str(tmp_path / "python"), "save_strategy": "no"})
    rows = Dataset.from_list(list(csv.DictReader((run.parent / "train.csv").open())))
    trainer = MtBertTrainer(
        model,
        args,
        train_dataset={"tickets": Source(rows, list(TASKS), text="body", id="ticket")},
        processing_class=AutoTokenizer.from_pretrained(encoder_dir),
        settings={"schedule": "proportional"},
    )
    trainer.train()
    one, other = (dict(each.model.named_parameters()) for each in (result.trainer, trainer))
    assert all((one[name] == other[name]).all() for name in one)


def test_a_study_of_the_tasks_of_a_source(run, tmp_path, monkeypatch):
    from mtbert.runs import forms

    def execute(one, threads):
        keys = [*one.overrides, "--training.output_dir", str(one.output), "--training.disable_tqdm", "true"]
        train(load_recipe(one.path, keys))

    monkeypatch.setattr(forms, "execute", execute)
    given = [str(run.parent / "recipe.yaml"), "--output", str(tmp_path / "study"), "--seeds", "1,2"]
    short = ["--steps", "3", "--joint_steps", "6", "--every", "2", "--rows", "6"]
    assert command("study").main([*given, *short]) == 0
    page = (tmp_path / "study" / "study.md").read_text()
    assert all(f"| {name} |" in page for name in TASKS)
    measured = json.loads((tmp_path / "study" / "affinity.json").read_text())
    matrix = np.array(measured["affinity"]["mean"], dtype=float)
    assert measured["steps"] == [2, 4, 6] and matrix.shape == (4, 4) and np.isfinite(matrix).all()


def test_a_search_on_a_source(run, tmp_path):
    (tmp_path / "space.yaml").write_text("training.learning_rate: {type: float, low: 0.001, high: 0.1, log: true}\n")
    given = [str(run.parent / "recipe.yaml"), "--space", str(tmp_path / "space.yaml"), "--trials", "2"]
    more = ["--study", str(tmp_path / "study.db"), "--training.max_steps", "2"]
    assert command("search").main([*given, *more]) == 0
    assert load_recipe(tmp_path / "recipe" / "best.yaml").drawn_sources == {"tickets": tuple(TASKS)}


def test_budgets_of_tables_find_the_data_of_a_source(run, tmp_path):
    from mtbert.runs.budget import PILOT_SHARE
    from mtbert.runs.budget_keys import fair_budget, load, pilot_keys, small_budget

    path = run.parent / "recipe.yaml"
    for keys in (small_budget(path, [], 1e-4), fair_budget(path, [], 1e-4)):
        recipe = load(path, keys)
        pilot = load(path, [*keys, *pilot_keys(recipe)])
        assert {(task.data.dev, task.data.dev_share) for task in pilot.tasks.values()} == {(None, PILOT_SHARE)}

        # rows that are cut off for dev take no part in the choice of a rate: a fold of the others does
        keys = [*keys, "--sources.tickets.dev", "20%"]
        pilot = load(path, [*keys, *pilot_keys(load(path, keys))])
        found = {(task.data.dev, task.data.dev_share, task.data.folds) for task in pilot.tasks.values()}
        assert found == {("20%", None, round(1 / PILOT_SHARE))}
