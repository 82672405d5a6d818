"""A calibration stays with the weights that it was fitted for, and what combines models follows one stated rule."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from scipy.special import expit, softmax

from mtbert import MtBertForMultiTask
from mtbert.evaluation.course_files import CourseFile
from mtbert.evaluation.ensemble import combine, load_member, predict_members, task_logits
from mtbert.evaluation.report import TaskRows, analyse_task
from mtbert.evaluation.soup import mean_of
from mtbert.model_card import model_card
from mtbert.modeling import hub_upload
from mtbert.modeling.calibration_card import BEGIN, END, RULE
from mtbert.modeling.calibration_file import figures_of
from mtbert.modeling.decoding import decisions
from mtbert.training.peft import wrap

CALIBRATIONS = {
    "stars": {"temperature": 2.0, "coverage": 0.9, "quantile": 0.7, "abstain_below": 0.5},
    "same": {"temperature": 0.5, "thresholds": [0.2]},
    "close": {"coverage": 0.9, "quantile": 0.4},
    "topics": {"temperature": 3.0, "thresholds": [0.3, None, 0.8]},
}
TEXTS = ["the cat runs", "a dog is not good", "old fish"]


@pytest.fixture
def calibrated(tasks):
    return tuple(replace(task, calibration=CALIBRATIONS[task.name]) for task in tasks)


@pytest.fixture
def save(make_model, tokenizer, tmp_path):
    """A function: name, tasks, noise on the weights → the folder of a checkpoint."""

    def make(name: str, specs, noise: float = 0.0) -> str:
        model = make_model(specs)
        torch.manual_seed(len(name))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=noise)
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize("peft", [False, True])
def test_training_drops_it_with_a_warning(make_model, make_trainer, calibrated, tmp_path, peft):
    model = make_model(calibrated)
    if peft:
        model = wrap(model, {"r": 2, "target_modules": ["query"]})
    with pytest.warns(UserWarning, match=r"the calibration of \['stars', 'same', 'close', 'topics'\] is dropped; fit"):
        trainer = make_trainer(model, max_steps=1)
    assert all(task.calibration is None for task in (*trainer.tasks, *trainer.model.tasks))
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not any("calibration" in task for task in config["tasks"])


def test_a_trainer_that_evaluates_keeps_it(make_model, make_trainer, calibrated):
    model = make_model(calibrated)
    make_trainer(model, train_dataset=None)
    assert model.tasks == calibrated


def test_a_trained_model_is_the_same_as_from_one_without(make_model, make_trainer, calibrated):
    weights = []
    for specs in (None, calibrated):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = make_trainer(make_model(specs), max_steps=2)
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


@pytest.mark.parametrize("which", ["first", "second", "both"])
def test_a_mean_of_weights_has_none_and_names_whose_was_dropped(save, tasks, calibrated, which):
    folders = [
        save("one", calibrated if which in ("first", "both") else tasks, 0.1),
        save("other", calibrated if which in ("second", "both") else tasks, 0.1),
    ]
    named = {"first": folders[0], "second": folders[1], "both": ", ".join(folders)}[which]
    with pytest.warns(UserWarning, match=f"the mean has no calibration; that of {named} is dropped"):
        mean = mean_of(folders)[0]
    assert mean.tasks == tasks and mean.config.task_specs == tasks
    plain = mean_of([save("une", tasks, 0.1), save("autre", tasks, 0.1)])[0]
    assert all(torch.equal(value, mean.state_dict()[name]) for name, value in plain.state_dict().items())


def test_an_ensemble_averages_calibrated_probabilities_and_uses_no_threshold(save, tasks, calibrated):
    folders = [save("one", calibrated, 0.1), save("other", tasks, 0.1)]
    splits = {name: Dataset.from_dict({"text": TEXTS}) for name in ("stars", "topics")}
    members = predict_members(folders, tasks, splits)
    logits = [dict(predict_members([save(name, tasks, 0.1)], tasks, splits)) for name in ("une", "autre")]
    raw = [next(iter(of.values())) for of in logits]
    stars, topics = tasks[0], tasks[3]
    mean = (softmax(raw[0]["stars"] / 2.0, axis=1) + softmax(raw[1]["stars"], axis=1)) / 2
    joint = combine(stars, [members[folder]["stars"] for folder in folders])
    np.testing.assert_allclose(np.exp(joint), mean, rtol=1e-5)
    mean = (expit(raw[0]["topics"] / 3.0) + expit(raw[1]["topics"])) / 2
    joint = combine(topics, [members[folder]["topics"] for folder in folders])
    np.testing.assert_allclose(expit(joint), mean, rtol=1e-5)
    assert (decisions(topics, joint) == (mean > 0.5)).all()


def test_a_teacher_s_logits_are_not_calibrated(save, tasks, calibrated):
    rows = Dataset.from_dict({"text": TEXTS})
    with_one, without = (load_member(save(*each, 0.1), "cpu") for each in (("one", calibrated), ("two", tasks)))
    for name in ("stars", "topics"):
        assert torch.equal(task_logits(*with_one, name, rows), task_logits(*without, name, rows))


def test_the_card_states_rule_and_calibration(make_model, calibrated, tasks):
    card = model_card(make_model(calibrated), "ada/tasks").content
    section = card[card.index(BEGIN) : card.index(END)]
    assert RULE in section and "| topics | thresholds |" in section and "| close | quantile | 0.4 |" in section
    assert "Probabilities are not calibrated" not in card and "Labels or scores carry" in card
    some = model_card(make_model((calibrated[0], *tasks[1:])), "ada/tasks").content
    assert "Probabilities of `same`, `topics` are not calibrated" in some
    none = model_card(make_model(tasks), "ada/tasks").content
    assert BEGIN not in none and "Probabilities are not calibrated" in none


def test_a_push_puts_figures_and_rule_beside_the_model(save, calibrated, tasks, monkeypatch, tmp_path):
    pushed = {}

    def upload(folder, repo_id, **options):
        pushed.update(
            {file.name: file.read_text() for file in Path(folder.name).iterdir() if file.suffix != ".safetensors"}
        )

    monkeypatch.setattr(hub_upload, "create", lambda repo, private, token: repo)
    monkeypatch.setattr(hub_upload, "upload", upload)
    folder = Path(save("one", calibrated))
    entry = {"calibration": calibrated[2].calibration.to_dict(), "rows": 80, "split": "dev", "notes": ["few | rows"]}
    entry |= {
        "seed": 0,
        "folds": [],
        "approximate": None,
        "intervals": {"asked": 0.9, "covered": 0.91, "mean_width": 1.5},
    }
    (folder / "calibration.json").write_text(json.dumps({"tasks": {"close": entry, "gone": {}}}))
    (folder / "README.md").write_text(str(model_card(MtBertForMultiTask(load_config(folder, tasks)), "ada/tasks")))
    MtBertForMultiTask.from_pretrained(folder).push_to_hub("ada/tasks")
    assert json.loads(pushed["calibration.json"])["tasks"] == {"close": entry}
    assert {"calibration.py", "calibration_file.py", "decoding.py"} <= set(pushed)
    text = ModelCard(pushed["README.md"]).text
    assert "| close | intervals at 0.9 | hold the score of 0.910 of rows, 1.500 wide |" in text
    assert "few \\| rows" in text and "Probabilities are not calibrated" not in text
    assert text.index("## How to use it") < text.index("## Decisions") < text.index("## Data")
    (folder / "README.md").write_text(pushed["README.md"])
    MtBertForMultiTask.from_pretrained(folder).push_to_hub("ada/tasks")
    assert ModelCard(pushed["README.md"]).text.count("## Decisions") == 1


def load_config(folder, tasks):
    config = MtBertForMultiTask.from_pretrained(folder).config
    config.tasks = [task.to_dict() for task in tasks]
    return config


@pytest.mark.parametrize(
    "damage",
    [
        {"rows": "many"},
        {"notes": 3},
        {"intervals": {}},
        {"intervals": []},
        {"folds": 1},
        {"split": 5},
        {"nll": {}},
        {"x": float("nan")},
    ],
    ids=str,
)
def test_malformed_figures_are_left_out_with_a_warning(save, calibrated, damage):
    folder = Path(save("one", calibrated))
    entry = {"calibration": calibrated[2].calibration.to_dict(), "rows": 80, "split": "dev", "notes": [], "seed": 0}
    entry |= {"approximate": None, "folds": []}
    (folder / "calibration.json").write_text(json.dumps({"tasks": {"close": entry}}))
    assert figures_of(calibrated, folder) == {"close": entry}
    (folder / "calibration.json").write_text(json.dumps({"tasks": {"close": entry | damage}}))
    with pytest.warns(UserWarning, match="does not hold the figures of a calibration, and is left out"):
        assert figures_of(calibrated, folder) == {}


def test_course_files_decide_by_the_threshold(calibrated):
    logits = np.log(np.array([[0.15], [0.25], [0.9]]) / (1 - np.array([[0.15], [0.25], [0.9]]))) * 0.5
    assert CourseFile(calibrated[1]).values(logits) == ["0.0", "1.0", "1.0"]


def test_a_report_s_reliability_is_of_the_decision_with_thresholds(calibrated):
    task = calibrated[3]
    random = np.random.default_rng(0)
    logits = random.normal(0, 3, (50, 3))
    labels = (random.random((50, 3)) < expit(logits)).astype(float)
    rows = TaskRows(task, logits, labels, (("a",),) * 50, tuple(map(str, range(50))))
    p = expit(logits / 3.0)
    given = np.stack([p[:, 0] >= 0.3, p[:, 1] > 0.5, p[:, 2] >= 0.8], axis=1)
    assert (rows.predicted == given).all()
    found = analyse_task(rows, "f1_micro")["calibration"]["bins"]
    sure = np.where(given, p, 1 - p)
    assert sum(row["rows"] * row["confidence"] for row in found) == pytest.approx(sure.sum())
    assert sum(row["rows"] * row["accuracy"] for row in found) == pytest.approx((given == labels).sum())
    assert rows.losses == pytest.approx(-np.log(np.where(labels == 1, p, 1 - p)).mean(axis=1))
