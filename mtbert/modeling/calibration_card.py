"""What a model card and the terminal say of a calibration: the rule by which the model decides, and its figures."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from .display import display
from .task_spec import TaskSpec

BEGIN, END = "<!-- decisions -->", "<!-- end of decisions -->"
RULE = (
    "Wherever this model predicts (`predict`, pipeline, files), a calibrated task decides by one rule. Logits "
    "divided by its temperature give probabilities. A label of a multi-label task, or the second of two classes, "
    "is given where its probability reaches its threshold (where it has none: where it is above ½). A set holds "
    "the labels whose probability is at least 1 − q, an interval is score ± q. A row whose confidence is below "
    "`abstain_below` is marked as one that a person should decide. Figures are cross-fitted on held-out rows: "
    "coverage is the mean over rows like those, not a promise for each row, class or other data."
)
NOT_CALIBRATED = "Probabilities are not calibrated, and labels or scores carry"


def summary(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, figure) of a task's calibration; `figures` as in calibration.json."""
    fitted, lines = figures["calibration"], []
    if "nll" in figures:
        loss, ece = figures["nll"], {side: figures["reliability"][side]["ece"] for side in ("before", "after")}
        lines.append(("temperature", f"{fitted['temperature']:.3f}"))
        lines.append(("log loss", f"{loss['before']:.4f} → {loss['after']:.4f}"))
        lines.append(("calibration error (ECE)", f"{ece['before']:.4f} → {ece['after']:.4f}"))
    for name, label in figures.get("thresholds", {}).items():
        if label["threshold"] is not None:
            f1 = f"{_number(label['without']['f1'])} → {_number(label['with']['f1'])}"
            rates = f"precision {_number(label['with']['precision'])}, recall {_number(label['with']['recall'])}"
            lines.append((f"threshold of {name!r}", f"{label['threshold']:.3f}: F1 {f1}, {rates}"))
    if "sets" in figures:
        sets = figures["sets"]
        text = f"hold the label of {sets['covered']:.3f} of rows, {sets['mean_size']:.2f} labels each"
        lines.append((f"sets at {sets['asked']:g}", text))
    if "intervals" in figures:
        sets = figures["intervals"]
        text = f"hold the score of {sets['covered']:.3f} of rows, {sets['mean_width']:.3f} wide"
        lines.append((f"intervals at {sets['asked']:g}", text))
    if "abstention" in figures:
        rest = figures["abstention"]
        text = f"{rest['share']:.3f} of rows; accuracy {_number(rest['accuracy_of_all'])}"
        lines.append((f"abstains below {fitted['abstain_below']:.3f}", f"{text} → {_number(rest['accuracy_of_rest'])}"))
    return lines


def read_all(figures: Mapping[str, Any]) -> None:
    """Read every figure that the card and the report show; raise the error of the first that is not as it should be."""
    json.dumps(figures, allow_nan=False)
    summary(figures)
    numbers = [figures["rows"], figures["seed"]]
    for label in figures.get("thresholds", {}).values():
        numbers += [label["rows"], *label["curve"]["precision"], *label["curve"]["recall"]]
        numbers += [label[side][rate] for side in ("without", "with") for rate in ("precision", "recall", "f1")]
    for side in ("before", "after") if "reliability" in figures else ():
        numbers += [row[key] for row in figures["reliability"][side]["bins"] for key in ("confidence", "accuracy")]
    numbers += [float(size) for size in figures["sets"]["sizes"]] if "sets" in figures else []
    texts = [figures["split"], figures["approximate"], *figures["notes"], *map(str, figures["folds"])]
    if not all(isinstance(value, int | float | None) for value in numbers):
        raise TypeError("a figure is no number")
    if not all(isinstance(text, str | None) for text in texts):
        raise TypeError("a note is no text")


def decisions_text(tasks: Sequence[TaskSpec], figures: Mapping[str, Mapping[str, Any]]) -> str:
    """The section "Decisions" of a model card, between two comments; empty if no task is calibrated.

    Args:
        tasks: the model's tasks.
        figures: task name → its entry of calibration.json, where there is one.
    """
    lines = []
    for task in tasks:
        if task.calibration is None:
            continue
        found = figures.get(task.name)
        if found is None:
            rows = [(key, str(value)) for key, value in task.calibration.to_dict().items() if value is not None]
        else:
            rows = [("rows", f"{found['rows']:,} of the {found['split']} split"), *summary(found)]
            rows += [("note", note) for note in found["notes"]]
            rows += [("note", found["approximate"])] if found["approximate"] else []
        lines += [f"| {_cell(task.name)} | {_cell(what)} | {_cell(value)} |" for what, value in rows]
    if not lines:
        return ""
    table = "\n".join(["| task | what | fitted, measured |", "|---|---|---|", *lines])
    return f"{BEGIN}\n## Decisions\n\n{RULE}\n\n{table}\n{END}\n"


def with_decisions(text: str, section: str) -> str:
    """A card's text with this section in place of an older one: before its data, or else at its end."""
    text = re.sub(f"{BEGIN}.*?{END}\n*", "", text, flags=re.DOTALL)
    if not section:
        return text
    text = text.replace(NOT_CALIBRATED, "Labels or scores carry")
    before, heading, after = text.partition("\n## Data\n")
    return f"{before.rstrip()}\n\n{section}{heading}{after}"


def _cell(text: Any) -> str:
    """A text as a cell of a Markdown table, shown as it is."""
    text = re.sub(r"[\\`*_\[\]|~$#]", r"\\\g<0>", display(text))
    for mark in "&<>@":
        text = text.replace(mark, f"&#{ord(mark)};")
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def _number(value: float | None) -> str:
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"
