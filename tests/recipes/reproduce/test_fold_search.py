"""`mtbert search --folds`: trials are scored by folds, judged together, and proposed the same on another machine."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from mtbert.cli.arguments import search as arguments_of
from mtbert.cli.search import main
from mtbert.errors import InputError
from mtbert.recipe import load_recipe
from mtbert.runs import fold_search

SPACE = {
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "tasks.mood.pooling": {"type": "categorical", "choices": ["cls", "mean"]},
}


@pytest.fixture
def command(folder, encoder_dir):
    """A function: further arguments → a command line."""
    (folder / "space.yaml").write_text(yaml.safe_dump(SPACE))

    def make(*more: str, study: str = "search/study.db") -> list[str]:
        places = ["--space", str(folder / "space.yaml"), "--study", str(folder / study)]
        places += ["--encoder", encoder_dir, "--data_dir", str(folder)]
        places += ["--results", str(folder / "results")] if "--folds" in more else []
        return [str(folder / "recipe.yaml"), *places, *more]

    return make


@pytest.fixture
def started(made_up, monkeypatch):
    """The started runs; those of trial 1 have nearly all rows right."""
    make = fold_search.search_table

    def noting(*given):
        made_up.table = make(*given)
        return made_up.table

    monkeypatch.setattr("mtbert.cli.search.search_table", noting)
    return made_up(lambda name: 0.98 if name == "trial-0001" else 0.45)


def test_trials_are_judged_by_folds_and_found_again_elsewhere(folder, command, started, capsys):
    (folder / "dev.json").unlink()
    argv = command("--folds", "3", "--trials", "3", "--seeds", "1,2")
    assert main(argv) == 0
    assert len(started) == 4 * 6 and [name for name, *_ in started[:6]] == ["recipe"] * 6
    values = json.loads((folder / "results" / "recipe.json").read_text())
    assert values["baseline"] == "recipe" and values["chosen"] == "trial-0001" and values["better"] == ["trial-0001"]
    assert values["undecided"] == ["trial-0000", "trial-0002"] and values["about"]["runs"] == "24 of 24"
    chosen = load_recipe(folder / "results" / "chosen.yaml", ["--encoder", "e", "--training.output_dir", "o"])
    study = fold_search_study(command("--folds", "3", "--seeds", "1,2"))
    trial = study.trials[1]
    assert chosen.training["learning_rate"] == trial.params["training.learning_rate"]
    assert chosen.tasks["mood"].pooling == trial.params["tasks.mood.pooling"]
    assert not (folder / "search" / "recipe" / "best.yaml").exists()  # of the best score, which may be chance
    assert "chosen recipe" in capsys.readouterr().out

    # a new study beside the results proposes the same, and runs nothing
    shutil.rmtree(folder / "search")
    assert main(argv) == 0 and len(started) == 24
    again = fold_search_study(command("--folds", "3", "--seeds", "1,2"))
    assert [each.params for each in again.trials] == [each.params for each in study.trials]
    assert [each.value for each in again.trials] == [each.value for each in study.trials]
    # more trials go on
    assert main([*argv[:-3], "1", *argv[-2:]]) == 0 and len(started) == 30


def fold_search_study(argv):
    from mtbert.cli import search

    args = arguments_of(argv)
    folds = search.FoldPlan(args.folds, args.first_folds, tuple(args.seeds), (), args.score)
    return search.open_study(fold_search.fold_search(search.planned(args), folds))


def test_halving_goes_on_with_the_better_trials(folder, command, started):
    assert main(command("--folds", "2", "--trials", "4", "--halving", "2,4")) == 0
    lengths = {steps: sorted({name for name, count, _ in started if count == steps}) for steps in (2, 4)}
    assert len(lengths[2]) == 5 and len(lengths[4]) == 3 and {"recipe", "trial-0001"} <= set(lengths[4])


def test_a_study_of_dev_scores_is_another(command, started):
    assert main(command("--folds", "2", "--trials", "0")) == 0
    with pytest.raises(
        InputError, match="has the metric overall by 2 of 2 folds, seeds 1, not overall by 3 of 3 folds"
    ):
        main(command("--folds", "3", "--trials", "0"))
    with pytest.raises(InputError, match="not eval_overall"):
        main(command("--trials", "0"))


def test_nothing_is_run_with_finished_only(command, started):
    assert main(command("--folds", "2", "--finished_only")) == 0 and not started


def test_a_trial_that_no_recipe_takes_fails_alone(folder, command, started, capsys):
    space = {"tasks.mood.data.sample": {"type": "categorical", "choices": [20, 30]}}
    (folder / "space.yaml").write_text(yaml.safe_dump(space))
    assert main(command("--folds", "2", "--trials", "2")) == 0
    out = capsys.readouterr().out
    assert out.count("candidates are compared on the same rows, so set it for all") == 2
    assert {name for name, *_ in started} == {"recipe"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "2", "--prune_after", "3"], "--keep and --prune_after are for searches on dev"),
        (
            ["--folds", "2", "--direction", "minimize"],
            "--direction is minimize, but --folds compares by scores that rise",
        ),
        (["--results", "r"], "--results is for --folds; give --folds K, or drop it"),
        (["--seeds", "1"], "--seeds is for --folds; give --folds K, or drop it"),
        (["--finished_only"], "--finished_only is for --folds; give --folds K, or drop it"),
        (["--commit"], "--commit is for --folds; give --folds K, or drop it"),
    ],
)
def test_wrong_options_are_refused(command, more, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of(command(*more))
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_score_is_overall_or_a_task(command, started):
    with pytest.raises(InputError, match="score is 'mood_accuracy', but must be overall or a task: close, mood"):
        main(command("--folds", "2", "--metric", "eval_mood_accuracy"))
