"""`mtbert evaluate` on runs of `mtbert finetune`: the same scores, the plan, groups, comparisons, refusals."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from matplotlib.text import Text
from transformers import AutoTokenizer

from mtbert.cli import arguments
from mtbert.recipe import RecipeError

ROOT = Path(__file__).resolve().parents[2]
WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)


@pytest.fixture(scope="module")
def evaluate_run():
    """`mtbert.cli.evaluate`, imported."""
    return importlib.import_module("mtbert.cli.evaluate")


@pytest.fixture(scope="module")
def runs(finetune, encoder_dir, tmp_path_factory) -> Path:
    """A folder with data and two runs, `a` and `b`; steps are logged at the ends of epochs."""
    folder, random = tmp_path_factory.mktemp("runs"), np.random.default_rng(0)
    for split, count in (("train", 24), ("dev", 18), ("test", 6)):
        lines = ["text,other,stars,close,sex"]
        for i in range(count):
            first, second = (" ".join(random.choice(WORDS, random.integers(2, 10))) for _ in range(2))
            label = "" if split == "dev" and i == 4 else i % 3
            lines.append(f"{first},{second},{label},{i % 11 / 2},{'fm'[i % 2]}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")
        lines = [line.rpartition(",")[0] for line in lines]
        (folder / f"{split}-pairs.csv").write_text("\n".join(lines) + "\n")
    lines = [line.partition(",")[0] for line in (folder / "test.csv").read_text().splitlines()]
    (folder / "test.csv").write_text("\n".join(lines) + "\n")  # texts alone
    data = {"train": "train.csv", "dev": "dev.csv", "test": "test.csv"}
    pairs = {"text": ["text", "other"], "label": "close", "train": "train-pairs.csv", "dev": "dev-pairs.csv"}
    recipe = {
        "encoder": encoder_dir,
        "data_dir": str(folder),
        "tasks": {
            "stars": {
                "labels": 3,
                "metric": "f1_macro",
                "head": {"type": "attention", "attention_heads": 2},
                "data": {"text": "text", "label": "stars", **data},
            },
            "close": {"range": [0, 5], "data": pairs},
        },
        "schedule": {"name": "annealed", "steps_per_epoch": 4},
        "training": {
            "num_train_epochs": 2,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 2,
            "learning_rate": 0.01,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "logging_steps": 4,
            "report_to": "none",
            "disable_tqdm": True,
            "cpu_threads": 1,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    for name, more in (("a", []), ("b", ["--training.seed", "7", "--peft.r", "2", "--peft.target_modules", "[query]"])):
        finetune.main([str(folder / "recipe.yaml"), "--training.output_dir", str(folder / name), *more])
    return folder


def read(page: Path) -> dict:
    return json.loads((page.parent / "report.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def report(evaluate_run, runs, tmp_path_factory) -> Path:
    """The report of run `a`, with groups and the comparison with `b`, which was trained by LoRA."""
    output = tmp_path_factory.mktemp("out") / "report"
    arguments = [str(runs / "a"), "--against", str(runs / "b"), "--group", "sex", "--output", str(output)]
    return evaluate_run.main([*arguments, "--resamples", "30"])


def test_scores_are_those_that_the_runs_recorded(report, runs):
    found = read(report)
    for name, side in (("a", "a"), ("b", "b")):
        recorded = json.loads((runs / name / "scores.json").read_text())
        for task, metric in (("stars", "f1_macro"), ("close", "pearson")):
            ours = found["comparison"]["tasks"][task]["bootstrap"][side]
            assert ours == pytest.approx(recorded[f"eval_{task}_{metric}"], abs=1e-5)
        assert found["comparison"]["overall"][side] == pytest.approx(recorded["eval_overall"], abs=1e-5)
    assert found["averages"]["overall"] == found["comparison"]["overall"]["a"]
    assert found["tasks"]["stars"]["rows"] == 17  # one has no label


def test_the_plan_is_the_one_that_the_run_followed(report):
    table = read(report)["sampling"]
    assert [each["epoch"] for each in table] == [1, 2]
    assert table[0]["probability"] == {"stars": 0.5, "close": 0.5}
    for each in table:
        assert each["planned"] == each["sampled"]
        assert sum(each["sampled"].values()) == 32


def test_a_report_can_be_written_without_the_texts(evaluate_run, runs, report, tmp_path, monkeypatch):
    from mtbert.evaluation.report import write

    drawn, draw = [], write._png
    words = lambda picture: [text.get_text() for text in picture.figure.findobj(Text)]  # noqa: E731
    monkeypatch.setattr(write, "_png", lambda picture: drawn.extend([picture.name, *words(picture)]) or draw(picture))
    arguments = [str(runs / "a"), "--against", str(runs / "b"), "--output", str(tmp_path / "report"), "--hide_texts"]
    page = evaluate_run.main([*arguments, "--resamples", "30", "--group", "sex"])
    texts = [text for line in (runs / "dev.csv").read_text().splitlines()[1:] for text in line.split(",")[:2]]
    texts = [text for text in texts if len(text.split()) > 3]
    assert len(drawn) > 100 and not any(text in each for text in texts for each in drawn)
    for shown, where in ((True, report), (False, page)):
        for file in (where, where.parent / "report.json"):
            assert any(text in file.read_text("utf-8") for text in texts) is shown
    hidden, full = read(page)["tasks"]["stars"]["worst"], read(report)["tasks"]["stars"]["worst"]
    assert hidden == [{key: value for key, value in row.items() if key != "text"} for row in full]
    assert read(page)["tasks"]["stars"]["attention"]["examples"] == [] and "stars.attention" not in drawn


def test_the_report_says_what_a_head_s_attention_reads(report, runs, encoder_dir):
    tokenizer = AutoTokenizer.from_pretrained(encoder_dir)
    found, texts = (
        read(report)["tasks"],
        [line.split(",")[0] for line in (runs / "dev.csv").read_text().splitlines()[1:]],
    )
    assert "attention" not in found["close"] and (report.parent / "figures" / "stars.attention.png").is_file()
    attention = found["stars"]["attention"]
    assert attention["rows"] == 17 and len(attention["examples"]) == 8
    assert attention["first"] + attention["separators"] + attention["rest"] == pytest.approx(1)
    assert 0 < attention["entropy"] <= 1
    for example in attention["examples"]:
        assert example["text"] in texts and sum(example["weights"]) == pytest.approx(1)
        assert example["tokens"] == tokenizer.convert_ids_to_tokens(tokenizer(example["text"])["input_ids"])


def test_the_report_has_signed_errors_and_shares_near_the_label(report, runs):
    found = read(report)["tasks"]
    points = found["close"]["points"]
    signed = [p - t for p, t in zip(points["predicted"], points["label"], strict=True)]
    assert found["close"]["signed_error"]["length"]["points"]["error"] == pytest.approx(signed)
    lines = [line.split(",") for line in (runs / "dev-pairs.csv").read_text().splitlines()[1:]]
    differences = [abs(len(line[0].split()) - len(line[1].split())) for line in lines]
    assert found["close"]["signed_error"]["length_difference"]["points"]["length"] == differences
    assert found["close"]["within_one"] == {"within_one_point": sum(abs(e) <= 1 for e in signed) / len(signed)}
    assert found["stars"]["within_one"]["exactly_right"] == found["stars"]["scores"]["accuracy"]
    assert sum(list(found["stars"]["within_one"].values())[:3]) == pytest.approx(1)


def test_groups_are_the_columns_values_and_tasks_without_it_are_named(report):
    found = read(report)
    groups = {each["group"]: each["rows"] for each in found["tasks"]["stars"]["groups"]["sex"]["groups"]}
    assert groups == {"f": 8, "m": 9}
    assert found["tasks"]["close"]["groups"] == {}
    assert found["run"]["notes"] == ["No column 'sex' in the data of: close."]


def test_the_course_of_the_run_is_in_the_report(report, runs):
    found = read(report)
    log = json.loads((runs / "a" / "trainer_state.json").read_text())["log_history"]
    logged = [entry["loss_stars"] for entry in log if "loss_stars" in entry]
    assert [each["value"] for each in found["curves"]["tasks"]["stars"]["loss"]] == logged
    assert found["cost"]["examples"] == 64
    assert found["cost"]["threads"] == 1


def test_a_checkpoint_is_evaluated_with_the_recipe_of_its_run(evaluate_run, runs, tmp_path):
    page = evaluate_run.main([str(runs / "a" / "checkpoint-4"), "--output", str(tmp_path / "out")])
    found, log = read(page), json.loads((runs / "a" / "trainer_state.json").read_text())["log_history"]
    logged = next(entry for entry in log if entry["step"] == 4 and "eval_overall" in entry)
    assert found["averages"]["overall"] == pytest.approx(logged["eval_overall"], abs=1e-5)
    assert len(found["sampling"]) == 1


def test_a_split_without_labels_has_no_scores_but_a_report(evaluate_run, runs, tmp_path):
    page = evaluate_run.main([str(runs / "a"), "--split", "test", "--output", str(tmp_path / "out")])
    assert read(page)["tasks"] == {
        "stars": {"problem_type": "single_label_classification", "main": "f1_macro", "rows": 0, "scores": {}}
    }
    assert "Without a test split, and so without scores: close." in page.read_text("utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--group", "age"], "--group age: task 'stars'.*no column 'age'"),
        (["--group", "close:sex"], "--group close:sex: task 'close'.*no column 'sex'"),
        (["--group", "mood:sex"], "no task 'mood' has a dev split; these have: stars, close"),
        (["--tasks.close.data.dev", "train-pairs.csv", "--against", "B"], None),
        (["--group", "other", "--hide_texts"], "--group other: it holds texts of the task 'close', which --hide_texts"),
        (["--output", "RUNS"], "has files in it"),
        (["--against", "RUNS"], "has no recipe.json.*name its recipe with --recipe"),
        (["--against", "nowhere"], "there is no folder nowhere"),
        (
            ["--split", "test", "--tasks.stars.data.test", "null"],
            "no task of the recipe has a test split; name one wi",
        ),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(arguments, message, evaluate_run, runs, tmp_path):
    named = {"RUNS": str(runs), "B": str(runs / "b")}
    arguments = [str(runs / "a"), "--output", str(tmp_path / "out"), *(named.get(each, each) for each in arguments)]
    if message is None:  # the same change of data for both: rows are the same again
        assert evaluate_run.main([*arguments, "--resamples", "5"]).is_file()
        return
    with pytest.raises((ValueError, OSError), match=message):
        evaluate_run.main(arguments)


@pytest.mark.parametrize("key", ["examples", "resamples"])
def test_numbers_of_the_command_line(evaluate_run, key, capsys):
    with pytest.raises(SystemExit):
        arguments.evaluate(["some/run", f"--{key}", "0"])
    assert f"--{key} is 0, but must be 1 or more" in capsys.readouterr().err


def test_the_plan_of_a_run_in_stages_is_that_of_each_stage(evaluate_run, runs):
    rows = {name: SimpleNamespace(splits={"train": range(24)}) for name in ("stars", "close")}

    recipe = evaluate_run.find_recipe(runs / "a", None, [])

    def plan(**first):
        later = {"training": {"learning_rate": 1e-3}, "schedule": {"steps_per_epoch": 7}}
        return evaluate_run.plan_run(replace(recipe, stages=({"training": first}, later)), rows, 1)

    found = plan(num_train_epochs=3)
    assert [int(found.epoch_rows(epoch).sum()) for epoch in range(5)] == [32, 32, 32, 56, 56]  # 2 × 4 rows a step
    assert plan(num_train_epochs=2.5) is None
    assert plan(max_steps=3) is None


def test_an_unknown_key_is_refused(evaluate_run, runs, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate_run.main([str(runs / "a"), "--output", str(tmp_path / "out"), "--grup", "sex"])
    assert "there is no option --grup; did you mean --group?" in capsys.readouterr().err
    with pytest.raises(RecipeError, match="sede"):
        evaluate_run.main([str(runs / "a"), "--output", str(tmp_path / "out"), "--training.sede", "1"])


def test_no_script_hides_a_package():
    """A script's folder comes first on the path: a recipes/evaluate.py would be what mtbert imports as evaluate."""
    for path in (ROOT / "recipes").glob("*.py"):
        spec = importlib.util.find_spec(path.stem)
        assert spec is None or spec.origin is None or Path(spec.origin).parent == path.parent, path.name


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_shows_the_report_without_an_error(report, tmp_path):
    picture = tmp_path / "page.png"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,3000", f"--screenshot={picture}"]
    done = subprocess.run([*command, report.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    assert len(np.unique(imread(picture)[:, :, :3].reshape(-1, 3), axis=0)) > 50
