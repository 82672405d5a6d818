"""The report on candidates that folds compared: what was decided, what was not, and the recipe to go on with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..evaluation.table_files import about_lines, markdown_row
from ..files import write_json, write_text
from ..modeling.display import each_text, masked
from .fair_page import replace_between
from .fold_table import FoldTable, Round

CHOSEN = "chosen.yaml"
VERDICTS = ("better", "undecided", "worse")


def markers(title: str) -> tuple[str, str]:
    """Return the two lines of a page between which a table stands."""
    return f"<!-- begin: folds {title} -->", f"<!-- end: folds {title} -->"


def report(table: FoldTable, rounds: Sequence[Round], failed: Sequence[str] = ()) -> dict[str, Any]:
    """Return what was decided, ready for JSON.

    Returns:
        `chosen`: the best of the candidates that are better than the baseline in the last round, else the baseline;
        None if that was not run. `baseline`, `score`, `better`, `undecided`, `worse`: names; `not_run`: those that lack
        runs. `candidates`: their entries (see `Comparison`) of their last round, with its `steps` and whether the
        candidate was `dropped`. `about`: folds, seeds, runs, held-out rows, level, code and machine. `notes` and
        `failed`: sentences.
    """
    entries: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    for this in rounds:
        if this.comparison is None:
            continue
        for entry in this.comparison.entries:
            dropped = entry["candidate"] in this.dropped
            entries[entry["candidate"]] = {**entry, "steps": this.steps, "dropped": dropped}
        notes += this.comparison.notes
    named: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for name, entry in entries.items():
        named.setdefault(entry["verdict"], []).append(name)
    last = rounds[-1].comparison
    chosen = None
    if last is not None:
        chosen = (last.named("better") or [table.baseline])[0]
    return {
        "chosen": chosen,
        "baseline": table.baseline,
        "score": table.folds.score,
        **{verdict: named[verdict] for verdict in VERDICTS},
        "not_run": [name for name in table.candidates if name not in entries or name in rounds[-1].incomplete],
        "candidates": list(entries.values()),
        "about": _about(table, rounds),
        "notes": list(dict.fromkeys(notes)),
        "failed": list(failed),
    }


def _about(table: FoldTable, rounds: Sequence[Round]) -> dict[str, Any]:
    folds = table.folds
    used = folds.first_folds or folds.folds
    planned = sum(_planned(table, number) for number in range(len(folds.budgets)))
    records, commits = [], set()
    for this in rounds:
        for name in table.candidates:
            for cell in folds.cells:
                if (result := table.result(name, this.steps, cell)) is not None:
                    records.append(result.record)
                    commits.add(result.commit[:7])
    rows: dict[str, int] = {}
    for by_task in table.rows.values():
        for task, held in by_task.items():
            rows[task] = rows.get(task, 0) + len(held.held.labels)
    kept = {key: list(dict.fromkeys(str(record.get(key)) for record in records)) for key in ("device", "precision")}
    return {
        "folds": f"{used} of {folds.folds}, by the hash of the text",
        "seeds": list(folds.seeds),
        "steps": list(folds.steps) or "as the recipes say",
        "runs": f"{sum(this.runs for this in rounds)} of {planned}",
        "held_out_rows": rows,
        "level": f"{folds.level:.4g}, of all differences of a round together",
        "commits": ", ".join(sorted(commits)),
        **{key: values[0] if len(values) == 1 else values for key, values in kept.items() if values},
    }


def _planned(table: FoldTable, number: int) -> int:
    """Return the number of runs of a round."""
    others = len(table.candidates) - 1
    for _ in range(number):
        others = (others + 1) // 2
    return (others + 1) * len(table.folds.cells)


# ---- text ----


def to_markdown(values: Mapping[str, Any]) -> str:
    """Format a report as markdown: the decision, the table, and what the runs have in common."""
    baseline = values["baseline"]
    tasks = list(values["candidates"][0]["tasks"]) if values["candidates"] else []
    heading = ["candidate", values["score"], *tasks, f"difference from {baseline}", "verdict", "steps"]
    lines = [decision(values), "", markdown_row(heading), "|" + "---|" * len(heading)]
    for entry in sorted(values["candidates"], key=lambda entry: (entry["dropped"], -entry["score"])):
        is_baseline = entry["candidate"] == baseline
        cells = [entry["candidate"], _interval(entry, "score", "low", "high", "{:.4f}")]
        cells += [_score_and_difference(entry["tasks"][task], is_baseline) for task in tasks]
        cells.append("" if is_baseline else _interval(entry, "difference", "difference_low", "difference_high"))
        verdict = entry["verdict"] + (", dropped by rank" if entry["dropped"] else "")
        lines.append(markdown_row([*cells, verdict, str(entry["steps"] or "")]))
    if values["not_run"]:
        lines += ["", f"Not run to the end, and so not compared: {', '.join(values['not_run'])}."]
    lines += ["", *(f"- {note}" for note in [*values["notes"], *values["failed"]]), about_lines(values["about"])]
    return "\n".join(lines)


def _interval(entry: Mapping[str, Any], value: str, low: str, high: str, form: str = "{:+.4f}") -> str:
    if entry[low] is None:
        return form.format(entry[value])
    return f"{form.format(entry[value])} ({form.format(entry[low])} to {form.format(entry[high])})"


def _score_and_difference(entry: Mapping[str, Any], is_baseline: bool) -> str:
    text = f"{entry['score']:.4f}"
    return text if is_baseline else f"{text} ({entry['difference']:+.4f})"


def decision(values: Mapping[str, Any]) -> str:
    """Return sentences that say what was decided, what was not, and what to go on with."""
    baseline, entries = values["baseline"], {entry["candidate"]: entry for entry in values["candidates"]}
    if values["chosen"] is None:
        return f"Nothing can be compared yet: {baseline}, the baseline, lacks runs."
    sentences = []
    for verdict in ("better", "worse"):
        for name in values[verdict]:
            differs = _interval(entries[name], "difference", "difference_low", "difference_high")
            sentences.append(f"Decided: {name} is {verdict} than {baseline}, by {differs}.")
    if values["undecided"]:
        sentences.append(f"Undecided: {', '.join(values['undecided'])}.")
    if values["chosen"] != baseline:
        sentences.append(f"Chosen: {values['chosen']}, the best of those that are better.")
    elif len(entries) > 1:
        sentences.append(f"No candidate was decided to be better: keep {baseline}.")
        undecided = [entries[name] for name in values["undecided"] if entries[name]["difference_high"] is not None]
        if undecided:
            least = min(entry["difference_high"] - entry["difference"] for entry in undecided)
            sentences.append(f"Differences below {least:.4f} could not be seen; more folds, seeds or rows show them.")
    return " ".join(sentences)


def write_report(
    table: FoldTable, rounds: Sequence[Round], failed: Sequence[str], title: str, page: Path | None
) -> dict[str, Any]:
    """Write `<title>.md`, `<title>.json` and `chosen.yaml` into the folder of the results, and the text into a page.

    Returns:
        The report.

    Raises:
        InputError: the page lacks the lines that `markers` names.
    """
    values = report(table, rounds, failed)
    commits = values["about"].pop("commits")
    values = each_text(masked, values)
    values["about"]["commits"] = commits
    table.results.mkdir(parents=True, exist_ok=True)
    text = to_markdown(values)
    write_text(table.results / f"{title}.md", f"{text}\n")
    write_json(table.results / f"{title}.json", values)
    if values["chosen"] is not None:
        tree = yaml.safe_dump(table.chosen_tree(values["chosen"]), sort_keys=False, allow_unicode=True)
        about = decision(values).replace("\n", " ")
        path = table.results / CHOSEN
        launch = f"mtbert finetune {path} --encoder DIR_OR_HUB_NAME --data_dir DIR --training.output_dir DIR"
        write_text(path, f"# {launch}\n# {values['chosen']}, by folds: {about}\n{tree}")
    if page is not None:
        replace_between(page, text, *markers(title))
    return values
