"""The table, the figures and the findings of the fair budget, from result files alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from ..errors import InputError
from ..evaluation.published import published_cell
from ..evaluation.report.figures import score_by_rate
from ..evaluation.report.write import write_figure
from ..evaluation.row_differences import DevTask, findings_table, row_difference
from ..evaluation.run_tables import AVERAGES, table
from ..evaluation.table_curves import write_curves
from ..evaluation.table_files import about_lines, markdown_row, spread, write
from ..files import write_json, write_text
from .dev_rows import DevRows, Predictions, predictions_by_seed, read_dev_rows
from .fair import FairTable, Row
from .result_files import Result

TITLE = "table"
BEGIN, END = "<!-- begin: fair table -->", "<!-- end: fair table -->"


def results_of(fair: FairTable) -> list[Result]:
    """Return the results of all rows; a row without any has one that says so."""
    results: list[Result] = []
    for row in fair.wanted:
        group = fair.group_of(row)
        done = [result for seed in fair.seeds_of(group) if (result := fair.result(row, seed)) is not None]
        if not done:
            done = [Result(row.name, row.path, 0, row.model_key, failed="no run has ended")]
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
    text = "\n".join([what_holds(findings), "", page_table(entries), "", about_lines(about)])
    if page is not None:
        replace_between(page, text, BEGIN, END)
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
    dev: dict[str, DevRows] = {}
    found = {}
    for first, second in sorted(pairs):
        if first in by_row and second in by_row:
            sides = [predictions(fair.rows[row], by_row[row], dev) for row in (first, second)]
            tasks = sides[0][1].keys() & sides[1][1].keys()
            both = {name: dev[name].task for name in fair.rows[first].unrated.tasks if name in tasks}
            found[first, second] = row_difference(sides[0][0], sides[1][0], both)
    return found


def predictions(row: Row, results: Sequence[Result], dev: dict[str, DevRows]) -> tuple[Predictions, dict[str, DevTask]]:
    """Return the predictions of a row's results, and the dev rows of its tasks.

    Args:
        row: the row.
        results: its results.
        dev: task → its dev rows; what is missing is read and added.

    Raises:
        InputError: a result has other dev rows than the data.
    """
    recipe = row.unrated
    specs = {name: task.spec(name) for name, task in recipe.tasks.items()}
    read_dev_rows(recipe, results[0].scores, dev)
    by_seed = predictions_by_seed(results, specs, dev, str(recipe.data_dir))
    return by_seed, {name: dev[name].task for name in specs}


# ---- text and figures ----


def what_holds(findings: Sequence[Mapping[str, Any]]) -> str:
    """Format the findings as a markdown table, and name those whose rows were not run below it."""
    order = ("held", "reversed", "undecided")
    judged = [finding for finding in findings if finding["verdict"] in order]
    lines = ["| finding | rows | verdict | difference with its 95 % interval | seeds |", "|---|---|---|---|---|"]
    for finding in sorted(judged, key=lambda finding: order.index(finding["verdict"])):
        cells = [
            f"{name} {values['difference']:+.3f} ({values['low']:+.3f} to {values['high']:+.3f})"
            for name, values in finding["differences"].items()
        ]
        seeds = max((values["seeds"] for values in finding["differences"].values()), default="")
        rows = " − ".join(finding["rows"])
        lines.append(markdown_row([finding["finding"], rows, finding["verdict"], "; ".join(cells), str(seeds)]))
    lacking = [finding["finding"] for finding in findings if finding["verdict"] not in order]
    if lacking:
        lines += ["", f"Not run yet: {'; '.join(lacking)}."]
    return "\n".join(lines)


def page_table(entries: Sequence[Mapping[str, Any]]) -> str:
    """Format the rows that have runs as a markdown table; rows of one group share a line. Name the others below it."""
    done = [entry for entry in entries if entry["seeds"] and not entry["same_as"]]
    tasks = [name for name in dict.fromkeys(name for entry in done for name in entry["scores"]) if name not in AVERAGES]
    names = [*tasks, "overall"]
    heading = ["row", "what", *names, "published", "learning rate", "seeds", "steps", "seconds", "notes"]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for entry in done:
        group = [entry, *(other for other in entries if other["same_as"] == entry["row"])]
        whats = {each["row"]: each["what"].split(". ")[0].rstrip(".") for each in group}
        figures = {each["row"]: published_cell(each["published"], {}) for each in group}
        cells = [", ".join(whats), _by_row(whats)]
        cells += [spread(entry["scores"].get(name, [])) for name in names]
        cells += [
            _by_row({row: figure for row, figure in figures.items() if figure}),
            f"{entry['learning_rate']:g}",
            str(len(entry["seeds"])),
            str(entry["steps"]),
        ]
        cells += [f"{mean(entry['seconds']):.0f}", "; ".join(entry["doubts"])]
        lines.append(markdown_row(cells))
    lacking = [entry["row"] for entry in entries if not entry["seeds"]]
    if lacking:
        lines += ["", f"Not run yet: {', '.join(lacking)}."]
    return "\n".join(lines)


def _by_row(texts: Mapping[str, str]) -> str:
    """Join the texts of the rows of a group, each after its row's name; a single text stands alone."""
    if len(texts) < 2:
        return "".join(texts.values())
    return "; ".join(f"{row}: {text}" for row, text in texts.items())


def pilot_rates(fair: FairTable) -> dict[str, dict[str, Any]]:
    """Return the pilots of each model: row → `rates` (rate → held-out overall score) and `chosen`."""
    found = {}
    for row in fair.wanted:
        pilots = fair.pilots(row)
        if pilots.get("chosen") is not None:
            found[row.name] = {"rates": pilots["rates"], "chosen": pilots["chosen"]}
    return found


def replace_between(page: Path, text: str, begin: str, end: str) -> None:
    """Replace what is between two lines of a markdown file.

    Raises:
        InputError: the file lacks these lines.
    """
    old = page.read_text(encoding="utf-8") if page.is_file() else ""
    pattern = re.compile(f"{re.escape(begin)}\n.*?{re.escape(end)}", re.DOTALL)
    if not pattern.search(old):
        raise InputError(f"{page} has no lines {begin} and {end}; add them where the table belongs")
    write_text(page, pattern.sub(lambda _: f"{begin}\n\n{text}\n{end}", old))
