"""Tasks that label words, in what compares models row by row: a study, folds, and the dev rows of a table."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import yaml
from tagged import SLOTS, TAGS, tagged_split

from mtbert.cli import reproduce, study
from mtbert.errors import InputError, RecipeError
from mtbert.evaluation.choosing import compare, mean_score
from mtbert.evaluation.metrics import score_task
from mtbert.evaluation.row_differences import row_difference
from mtbert.recipe import load_recipe
from mtbert.runs import forms
from mtbert.runs.dev_rows import decided, read_dev_rows
from mtbert.runs.finetuning import train
from mtbert.runs.fold_rows import load_fold_rows
from mtbert.runs.result_files import Result
from mtbert.runs.row_runs import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory, encoder_dir):
    """A recipe of a task that labels words and one of sentences, on the same texts."""
    folder = tmp_path_factory.mktemp("words")
    for split, rows, seed in (("train", 60, 0), ("dev", 25, 1)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for number, row in enumerate(tagged_split(rows, seed)):
                place = "yes" if "B-PLACE" in row["label"] else "no"
                tags = None if number % 9 == 4 else row["label"]  # some rows have no tags
                file.write(json.dumps({"words": row["text"], "tags": tags, "place": place}) + "\n")
    tree = {
        "encoder": encoder_dir,
        "data_dir": str(folder),
        "tasks": {
            "slots": {"problem_type": "token_classification", "labels": list(TAGS)},
            "place": {"problem_type": "binary_classification", "labels": ["no", "yes"]},
        },
        "schedule": {"name": "simultaneous"},
        "training": {"output_dir": "unused", "report_to": "none", "cpu_threads": 1, "learning_rate": 0.003},
    }
    for name, label in (("slots", "tags"), ("place", "place")):
        data = {"text": "words", "label": label, "train": "train.jsonl", "dev": "dev.jsonl"}
        tree["tasks"][name]["data"] = data
    (folder / "both.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return folder


def trained(run):
    keys = [*run.overrides, "--training.output_dir", str(run.output), "--training.disable_tqdm", "true"]
    train(load_recipe(run.path, keys))
    assert run.finished()


def test_a_study_has_a_difference_of_words(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "execute", lambda run, threads: trained(run))
    short = ["--steps", "4", "--joint_steps", "8", "--every", "4", "--rows", "3", "--seeds", "1", "--adapter", "none"]
    assert study.main([str(folder / "both.yaml"), "--output", str(tmp_path), *short]) == 0
    page = (tmp_path / "study.md").read_text()
    assert "| slots | 0." in page and "| place | 0." in page
    files = sorted((tmp_path / "results").glob("*.json"))
    together = next(json.loads(file.read_text()) for file in files if file.name == "together-1.json")
    for measured in together["affinity"]["measured"]:  # each task's gradient is one
        assert all(norm > 0 for norm in measured["norms"]) and np.isfinite(measured["cosines"]).all()
    alone = next(json.loads(file.read_text()) for file in files if file.name == "alone-slots-1.json")
    assert np.isfinite(alone["scores"]["eval_slots_span_f1"])


def test_folds_compare_recipes_of_words(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Run, "_execute", lambda run, log, device, threads: trained(run))
    content = {
        "recipe": str(folder / "both.yaml"),
        "folds": 2,
        "candidates": {"plain": {}, "faster": {"training.learning_rate": 0.02}},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(content))
    words = ["--candidates", str(tmp_path / "c.yaml"), "--output", str(tmp_path / "runs"), "--mixed_precision", "no"]
    recipe = load_recipe(folder / "both.yaml")
    words += ["--encoder", recipe.encoder, "--data_dir", str(folder), "--score", "slots"]
    short = ["--schedule.steps_per_epoch", "4", "--training.num_train_epochs", "1"]
    assert reproduce.main([*words, *short]) == 0
    assert "slots" in capsys.readouterr().out


@pytest.fixture(scope="module")
def recipe(folder):
    return load_recipe(folder / "both.yaml")


def logits_of(tags: np.ndarray, random: np.random.Generator, wrong: float) -> np.ndarray:
    """Logits that have a share of the words wrong, `(rows, most words, tags)`."""
    ids = np.where(random.random(tags.shape) < wrong, random.integers(len(TAGS), size=tags.shape), np.maximum(tags, 0))
    return np.eye(len(TAGS), dtype=np.float32)[ids] * 4 + random.normal(0, 0.1, (*tags.shape, len(TAGS)))


def test_a_fold_scores_words_as_the_metric_does(recipe):
    rows = load_fold_rows(recipe, 3, [0, 1, 2])
    assert sum(len(of_fold["slots"].labelled) for of_fold in rows.values()) == 53  # the others have no tags
    random = np.random.default_rng(0)
    answers = {}
    for name, wrong in (("good", 0.02), ("bad", 0.6)):
        for fold, of_fold in rows.items():
            held = of_fold["slots"]
            every = np.full((held.count, held.tags.shape[1]), -100)
            every[held.labelled] = held.tags
            longest = (every != -100).any(axis=0).sum()  # a run has logits for the words of its fold alone
            logits = logits_of(every[:, :longest], random, wrong)
            answers.setdefault(name, {})[fold, 1] = {"slots": held.predictions(SLOTS, logits)}
            expected = score_task(SLOTS, logits, every[:, :longest])["span_f1"]
            of_words = {fold: {"slots": held.held}}
            found = mean_score({(fold, 1): answers[name][fold, 1]}, of_words, "slots")
            assert found == pytest.approx(expected, abs=1e-9)
    held_out = {fold: {"slots": of_fold["slots"].held} for fold, of_fold in rows.items()}
    comparison = compare(answers, held_out, "bad", score="slots", resamples=300)
    assert comparison.named("better") == ["good"]


def test_the_difference_of_two_results_is_that_of_the_metric(recipe, folder):
    dev, random, sides = {}, np.random.default_rng(1), []
    read_dev_rows(recipe, {"eval_slots_span_f1": 0.5, "eval_place_accuracy": 0.5}, dev)
    held = dev["slots"]
    every = np.full((held.count, held.tags.shape[1] + 2), -100)  # logits may be wider than labels
    every[held.labelled, : held.tags.shape[1]] = held.tags
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    scores = []
    for wrong in (0.05, 0.5):
        logits = logits_of(every, random, wrong).astype(np.float16)
        result = Result("row", folder / "both.yaml", 1, "", logits={"slots": logits})
        sides.append({1: decided(result, specs, dev, str(folder))})
        scores.append(score_task(SLOTS, logits.astype(np.float64), every)["span_f1"])
    found = row_difference(*sides, {"slots": held.task}, resamples=200)["slots"]
    assert (found["a"], found["b"]) == (pytest.approx(scores[0]), pytest.approx(scores[1]))
    assert 0 < found["low"] < found["difference"] < found["high"]


@pytest.mark.parametrize("metric", ["span_precision", "span_recall", "word_accuracy"])
def test_other_metrics_of_words(recipe, metric):
    tasks = {**recipe.tasks, "slots": replace(recipe.tasks["slots"], metric=metric)}
    rows = load_fold_rows(replace(recipe, tasks=tasks), 2, [0])[0]["slots"]
    every = np.full((rows.count, rows.tags.shape[1]), -100)
    every[rows.labelled] = rows.tags
    logits = logits_of(every, np.random.default_rng(2), 0.3)
    found = mean_score({(0, 1): {"slots": rows.predictions(SLOTS, logits)}}, {0: {"slots": rows.held}}, "slots")
    assert found == pytest.approx(score_task(SLOTS, logits, every, metric)[metric])


def test_a_metric_of_ones_own_is_refused_before_any_run(folder, recipe, monkeypatch, tmp_path):
    from mtbert.evaluation.metrics import METRICS

    monkeypatch.setitem(METRICS, "mine", METRICS["span_f1"])
    words = [str(folder / "both.yaml"), "--tasks.slots.metric", "mine", "--output", str(tmp_path)]
    with pytest.raises(InputError, match=r"'slots' is .* with the metric 'mine', .* use one of: span_f1, span_prec"):
        study.main(words)
    tasks = {**recipe.tasks, "slots": replace(recipe.tasks["slots"], metric="mine")}
    with pytest.raises(RecipeError, match=r"with the metric 'mine', which is not compared row by row"):
        load_fold_rows(replace(recipe, tasks=tasks), 2, [0])
