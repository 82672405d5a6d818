"""A study of sharing: what it trains, how it goes on, and what it says, and does not say, of its numbers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from mtbert.cli import parsers_study
from mtbert.cli.arguments import PARSERS, PRECISIONS as KNOWN_PRECISIONS
from mtbert.cli.study import main, planned
from mtbert.errors import InputError, RecipeError
from mtbert.modeling.task_spec import ADAPTERS, TOP_ADAPTERS
from mtbert.recipe import load_recipe
from mtbert.runs import forms, study_page
from mtbert.runs.finetuning import train
from mtbert.runs.result_files import Result
from mtbert.runs.study import check_data, plan_lines, plan_study, study_name

COURSE = {"format": "cs224n", "id": "id"}
SST = {**COURSE, "text": "sentence", "label": "sentiment", "train": "ids-sst-train.csv", "dev": "ids-sst-dev.csv"}
PAIR = {**COURSE, "text": ["sentence1", "sentence2"], "label": "is_duplicate", "train": "quora-train.csv"}
STS = {**PAIR, "label": "similarity", "train": "sts-train.csv", "dev": "sts-dev.csv"}
TREE = {
    "tasks": {
        "sst": {"labels": 5, "data": SST, "weight": 2.0},
        "para": {"problem_type": "binary_classification", "labels": 2, "data": {**PAIR, "dev": "quora-dev.csv"}},
        "sts": {"range": [0, 5], "data": STS},
    },
    "schedule": {"name": "simultaneous"},
    "surgery": {"method": "pcgrad"},
    "training": {"output_dir": "unused", "learning_rate": 1e-3, "report_to": "none", "cpu_threads": 1},
}


@pytest.fixture(scope="module")
def write(encoder_dir, course_dir, tmp_path_factory):
    """A function: changes of the tree → a recipe file."""
    folder = tmp_path_factory.mktemp("study")

    def make(name: str = "three", **changes) -> str:
        tree = {**TREE, "encoder": encoder_dir, "data_dir": str(course_dir), **changes}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        return str(folder / f"{name}.yaml")

    return make


def arguments(recipe: str, output, *more: str) -> list[str]:
    short = ["--steps", "4", "--joint_steps", "20", "--every", "4", "--rows", "3", "--seeds", "1,2"]
    return [recipe, "--output", str(output), *short, *more]


def table_of(argv: list[str]):
    plan = planned(PARSERS["study"](argv))
    return plan, plan_study(plan)


@pytest.fixture(scope="module")
def in_process():
    """Runs in this process instead of one of their own; the names of those that began."""
    started = []

    def execute(run, threads):
        if not run.finished():
            started.append(f"{run.row}-{run.seed}")
            keys = [*run.overrides, "--training.output_dir", str(run.output), "--training.disable_tqdm", "true"]
            train(load_recipe(run.path, keys))
        assert run.finished()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(forms, "execute", execute)
        yield started


@pytest.fixture(scope="module")
def done(write, in_process, tmp_path_factory):
    """A whole study: its command line, and the runs that it began."""
    argv = arguments(write(), tmp_path_factory.mktemp("done"))
    assert main(argv) == 0
    return argv, list(in_process)


# ---- what is trained ----


def test_every_form_is_trained_with_every_seed_under_one_budget(done):
    argv, started = done
    names = ["alone-sst", "alone-para", "alone-sts", "together", "adapters"]
    assert started == [f"{name}-{seed}" for seed in (1, 2) for name in names]
    plan, table = table_of(argv)
    recipes = {models[0].model.name: models[0].recipe() for models in table.models.values()}
    alone, together, adapters = recipes["alone-sst"], recipes["together"], recipes["adapters"]
    assert list(alone.tasks) == ["sst"] and alone.schedule.name == "proportional" and alone.surgery is None
    assert list(together.tasks) == ["sst", "para", "sts"] and together.surgery is not None
    assert (together.affinity.every, together.affinity.rows) == (4, 3) and adapters.affinity is None
    assert together.model.adapter is None and adapters.model.adapter.type == "low_rank"
    rows = {}
    for name, recipe in recipes.items():
        tasks = len(recipe.tasks) if recipe.schedule.name == "simultaneous" else 1
        steps = recipe.schedule.steps_per_epoch * recipe.training["num_train_epochs"]
        rows[name] = steps * tasks * recipe.training["per_device_train_batch_size"]
    assert rows["alone-sst"] == 4 * 32 and rows["together"] == rows["adapters"] == pytest.approx(20 * 32, rel=0.1)
    assert {recipe.training["learning_rate"] for recipe in recipes.values()} == {1e-3}


def test_the_second_call_goes_on(done, write, in_process, tmp_path, capsys):
    argv, _ = done
    folder = tmp_path / "again"
    shutil.copytree(argv[argv.index("--output") + 1], folder)
    shutil.rmtree(folder / "runs")
    again = arguments(argv[0], folder)
    before = len(in_process)
    page = (folder / study_page.PAGE).read_text()
    assert main(again) == 0
    assert len(in_process) == before and (folder / study_page.PAGE).read_text() == page
    (folder / "results" / "together-2.json").unlink()
    assert main(again) == 0
    assert in_process[before:] == ["together-2"] and (folder / study_page.PAGE).is_file()
    assert main([*again, "--training.learning_rate", "1e-2", "--finished_only"]) == 0  # of other settings
    assert len(in_process) == before + 1
    assert "Not all runs have ended yet: alone, together, adapters" in (folder / study_page.PAGE).read_text()


def test_runs_of_another_table_with_the_same_settings_count(done, in_process, tmp_path):
    argv, _ = done
    before, results = len(in_process), tmp_path / "results"
    results.mkdir()
    for file in (Path(argv[argv.index("--output") + 1]) / "results").glob("*.json"):
        shutil.copy(file, results / f"of-another-table-{file.name}")
    assert main([*arguments(argv[0], tmp_path), "--results", str(results)]) == 0
    assert len(in_process) == before
    _, table = table_of([*arguments(argv[0], tmp_path), "--results", str(results)])
    assert {result.row for result in table.results_of("alone")[2]} == {"alone-sst", "alone-para", "alone-sts"}


def test_the_plan_trains_nothing_and_says_what_and_how_long(done, write, in_process, tmp_path, capsys):
    before = len(in_process)
    assert main(arguments(write(), tmp_path / "new", "--plan")) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == [
        "alone: a model of each task; 6 runs, 0 of them done; 4 steps each; 24 steps of 32 rows in all",
        "together: one model of all tasks; 2 runs, 0 of them done; 20 steps each; 40 steps of 32 rows in all",
        "adapters: one model with an adapter for each task (low_rank, 100); 2 runs, 0 of them done; 20 steps each; 40 "
        "steps of 32 rows in all",
        "left: 10 runs, 104 steps, 3,328 rows",
    ]
    assert re.fullmatch(r"time left: very roughly 0 minutes for one run at a time, by the sizes of .*", last)
    assert not (tmp_path / "new").exists() and len(in_process) == before
    argv, _ = done
    _, table = table_of(argv)
    assert plan_lines(table)[-1] == "nothing is left to train"
    _, table = table_of([*argv, "--seeds", "1,2,3"])
    assert plan_lines(table)[-2] == "left: 5 runs, 52 steps, 1,664 rows"
    assert plan_lines(table)[-1].startswith("time left: about 0 minutes for one run at a time")


def test_data_of_any_task_is_checked_before_the_first_run(write, in_process, tmp_path):
    before = len(in_process)
    data = {**STS, "dev": "gone.csv"}
    path = write("gone", tasks={**TREE["tasks"], "sts": {"range": [0, 5], "data": data}})
    with pytest.raises(ValueError, match=r"gone\.csv"):
        main(arguments(path, tmp_path))
    assert len(in_process) == before


def test_the_rough_time_grows_with_the_texts(write, tmp_path):
    _, table = table_of(arguments(write(), tmp_path))
    seconds = check_data(table)
    assert set(seconds) == {"sst", "para", "sts"} and seconds["para"] > 1.5 * seconds["sst"] > 0  # two texts


def test_by_default_the_joint_model_has_the_steps_of_all_single_ones(write, tmp_path):
    _, table = table_of([write(), "--output", str(tmp_path), "--steps", "40"])
    assert [table.models[name][0].steps for name in ("alone", "together")] == [40, 120]
    assert table.models["together"][0].recipe().affinity.every == 120 // 3 // 20  # each step has rows of three tasks


def test_adapters_of_the_recipe_are_those_of_the_third_form(write, tmp_path):
    model = {"adapter": {"type": "pal", "size": 12}}
    path = write(
        "adapted", model=model, optimizer={"adapter_learning_rate": 1e-2}, schedule={"name": "annealed"}, surgery=None
    )
    _, table = table_of(arguments(path, tmp_path, "--tasks.sts.adapter", "false"))
    recipes = {name: models[0].recipe() for name, models in table.models.items()}
    assert recipes["together"].model.adapter is recipes["alone"].model.adapter is None
    assert recipes["together"].optimizer.adapter_learning_rate is None and recipes["together"].tasks["sts"].adapter
    assert recipes["adapters"].model.adapter.type == "pal" and not recipes["adapters"].tasks["sts"].adapter
    _, table = table_of(arguments(write(), tmp_path, "--adapter", "none"))
    assert list(table.forms) == ["alone", "together"]


def test_keys_of_a_task_do_not_bring_it_back_where_it_is_not_trained(write, tmp_path):
    _, table = table_of(arguments(write(), tmp_path, "--tasks.sst.weight", "3"))
    alone = [model.recipe().tasks for model in table.models["alone"]]
    assert [list(tasks) for tasks in alone] == [["sst"], ["para"], ["sts"]] and alone[0]["sst"].weight == 3


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"tasks": {"sst": TREE["tasks"]["sst"]}, "surgery": None}, InputError, "has the task sst alone, which shares"),
        ({"model": {"freeze_encoder": True}, "surgery": None}, InputError, "the tasks train nothing that they share"),
        (
            {"tasks": {**TREE["tasks"], "para": {"labels": 2, "data": PAIR}}},
            InputError,
            "the tasks para have no dev rows to be compared on; give data.dev or dev_share",
        ),
        ({"training": {"optim": "lomo", "output_dir": "x"}, "surgery": None}, RecipeError, "does not go with affinity"),
        (
            {"group_weights": {"columns": {"sst": "age"}}},
            RecipeError,
            r"alone-para: group_weights.columns.sst is of no task of the recipe",
        ),
    ],
)
def test_what_gives_nothing_to_study_is_refused_before_training(write, tmp_path, changes, error, message):
    path = write("refused", **changes)
    with pytest.raises((error, InputError), match=message):
        table_of(arguments(path, tmp_path))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--steps", "0"], "--steps is 0, but must be 1 or more"),
        (["--joint_steps", "-1"], "--joint_steps is -1, but must be 1 or more"),
        (["--seeds", "1;2"], "--seeds is '1;2', but must be whole numbers"),
        (["--every", "0"], "--every is 0, but must be 1 or more"),
        (["--adapter", "pal_top"], "invalid choice: 'pal_top'"),
        (["--stpes", "3"], "there is no option --stpes; did you mean --steps?"),
    ],
)
def test_arguments_that_are_refused(write, more, message, capsys):
    with pytest.raises(SystemExit):
        PARSERS["study"]([write(), *more])
    assert message in capsys.readouterr().err
    with pytest.raises(SystemExit):
        PARSERS["study"](["gone.yaml"])
    assert "there is no file 'gone.yaml'" in capsys.readouterr().err


def test_copies_of_the_librarys_values():
    assert set(parsers_study.ADAPTERS) == set(ADAPTERS) - set(TOP_ADAPTERS)
    assert parsers_study.PRECISIONS == KNOWN_PRECISIONS


def test_a_study_is_named_after_its_recipe(tmp_path):
    assert study_name(tmp_path / "configs" / "wide" / "all.yaml") == "wide-all"
    assert study_name(tmp_path / "mine.yaml") == "mine"


# ---- what it says ----


def test_numbers_page_and_figures(done):
    argv, _ = done
    plan, _ = table_of(argv)
    found = json.loads((plan.output / study_page.NUMBERS).read_text())
    assert set(found["sharing"]) == {"raw_mean", "overall", "sst", "para", "sts"} == set(found["adapters"])
    for row in found["sharing"].values():
        assert row["low"] <= row["difference"] <= row["high"] and row["seeds"] == 2
    affinity = found["affinity"]
    assert affinity["tasks"] == ["sst", "para", "sts"] and affinity["measurements"] == 2 * len(affinity["steps"])
    for key in ("affinity", "cosines"):
        assert np.shape(affinity[key]["mean"]) == np.shape(affinity[key]["spread"]) == (3, 3)
    assert np.diag(affinity["cosines"]["mean"]) == pytest.approx(1)
    assert [row["models"] for row in found["groups"]["by_models"]] == [1, 2, 3]
    assert set(found["weights"]) == {"sst", "para", "sts"}
    forms_found = found["forms"]
    assert forms_found["alone"]["ratio"] == pytest.approx(3, rel=0.05) and forms_found["adapters"]["ratio"] > 1
    for form in forms_found.values():
        assert form["examples_per_second"] > 0 and form["predicted_per_second"] > 0 and form["seconds"] > 0
    page = (plan.output / study_page.PAGE).read_text()
    for title in ("What sharing gains", "Groups", "Affinity", "What adapters gain", "Weights", "Cost"):
        assert f"## {title}" in page
    for name in ("sharing", "adapters", "affinity", "cosines", "cosine_course"):
        assert "<text" in (plan.output / f"{name}.svg").read_text() and f"({name}.svg)" in page
        assert json.loads((plan.output / f"{name}.json").read_text())


def test_result_files_are_small_and_hold_what_was_measured(done):
    argv, _ = done
    plan, table = table_of(argv)
    files = sorted(file.name for file in plan.results.iterdir())
    assert len(files) == 10 and all(file.stat().st_size < 40_000 for file in plan.results.iterdir())
    together = table.result(table.models["together"][0], 1)
    assert [entry["step"] for entry in together.affinity["measured"]] == [4] and together.commit
    assert not list(plan.output.glob("runs/*/*/run/model*.safetensors"))
    assert table.result(table.models["alone"][0], 1).affinity == {}


def rewritten(done, tmp_path, change) -> str:
    """The page of the study after its results were changed."""
    argv, _ = done
    plan, table = table_of(argv)
    folder = tmp_path / "changed"
    shutil.copytree(plan.output, folder)
    for model, seed in table.order():
        file = folder / "results" / f"{model.model.name}-{seed}.json"
        result = Result.read(file, model.model.path)
        change(result)
        result.write(file)
    assert main([*arguments(argv[0], folder), "--finished_only"]) == 0
    return (folder / study_page.PAGE).read_text()


def test_undecided_is_said_and_no_more_where_models_differ_by_luck(done, tmp_path):
    """All models are guesses of the same kind: whichever scores higher, no task may gain or lose."""
    random = np.random.default_rng(0)

    def guess(result):
        result.logits = {
            name: random.normal(size=rows.shape).astype(np.float16) for name, rows in result.logits.items()
        }

    page = rewritten(done, tmp_path, guess)
    assert "| gains |" not in page and "| loses |" not in page
    assert page.count("undecided: sst, para, sts.") == 2
    assert "Undecided: there are fewer than four measurements." in page


def test_a_clear_gain_and_a_clear_loss_are_said(done, course_dir, tmp_path):
    lines = (course_dir / "quora-dev.csv").read_text().splitlines()[1:]
    labels = np.array([float(line.split("\t")[-1]) for line in lines]) * 2 - 1

    def change(result):
        for name in result.logits.keys() & {"para"}:
            right = result.row.startswith(("together", "adapters"))
            result.logits[name] = (labels if right else -labels)[:, None].astype(np.float16)

    page = rewritten(done, tmp_path, change)
    assert "gains: para" in page and "| para | 0.000 | 1.000 | +100.0 (+100.0 to +100.0) | gains |" in page


@pytest.mark.parametrize(
    ("norm", "shown"),
    [
        (4.0, "| sst | 0.79 (0.79 to 0.79) | 0.79 | less |"),  # 2 · 4^(-2/3)
        (125.0, "| sst | 0.08 (0.08 to 0.08) | 0.50 | less |"),  # 2 · 125^(-2/3), and a quarter of 2
    ],
)
def test_groups_and_weights_are_suggested_from_enough_measurements(done, tmp_path, norm, shown):
    random = np.random.default_rng(0)
    blocks = np.array([[1, 2, -2], [2, 1, -2], [-2, -2, 1]]) / 1000

    def change(result):
        if result.affinity:
            entry = result.affinity["measured"][0]
            result.affinity["measured"] = [
                {
                    **entry,
                    "step": step,
                    "affinity": (blocks + random.normal(size=(3, 3)) / 10000).tolist(),
                    "norms": [norm, 1.0, 1.0],
                }
                for step in range(4, 44, 4)
            ]

    page = rewritten(done, tmp_path, change)
    assert "| 2 | sst, para; sts |" in page and "The groups promise more than one model" in page
    assert shown in page


def test_a_study_whose_runs_fail_says_which_and_goes_on(write, tmp_path, monkeypatch, capsys):
    def execute(run, threads):
        raise InputError(f"{run.row} broke")

    monkeypatch.setattr(forms, "execute", execute)
    assert main(arguments(write(), tmp_path / "failing")) == 1
    shown = capsys.readouterr().out
    assert "alone-sst, seed 1: InputError('alone-sst broke')" in shown and "adapters, seed 2" in shown
    assert "Not all runs have ended yet: alone, together, adapters" in (tmp_path / "failing" / "study.md").read_text()
