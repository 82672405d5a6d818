"""`mtbert calibrate` on tiny runs: what it writes, what stays, and that every answer follows what it wrote."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from transformers import AutoTokenizer

from mtbert import MtBertForMultiTask
from mtbert.cli import parsers_calibration
from mtbert.errors import CheckpointError, InputError
from mtbert.evaluation.prediction_files import prediction_columns
from mtbert.evaluation.text_scorer import TextScorer
from mtbert.modeling.calibration import Calibration
from mtbert.modeling.configuration_mtbert import MtBertConfig
from mtbert.modeling.pipeline import MultiTaskTextClassificationPipeline
from mtbert.runs.calibration import chose_checkpoint, write_calibrations
from mtbert.runs.evaluation import find_recipe
from mtbert.training.checkpoints.sealing import damage

WORDS = "a an the cat dog bird fish house tree runs sleeps eats flies is was not very good bad fine old new".split()  # noqa: SIM905
TAGS = ["cat", "dog", "bird"]


@pytest.fixture(scope="module")
def calibrate():
    """`mtbert.cli.calibrate`, imported."""
    return importlib.import_module("mtbert.cli.calibrate")


def write_rows(file: Path, count: int, random: np.random.Generator) -> None:
    lines = []
    for i in range(count):
        words = random.choice(WORDS, random.integers(3, 9)).tolist()
        row = {"text": " ".join(words), "stars": ("good" in words) + ("fine" in words), "score": i % 11 / 2}
        row |= {"spam": "yes" if "not" in words or i % 2 else "no", "tags": [tag for tag in TAGS if tag in words]}
        lines.append(json.dumps(row))
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def trained(finetune, encoder_dir, tmp_path_factory) -> Path:
    """The folder of a run with a task of each kind."""
    folder, random = tmp_path_factory.mktemp("calibrated"), np.random.default_rng(0)
    for split, count in (("train", 60), ("dev", 320), ("test", 60)):
        write_rows(folder / f"{split}.jsonl", count, random)
    files = {"train": "train.jsonl", "dev": "dev.jsonl", "test": "test.jsonl"}
    recipe = {
        "encoder": encoder_dir,
        "data_dir": str(folder),
        "tasks": {
            "spam": {
                "problem_type": "binary_classification",
                "labels": ["no", "yes"],
                "data": {"text": "text", "label": "spam", **files},
            },
            "stars": {"labels": 3, "data": {"text": "text", "label": "stars", **files}},
            "tags": {
                "problem_type": "multi_label_classification",
                "labels": TAGS,
                "data": {"text": "text", "label": "tags", **files},
            },
            "score": {"range": [0, 5], "data": {"text": "text", "label": "score", **files}},
        },
        "training": {
            "output_dir": str(folder / "run"),
            "max_steps": 6,
            "per_device_train_batch_size": 8,
            "learning_rate": 0.005,
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "cpu_threads": 1,
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    finetune.main([str(folder / "recipe.yaml")])
    return folder / "run"


@pytest.fixture(scope="module")
def calibrated(trained, calibrate, tmp_path_factory) -> Path:
    """A calibrated copy of the run."""
    return calibrate.main([str(trained), "--output", str(tmp_path_factory.mktemp("copy") / "run"), "--accuracy", "0.5"])


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def test_changes_config_and_adds_figures_alone(trained, calibrated):
    before, after = contents(trained), contents(calibrated)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed == {"config.json", "checksums.json"} and set(after) - set(before) == {"calibration.json"}
    old, new = (json.loads(files["checksums.json"]) for files in (before, after))
    assert {name for name in old if old[name] != new[name]} == {"config.json"} and list(old) == list(new)
    assert damage(calibrated, ()) == ""
    specs = {task.name: task for task in MtBertForMultiTask.from_pretrained(calibrated).tasks}
    assert specs["spam"].calibration.thresholds is not None and specs["spam"].calibration.coverage == 0.9
    assert specs["score"].calibration.quantile > 0 and specs["score"].calibration.temperature == 1
    figures = json.loads((calibrated / "calibration.json").read_text())["tasks"]
    assert {name: of["calibration"] for name, of in figures.items()} == {
        name: task.calibration.to_dict() for name, task in specs.items()
    }
    assert figures["spam"]["split"] == "dev" and figures["spam"]["approximate"] is None


def test_is_removed_to_the_last_byte(copy, trained, calibrate):
    calibrate.main([str(copy)])
    assert contents(copy)["config.json"] != contents(trained)["config.json"]
    calibrate.main([str(copy), "--remove"])
    before, after = contents(trained), contents(copy)
    assert {name: json.loads(text) for name, text in after.items() if name == "checksums.json"} == {
        "checksums.json": json.loads(before["checksums.json"])
    }
    del before["checksums.json"], after["checksums.json"]
    assert before == after
    with pytest.raises(InputError, match="is not calibrated; nothing to remove"):
        calibrate.main([str(copy), "--remove"])


def test_an_older_calibration_is_replaced_if_asked(copy, calibrate):
    calibrate.main([str(copy), "--tasks", "spam,score"])
    first = json.loads((copy / "calibration.json").read_text())["tasks"]
    with pytest.raises(InputError, match=r"calibrated already, for the tasks spam; replace that with --overwrite"):
        calibrate.main([str(copy), "--tasks", "spam"])
    calibrate.main([str(copy), "--tasks", "stars"])
    calibrate.main([str(copy), "--tasks", "spam", "--overwrite", "--coverage", "0.8", "--seed", "1"])
    second = json.loads((copy / "calibration.json").read_text())["tasks"]
    assert set(second) == {"spam", "score", "stars"} and second["score"] == first["score"]
    assert second["spam"]["calibration"]["coverage"] == 0.8
    calibrate.main([str(copy), "--tasks", "spam", "--remove"])
    assert [task.name for task in MtBertForMultiTask.from_pretrained(copy).tasks if task.calibration] == [
        "stars",
        "score",
    ]


def test_answers_follow_the_calibration_and_logits_do_not_change(trained, calibrated):
    texts = ["the cat is not good", "a bird", "fine old dog flies"]
    plain, model = (MtBertForMultiTask.from_pretrained(folder) for folder in (trained, calibrated))
    before, after = plain.predict(texts, "all"), model.predict(texts, "all")
    for name, prediction in after.items():
        assert (prediction.logits == before[name].logits).all()
    spam = after["spam"]
    fitted = spam.task.calibration
    p = 1 / (1 + np.exp(-spam.logits[:, 0].astype(np.float64) / fitted.temperature))
    assert spam.probabilities[:, 1] == pytest.approx(p, abs=1e-6)
    expected = ["yes" if value >= fitted.thresholds[0] else "no" for value in p]
    tokenizer = AutoTokenizer.from_pretrained(calibrated)
    pipe = MultiTaskTextClassificationPipeline(model, tokenizer)
    logits = TextScorer(model, tokenizer, ["spam", "tags"])(texts)
    assert spam.labels == expected
    assert [answer["label"] for answer in pipe(texts, tasks="spam")] == expected
    assert prediction_columns(spam.task, logits["spam"])["spam"] == expected
    tags = after["tags"].labels
    assert prediction_columns(after["tags"].task, logits["tags"])["tags"] == ["|".join(row) for row in tags]
    given = [[entry["label"] for entry in row if entry.get("given")] for row in pipe(texts, tasks="tags", top_k=None)]
    if after["tags"].task.calibration.thresholds is not None:
        assert [sorted(row) for row in given] == [sorted(row) for row in tags]


def test_travels_with_saves_and_edits(calibrated, tmp_path):
    model = MtBertForMultiTask.from_pretrained(calibrated)
    specs = {task.name: task for task in model.tasks}
    figures = json.loads((calibrated / "calibration.json").read_text())["tasks"]
    model.save_pretrained(tmp_path / "saved")
    again = MtBertForMultiTask.from_pretrained(tmp_path / "saved")
    assert again.tasks == model.tasks
    assert json.loads((tmp_path / "saved" / "calibration.json").read_text())["tasks"] == figures
    again.remove_task("stars")
    again.add_task({"name": "more", "labels": 2})
    again.save_pretrained(tmp_path / "edited")
    edited = MtBertForMultiTask.from_pretrained(tmp_path / "edited")
    assert {task.name: task.calibration for task in edited.tasks} == {
        **{name: specs[name].calibration for name in ("spam", "tags", "score")},
        "more": None,
    }
    assert set(json.loads((tmp_path / "edited" / "calibration.json").read_text())["tasks"]) == {"spam", "tags", "score"}
    single = model.extract_task("score")
    single.save_pretrained(tmp_path / "single")
    assert MtBertForMultiTask.from_pretrained(tmp_path / "single").tasks == (specs["score"],)
    assert set(json.loads((tmp_path / "single" / "calibration.json").read_text())["tasks"]) == {"score"}


def test_a_new_head_has_no_calibration(calibrated):
    model = MtBertForMultiTask.from_pretrained(calibrated)
    spec = model.tasks[0]
    model.remove_task(spec.name)
    with pytest.warns(UserWarning, match="its calibration is dropped, because its head is new"):
        model.add_task(spec)
    assert model.tasks[-1].calibration is None


def test_figures_of_another_calibration_are_left_out(calibrated, tmp_path):
    folder = Path(shutil.copytree(calibrated, tmp_path / "run"))
    write_calibrations(folder, None, {"spam": Calibration(3.0)}, {})
    assert set(json.loads((folder / "calibration.json").read_text())["tasks"]) == {"stars", "tags", "score"}
    (folder / "calibration.json").write_text("[")
    with pytest.warns(UserWarning, match="does not hold the figures of a calibration, and is left out"):
        MtBertForMultiTask.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "calibration.json").exists()


def test_evaluate_shows_decisions(calibrated, tmp_path):
    evaluate = importlib.import_module("mtbert.cli.evaluate")
    page = evaluate.main([str(calibrated), "--output", str(tmp_path / "report"), "--resamples", "10"])
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    figures = json.loads((calibrated / "calibration.json").read_text())["tasks"]
    assert {name: task["decisions"] for name, task in numbers["tasks"].items()} == figures
    assert any("Calibrated on these rows" in note for note in numbers["run"]["notes"])
    text = page.read_text()
    for name in figures:
        assert f"{name}: decisions" in text
    assert {"spam.precision_recall.png", "spam.reliability_fitted.png"} <= {
        file.name for file in (tmp_path / "report" / "figures").iterdir()
    }


def test_rows_that_chose_the_checkpoint_make_figures_approximate(copy, calibrate, capsys):
    recipe = find_recipe(copy, None, [])
    assert not chose_checkpoint(copy, recipe, "dev")
    (copy / "greedy.json").write_text("[]")
    assert chose_checkpoint(copy, recipe, "dev") and not chose_checkpoint(copy, recipe, "test")
    calibrate.main([str(copy), "--tasks", "score"])
    assert "figures are approximate" in capsys.readouterr().out
    assert "approximate" in json.loads((copy / "calibration.json").read_text())["tasks"]["score"]["approximate"]
    (copy / "greedy.json").unlink()
    best = find_recipe(copy, None, ["--training.load_best_model_at_end", "true", "--training.eval_strategy", "steps",
                                    "--training.save_strategy", "steps"])  # fmt: skip
    assert chose_checkpoint(copy, best, "dev")
    (copy / "trainer_state.json").write_text(json.dumps({"best_model_checkpoint": f"elsewhere/{copy.name}"}))
    assert chose_checkpoint(copy, recipe, "dev")


def test_a_split_that_chose_nothing_and_goals(copy, calibrate, capsys):
    calibrate.main([str(copy), "--split", "test", "--coverage", "0.99", "--accuracy", "0"])
    out = capsys.readouterr().out
    assert "no sets: a coverage of 0.99 needs 99 rows, but there are 60" in out
    assert "no interval: a coverage of 0.99 needs 99 rows" in out
    assert "of each class are needed" in out
    calibrate.main([str(copy), "--overwrite", "--tasks", "spam", "--precision", "0.999"])
    out = capsys.readouterr().out
    assert "no threshold for 'yes': no threshold reaches a precision of 0.999" in out or "threshold of 'yes'" in out


def test_a_run_with_peft(trained, finetune, calibrate, tmp_path):
    words = ["--training.output_dir", str(tmp_path / "lora"), "--peft.r", "2", "--peft.target_modules", "[query]"]
    finetune.main([str(trained.parent / "recipe.yaml"), "--training.max_steps", "1", *words])
    calibrate.main([str(tmp_path / "lora")])
    tasks = MtBertConfig.from_pretrained(tmp_path / "lora").task_specs
    assert tasks[0].calibration.thresholds is not None and tasks[3].calibration.quantile > 0
    encoder = json.loads((tmp_path / "lora" / "recipe.json").read_text())["encoder"]
    model = importlib.import_module("mtbert.cli.predict").load(str(tmp_path / "lora"), encoder, "cpu")
    assert tuple(model.tasks) == tasks


def test_a_link_is_not_written_through(copy, calibrate, tmp_path):
    (copy / "config.json").rename(tmp_path / "blob")
    (copy / "config.json").symlink_to(tmp_path / "blob")
    with pytest.raises(InputError, match="is a link, and would change elsewhere; give another folder: --output"):
        calibrate.main([str(copy), "--tasks", "score"])
    calibrate.main([str(copy), "--tasks", "score", "--output", str(tmp_path / "out")])
    assert "calibration" not in (tmp_path / "blob").read_text()


def test_other_data_of_a_task(copy, calibrate, tmp_path):
    write_rows(tmp_path / "other.jsonl", 40, np.random.default_rng(5))
    more = [f"--tasks.{name}.data.dev={tmp_path / 'other.jsonl'}" for name in ("spam", "stars", "tags", "score")]
    calibrate.main([str(copy), "--tasks", "score", *more])
    assert json.loads((copy / "calibration.json").read_text())["tasks"]["score"]["rows"] == 40


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tasks", "spam,moon"], r"--tasks has \['moon'\], but the checkpoint's tasks are: spam, stars, tags, score"),
        (["--tasks", "spam", "--folds", "9999"], "different texts, but 9999 folds need 9,999"),
    ],
)
def test_refuses(trained, calibrate, words, message):
    before = contents(trained)
    with pytest.raises(InputError, match=message):
        calibrate.main([str(trained), *words])
    assert contents(trained) == before


def test_refuses_a_damaged_checkpoint_and_an_existing_folder(copy, calibrate, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(FileExistsError, match="give another --output"):
        calibrate.main([str(copy), "--tasks", "score", "--output", str(tmp_path / "there")])
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    with pytest.raises(CheckpointError, match="is damaged"):
        calibrate.main([str(copy), "--tasks", "score"])
    assert not (copy / "calibration.json").exists()


@pytest.mark.parametrize(
    "words",
    [["--coverage", "1"], ["--coverage", "-0.1"], ["--precision", "0"], ["--precision", "0.5", "--recall", "0.5"],
     ["--folds", "1"], ["--split", "train"], ["--accuracy", "nan"], ["--nonsense", "1"]],
)  # fmt: skip
def test_wrong_arguments(words, capsys):
    with pytest.raises(SystemExit) as end:
        parsers_calibration.calibrate(["run", *words])
    assert end.value.code == 2
