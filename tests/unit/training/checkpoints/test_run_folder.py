"""The folder of a run."""

import json
import warnings

import pytest

from mtbert import MtBertTrainingArguments
from mtbert.errors import CheckpointError
from mtbert.files import temporary_name
from mtbert.training.checkpoints.resume_record import FILE, check_record, write_record
from mtbert.training.checkpoints.run_folder import choose_checkpoint, save_arguments, save_run
from mtbert.training.checkpoints.sealing import seal
from mtbert.training.checkpoints.stages import Stages


def checkpoint(folder, step, *lacking):
    """An (empty) checkpoint, but for its state."""
    path = folder / f"checkpoint-{step}"
    path.mkdir()
    for name in ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"):
        if name not in lacking:
            (path / name).write_text("{}")
    seal(path)
    return str(path)


def arguments(folder, **values):
    return MtBertTrainingArguments(output_dir=str(folder), report_to="none", use_cpu=True, **values)


def test_a_new_run_needs_an_empty_folder(tmp_path):
    assert choose_checkpoint(arguments(tmp_path / "new")) is None
    assert choose_checkpoint(arguments(tmp_path)) is None
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has files in it, which would be overwritten; .*resume_from_checkpoint true"):
        choose_checkpoint(arguments(tmp_path))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_what_another_process_of_the_run_is_writing_is_in_nobodys_way(tmp_path):
    (tmp_path / "running.json").write_text("{}")
    temporary_name(tmp_path).write_text("{")  # what becomes the lock
    assert choose_checkpoint(arguments(tmp_path)) is None
    (tmp_path / ".mine.part").write_text("mine")
    with pytest.raises(ValueError, match="has files in it"):
        choose_checkpoint(arguments(tmp_path))


@pytest.mark.parametrize("word", ["true", "latest"])
def test_resuming_takes_the_last_checkpoint(tmp_path, word):
    with pytest.raises(ValueError, match="no complete checkpoint in"):
        choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=word))
    last = [checkpoint(tmp_path, step) for step in (8, 9, 16)][-1]
    assert choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=word)) == last


def test_auto_starts_anew_and_then_goes_on(tmp_path):
    """One command for the first start, a restart before the first checkpoint, and one after it."""
    folder = tmp_path / "run"
    assert choose_checkpoint(arguments(folder, resume_from_checkpoint="auto")) is None
    (folder / "runs").mkdir(parents=True)
    torn = checkpoint(folder, 8, "trainer_state.json")
    with pytest.warns(UserWarning, match="checkpoint-8 is not complete"):
        assert choose_checkpoint(arguments(folder, resume_from_checkpoint="auto")) is None
    last = checkpoint(folder, 16)
    assert choose_checkpoint(arguments(folder, resume_from_checkpoint="auto")) == last != torn


@pytest.mark.parametrize("count", [0, 2])
def test_auto_does_not_overwrite_a_model_that_has_no_checkpoint(tmp_path, count):
    assert Stages(arguments(tmp_path, resume_from_checkpoint="auto"), count).checkpoint is None
    (tmp_path / "model.safetensors").write_text("weights")
    with pytest.raises(ValueError, match="auto finds no checkpoint in .*, but model.safetensors .* another output_dir"):
        Stages(arguments(tmp_path, resume_from_checkpoint="auto"), count)
    assert (tmp_path / "model.safetensors").read_text() == "weights"


@pytest.mark.parametrize("lacking", ["trainer_state.json", "optimizer.pt", "model.safetensors", "rng_state.pth"])
def test_a_torn_checkpoint_is_passed_over(tmp_path, lacking):
    good, torn = checkpoint(tmp_path, 8), checkpoint(tmp_path, 16, lacking)
    with pytest.warns(UserWarning, match="checkpoint-16 is not complete"):
        assert choose_checkpoint(arguments(tmp_path, resume_from_checkpoint="true")) == good
    with pytest.raises(ValueError, match="checkpoint-16 is not complete .* take an earlier one"):
        choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=torn))


def test_resuming_takes_the_checkpoint_that_is_named(tmp_path):
    named = checkpoint(tmp_path, 8)
    assert choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=named)) == named
    with pytest.raises(ValueError, match="resume_from_checkpoint: there is no folder"):
        choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=str(tmp_path / "other")))


def test_recipe_and_scores_are_saved_as_json(tmp_path):
    save_run(str(tmp_path), recipe={"encoder": "x"}, scores={"eval_overall": 0.5})
    assert json.loads((tmp_path / "recipe.json").read_text()) == {"encoder": "x"}
    assert json.loads((tmp_path / "scores.json").read_text()) == {"eval_overall": 0.5}


def test_arguments_are_saved_as_json_by_the_process_that_saves(tmp_path, monkeypatch):
    (tmp_path / "training_args.bin").write_text("pickle")
    args = arguments(tmp_path / "run", seed=7)
    save_arguments(str(tmp_path), args)
    assert json.loads((tmp_path / "training_args.json").read_text())["seed"] == 7
    assert not (tmp_path / "training_args.bin").exists()
    monkeypatch.setattr(type(args), "should_save", False)
    save_arguments(str(tmp_path / "not made by this process"), args)


LETTERS = "abcdefghijklmnopqrstuvwxyz012345"
FORMS = {
    "a token": f"hf_{LETTERS}",
    "in a URL": f"https://user:hf_{LETTERS}@host/x",
    "a password in a URL": f"https://user:{LETTERS}@host/x",
    "on the command line": f"--training.hub_tokn=hf_{LETTERS}",
    "in a list": [f"hf_{LETTERS}"],
    "in nested mappings": {"a": {"b": f"hf_{LETTERS}"}},
    "as a key": {f"hf_{LETTERS}": 1},
    "as an environment has it": f"HF_TOKEN=hf_{LETTERS}",
    "of an organisation": f"api_org_{LETTERS}",
    "of GitHub": f"ghp_{LETTERS}",
    "of an API": f"sk-{LETTERS}",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_file_of_a_run_holds_a_token(form, tmp_path):
    """A mistyped key is refused before; what is left is a name, a path or an address with a token in it."""
    save_run(str(tmp_path), recipe={"encoder": form}, record={"encoder": form}, scores={"a": 1.0})
    save_arguments(str(tmp_path), arguments(tmp_path, run_name=str(form)), {"note": form})
    record = {"encoder.name": form, "training.optim_args": str(form), "tasks": ["a"], "training.seed": 7}
    write_record(tmp_path, record)
    files = {file.name: file.read_text("utf-8") for file in tmp_path.iterdir()}
    names = ["recipe.json", "record.json", "resume_record.json", "scores.json", "training_args.json"]
    assert sorted(files) == names and not [name for name, text in files.items() if LETTERS in text]
    assert json.loads(files["resume_record.json"])["training.seed"] == 7
    check_record(tmp_path, record)  # the same run is still told from another
    with pytest.raises(CheckpointError, match="training.seed was 7 and is 8") as error:
        check_record(tmp_path, record | {"training.seed": 8})
    assert LETTERS not in str(error.value)


def test_a_record_that_an_earlier_version_wrote_with_a_token_is_the_same_run(tmp_path):
    record = {"training.optim_args": f"key=hf_{LETTERS}"}
    (tmp_path / "resume_record.json").write_text(json.dumps(record))
    check_record(tmp_path, record)


def test_settings_that_came_later_had_their_default_in_records_without_them(tmp_path):
    settings = {"schedule.resample": False, "smart": {"weight": 1.0, "scale": "range"}, "surgery": {"reduction": "sum"}}
    settings |= {"tasks": ["a"], "tasks.a.loss": None, "tasks.a.focal_gamma": 2.0, "tasks.a.smooth_l1_beta": 1.0}
    earlier = {"smart": {"weight": 1.0}, "surgery": {}, "tasks": ["a"]}
    (tmp_path / FILE).write_text(json.dumps(earlier))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_record(tmp_path, settings)
    for key, value in (
        ("schedule.resample", True),
        ("tasks.a.loss", "focal"),
        ("smart", {"weight": 1.0, "scale": "labels"}),
        ("surgery", {"reduction": "mean"}),
    ):
        with pytest.raises(CheckpointError, match=key):
            check_record(tmp_path, settings | {key: value})
