"""What a table says of its runs: doubts, means and deviations, in every format."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from table_runs import record

from mtbert.cli.reproduce import PUBLISHED
from mtbert.evaluation import run_tables, table_files
from mtbert.evaluation.table_files import main_metrics
from mtbert.training.methods import method_classes


def changed(part: int, **values) -> list[dict]:
    parts = record()["parameters"]
    parts[part].update(values)
    return parts


def test_a_run_in_which_all_acted_raises_no_doubt(make_run):
    assert run_tables.doubts(make_run(), method_classes()) == []


@pytest.mark.parametrize(
    ("settings", "doubt"),
    [
        ({"parameters": changed(0, trainable=0)}, "encoder is frozen, but moved"),
        ({"parameters": changed(0, moved=0.0)}, "encoder did not move"),
        ({"parameters": changed(2, moved=0.0)}, "head sts did not move"),
        ({"examples": {"1": {"sst": 9}, "2": {"sst": 8}}}, "sts was not trained"),
        ({"examples": {"1": {"sst": 4, "sts": 5}}}, "α did not move"),
        ({"adapter": {"type": "pal"}}, "there is no adapter"),
        (
            {"adapter": {"type": "pal"}, "parameters": changed(1, component="adapter", moved=0.0)},
            "adapter sst did not move",
        ),
        ({"surgery": {"method": "pcgrad"}, "measured": {"conflicts": 0.0}}, "gradients never conflicted"),
        ({"stages": [{}, {"surgery": {"method": "mgda"}}]}, "gradients never conflicted"),
        ({"smart": {"weight": 1.0}, "measured": {"smart_sst": 1e-7}}, "smart of sts is within rounding"),
        ({"rdrop": {"weight": 1.0}, "measured": {"rdrop_sts": 1e-4}}, "rdrop of sst is within rounding"),
        (
            {"proximal": {"weight": 1.0}, "measured": {"proximal_sst": 1e-7, "proximal_sts": 1e-15}},
            "proximal of sts is within rounding",
        ),
    ],
)
def test_doubts(make_run, settings, doubt):
    assert run_tables.doubts(make_run(**settings), method_classes()) == [doubt]


def test_surgery_and_regularisers_that_acted_raise_none(make_run):
    measured = {"conflicts": 0.4, "smart_sst": 1e-7, "smart_sts": 1e-9, "proximal_sst": 1e-3, "proximal_sts": 1e-4}
    acted = {"surgery": {"method": "pcgrad"}, "smart": {"weight": 1.0}, "proximal": {"weight": 1.0}}
    assert run_tables.doubts(make_run(**acted, measured=measured), method_classes()) == []


def test_a_frozen_part_that_stayed_and_shares_that_need_not_move_raise_none(make_run):
    assert run_tables.doubts(make_run(parameters=changed(0, trainable=0, moved=0.0)), method_classes()) == []
    same = {"1": {"sst": 4, "sts": 5}, "2": {"sst": 4, "sts": 5}}
    assert run_tables.doubts(make_run(row="A2", schedule="proportional", examples=same), method_classes()) == []


# ---- tables ----


def test_main_metrics_of_tasks_whose_names_begin_alike():
    scores = {"eval_sst_fine_loss": 1, "eval_sst_fine_f1_macro": 2, "eval_sst_loss": 3, "eval_sst_accuracy": 4}
    assert main_metrics(scores, ["sst_fine", "sst", "none"]) == {"sst_fine": 2, "sst": 4}


def test_markdown_csv_and_json_hold_the_same_mean_and_deviation(make_run, tmp_path):
    values = {1: (0.501, 0.612), 2: (0.523, 0.655), 3: (0.498, 0.604)}
    rows = {"train": {"sst": 30, "sts": 60}, "dev": {"sst": 12}}
    runs = [make_run("A1", seed, pair, rows=rows) for seed, pair in values.items()]
    (runs[0].folder / "commits.txt").write_text("c0ffee\n")
    runs += [make_run("mine", 1, (0.4, 0.3)), make_run("mine", 2, failed="ended with 1; see a|b")]
    entries = run_tables.table(runs, PUBLISHED, method_classes())
    about = run_tables.environment(runs, ["python", "x"])
    table_files.write(entries, about, tmp_path, "table")
    saved = json.loads((tmp_path / "table.json").read_text())
    assert saved["rows"] == entries and saved["about"]["command"] == "python x"
    assert entries[0]["scores"]["sst"] == [0.501, 0.523, 0.498] and entries[0]["seeds"] == [1, 2, 3]
    assert entries[0]["published"] == {"overall": 0.514, "sst": 0.305, "para": 0.651, "sts": 0.171}
    assert entries[0]["published_test"] == {}

    with (tmp_path / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    markdown = (tmp_path / "table.md").read_text().splitlines()
    heading = [cell.strip() for cell in markdown[0].split("|")[1:-1]]
    cells = [cell.strip() for cell in markdown[2].split("|")[1:-1]]
    shown = dict(zip(heading, cells, strict=True))
    for name, numbers in entries[0]["scores"].items():
        assert shown[name] == f"{np.mean(numbers):.3f} ± {np.std(numbers, ddof=1):.3f}"
        own = [line for line in lines if (line["row"], line["score"]) == ("A1", name)]
        assert [float(line["value"]) for line in own] == numbers and [line["seed"] for line in own] == ["1", "2", "3"]
        assert {line["published"] for line in own} == {str(entries[0]["published"].get(name, ""))}
    assert (shown["row"], shown["trained parameters"], shown["steps"], shown["seconds"]) == ("A1", "100", "20", "9")
    assert markdown[3].startswith("| mine | Its sentence. | 0.400 | 0.300 |")  # one run has no deviation
    assert r"seed 2: ended with 1; see a\|b" in markdown[3]
    assert len([line for line in lines if line["row"] == "mine"]) == 4
    told = {"encoder": "not/used", "rows": "train: sst 30 sts 60; dev: sst 12", "commits": "c0ffee", "steps": "20"}
    assert {key: lines[0][key] for key in told} == told
    assert entries[0]["encoder"] == "not/used" and entries[0]["rows"]["train"] == {"sst": 30, "sts": 60}


def test_a_row_without_a_run_that_ended_stands_in_the_table(make_run):
    (entry,) = run_tables.table([make_run(failed="ended with 1")], PUBLISHED)
    assert entry["scores"] == {} and entry["steps"] is None
    assert "| A1 | encoder frozen" in table_files.to_markdown([entry], {})


def test_published_figures_of_the_test_set_are_labelled_and_the_csv_file_has_those_of_dev(make_run, tmp_path):
    entries = run_tables.table([make_run("B5"), make_run("A4")], PUBLISHED, method_classes())
    table_files.write(entries, {}, tmp_path, "table")
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert "| overall 0.78 sst 0.518 para 0.88 sts 0.886 (test: overall 0.784 sst 0.531 " in lines[2]
    assert "| overall 0.651 sst 0.51 para 0.759 sts 0.368 (test, the highest of A4, A5 and A11; " in lines[3]
    with (tmp_path / "table.csv").open(newline="") as file:
        found = {(line["row"], line["score"]): line["published"] for line in csv.DictReader(file)}
    assert (found["B5", "sst"], found["A4", "sst"]) == ("0.518", "0.51")
