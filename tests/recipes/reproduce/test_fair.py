"""The fair budget: its protocol, pilots, result files, and the table that is made from these files alone."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import yaml

from mtbert.cli.arguments import reproduce as arguments_of
from mtbert.cli.reproduce import PUBLISHED, main, planned
from mtbert.recipe import load_recipe
from mtbert.runs import bundled, fair, fair_page
from mtbert.runs.budget_keys import load
from mtbert.runs.fair import FairTable, Protocol
from mtbert.runs.finetuning import train
from mtbert.runs.result_files import Result, settings_hash

PROTOCOL = {
    "rows": ["E6", "compare/none,compare/sequential"],
    "seeds": [1],
    "compared_seeds": [1, 2],
    "same_rate": {"sequential": "none"},
    "findings": [{"finding": "sampling beats turns", "rows": ["E6", "sequential"], "scores": ["overall", "sst"]}],
}


@pytest.fixture(scope="module")
def command(encoder_dir, course_dir, tmp_path_factory):
    """A function: rows (or none for all) → a command line of the fair budget; its runs take two steps."""
    folder = tmp_path_factory.mktemp("fair")
    (folder / "protocol.yaml").write_text(yaml.safe_dump(PROTOCOL))

    def make(*more: str, results: str = "results") -> list[str]:
        places = ["--encoder", encoder_dir, "--data_dir", str(course_dir), "--output", str(folder / "runs")]
        places += ["--results", str(folder / results), "--protocol", str(folder / "protocol.yaml")]
        settings = ["--instead_of_pooler", "mean", "--mixed_precision", "no", "--budget", "fair"]
        short = ["--schedule.steps_per_epoch", "2", "--training.num_train_epochs", "1"]
        return [*(more or ["all"]), *places, *settings, *short, "--training.eval_on_start", "true"]

    return make


@pytest.fixture(scope="module")
def finished(command):
    """Run the whole table in this process; return its command, its results' folder and the started runs."""
    started = []

    def execute(run, threads):
        started.append(run)
        keys = [*run.overrides, "--training.output_dir", str(run.output), "--training.disable_tqdm", "true"]
        train(load_recipe(run.path, keys))
        assert run.finished()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fair, "execute", execute)
        args = arguments_of(command())
        page = args.results.parent / "page.md"
        page.write_text(f"# Before\n{fair_page.BEGIN}\nold\n{fair_page.END}\nafter\n")
        assert main([*command(), "--page", str(page)]) == 0
    return args, started, page


def table_of(args, **changes) -> FairTable:
    return FairTable(replace(planned(args), **changes), Protocol.read(args.protocol), args.results)


@pytest.fixture(scope="module")
def table():
    """The table of the package's protocol."""
    plan = planned(arguments_of(["all", "--budget", "fair", "--encoder", "e", "--data_dir", "d"]))
    return FairTable(plan, Protocol.read(bundled.folder() / "fair.yaml"), plan.output)


def test_the_protocol_of_the_package_covers_every_row_of_the_reports(table):
    protocol = table.protocol
    assert {row for row, entry in PUBLISHED.items() if "rows" not in entry} <= set(table.rows)
    for finding in protocol.findings:
        assert set(finding["rows"]) <= set(table.rows), finding
        assert all(table.seeds_of(table.group_of(table.rows[row])) == (1, 2, 3, 4) for row in finding["rows"])
    steps = {name: row.steps for name, row in table.rows.items()}
    half = {name for name, count in steps.items() if count == 30}
    assert half == {"B3-half", "none-half", "B4", "B5", "E2-last", "E2-full", "smart", "smart_published"}
    same = {name: table.group_of(row).name for name, row in table.rows.items() if table.group_of(row) is not row}
    assert same.keys() >= {"A4", "A5", "A6", "A8", "A9", "A11", "A12", "B3"}  # they differ in their rate alone
    assert same["A6"] == "A3" and same["A12"] == "A10" and same["B3"] == "B2"


@pytest.mark.parametrize(
    ("row", "rates"), [("A1", (1e-3, 4e-3)), ("E1-last", (1e-3, 4e-3)), ("B1", (2e-4, 5e-5)), ("E6", (2e-4, 5e-5))]
)
def test_heads_alone_have_higher_pilot_rates(table, row, rates):
    assert table.rows[row].first_rates == rates


@pytest.mark.parametrize(
    ("row", "examples"), [("E6", 19_200), ("D3", 19_200), ("B1", 19_200), ("B5", 9_600), ("E2-full", 9_600)]
)
def test_rows_draw_as_many_examples(table, row, examples):
    recipe = table.rows[row].recipe(2e-4)
    drawn = 0
    for part in recipe.in_stages():
        batch = part.training["per_device_train_batch_size"]
        tasks = len(part.tasks) if part.schedule.name == "simultaneous" else 1
        drawn += part.schedule.steps_per_epoch * part.training["num_train_epochs"] * batch * tasks
    assert drawn == examples
    for part in recipe.in_stages():
        assert part.training["learning_rate"] == (1e-3 if part.model.freeze_encoder and recipe.stages else 2e-4)


def test_pretraining_has_the_reports_share_of_texts(table):
    recipe = table.rows["E9"].recipe(2e-4)
    arguments = recipe.pretraining_arguments()
    texts = arguments.steps_per_epoch * arguments.num_train_epochs * arguments.per_device_train_batch_size
    assert texts / 19_200 == pytest.approx(7.5, rel=0.01) and recipe.pretraining["use_epoch"] == 40


# ---- settings ----


def test_the_hash_leaves_out_places_and_defaults(tmp_path):
    recipe = bundled.recipes()["compare/none"]
    base = ["--encoder", "e", "--data_dir", "x"]
    first = settings_hash(load(recipe, base))
    for more in (["--training.logging_steps", "3"], ["--tasks.sst.weight", "1.0"], ["--schedule.mixed", "false"]):
        assert settings_hash(load(recipe, [*base, *more])) == first
    assert settings_hash(load(recipe, ["--encoder", "e", "--data_dir", "y"])) == first
    assert settings_hash(load(bundled.recipes()["compare/smart"], base)) != first  # all its keys have their defaults
    for more in (["--training.learning_rate", "1e-3"], ["--tasks.sst.weight", "2"], ["--pretraining.use_epoch", "3"]):
        assert settings_hash(load(recipe, [*base, *more])) != first
    assert settings_hash(load(recipe, ["--encoder", "f", "--data_dir", "x"])) != first


def test_a_result_file_holds_the_logits_in_half_precision(tmp_path):
    logits = {"sst": np.random.default_rng(0).normal(size=(7, 5)).astype(np.float16)}
    result = Result("A1", tmp_path, 3, "0" * 16, {"tasks": {}}, {"eval_overall": 0.5}, {"seconds": 1}, [], logits, "c")
    result.write(tmp_path / "deep" / "A1-3.json")
    back = Result.read(tmp_path / "deep" / "A1-3.json", tmp_path)
    assert (back.row, back.seed, back.scores, back.commits()) == ("A1", 3, {"eval_overall": 0.5}, ["c"])
    assert np.array_equal(back.logits["sst"], logits["sst"])
    text = (tmp_path / "deep" / "A1-3.json").read_text()
    for damaged in (text[:-40], text.replace('"float16": "', '"float16": "!!'), text.replace('"log"', '"logs"')):
        (tmp_path / "bad.json").write_text(damaged)
        with pytest.raises(ValueError, match=r"bad\.json"):
            Result.read(tmp_path / "bad.json", tmp_path)


# ---- a whole table ----


def test_pilots_choose_a_rate_on_held_out_training_rows(finished):
    args, started, _ = finished
    pilots = [run for run in started if "pilots" in str(run.folder)]
    values = json.loads((args.results / "pilots" / "E6.json").read_text())
    assert [file.name for file in (args.results / "pilots").iterdir()] == ["E6.json"]  # the others have its rate
    tried = {float(rate): score for rate, score in values["rates"].items()}
    assert len(pilots) == 3 and tried.keys() >= {2e-4, 5e-5} and len(tried) == 3
    first = max((2e-4, 5e-5), key=lambda rate: tried[rate])
    assert tried.keys() - {2e-4, 5e-5} == {8e-4 if first == 2e-4 else 1.25e-5}
    assert tried[values["chosen"]] == max(tried.values())
    for run in pilots:
        recipe = run.recipe
        assert {task["data"]["dev"] for task in recipe["tasks"].values()} == {None}
        assert {task["data"]["dev_share"] for task in recipe["tasks"].values()} == {0.2}
        assert run.record["rows"] == {
            "train": {"sst": 24, "para": 48, "sts": 48},
            "dev": {"sst": 6, "para": 12, "sts": 12},
        }


def test_pilots_that_have_ended_are_not_run_again(finished, monkeypatch, tmp_path):
    args, *_ = finished
    table = FairTable(planned(args), Protocol.read(args.protocol), tmp_path)
    row, run = table.rows["E6"], []
    monkeypatch.setattr(FairTable, "_pilot", lambda table, row, rate, threads: run.append(rate) or 1 + rate)
    table._save_pilots(row, {2e-4: 1.0002})
    assert table.rate(row) is None and table.choose_rate(row, 1) == 8e-4
    assert run == [5e-5, 8e-4] and table.rate(row) == 8e-4
    assert table.choose_rate(row, 1) == 8e-4 and len(run) == 2


def test_runs_have_the_chosen_rate_and_leave_small_files(finished):
    args, started, _ = finished
    runs = [run for run in started if "pilots" not in str(run.folder)]
    assert [(run.row, run.seed) for run in runs] == [("E6", 1), ("sequential", 1), ("E6", 2), ("sequential", 2)]
    chosen = json.loads((args.results / "pilots" / "E6.json").read_text())["chosen"]
    for run in runs:
        file = args.results / f"{run.row}-{run.seed}.json"
        result = Result.read(file, run.path)
        assert result.recipe["training"]["learning_rate"] == chosen and result.scores == run.scores
        assert "encoder" not in result.recipe and str(args.output) not in file.read_text()
        assert not list(run.output.glob("model*")) and len(result.log) > 0


def test_the_logits_of_a_result_give_its_scores(finished):
    args, *_ = finished
    table = table_of(args)
    result = table.result(table.rows["E6"], 1)
    by_seed, dev = fair_page.predictions(table.rows["E6"], [result], {})
    for name, metric in (("sst", "accuracy"), ("para", "accuracy")):
        right = (by_seed[1][name] == dev[name].labels).mean()
        assert right == pytest.approx(result.scores[f"eval_{name}_{metric}"])


def test_the_table_is_made_from_the_result_files_alone(finished, command, monkeypatch, tmp_path):
    args, _, page = finished
    monkeypatch.setattr(fair, "execute", lambda *_: pytest.fail("a run began"))
    before = page.read_text()
    assert main([*command(), "--output", str(tmp_path / "elsewhere"), "--page", str(page)]) == 0  # all have ended
    assert page.read_text() == before
    assert before.startswith("# Before\n") and before.endswith("after\n") and "old" not in before
    saved = json.loads((args.results / "table.json").read_text())
    rows = {row["row"]: row for row in saved["rows"]}
    assert list(rows) == ["E6", "none", "sequential"] and rows["none"]["same_as"] == "E6"
    assert rows["none"]["scores"] == rows["E6"]["scores"] and rows["E6"]["seeds"] == [1, 2]
    assert saved["about"]["runs"] == "4 of 4"
    for name in ("table-rates.png", "table-curves.png", "findings.json", "table.csv"):
        assert (args.results / name).stat().st_size > 0


def test_findings_have_intervals(finished):
    args, _, page = finished
    (finding,) = json.loads((args.results / "findings.json").read_text())["findings"]
    values = finding["differences"]["overall"]
    assert values["low"] <= values["difference"] <= values["high"] and values["seeds"] == 2
    saved = {row["row"]: row for row in json.loads((args.results / "table.json").read_text())["rows"]}
    means = [np.mean(saved[row]["scores"]["overall"]) for row in ("E6", "sequential")]
    assert values["difference"] == pytest.approx(means[0] - means[1], abs=1e-3)  # logits in half precision
    assert f"sampling beats turns | E6 − sequential | {finding['verdict']} | overall" in page.read_text()


def test_results_of_other_settings_do_not_count(finished, tmp_path):
    args, *_ = finished
    table = table_of(args)
    assert table.result(table.rows["E6"], 1) is not None and table.result(table.rows["E6"], 3) is None
    other = table_of(args, overrides=(*planned(args).overrides, "--tasks.sst.weight", "2"))
    assert other.rate(other.rows["E6"]) is None and other.result(other.rows["E6"], 1) is None
    text = (args.results / "E6-1.json").read_text()
    (args.results / "E6-1.json").write_text(text.replace(table.result(table.rows["E6"], 1).settings, "0" * 16))
    assert table_of(args).result(table.rows["E6"], 1) is None
    (args.results / "E6-1.json").write_text(text)


def test_other_dev_rows_than_those_of_the_runs_are_refused(finished, command, monkeypatch):
    args, *_ = finished
    table = table_of(args)
    result = table.result(table.rows["E6"], 1)
    result.logits["sst"] = result.logits["sst"][:-1]
    with pytest.raises(ValueError, match=r"E6 with seed 1 has 11 dev rows of sst, but the data in .* has 12"):
        fair_page.predictions(table.rows["E6"], [result], {})


def test_a_run_that_fails_does_not_stop_the_others(command, monkeypatch, capsys):
    def execute(run, threads):
        raise ValueError(f"{run.row} broke")

    monkeypatch.setattr(fair, "execute", execute)
    assert main(command(results="none")) == 1
    shown = capsys.readouterr().out
    assert "E6, seed 1: ValueError('E6 broke')" in shown and "sequential, seed 2" in shown
    assert "no run has ended" in (arguments_of(command(results="none")).results / "table.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all", "--budget", "fair", "--seeds", "1"], "--seeds is for the other budgets"),
        (["--budget", "fair"], "the following arguments are required: rows"),
    ],
)
def test_arguments_that_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        arguments_of([*arguments, "--encoder", "e", "--data_dir", "d"])
    assert message in capsys.readouterr().err


def test_a_page_without_a_place_for_the_table_is_refused(finished, command, tmp_path):
    (tmp_path / "page.md").write_text("# nothing\n")
    with pytest.raises(ValueError, match=r"page\.md has no lines <!-- begin: fair table -->"):
        main([*command(), "--finished_only", "--page", str(tmp_path / "page.md")])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, r"p\.yaml:\d+: seed = \[1\]: there is no such key; did you mean seeds\?"),
        ({"compared_seed": [1]}, r"there is no such key; did you mean compared_seeds\?"),
        ({"findngs": []}, r"there is no such key; did you mean findings\?"),
        ({"seeds": None}, r"seeds is null, but must be a list"),
        ({"seeds": ["1"]}, r"seeds is \['1'\], but must be a list"),
        ({"seeds": []}, r"seeds is empty; give a seed"),
        ({"compared_seeds": [2, 2]}, r"compared_seeds is \[2, 2\], but must not hold a seed twice"),
        ({"rows": []}, r"rows is empty; name a row"),
        ({"rows": "E6"}, r"rows is text 'E6', but must be a list of texts"),
        ({"same_rate": {"sequential": 1}}, r"same_rate\.sequential is 1, but must be the name of a row"),
        ({"findings": ["E6"]}, r"findings"),
        ({"findings": [{"finding": "x", "rows": ["E6"], "scores": []}]}, r"findings\.0\.rows is .* 2 texts"),
        ({"findings": [{"finding": "x", "row": ["E6", "none"]}]}, r"findings\.0\.row = .* did you mean rows\?"),
        (
            {"findings": [{"finding": "x", "rows": ["E6", "none"], "score": []}]},
            r"p\.yaml:\d+: findings\.0\.score = \[\]: there is no such key; did you mean scores\?",
        ),
    ],
)
def test_a_protocol_with_other_keys_is_refused(tmp_path, changes, message):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PROTOCOL | changes, sort_keys=False))
    with pytest.raises(ValueError, match=r"p\.yaml is no protocol of the fair budget") as caught:
        Protocol.read(tmp_path / "p.yaml")
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half": ["E66"]}, r"p\.yaml:\d+: half\.0 names the row 'E66', but there is none; did you mean E6\?"),
        ({"same_rate": {"sequentiel": "none"}}, r"same_rate\.sequentiel names the row .* did you mean sequential\?"),
        (
            {"findings": [{"finding": "x", "rows": ["E6", "non"], "scores": ["overall"]}]},
            r"findings\.0\.rows names the row 'non', but there is none; did you mean none\?",
        ),
        (
            {"findings": [{"finding": "x", "rows": ["E6", "none"], "scores": ["overal"]}]},
            r"findings\.0\.scores names the score 'overal', but there is none; did you mean overall\?",
        ),
    ],
)
def test_a_protocol_that_names_what_is_not_there_is_refused(command, tmp_path, changes, message):
    (tmp_path / "p.yaml").write_text(yaml.safe_dump(PROTOCOL | changes, sort_keys=False))
    with pytest.raises(ValueError, match=message):
        FairTable(planned(arguments_of(command())), Protocol.read(tmp_path / "p.yaml"), tmp_path)


def test_the_recipes_page_shows_the_committed_results():
    folder = bundled.folder() / "results" / "fair"
    saved = json.loads((folder / "table.json").read_text())
    findings = json.loads((folder / "findings.json").read_text())["findings"]
    page = (bundled.folder() / "README.md").read_text(encoding="utf-8")
    assert fair_page.what_holds(findings) in page and fair_page.page_table(saved["rows"]) in page
    for entry in saved["rows"]:
        for seed, overall in zip(entry["seeds"], entry["scores"].get("overall", ()), strict=True):
            file = folder / f"{entry['same_as'] or entry['row']}-{seed}.json"
            assert json.loads(file.read_text())["scores"]["eval_overall"] == overall


def test_rows_of_a_group_have_their_own_descriptions_and_figures():
    entry = {"scores": {"overall": [0.5, 0.6]}, "learning_rate": 1e-3, "seeds": [1, 2], "steps": 9, "seconds": [3.0]}
    entry |= {"doubts": [], "same_as": ""}
    rows = [
        ("A", "", {"overall": 0.4}, "rate 1e-3"),
        ("B", "A", {"overall": 0.7}, "rate 1e-5. Or so"),
        ("C", "", {}, ""),
    ]
    entries = [
        {**entry, "row": row, "same_as": same, "published": published, "what": what}
        for row, same, published, what in rows
    ]
    lines = fair_page.page_table(entries).splitlines()
    assert lines[2].startswith("| A, B | A: rate 1e-3; B: rate 1e-5 | ")
    assert "| A: overall 0.4; B: overall 0.7 |" in lines[2] and lines[3].startswith("| C |  | ") and len(lines) == 4
