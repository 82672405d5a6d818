"""`mtbert ensemble --weights` on tiny checkpoints."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from mtbert import MtBertForMultiTask


@pytest.fixture
def average():
    return importlib.import_module("mtbert.cli.average")


@pytest.fixture
def members(make_model, tokenizer, tasks, tmp_path) -> list[str]:
    """Three checkpoints whose heads say class 0 (loudly), 1 and 1, and a recipe of which most dev rows are 1."""
    folders = []
    for name, label, loud in (("zero", 0, 1000), ("one", 1, 100), ("more", 1, 100)):
        model = make_model(tasks[:1])
        with torch.no_grad():
            model.heads["stars"].out_proj.bias.copy_(loud * torch.eye(3)[label])
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
        folders.append(str(tmp_path / name))
    (tmp_path / "dev.csv").write_text("text,label\n" + "a cat,1\n" * 3 + "a dog,0\n")
    task = {"labels": 3, "pooling": "mean", "data": {"text": "text", "label": "label"}}
    task["data"] |= {"train": "dev.csv", "dev": "dev.csv"}
    recipe = {"encoder": "any", "data_dir": str(tmp_path), "tasks": {"stars": task}, "training": {"output_dir": "any"}}
    Path(folders[0], "recipe.json").write_text(json.dumps(recipe))
    return folders


def test_greedy_leaves_out_who_lowers_the_dev_score(average, members, tmp_path, capsys):
    zero, one, more = members
    distances = average.main([*members, "--greedy", "--out", str(tmp_path / "mean")])
    assert list(distances) == [one, more]
    assert json.loads((tmp_path / "mean" / "greedy.json").read_text()) == [
        {"members": [zero], "overall": 0.25},
        {"members": [one], "overall": 0.75},
        {"members": [more], "overall": 0.75},
        {"members": [one, more], "overall": 0.75},
        {"members": [one, more, zero], "overall": 0.25},
    ]
    assert f"0.7500: {one} + {more}" in capsys.readouterr().out
    recipe = json.loads(Path(zero, "recipe.json").read_text())
    (tmp_path / "course.yaml").write_text(json.dumps({"tasks": recipe["tasks"]}))  # the rest on the command line
    given = ["--greedy", "--recipe", str(tmp_path / "course.yaml"), "--data_dir", str(tmp_path)]
    assert average.main([*members, *given, "--out", str(tmp_path / "again")]) == distances


def test_what_greedy_needs_is_told(average, members, tmp_path):
    out = ["--out", str(tmp_path / "mean")]
    with pytest.raises(ValueError, match="--recipe and --data_dir say what --greedy chooses by; give it"):
        average.main([*members, *out, "--data_dir", "x"])
    recipe = json.loads(Path(members[0], "recipe.json").read_text())
    del recipe["tasks"]["stars"]["data"]["dev"]
    (tmp_path / "none.yaml").write_text(json.dumps(recipe))
    with pytest.raises(ValueError, match="no task of the recipe has a dev split to choose by; give data.dev"):
        average.main([*members, *out, "--greedy", "--recipe", str(tmp_path / "none.yaml")])
    assert not (tmp_path / "mean").exists()


def test_the_mean_is_a_checkpoint_that_names_its_members_and_overwrites_nothing(
    average, make_model, tokenizer, tmp_path, capsys
):
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for number, folder in enumerate(folders):
        model = make_model()
        with torch.no_grad():
            model.heads["stars"].out_proj.bias.fill_(number)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    Path(folders[0], "recipe.json").write_text("{}")
    given = [*folders, "--out", str(tmp_path / "mean")]
    distances = average.main(given)
    assert json.loads((tmp_path / "mean" / "averaged.json").read_text()) == distances
    assert list(distances) == folders
    assert (tmp_path / "mean" / "recipe.json").read_text() == "{}"
    mean = MtBertForMultiTask.from_pretrained(tmp_path / "mean")
    assert mean.heads["stars"].out_proj.bias.tolist() == [0.5] * mean.heads["stars"].out_proj.bias.numel()
    assert mean.predict(["a cat"], task="stars").labels
    assert f"{folders[1]}: {distances[folders[1]]:.2%} of the mean's norm from it" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="mean exists; give another --out, or remove it"):
        average.main(given)
    gone = str(tmp_path / "gone")
    with pytest.raises(
        ValueError, match=f"^{gone}: no checkpoint can be read there: there is no such folder; .* give a"
    ):
        average.main([folders[0], gone, "--out", str(tmp_path / "other")])
    assert not (tmp_path / "other").exists()


def test_ensemble_weights_writes_what_average_writes(average, make_model, tokenizer, tmp_path):
    folders = [str(tmp_path / name) for name in ("one", "two")]
    for folder in folders:
        make_model().save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    average.main([*folders, "--out", str(tmp_path / "by average")])
    importlib.import_module("mtbert.cli.ensemble").main(["--weights", *folders, "--out", str(tmp_path / "by ensemble")])
    written = [
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("by average", "by ensemble")
    ]
    assert written[0] == written[1]
    assert "model.safetensors" in written[0]
