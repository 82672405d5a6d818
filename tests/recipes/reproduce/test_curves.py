"""Dev curves of a table's rows: means over seeds, what has none, the figure, and evaluations under the small budget."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread

from mtbert.cli import reproduce
from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.evaluation.report import figures
from mtbert.evaluation.table_curves import table_curves, write_curves
from mtbert.recipe import load_recipe
from mtbert.runs import table_plan

KEYS = {"overall": "eval_overall", "sst accuracy": "eval_sst_accuracy", "sts pearson": "eval_sts_pearson"}


def log_of(*evaluations: tuple[float, float], steps_per_epoch: int = 30) -> list[dict]:
    """A log with (accuracy, Pearson) after each epoch, a training entry between, and a last score of another model."""
    entries = []
    for epoch, (sst, sts) in enumerate(evaluations, 1):
        at = {"epoch": float(epoch), "step": epoch * steps_per_epoch}
        scores = {"eval_overall": (2 * sst + 1 + sts) / 4, "eval_sst_accuracy": sst, "eval_sst_loss": 1 - sst}
        entries += [{**at, "loss_sst": 1.0}, {**at, **scores, "eval_sts_pearson": sts, "eval_sts_pearson_undefined": 0}]
    return [*entries, {**entries[-1], "eval_overall": 0.99, "eval_sst_accuracy": 0.99}] if entries else []


@pytest.fixture
def logged(make_run):
    """A function: log, and arguments of `make_run` → a finished run with that log."""

    def make(log, **settings):
        run = make_run(**settings)
        (run.output / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        return run

    return make


def test_a_row_s_curve_is_the_mean_of_its_seeds(logged):
    values = [[(0.2, 0.1), (0.4, 0.3), (0.5, 0.2)], [(0.3, -0.1), (0.6, 0.5), (0.5, 0.4)]]
    runs = [logged(log_of(*each), row="A1", seed=seed) for seed, each in enumerate(values)]
    found = table_curves(runs)
    assert found["seeds"] == {"A1": [0, 1]} and found["left_out"] == {}
    assert list(found["curves"]) == list(KEYS)
    for column, name in ((0, "sst accuracy"), (1, "sts pearson")):
        mean = [(first[column] + second[column]) / 2 for first, second in zip(*values, strict=True)]
        points = found["curves"][name]["A1"]
        assert [point["value"] for point in points] == pytest.approx(mean)
        assert [(point["epoch"], point["step"]) for point in points] == [(1, 30), (2, 60), (3, 90)]
    overall = [sum((2 * sst + 1 + sts) / 4 for sst, sts in pair) / 2 for pair in zip(*values, strict=True)]
    assert [point["value"] for point in found["curves"]["overall"]["A1"]] == pytest.approx(overall)


def test_a_seed_that_stopped_early_ends_the_mean(logged):
    """A mean whose seeds change from point to point would jump."""
    runs = [
        logged(log_of((0.2, 0), (0.4, 0), (0.6, 0)), seed=1),
        logged(log_of((0.4, 0), (0.8, 0)), seed=2),
        logged(log_of((0.9, 0.9)), seed=3),  # one evaluation is no curve
    ]
    found = table_curves(runs)
    assert found["seeds"] == {"A1": [1, 2]}
    assert [point["value"] for point in found["curves"]["sst accuracy"]["A1"]] == pytest.approx([0.3, 0.6])


def test_rows_without_a_curve_are_named_with_the_reason(logged, make_run):
    two = ((0.2, 0.1), (0.3, 0.2))
    runs = [
        logged(log_of(*two), row="A1"),
        logged(log_of(two[0]), row="A2"),
        make_run(row="A3"),  # no trainer_state.json
        make_run(row="A4", failed="ended with 1"),
        logged(log_of(*two), row="A5"),
        logged(log_of(*two), row="A6", seed=1),
        logged(log_of(*two, steps_per_epoch=7), row="A6", seed=2),
    ]
    runs[4].same_as = runs[0]
    found = table_curves(runs)
    assert found["seeds"] == {"A1": [1]} and {row for by_row in found["curves"].values() for row in by_row} == {"A1"}
    assert found["left_out"] == {
        "A2": "its runs were evaluated fewer than two times",
        "A3": "its runs were evaluated fewer than two times",
        "A4": "no run has ended well",
        "A5": "its runs are those of A1",
        "A6": "its seeds were evaluated at fewer than two common steps",
    }


def test_rows_of_other_tasks_have_their_own_scores(logged):
    runs = [logged(log_of((0.2, 0.1), (0.3, 0.2)), row="E4"), make_run_of_reviews(logged)]
    found = table_curves(runs)
    assert list(found["curves"]) == [*KEYS, "cfimdb accuracy"]
    assert list(found["curves"]["overall"]) == ["E4", "E2"]
    assert {name: list(rows) for name, rows in found["curves"].items()}["cfimdb accuracy"] == ["E2"]
    assert list(found["curves"]["sst accuracy"]) == ["E4"]


def make_run_of_reviews(logged):
    log = [
        {"epoch": float(epoch), "step": epoch, "eval_overall": epoch / 4, "eval_cfimdb_accuracy": epoch / 4}
        for epoch in (1, 2)
    ]
    run = logged(log, row="E2")
    run.scores = {"eval_cfimdb_loss": 0.1, "eval_cfimdb_accuracy": 0.5, "eval_overall": 0.5}
    recipe = json.loads((run.output / "recipe.json").read_text()) | {"tasks": {"cfimdb": {}}}
    (run.output / "recipe.json").write_text(json.dumps(recipe))
    return run


def test_numbers_and_figure_stand_beside_the_table(logged, tmp_path):
    runs = [logged(log_of((0.2, 0.1), (0.3, math.nan)), row=f"A{n}") for n in range(1, 13)]
    write_curves(runs, tmp_path, "mine")
    saved = json.loads((tmp_path / "mine-curves.json").read_text())
    assert list(saved["seeds"]) == [f"A{n}" for n in range(1, 13)]
    assert [point["value"] for point in saved["curves"]["sts pearson"]["A7"]] == [0.1, None]
    assert imread(tmp_path / "mine-curves.png").std() > 0
    write_curves([logged(log_of((0.2, 0.1)), row="B1")], tmp_path, "other")
    assert not list(tmp_path.glob("other*"))


def test_every_row_has_a_line_of_its_own_the_same_in_each_panel(logged):
    runs = [logged(log_of((n / 40, 0.1), (n / 20, 0.2)), row=f"A{n}") for n in range(1, 13)]
    curves = table_curves([*runs, make_run_of_reviews(logged)])["curves"]
    figure = figures.table_curves(curves)
    figure.canvas.draw()
    assert [axes.get_title() for axes in figure.axes] == [f"dev: {name}" for name in curves]
    assert all(axes.get_xlabel() == "epoch" and axes.get_ylabel() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*(f"A{n}" for n in range(1, 13)), "E2"]
    looks = {}
    for axes, (name, by_row) in zip(figure.axes, curves.items(), strict=True):
        for line, (row, points) in zip(axes.lines, by_row.items(), strict=True):
            assert line.get_xydata().tolist() == [[point["epoch"], point["value"]] for point in points], (name, row)
            look = to_hex(line.get_color()), line.get_linestyle(), line.get_marker()
            assert looks.setdefault(row, look) == look
    assert len(set(looks.values())) == len({look[:2] for look in looks.values()}) == 13
    (axes,) = figures.table_curves({"overall": {"A1": curves["overall"]["A1"]}}).axes  # one row of one score
    assert axes.get_title() == "dev: overall"


def test_the_command_writes_them(arguments, write_recipe, logged, tmp_path, monkeypatch):
    run = logged(log_of((0.2, 0.1), (0.3, 0.2)))
    monkeypatch.setattr(reproduce, "plan_runs", lambda plan: [run])
    monkeypatch.setattr(reproduce, "execute_all", lambda *_: None)
    assert reproduce.main(arguments("A1", "--title", "mine")) == 0
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"mine.md", "mine.csv", "mine.json", "mine-curves.json", "mine-curves.png"}


def test_curves_evaluate_each_epoch_of_every_stage_under_the_small_budget(arguments, write_recipe):
    stages = [{"training": {"eval_strategy": "no", "num_train_epochs": 1}}, {"training": {"num_train_epochs": 2}}]
    for name, more in (("one", {}), ("two", {"stages": stages})):
        path = write_recipe(name, **more)
        for option, wanted in (([], "no"), (["--curves"], "epoch")):
            plan = reproduce.planned(arguments_of(arguments(path, "--seeds", "1", *option)))
            (run,) = table_plan.plan_runs(plan)
            recipe = load_recipe(Path(path), [*run.overrides, "--training.output_dir", "out"])
            assert {stage.training["eval_strategy"] for stage in recipe.in_stages()} == {wanted}
            assert len(recipe.in_stages()) == (2 if more else 1)
            assert not recipe.training["load_best_model_at_end"]
    plan = reproduce.planned(
        arguments_of(arguments(path, "--seeds", "1", "--curves", "--training.eval_strategy", "no"))
    )
    (run,) = table_plan.plan_runs(plan)
    assert table_plan.load(Path(path), run.overrides).training["eval_strategy"] == "no"  # a key goes before the option
