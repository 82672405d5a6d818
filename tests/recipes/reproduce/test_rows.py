"""Rows of a table: by name, one budget for all, checked before the first run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from table_runs import RECIPE

from mtbert.cli import reproduce
from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import PUBLISHED, main, planned
from mtbert.recipe import load_recipe
from mtbert.runs import table_plan


@pytest.mark.parametrize(
    ("names", "rows"),
    [
        (["A1-A12"], [f"A{i}" for i in range(1, 13)]),
        (["A10-12"], ["A10", "A11", "A12"]),
        (["E5,E6", "A4"], ["E5", "E6", "A4"]),
        (["A4", "A4,A3-A4"], ["A4", "A3"]),
        (["compare/pal"], ["pal"]),
        (["D1-D9"], ["D1-para", "D1-sst", "D1-sts", "D2", "D3", "D4", "D5"]),  # those that there are
    ],
)
def test_rows_by_name(names, rows):
    found = table_plan.find_rows(names)
    assert list(found) == rows and all(path.is_file() and path.stem == row for row, path in found.items())


def test_every_row_of_the_reports_has_a_recipe_and_a_published_entry():
    rows = table_plan.find_rows(["A1-A99", "B1-B99", "C1-C99", "D1-D99", "E1-E99"])
    numbers = {re.match(r"[A-E]\d+", row)[0] for row in rows}
    reports = {"A": 12, "B": 5, "C": 2, "D": 5, "E": 13}
    assert numbers == {f"{report}{n + 1}" for report, count in reports.items() for n in range(count)}
    assert {row for row, entry in PUBLISHED.items() if "rows" not in entry} == set(rows)


@pytest.mark.parametrize("name", ["Z1", "A99", "A12-A1", "Z1-Z3", "compare/nothing", "none.yaml"])
def test_unknown_rows_are_refused_with_the_known_ones(name):
    with pytest.raises(
        ValueError, match=f"there is no row '{name}'; there are: A1, A2, .*A10, A11, A12, .*folder/name"
    ):
        table_plan.find_rows(["A4", name])


def test_two_recipes_of_one_name_are_refused(write_recipe):
    with pytest.raises(ValueError, match="two recipes are named A4: .*cs224n/A4.yaml and "):
        table_plan.find_rows(["A4", write_recipe("A4")])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--seeds=1,b", "--seeds is '1,b', but must be whole numbers, 0 or more, separated by commas"),
        ("--seeds=", "--seeds is '', but must be whole numbers"),
        ("--seeds=-1", "--seeds is '-1', but must be whole numbers"),
        ("--jobs=0", "--jobs is 0, but must be 1 or more"),
    ],
)
def test_seeds_and_jobs_that_are_refused(option, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of(["A4", "--encoder", "e", "--data_dir", "d", option])
    assert message in capsys.readouterr().err


def test_a_seed_given_twice_is_one_run(arguments, write_recipe):
    args = arguments_of(arguments(write_recipe("mine"), "--seeds", "3,1,3"))
    assert [run.seed for run in table_plan.plan_runs(planned(args))] == [3, 1]


def test_all_recipes_are_checked_before_the_first_run(arguments, write_recipe, monkeypatch):
    monkeypatch.setattr(reproduce, "execute_all", lambda *_: pytest.fail("a run began"))
    bad = [write_recipe("one", schedule={"name": "anealed"}), write_recipe("two", tasks={})]
    with pytest.raises(ValueError, match=r"(?s)one: .*'anealed'.*two: .*tasks: there are none"):
        main(arguments(write_recipe("good"), *bad))


# ---- the small budget ----


@pytest.mark.parametrize(
    ("schedule", "batch_size", "steps"),
    [("annealed", None, 30), ("round_robin", 150, 30), ("simultaneous", None, 15), ("simultaneous", 16, 15)],
)
def test_the_small_budget_gives_every_schedule_as_many_examples(write_recipe, schedule, batch_size, steps):
    task = {"batch_size": batch_size, "examples_per_epoch": 7}
    path = write_recipe(
        "mine",
        schedule={"name": schedule},
        all_tasks=task,
        training={**RECIPE["training"], "early_stopping_patience": 2, "load_best_model_at_end": True},
    )
    overrides = table_plan.small_budget(path, [], 2e-4)
    recipe = load_recipe(path, [*overrides, "--training.output_dir", "out"])
    assert recipe.schedule.steps_per_epoch == steps
    assert all(each.batch_size is None for each in recipe.tasks.values())
    assert steps * 32 * (len(recipe.tasks) if schedule == "simultaneous" else 1) == 30 * 32
    assert recipe.training["num_train_epochs"] == 10 and recipe.training["learning_rate"] == 2e-4
    assert all(each.examples_per_epoch is None for each in recipe.tasks.values())
    assert recipe.training["eval_strategy"] == "no" and not recipe.training["load_best_model_at_end"]


def test_rates_of_tasks_keep_their_ratios_below_the_budgets_rate(write_recipe):
    tasks = {name: {**RECIPE["tasks"][name], "learning_rate": rate} for name, rate in (("sst", 1e-6), ("sts", 4e-6))}
    path = Path(write_recipe("a", tasks=tasks, optimizer={"per_task": "rates"}, schedule={"name": "round_robin"}))
    recipe = table_plan.load(path, ["--data_dir", "x", *table_plan.small_budget(path, ["--data_dir", "x"], 2e-4)])
    rates = {name: task.learning_rate for name, task in recipe.tasks.items()}
    assert rates == {"sst": pytest.approx(5e-5), "sts": pytest.approx(2e-4)}


def test_the_budget_is_that_of_the_recipe_with_the_command_line_s_keys(arguments, write_recipe):
    command = arguments(write_recipe("mine"), "--seeds", "4", "--schedule.name", "simultaneous")
    args = arguments_of(command)
    (run,) = table_plan.plan_runs(planned(args))
    assert run.overrides[run.overrides.index("--schedule.steps_per_epoch") + 1] == "15"
