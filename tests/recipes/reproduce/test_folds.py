"""Candidates compared by folds: what is run and read, results that go on elsewhere, halving, and the report."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from fold_runs import words_of, write

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import fold_table, main
from mtbert.errors import InputError, RecipeError
from mtbert.recipe import load_recipe
from mtbert.runs.budget_keys import load
from mtbert.runs.fold_page import markers, write_report
from mtbert.runs.result_files import Result


def test_candidates_are_compared_from_start_to_end(folder, command, runs, monkeypatch, capsys):
    """Interrupted, and resumed elsewhere from the result files alone; dev changes nothing; no row is seen before."""
    for name in ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "someone")
    subprocess.run(["git", "init", "--quiet", str(folder / "results")], check=True)
    runs.stop = 2
    with pytest.raises(KeyboardInterrupt):
        main(command("--commit"))
    files = sorted(path.name for path in (folder / "results").glob("*.json"))
    assert len(files) == len(runs) == 2 and [name.split("-fold")[0] for name in files] == ["auxiliary", "plain"]
    assert all("-fold0of2-seed1-" in name for name in files)

    # on another machine, with other dev rows that no reader takes
    shutil.rmtree(folder / "runs")
    (folder / "dev.json").write_text('{"text": 5')
    (folder / "pairs-dev.json").unlink()
    runs.stop = 99
    page = folder / "page.md"
    page.write_text("before\n" + "\n".join(markers("few")) + "\nafter\n")
    assert main(command("--commit", "--page", str(page))) == 0
    assert len(runs) == 4
    log = subprocess.run(["git", "-C", str(folder / "results"), "log", "--format=%s"], capture_output=True, text=True)
    assert len(log.stdout.splitlines()) == 4 and log.stdout.startswith("Result of auxiliary, fold 1, seed 1: overall ")
    shown = capsys.readouterr().out
    assert "undecided" in shown and "chosen recipe" in shown and "few.yaml" not in shown

    # what the models were given
    scored = {"mood": [], "close": []}
    for given in runs:
        held = words_of(row for rows in given["dev"].values() for row in rows)
        trained = words_of(row for rows in given["train"].values() for row in rows)
        assert held and trained and not held & trained and not given["test"]
        if "more" not in given["dev"]:
            for name in scored:
                scored[name] += given["dev"][name]
    for name, keys in (("mood", ["text"]), ("close", ["a", "b"])):
        rows = [json.loads(line) for line in (folder / f"{name}.json").read_text().splitlines()]
        assert sorted(scored[name]) == sorted(tuple(row[key] for key in keys) for row in rows)

    # what was written
    values = json.loads((folder / "results" / "few.json").read_text())
    assert values["about"]["runs"] == "4 of 4" and values["about"]["held_out_rows"] == {"mood": 45, "close": 60}
    assert values["better"] + values["undecided"] + values["worse"] == ["auxiliary"]
    assert [entry["candidate"] for entry in values["candidates"]] == ["plain", "auxiliary"]
    assert "Undecided: auxiliary." in page.read_text() and page.read_text().endswith("after\n")
    chosen = load_recipe(folder / "results" / "chosen.yaml", ["--encoder", "e", "--training.output_dir", "o"])
    assert set(chosen.tasks) == {"mood", "close"} and chosen.tasks["mood"].data.folds is None
    file = next((folder / "results").glob("plain-fold1*.json"))
    result = Result.read(file, folder)
    assert len(result.logits["mood"]) == len(next(g for g in runs if g["fold"] == 1)["dev"]["mood"])
    assert result.logits["mood"].dtype == np.float16 and file.stat().st_size < 20_000

    # a run with yet other dev rows has the same scores
    file.unlink()
    shutil.rmtree(folder / "runs")
    (folder / "dev.json").write_text('{"text": "good", "label": 1}\n{"text": "bad", "label": 0}')
    assert main(command()) == 0 and len(runs) == 5
    again = Result.read(file, folder)
    assert again.scores == result.scores | {k: v for k, v in again.scores.items() if k.endswith(("runtime", "second"))}
    assert all(np.array_equal(again.logits[name], result.logits[name]) for name in result.logits)

    # other training rows are noticed
    text = (folder / "mood.json").read_text()
    (folder / "mood.json").write_text(text.replace('"label": 0', '"label": 1', 1))
    with pytest.raises(InputError, match=r"has other held-out rows of task 'mood' than the data in .*; give the data"):
        main(command())


# ---- made-up runs ----


def rates(count: int) -> dict:
    return {"plain": {}, **{f"c{i}": {"training.learning_rate": i * 1e-3} for i in range(1, count)}}


def test_the_better_half_goes_on_and_rank_is_no_decision(folder, command, made_up):
    write(folder, candidates=rates(6), steps=[2, 4, 8])
    started = made_up(lambda name: 0.1 if name == "c1" else 0.5 + 0.01 * int(name[1:] if name[0] == "c" else 0))
    table = made_up.table = fold_table(arguments_of(command()))
    rounds, failed = table.run_all(1)
    assert not failed and [this.steps for this in rounds] == [2, 4, 8]
    ran = [sorted({name for name, steps, _ in started if steps == count}) for count in (2, 4, 8)]
    assert [len(names) for names in ran] == [6, 4, 3] and all("plain" in names for names in ran)
    assert len(started) == 2 * (6 + 4 + 3)
    assert rounds[0].comparison.level == pytest.approx(1 - 0.02 / 3)
    values = write_report(table, rounds, failed, "few", None)
    by_name = {entry["candidate"]: entry for entry in values["candidates"]}
    assert len(by_name) == 6 and by_name["c1"]["dropped"] and by_name["c1"]["steps"] == 2
    assert values["about"]["runs"] == "26 of 26"
    assert all(by_name[name]["verdict"] != "better" for name in by_name)
    assert values["chosen"] == "plain" and "keep plain" in (folder / "results" / "few.md").read_text()
    assert fold_table(arguments_of(command())).run_all(1, True)[0][2].comparison.entries == rounds[2].comparison.entries


def test_a_better_candidate_is_chosen_and_its_recipe_runs(folder, command, made_up):
    write(folder, candidates=rates(3), folds=3, seeds=[1, 2])
    made_up(lambda name: 0.99 if name == "c2" else 0.4)
    table = made_up.table = fold_table(arguments_of(command("--all_tasks.dropout", "0.2")))
    values = write_report(table, *table.run_all(1), "few", None)
    assert values["chosen"] == "c2" and values["better"] == ["c2"] and values["undecided"] == ["c1"]
    text = (folder / "results" / "chosen.yaml").read_text()
    assert "Decided: c2 is better than plain, by +" in text
    recipe = load_recipe(folder / "results" / "chosen.yaml", ["--encoder", "e", "--training.output_dir", "o"])
    assert recipe.training["learning_rate"] == 2e-3 and recipe.tasks["mood"].dropout == 0.2
    assert recipe.tasks["mood"].data.dev == "dev.json"
    by_task = fold_table(arguments_of(command("--all_tasks.dropout", "0.2", "--score", "close")))
    assert not by_task.run_all(1, True)[0][0].comparison.named("better")


def test_what_failed_is_named_and_not_compared(folder, command, made_up, capsys):
    write(folder, candidates=rates(3))
    started = made_up(lambda name: 0.5, failing=("c1",))
    made_up.table = fold_table(arguments_of(command()))
    assert main(command()) == 1
    values = json.loads((folder / "results" / "few.json").read_text())
    assert values["not_run"] == ["c1"] and values["undecided"] == ["c2"] and values["about"]["runs"] == "4 of 6"
    assert values["failed"] == ["c1, fold 0, seed 1: ended with 1", "c1, fold 1, seed 1: ended with 1"]
    assert "Not run to the end, and so not compared: c1" in (folder / "results" / "few.md").read_text()
    assert len(started) == 6
    shutil.rmtree(folder / "results")
    assert main(command("--finished_only")) == 0  # all runs of the folder are ignored, for it has no result files
    assert json.loads((folder / "results" / "few.json").read_text())["chosen"] is None
    assert "Nothing can be compared yet: plain, the baseline, lacks runs" in capsys.readouterr().out


def test_a_result_is_found_by_its_settings(folder, command, made_up):
    """Renamed candidates and ended runs run nothing, nor do new candidates with the settings of others."""
    started = made_up(lambda name: 0.5)
    write(folder, candidates={"plain": {}, "fast": {"training.learning_rate": 0.01}})
    made_up.table = fold_table(arguments_of(command()))
    assert main(command()) == 0 and len(started) == 4
    renamed = {"plain": {}, "quick": {"training.learning_rate": 0.01}, "again": {"training.learning_rate": 1e-2}}
    write(folder, candidates=renamed)
    assert main(command()) == 0 and len(started) == 4
    shutil.rmtree(folder / "results")
    assert main(command()) == 0 and len(started) == 4 and len(list((folder / "results").glob("*of2*"))) == 4
    for changes in ({"steps": [6]}, {"seeds": [2]}, {"folds": 3}):
        before = len(started)
        write(folder, candidates={"plain": {}, "fast": {"training.learning_rate": 0.01}}, **changes)
        made_up.table = fold_table(arguments_of(command()))
        assert main(command()) == 0 and len(started) > before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"candidates": {}}, "candidates is empty; give at least two"),
        ({"candidates": {"a/b": {}}}, "candidates.a/b: the name must begin with a letter or digit"),
        ({"candidates": {"a": 3}}, "candidates.a is 3, but must be a mapping of dotted keys to values"),
        ({"candidates": {"a": {"training.seed": 3}}}, "candidates.a.training.seed is set by the command itself"),
        ({"candidates": {"a": {"all_tasks.data.dev": 3}}}, "all_tasks.data.dev is set by the command itself"),
        ({"candidates": {"a": {"sources.s.folds": 3}}}, "candidates.a.sources.s.folds is set by the command itself"),
        ({"candidates": {"a": {"rdrop": {}, "rdrop.weight": 1.0}}}, "lies within rdrop, which is set as a whole"),
        ({"candidates": {"a": {"training.lerning_rate": 3}}}, "candidate 'a': .*did you mean learning_rate"),
        ({"candidates": {"a": {}, "b": {"tasks.mood": None}}}, "candidate 'b' lacks the task 'mood'"),
        (
            {"candidates": {"a": {}, "b": {"tasks.mood.data.sample": 9}}},
            "candidate 'b': tasks.mood.data.sample is 9, but None in the baseline; candidates are compared on the same",
        ),
        ({"candidates": {"a": {}, "b": {"tasks.mood.labels": ["x", "y"]}}}, "tasks.mood has other labels"),
        (
            {"candidates": {"a": {}, "b": {"distillation": {"teachers": ["t"]}}}},
            "candidate 'b': distillation.teachers were trained on held-out rows",
        ),
        (
            {"candidates": {"a": {}, "b": {"pretraining": {"output_dir": "p"}}}},
            "candidate 'b': pretraining.output_dir is 'p', whose encoder would have seen held-out texts",
        ),
        ({"baseline": "none"}, "baseline is 'none', but must be a candidate: plain, auxiliary"),
        ({"recipe": "other.yaml"}, "recipe is 'other.yaml', but there is no file"),
        ({"fold": 3}, "fold = 3: there is no such key; did you mean folds"),
        ({"folds": 1}, "folds is 1, but must be 2 or more"),
        ({"folds": None}, "says no number of folds; give --folds K, or folds in the file"),
        ({"first_folds": 3}, "first_folds is 3, but must be from 1 to 2, the number of folds"),
        ({"steps": [4, 2]}, r"steps is \[4, 2\], but must be 1 or more, in ascending order"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\], but must have different whole numbers"),
        ({"score": "moods"}, "score is 'moods', but must be overall or a task: close, mood"),
    ],
)
def test_wrong_candidates_are_refused_before_any_run(folder, command, made_up, changes, message):
    started = made_up(lambda name: 0.5)
    write(folder, **changes)
    with pytest.raises(InputError, match=message):
        main(command())
    assert not started


def test_too_many_folds_and_wrong_data_are_refused_before_any_run(folder, command, made_up):
    started = made_up(lambda name: 0.5)
    with pytest.raises(
        RecipeError, match="task 'mood': fold [0-2] of 200 has no row with a label, of 45 training rows"
    ):
        main(command("--folds", "200", "--first_folds", "3"))
    (folder / "mood.json").write_text('{"text": "a", "label": 7}')
    with pytest.raises(RecipeError, match="label"):
        main(command())
    assert not started


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--folds", "1"], "--folds is 1, but must be 2 or more"),
        (["--steps", "300,900"], "--steps is 300,900, but must be one number; several are for --halving"),
        (["--halving", "900,300"], "--halving is 900,300, but must be 1 or more, in ascending order"),
        (["--halving", "3-9"], "--halving is '3-9', but must be whole numbers"),
        (["--halving", "3,9", "--steps", "9"], "give one of them"),
        (["--budget", "fair"], "--budget is fair, which has a protocol of its own"),
        (["--curves"], "--curves and --protocol do not go with --folds"),
        (["A4"], "'A4' belongs to no option"),
        (["--first_folds", "0"], "--first_folds is 0, but must be 1 or more"),
    ],
)
def test_wrong_options_are_refused(command, more, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of(command(*more))
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))


@pytest.mark.parametrize("option", ["--steps=3", "--halving=3,4", "--first_folds=1", "--baseline=A4", "--score=sst"])
def test_options_of_folds_need_folds(option, capsys):
    with pytest.raises(SystemExit):
        arguments_of(["A4", "--encoder", "e", "--data_dir", "d", option])
    assert f"{option.partition('=')[0]} is for --folds; give --folds K, or drop it" in capsys.readouterr().err


def test_rows_of_a_table_are_candidates_too(encoder_dir, course_dir, tmp_path):
    given = ["--encoder", encoder_dir, "--data_dir", str(course_dir), "--output", str(tmp_path)]
    args = arguments_of(["compare/none,compare/rdrop", "--folds", "3", "--budget", "small", *given])
    table = fold_table(args)
    assert list(table.candidates) == ["none", "rdrop"] and table.baseline == "none"
    assert table.results == tmp_path / "results" and args.budget == "small"
    keys = table._settings["rdrop", None, 2][0]
    recipe = load(table.candidates["rdrop"].path, keys)
    assert all((task.data.folds, task.data.fold, task.data.dev) == (3, 2, None) for task in recipe.tasks.values())
    assert recipe.training["eval_strategy"] == "no" and not recipe.training["load_best_model_at_end"]


def test_steps_of_a_round_are_shares_of_a_candidate_s_own_length(folder, command):
    write(folder, candidates={"plain": {}, "long": {"schedule.steps_per_epoch": 30}}, steps=[10, 20])
    table = fold_table(arguments_of(command()))
    steps = {}
    for (name, budget, _), (keys, _, _) in table._settings.items():
        recipe = load(table.candidates[name].path, keys)
        steps[name, budget] = recipe.schedule.steps_per_epoch * recipe.training["num_train_epochs"]
    assert steps == {("plain", 10): 10, ("plain", 20): 20, ("long", 10): 30, ("long", 20): 60}
