"""The candidates that come with mtbert: listed beforehand, no more runs than stated, and each changes something."""

from __future__ import annotations

import pytest

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import fold_table
from mtbert.runs.budget_keys import load, total_steps
from mtbert.runs.bundled import folder


@pytest.mark.parametrize(("name", "most"), [("small", 20), ("base", 10)])
def test_candidates_of_the_package(name, most):
    file = folder() / "candidates" / f"{name}.yaml"
    table = fold_table(arguments_of(["--candidates", str(file), "--encoder", "e", "--data_dir", "d"]))
    assert table.baseline == "plain" and len(table.candidates) * len(table.folds.cells) == most
    hashes = [digest for _, _, digest in table._settings.values()]
    assert len(set(hashes)) == len(hashes) == most
    lengths = {}
    for (candidate, steps, fold), (keys, pretrained, _) in table._settings.items():
        recipe = load(table.candidates[candidate].path, keys)
        lengths[candidate] = total_steps(recipe)
        assert steps == 900 and pretrained is None and set(recipe.tasks) >= {"sst", "para", "sts"}
        for task in recipe.tasks.values():
            assert (task.data.folds, task.data.fold, task.data.dev, task.data.test) == (3, fold, None, None)
    assert lengths == dict.fromkeys(table.candidates, 900) | ({"longer": 1350} if name == "base" else {})
