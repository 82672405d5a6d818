"""Search: spaces are checked before any trial, studies go on, trials are pruned, fail and are kept, best.yaml runs."""

from __future__ import annotations

import json

import optuna
import pytest
import yaml
from optuna.trial import TrialState

from mtbert.cli.arguments import search as arguments_of
from mtbert.cli.search import main, planned
from mtbert.recipe import RecipeError, load_recipe
from mtbert.runs import search
from mtbert.runs.finetuning import TrainResult

COURSE = {"format": "cs224n", "id": "id"}
RECIPE = {
    "tasks": {
        "sst": {
            "labels": 5,
            "data": {
                **COURSE,
                "text": "sentence",
                "label": "sentiment",
                "train": "ids-sst-train.csv",
                "dev": "ids-sst-dev.csv",
            },
        },
        "sts": {
            "range": [0, 5],
            "data": {
                **COURSE,
                "text": ["sentence1", "sentence2"],
                "label": "similarity",
                "train": "sts-train.csv",
                "dev": "sts-dev.csv",
            },
        },
    },
    "schedule": {"name": "proportional", "steps_per_epoch": 2},
    "training": {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 4,
        "save_strategy": "epoch",
        "eval_strategy": "epoch",
        "report_to": "none",
        "disable_tqdm": True,
        "cpu_threads": 1,
    },
}
SPACE = {
    "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True},
    "tasks.sst.weight": {"type": "float", "low": 0.5, "high": 2, "step": 0.5},
    "schedule.steps_per_epoch": {"type": "int", "low": 1, "high": 3},
    "tasks.sst.pooling": {"type": "categorical", "choices": ["cls", "mean"]},
    "model.adapter.layers": {"type": "categorical", "choices": [[0], [1], None]},
}


class _PruneAll(optuna.pruners.BasePruner):
    def prune(self, study, trial):
        return True


@pytest.fixture
def arguments(encoder_dir, course_dir, tmp_path):
    """A function: space, further arguments → a command line over tiny data."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"encoder": encoder_dir, **RECIPE}))

    def make(space, *more: str) -> list[str]:
        text = space if isinstance(space, str) else yaml.safe_dump(space, sort_keys=False)
        (tmp_path / "space.yaml").write_text(text)
        paths = ["--space", str(tmp_path / "space.yaml"), "--study", str(tmp_path / "search" / "study.db")]
        return [str(tmp_path / "recipe.yaml"), *paths, "--data_dir", str(course_dir), *more]

    return make


def plan(argv):
    return planned(arguments_of(argv))


def test_trials_are_kept_resumed_and_the_best_recipe_runs_as_it_is(finetune, arguments, tmp_path, capsys):
    argv = arguments({**SPACE, "model.adapter.size": {"type": "categorical", "choices": [12]}}, "--trials", "2")
    assert main(argv) == 0
    folder = tmp_path / "search" / "recipe"
    study = search.open_study(plan(argv))
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 2
    assert main([*argv[:-1], "1"]) == 0
    study = search.open_study(plan(argv))
    assert len(study.trials) == 3
    rates = [trial.params["training.learning_rate"] for trial in study.trials]
    assert len(set(rates)) == 3  # the third is no repetition of the first
    for trial in study.trials:
        own = folder / f"trial-{trial.number:04d}"
        scores = json.loads((own / "scores.json").read_text())
        assert scores["eval_overall"] == trial.value == trial.user_attrs["scores"]["eval_overall"]
        recipe = json.loads((own / "recipe.json").read_text())
        assert recipe["training"]["learning_rate"] == trial.params["training.learning_rate"]
        assert recipe["tasks"]["sst"]["weight"] == trial.params["tasks.sst.weight"]
        assert recipe["schedule"]["steps_per_epoch"] == trial.params["schedule.steps_per_epoch"]
        assert recipe["tasks"]["sst"]["pooling"] == trial.params["tasks.sst.pooling"]
        assert json.dumps(recipe["model"]["adapter"]["layers"]) in (
            str(trial.params["model.adapter.layers"]),
            "null",
        )
        assert list(trial.intermediate_values) == [1, 2]  # epochs
        assert (own / "model.safetensors").exists() == (trial.number == study.best_trial.number)
        assert not list(own.glob("checkpoint-*")) or trial.number == study.best_trial.number
    assert study.best_value == max(trial.value for trial in study.trials)
    shown = capsys.readouterr().out
    assert "trial 2: eval_overall" in shown and str(folder / "best.yaml") in shown.replace("\n", "")

    finetune.main([str(folder / "best.yaml")])
    again = json.loads((folder / "best" / "scores.json").read_text())
    assert again["eval_overall"] == study.best_value
    assert yaml.safe_load((folder / "best.yaml").read_text())["base"] == "../../recipe.yaml"


def test_a_trial_that_is_pruned_after_its_first_evaluation(arguments, tmp_path):
    one = plan(arguments(SPACE, "--metric", "sst_loss"))
    assert (one.metric, one.direction) == ("eval_sst_loss", "minimize")
    study = search.open_study(one, pruner=_PruneAll())
    assert search.optimize(one, study, 2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    for trial in study.trials:
        assert list(trial.intermediate_values) == [1]
        folder = tmp_path / "search" / "recipe" / f"trial-{trial.number:04d}"
        scores = json.loads((folder / "scores.json").read_text())
        assert scores["eval_sst_loss"] == trial.intermediate_values[1]
        assert scores["epoch"] == 1.0
    assert not (tmp_path / "search" / "recipe" / "best.yaml").exists()


def test_the_median_of_earlier_trials_prunes_a_worse_one(arguments):
    argv = arguments({"training.learning_rate": {"type": "categorical", "choices": [1e-3, 3.0]}})
    one = plan([*argv, "--metric", "eval_loss"])
    study = search.open_study(one, pruner=optuna.pruners.MedianPruner(1))
    for rate in (1e-3, 3.0):
        study.enqueue_trial({"training.learning_rate": rate})
    search.optimize(one, study, 2)
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE, TrialState.PRUNED]


def test_a_trial_that_fails_is_kept_with_its_error_and_the_search_goes_on(arguments, tmp_path, capsys):
    # Which schedule goes with which temperature is known only when both are drawn.
    space = {
        "schedule.name": {"type": "categorical", "choices": ["uniform", "temperature"]},
        "schedule.temperature": {"type": "categorical", "choices": [None, 2.0]},
    }
    one = plan(arguments(space))
    study = search.open_study(one)
    for name, temperature in (("uniform", 2.0), ("temperature", 2.0)):
        study.enqueue_trial({"schedule.name": name, "schedule.temperature": temperature})
    assert search.optimize(one, study, 2)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert "schedule.temperature is 2.0, which does not go with" in study.trials[0].user_attrs["note"]
    folder = tmp_path / "search" / "recipe"
    assert "RecipeError" in (folder / "trial-0000.error.txt").read_text()
    assert "does not go with" in capsys.readouterr().out
    assert "eval_overall" in (folder / "best.yaml").read_text()


def test_an_interrupted_search_goes_on_later(arguments, monkeypatch, capsys):
    argv = arguments({"training.learning_rate": SPACE["training.learning_rate"]}, "--trials", "1")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(search, "train", interrupted)
        assert main(argv) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(argv) == 0
    study = search.open_study(plan(argv))
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_only_failures_are_told_by_the_return_code(arguments, monkeypatch, capsys):
    def broken(*_, **__):
        raise OSError("disk is full")

    monkeypatch.setattr(search, "train", broken)
    argv = arguments({"training.learning_rate": SPACE["training.learning_rate"]}, "--trials", "2")
    assert main(argv) == 1
    captured = capsys.readouterr()
    assert captured.out.count("OSError('disk is full')") >= 2
    assert "no trial ended well" in captured.err


def test_data_is_encoded_again_only_where_the_encoding_changed(arguments, monkeypatch):
    from mtbert.modeling import tokenization

    encoded, encode = [], tokenization.encode_texts

    def counting(task, tokenizer, encoder, texts, pairs=None):
        if len(texts):
            encoded.append(task.name)
        return encode(task, tokenizer, encoder, texts, pairs)

    monkeypatch.setattr(tokenization, "encode_texts", counting)
    space = {
        "tasks.sst.dropout": {"type": "categorical", "choices": [0.0, 0.2]},
        "tasks.sst.max_length": {"type": "categorical", "choices": [None, 9]},
    }
    one = plan(arguments(space))
    study = search.open_study(one)
    for dropout, length in ((0.0, None), (0.2, None), (0.2, 9)):
        study.enqueue_trial({"tasks.sst.dropout": dropout, "tasks.sst.max_length": length})
    search.optimize(one, study, 2)
    assert all(trial.state is TrialState.COMPLETE for trial in study.trials[:2])
    before = len(encoded)
    search.optimize(one, study, 1)
    assert before <= 4 and encoded[before:] == ["sst", "sst"]  # train and dev of each task, once


# ---- what is refused ----


def problems(argv) -> str:
    with pytest.raises(RecipeError) as caught:
        plan(argv)
    return str(caught.value)


def test_all_problems_of_a_space_are_told_at_once_before_any_trial(arguments, tmp_path):
    space = """\
training.learning_rat: {type: float, low: 1e-5, high: 1e-3}
tasks.sst.weight: {type: float, low: 2, high: 1}
tasks.sst.dropout: {type: categorical, choices: []}
tasks.sst.pooling: {type: categorical, choices: [cls, last, first]}
tasks.sts.dropout: {type: float, low: 0, high: 0.5, log: true}
tasks.sts.max_length: {type: int, low: 8.5, high: 20, stepp: 2}
tasks.sts.weight: {type: number, low: 1, high: 2}
schedule.steps_per_epoch: {type: int, low: 0, high: 4}
training.seed: {type: int, low: 1}
training.output_dir: {type: categorical, choices: [a, b]}
model.adapter.size: {type: int, low: 12, high: 24, choices: [1]}
"""
    told = problems(arguments(space, "--metric", "eval_overal"))
    expected = [
        "space.yaml:1: training.learning_rat = 1e-05: there is no such key; did you mean learning_rate?",
        "space.yaml:2: tasks.sst.weight.low is 2, but must be at most high, which is 1",
        "space.yaml:3: tasks.sst.dropout.choices is missing or empty, but must be a list of values",
        "space.yaml:4: tasks.sst.pooling is 'last', but must be one of: ",
        "space.yaml:4: tasks.sst.pooling is 'first', but must be one of: ",
        "space.yaml:5: tasks.sts.dropout.low is 0, but must be positive with log: true",
        "space.yaml:6: tasks.sts.max_length.stepp = 2: there is no such key; did you mean step?",
        "space.yaml:7: tasks.sts.weight.type is text 'number', but must be one of: float, int, categorical",
        "space.yaml:8: schedule.steps_per_epoch is 0, but must be",
        "space.yaml:9: training.seed.high is null, but must be a number",
        "space.yaml:10: training.output_dir is set by the search itself",
        "space.yaml:11: model.adapter.size.choices is [1], but must be absent",
        "--metric is 'eval_overal', which no evaluation has; did you mean eval_overall?",
    ]
    for each in expected:
        assert each in told, told
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("[1, 2]", "a space must map dotted keys to their values, but this is"),
        ("", "a space must map dotted keys to their values, but this is null"),
        ("a: {type: int", "space.yaml:1: no valid YAML"),
        ("a: 3", "space.yaml:1: a is 3, but must be a mapping with the keys type, low"),
        ("training.seed: {type: categorical, choices: [1, true]}", "must not hold true twice"),
        ("training.seed: {type: categorical, choices: [1], low: 1, log: true}", "low is 1, but must be absent"),
        ("training.seed: {type: int, low: 1, high: 9, step: 0}", "step is 0, but must be positive"),
        ("training.seed: {type: int, low: 1, high: 9, step: 2, log: true}", "step is 2, but must be absent with log"),
        ("training.seed: {type: int, low: 1, high: 9.5}", "high is 9.5, but must be whole with type: int"),
        (
            "model.adapter: {type: categorical, choices: [null]}\nmodel.adapter.size: {type: int, low: 12, high: 24}",
            "model.adapter.size lies within model.adapter, which the space sets as a whole",
        ),
    ],
)
def test_spaces_that_are_refused(arguments, space, message):
    assert message in problems(arguments(space))


def test_the_recipe_s_own_problems_are_told_with_the_space_s(arguments):
    told = problems(arguments("a: 3", "--tasks.sst.wieght", "2"))
    assert "a is 3" in told and "did you mean weight?" in told


def test_a_number_of_trials_below_zero_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        arguments_of(arguments(SPACE, "--trials", "-1"))
    assert "--trials is -1" in capsys.readouterr().err


def test_several_processes_are_refused(arguments, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "a search is one process" in problems(arguments(SPACE))


def test_a_trial_whose_score_is_not_finite_has_failed(arguments, monkeypatch):
    wanted = plan(arguments(SPACE))
    study = search.open_study(wanted)
    result = TrainResult(None, {"eval_overall": float("nan")})
    monkeypatch.setattr(search, "train", lambda recipe, callbacks: result)
    trial = study.ask()
    with pytest.raises(ValueError, match="^eval_overall is nan, but must be finite to be searched by$"):
        search.objective(wanted, trial)
    assert "eval_overall is nan" in study.trials[0].user_attrs["note"]
    assert "eval_overall is nan" in (wanted.folder / "trial-0000.error.txt").read_text()


def test_a_study_of_something_else_is_not_gone_on_with(arguments):
    argv = arguments(SPACE, "--trials", "0")
    one = plan(argv)
    study = search.open_study(one)
    labels = search.Dimension("categorical", choices=["cls", "mean"]).labels()
    distribution = optuna.distributions.CategoricalDistribution(labels)
    study.add_trial(
        optuna.trial.create_trial(
            params={"tasks.sst.pooling": "cls"}, distributions={"tasks.sst.pooling": distribution}, value=0.5
        )
    )
    search.open_study(one)
    with pytest.raises(ValueError, match="has the metric eval_overall, not eval_loss"):
        search.open_study(plan([*argv, "--metric", "eval_loss", "--direction", "maximize"]))
    with pytest.raises(ValueError, match="has the direction maximize, not minimize"):
        search.open_study(plan([*argv, "--direction", "minimize"]))
    with pytest.raises(ValueError, match="begun with another recipe, or with other keys"):
        search.open_study(plan([*argv, "--training.weight_decay", "0.1"]))
    space = {**SPACE, "tasks.sst.pooling": {"type": "categorical", "choices": ["cls", "max"]}}
    with pytest.raises(ValueError, match=r"has other values for tasks.sst.pooling: \['cls', 'mean'\]"):
        search.open_study(plan(arguments(space)))


def test_folders_of_another_study_are_left_alone(arguments, tmp_path):
    (tmp_path / "search" / "recipe" / "trial-0000").mkdir(parents=True)
    with pytest.raises(ValueError, match="has trials of another study; give another --name"):
        search.open_study(plan(arguments(SPACE)))


def test_a_recipe_of_the_folder_is_the_searched_one_with_its_values(arguments, tmp_path):
    one = plan(arguments(SPACE, "--all_tasks.dropout", "0.3", "--tasks.sts.weight=2"))
    one.folder.mkdir(parents=True)
    values = {"tasks.sst.weight": 1.5, "model.adapter.layers": [1], "training.learning_rate": 1e-5}
    recipe = load_recipe(search.write_recipe(one, values, "trial-0000", "about"))
    expected = ["--all_tasks.dropout=0.3", "--tasks.sts.weight=2", "--tasks.sst.weight=1.5"]
    expected += ["--model.adapter.layers=[1]", "--training.learning_rate=1e-5", *one.overrides[:2]]
    assert recipe == load_recipe(
        one.recipe, [*expected, "--training.output_dir", str(tmp_path / "search" / "recipe" / "trial-0000")]
    )
