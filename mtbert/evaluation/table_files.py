"""Write tables of many runs as markdown, CSV and JSON: means over seeds next to published figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..files import write_json, write_text, writing_file
from ..modeling.display import each_text, masked
from .published import published_cell

ABOUT_A_RUN = ("steps", "encoder", "rows", "commits")  # columns of the CSV file that describe the run
_COMMITS = ("commit", "commits")  # not masked, although 40 hexadecimal digits look like a key of wandb


def spread(values: list[float]) -> str:
    """Format the mean and standard deviation, such as `0.712 ± 0.004`; a single value has no deviation."""
    if not values:
        return ""
    text = f"{mean(values):.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def main_keys(scores: Mapping[str, float], tasks: Sequence[str]) -> dict[str, str]:
    """Return the name of each task's main score: its first score that is no loss."""
    names = {}
    for task in tasks:
        # the prefix `eval_a_` also matches the scores of a task `a_b`
        longer = tuple(f"eval_{other}_" for other in tasks if other.startswith(f"{task}_"))
        keys = [key for key in scores if key.startswith(f"eval_{task}_") and not key.startswith(longer)]
        keys = [key for key in keys if not key.endswith("_loss")]
        if keys:
            names[task] = keys[0]
    return names


def main_metrics(scores: dict[str, float], tasks: list[str]) -> dict[str, float]:
    """Return each task's main score."""
    return {task: scores[key] for task, key in main_keys(scores, tasks).items()}


def to_markdown(entries: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """Format the table as markdown, followed by command, versions and hardware; tokens and passwords are masked."""
    entries, about = [_without_tokens(entry) for entry in entries], _without_tokens(about)
    names = list(dict.fromkeys(name for entry in entries for name in entry["scores"]))
    rates = ["learning rate"] if any("learning_rate" in entry for entry in entries) else []
    heading = ["row", "what", *names, "published", *rates, "trained parameters", "steps", "seconds", "notes"]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for entry in entries:
        published = published_cell(entry["published"], entry.get("published_test", {}))
        same = [f"the run of {entry['same_as']}"] if entry["same_as"] else []
        notes = "; ".join([*same, *entry["doubts"], *entry["failed"]])
        cells = [entry["row"], entry["what"], *(spread(entry["scores"].get(name, [])) for name in names), published]
        if rates:
            rate = entry.get("learning_rate")
            cells.append("" if rate is None else f"{rate:g}")
        cells += [f"{entry['trainable']:,}" if entry["trainable"] is not None else "", str(entry["steps"] or "")]
        cells += [f"{mean(entry['seconds']):.0f}" if entry["seconds"] else "", notes]
        lines.append(markdown_row(cells))
    return "\n".join([*lines, "", about_lines(about)]) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """Format cells as a row of a markdown table."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


def about_lines(about: Mapping[str, Any]) -> str:
    """Format what the runs of a table have in common as a markdown list."""
    shown = {key: json.dumps(value) if isinstance(value, dict) else value for key, value in about.items()}
    return "\n".join(f"- {key}: {value}" for key, value in shown.items())


def write(entries: list[dict[str, Any]], about: dict[str, Any], folder: Path, title: str) -> None:
    """Write the table to `folder` as `<title>.md`, `<title>.csv` and `<title>.json`."""
    entries, about = [_without_tokens(entry) for entry in entries], _without_tokens(about)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / f"{title}.md", to_markdown(entries, about))
    write_json(folder / f"{title}.json", {"about": about, "rows": entries})
    with writing_file(folder / f"{title}.csv") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "seed", "score", "value", "published", "trainable", "seconds", *ABOUT_A_RUN])
        for entry in entries:
            sizes = [
                " ".join([f"{split}:", *(f"{task} {count}" for task, count in counts.items())])
                for split, counts in (entry["rows"] or {}).items()
            ]
            made = [entry["steps"], entry["encoder"], "; ".join(sizes), " ".join(entry["commits"])]
            for name, values in entry["scores"].items():
                for seed, value, seconds in zip(entry["seeds"], values, entry["seconds"], strict=True):
                    published = entry["published"].get(name, "")
                    writer.writerow([entry["row"], seed, name, value, published, entry["trainable"], seconds, *made])


def _without_tokens(values: dict[str, Any]) -> dict[str, Any]:
    """Mask tokens and passwords in all texts of a dict, except in commits."""
    commits = {key: values[key] for key in _COMMITS if key in values}
    return each_text(masked, values) | commits
