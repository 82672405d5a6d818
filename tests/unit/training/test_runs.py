"""The folder of a run."""

import json

import pytest

from mtbert import MtBertTrainingArguments
from mtbert.training.checkpoints import seal
from mtbert.training.runs import choose_checkpoint, save_run


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


@pytest.mark.parametrize("word", ["true", "latest"])
def test_resuming_takes_the_last_checkpoint(tmp_path, word):
    with pytest.raises(ValueError, match="no complete checkpoint in"):
        choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=word))
    last = [checkpoint(tmp_path, step) for step in (8, 9, 16)][-1]
    assert choose_checkpoint(arguments(tmp_path, resume_from_checkpoint=word)) == last


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
