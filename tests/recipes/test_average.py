"""`recipes/average.py` on tiny checkpoints."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from mtbert import MtBertForMultiTask


@pytest.fixture
def average():
    path = Path(__file__).resolve().parents[2] / "recipes" / "average.py"
    spec = importlib.util.spec_from_file_location("average", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    distances = average.main(average.parse(given))
    assert json.loads((tmp_path / "mean" / "averaged.json").read_text()) == distances
    assert list(distances) == folders
    assert (tmp_path / "mean" / "recipe.json").read_text() == "{}"
    mean = MtBertForMultiTask.from_pretrained(tmp_path / "mean")
    assert mean.heads["stars"].out_proj.bias.tolist() == [0.5] * mean.heads["stars"].out_proj.bias.numel()
    assert mean.predict(["a cat"], task="stars").labels
    assert f"{folders[1]}: {distances[folders[1]]:.2%} of the mean's norm from it" in capsys.readouterr().out
    with pytest.raises(FileExistsError, match="mean exists; give another --out, or remove it"):
        average.main(average.parse(given))
    gone = str(tmp_path / "gone")
    with pytest.raises(
        ValueError, match=f"^{gone}: no checkpoint can be read there: there is no such folder; .* give a"
    ):
        average.main(average.parse([folders[0], gone, "--out", str(tmp_path / "other")]))
    assert not (tmp_path / "other").exists()
