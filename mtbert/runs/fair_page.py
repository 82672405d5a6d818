"""The table, the figures and the findings of the fair budget, from result files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..data.splits import load_task
from ..errors import InputError
from ..evaluation.metrics import labelled_rows
from ..evaluation.report.figures import score_by_rate
from ..evaluation.report.write import write_figure
from ..evaluation.row_differences import DevTask, findings_table, row_difference
from ..evaluation.run_tables import table
from ..evaluation.table_curves import write_curves
from ..evaluation.table_files import main_keys, to_markdown, write
from ..files import write_json, write_text
from ..modeling.checkpoint_loading import read_json
from ..modeling.decoding import decisions
from .fair import PILOTS, FairTable, Row
from .result_files import Result

TITLE = "table"
BEGIN, END = "<!-- begin: fair table -->", "<!-- end: fair table -->"
Predictions = dict[int, dict[str, np.ndarray]]  # seed → task → predictions of labelled dev rows


def results_of(fair: FairTable) -> list[Result]:
    """Return the results of all rows; a row without any has one that says so."""
    results: list[Result] = []
    for row in fair.wanted:
        group = fair.group_of(row)
        done = [result for seed in fair.seeds_of(group) if (result := fair.result(row, seed)) is not None]
        if not done:
            done = [Result(row.name, row.path, 0, row.model_key, failed="not run yet")]
        if group is not row:
            for result in done:
                result.same_as = Result(group.name, group.path, result.seed, group.model_key)
        results += done
    return results


def write_page(fair: FairTable, published: Mapping[str, Any], methods: Sequence[Any], page: Path | None) -> str:
    """Write table, figures and findings into the folder of the results, and the text also into a page.

    Args:
        fair: the table.
        published: the reports' figures.
        methods: classes of training methods.
        page: a markdown file with the lines `BEGIN` and `END`; what is between them is replaced. None: none.

    Returns:
        The text, markdown.

    Raises:
        InputError: the page lacks these lines.
    """
    results = results_of(fair)
    entries = table(results, published, methods)
    for entry in entries:
        entry["learning_rate"] = fair.rate(fair.rows[entry["row"]])
    done = [result for result in results if not result.failed]
    about = _about(fair, done)
    findings = findings_table(fair.protocol.findings, differences(fair, done))
    write(entries, about, fair.results, TITLE)
    write_json(fair.results / "findings.json", {"findings": findings})
    write_curves(results, fair.results, TITLE)
    rates = pilot_rates(fair)
    if rates:
        write_figure(fair.results, f"{TITLE}-rates", {"rates": rates}, lambda numbers: score_by_rate(numbers["rates"]))
    text = "\n".join([what_holds(findings), "", to_markdown(entries, about)])
    if page is not None:
        _replace_between(page, text)
    return text


def _about(fair: FairTable, done: Sequence[Result]) -> dict[str, Any]:
    planned = list(fair.order())
    finished = sum(fair.result(row, seed) is not None for row, seed in planned)
    kept = ("device", "threads", "precision", "versions")
    found: dict[str, list[Any]] = {key: [] for key in kept}
    for result in done:
        for key, values in found.items():
            if result.record.get(key) not in values:
                values.append(result.record.get(key))
    commits = sorted({result.commit[:7] for result in done})
    about: dict[str, Any] = {"runs": f"{finished} of {len(planned)}", "commits": ", ".join(commits)}
    return about | {key: values[0] if len(values) == 1 else values for key, values in found.items() if values}


# ---- differences ----


def differences(fair: FairTable, done: Sequence[Result]) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Return the differences of the rows that a finding compares; see `row_difference`."""
    by_row: dict[str, list[Result]] = {}
    for result in done:
        by_row.setdefault(result.row, []).append(result)
    pairs = {(finding["rows"][0], finding["rows"][1]) for finding in fair.protocol.findings}
    dev: dict[str, tuple[DevTask, np.ndarray]] = {}
    found = {}
    for first, second in sorted(pairs):
        if first in by_row and second in by_row:
            sides = [predictions(fair.rows[row], by_row[row], dev) for row in (first, second)]
            tasks = sides[0][1].keys() & sides[1][1].keys()
            both = {name: dev[name][0] for name in fair.rows[first].unrated.tasks if name in tasks}
            found[first, second] = row_difference(sides[0][0], sides[1][0], both)
    return found


def predictions(
    row: Row, results: Sequence[Result], dev: dict[str, tuple[DevTask, np.ndarray]]
) -> tuple[Predictions, dict[str, DevTask]]:
    """Return the predictions of a row's results, and the dev rows of its tasks.

    Args:
        row: the row.
        results: its results.
        dev: task → its dev rows, and the positions of those with a label; what is missing is read and added.

    Raises:
        InputError: a result has other dev rows than the data.
    """
    recipe = row.unrated
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    keys = main_keys(results[0].scores, list(specs))
    for name, task in recipe.tasks.items():
        if name not in dev:
            split = load_task(specs[name], task.data, recipe.data_dir).splits["dev"]
            labels = np.asarray(split.with_format("numpy")["label"][:], dtype=np.float64)
            labelled = np.flatnonzero(labelled_rows(specs[name], labels))
            metric = keys[name].removeprefix(f"eval_{name}_")
            dev[name] = DevTask(metric, labels[labelled]), np.concatenate([labelled, [len(labels)]])
    by_seed: Predictions = {}
    for result in results:
        by_seed[result.seed] = {}
        for name, logits in result.logits.items():
            *labelled, count = dev[name][1]
            if len(logits) != count:
                raise InputError(
                    f"the result of {row.name} with seed {result.seed} has {len(logits):,} dev rows of {name}, but the "
                    f"data in {recipe.data_dir} has {count:,}; give the data that the runs had"
                )
            rows = logits[np.asarray(labelled, dtype=np.int64)].astype(np.float64)
            by_seed[result.seed][name] = np.asarray(decisions(specs[name], rows), dtype=np.float64)
    return by_seed, {name: dev[name][0] for name in specs}


# ---- text and figures ----


def what_holds(findings: Sequence[Mapping[str, Any]]) -> str:
    """Format the findings as a markdown table; those whose rows were not run come last."""
    order = ("held", "reversed", "undecided", "not run")
    lines = ["| finding | rows | verdict | difference with its 95 % interval | seeds |", "|---|---|---|---|---|"]
    for finding in sorted(findings, key=lambda finding: order.index(finding["verdict"])):
        cells = [
            f"{name} {values['difference']:+.3f} ({values['low']:+.3f} to {values['high']:+.3f})"
            for name, values in finding["differences"].items()
        ]
        seeds = max((values["seeds"] for values in finding["differences"].values()), default="")
        rows = " − ".join(finding["rows"])
        lines.append(f"| {finding['finding']} | {rows} | {finding['verdict']} | {'; '.join(cells)} | {seeds} |")
    return "\n".join(lines)


def pilot_rates(fair: FairTable) -> dict[str, dict[str, Any]]:
    """Return the pilots of each model: row → `rates` (rate → held-out overall score) and `chosen`."""
    found = {}
    for row in fair.wanted:
        file = fair.results / PILOTS / f"{row.name}.json"
        if file.is_file() and fair.rate(row) is not None:
            values = read_json(file, "remove it, and the pilots are run again", limited=False)
            found[row.name] = {"rates": values["rates"], "chosen": values["chosen"]}
    return found


def _replace_between(page: Path, text: str) -> None:
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(f"{re.escape(BEGIN)}\n.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(old):
        raise InputError(f"{page} has no lines {BEGIN} and {END}; add them where the table belongs")
    write_text(page, pattern.sub(lambda _: f"{BEGIN}\n\n{text}\n{END}", old))
