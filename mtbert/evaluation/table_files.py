"""Tables of many runs, over seeds and beside published figures, as markdown, CSV and JSON."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from ..files import write_json, write_text, writing_file
from ..modeling.display import each_text, masked

ABOUT_A_RUN = ("steps", "encoder", "rows", "commits")  # columns of the CSV file, beside what was measured
_COMMITS = ("commit", "commits")  # 40 hexadecimal digits that are no key of wandb


def spread(values: list[float]) -> str:
    """`.712 ± .004`; one value alone has no deviation."""
    if not values:
        return ""
    text = f"{mean(values):.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def main_metrics(scores: dict[str, float], tasks: list[str]) -> dict[str, float]:
    """Each task's main score: the first that stands after its loss."""
    found = {}
    for task in tasks:
        longer = tuple(f"eval_{other}_" for other in tasks if other.startswith(f"{task}_"))
        own = [key for key in scores if key.startswith(f"eval_{task}_") and not key.startswith(longer)]
        keys = [key for key in own if not key.endswith("_loss")]
        if keys:
            found[task] = scores[keys[0]]
    return found


def to_markdown(entries: list[dict[str, Any]], about: dict[str, Any]) -> str:
    """The table as markdown, with what it was made with; tokens and passwords are masked."""
    entries, about = [_without_tokens(entry) for entry in entries], _without_tokens(about)
    names = list(dict.fromkeys(name for entry in entries for name in entry["scores"]))
    heading = ["row", "what", *names, "published", "trained parameters", "steps", "seconds", "notes"]
    lines = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    for entry in entries:
        published = " ".join(f"{name} {value}" for name, value in entry["published"].items())
        same = [f"the run of {entry['same_as']}"] if entry["same_as"] else []
        notes = "; ".join([*same, *entry["doubts"], *entry["failed"]])
        cells = [entry["row"], entry["what"], *(spread(entry["scores"].get(name, [])) for name in names), published]
        cells += [f"{entry['trainable']:,}" if entry["trainable"] is not None else "", str(entry["steps"] or "")]
        cells += [f"{mean(entry['seconds']):.0f}" if entry["seconds"] else "", notes]
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    made = [f"- {key}: {json.dumps(value) if isinstance(value, dict) else value}" for key, value in about.items()]
    return "\n".join(lines + ["", *made]) + "\n"


def write(entries: list[dict[str, Any]], about: dict[str, Any], folder: Path, title: str) -> None:
    """The same table as markdown, CSV and JSON."""
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
    """An entry of a table, such as the command line, in which tokens and passwords are masked."""
    commits = {key: values[key] for key in _COMMITS if key in values}
    return each_text(masked, values) | commits
