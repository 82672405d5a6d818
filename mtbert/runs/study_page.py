"""The page, numbers and figures of a study of sharing, from its result files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..evaluation.report import study_figures
from ..evaluation.report.write import jsonable, write_figure
from ..evaluation.row_differences import OVERALL, RAW_MEAN, verdict
from ..evaluation.table_files import about_lines, markdown_row
from ..evaluation.task_affinity import HIGHEST, LEAST, balancing_weights, suggest_groups, summarise
from ..files import write_json, write_text
from ..modeling.display import display
from .form_numbers import FormNumbers
from .form_page import hide_places, points
from .forms import FormTable
from .study import ADAPTERS, ALONE, TOGETHER, StudyPlan, settings_in_words

PAGE, NUMBERS = "study.md", "study.json"
_WORDS = {"held": "gains", "reversed": "loses", "undecided": "undecided"}


def study_numbers(plan: StudyPlan, table: FormTable) -> dict[str, Any]:
    """All numbers of a study.

    Returns:
        `recipe`, `budget`; `forms` (numbers of `FormNumbers.form`); `sharing` and `adapters`: task, `raw_mean` and
        `overall` → `difference` with its interval, and `verdict` (`gains`, `loses` or `undecided`); `affinity`
        (`summarise`), `groups` (`suggest_groups`), `weights` (`balancing_weights`). What cannot be said yet is empty.
    """
    numbers = FormNumbers(table, ALONE)
    forms = {name: numbers.form(name) for name in table.forms}
    found: dict[str, Any] = {"recipe": str(plan.recipe), "forms": forms}
    found["budget"] = settings_in_words(plan, table, hide_places(plan.overrides))
    found["metrics"] = numbers.metrics
    found["sharing"] = _judged(numbers.difference(TOGETHER, ALONE))
    found["adapters"] = _judged(numbers.difference(ADAPTERS, TOGETHER)) if ADAPTERS in table.forms else {}
    measured = [results[0].affinity for results in numbers.results[TOGETHER].values() if results[0].affinity]
    measured = [run for run in measured if run["measured"]]
    weights = {name: task.weight for name, task in table.models[TOGETHER][0].recipe().tasks.items()}
    found["affinity"] = summarise(measured) if measured else {}
    found["groups"] = suggest_groups(measured, plan.groups) if measured else {}
    found["weights"] = balancing_weights(measured, weights) if measured else {}
    return found


def _judged(differences: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {**values, "verdict": _WORDS[verdict(values["low"], values["high"])]}
        for name, values in differences.items()
    }


def write_study(plan: StudyPlan, table: FormTable) -> str:
    """Write page, numbers and figures into the study's folder; return the page, markdown."""
    found, folder = study_numbers(plan, table), plan.output
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / NUMBERS, jsonable(found))
    figures = write_figures(found, folder)
    text = study_page(found, figures)
    write_text(folder / PAGE, text)
    return text


def write_figures(found: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw what there is, as SVG; return the names of the figures."""
    drawn = []
    for name in ("sharing", "adapters"):
        rows = {("mean" if task == RAW_MEAN else task): row for task, row in found[name].items() if task != OVERALL}
        if rows:
            write_figure(folder, name, {"tasks": rows}, getattr(study_figures, name), "svg")
            drawn.append(name)
    if found["affinity"]:
        for name in ("affinity", "cosines", "cosine_course"):
            write_figure(folder, name, found["affinity"], getattr(study_figures, name), "svg")
            drawn.append(name)
    return drawn


# ---- the page ----


def study_page(found: Mapping[str, Any], figures: Sequence[str]) -> str:
    """Format a study's page from its numbers."""
    budget = {key: value for key, value in found["budget"].items() if value != ""}
    lines = [f"# Should these tasks share? {display(found['recipe'])}", "", about_lines(budget), ""]
    waiting = [name for name, form in found["forms"].items() if len(form["seeds"]) < len(form["planned"])]
    if waiting:
        lines += [f"Not all runs have ended yet: {', '.join(waiting)}. The same command goes on.", ""]
    lines += _gains(found["sharing"], "What sharing gains", "alone", "together", "sharing" in figures)
    lines += _groups(found["groups"])
    lines += _affinity(found["affinity"], figures)
    lines += _gains(found["adapters"], "What adapters gain", "without", "with", "adapters" in figures)
    lines += _weights(found["weights"])
    return "\n".join([*lines, *_cost(found["forms"])])


def _gains(rows: Mapping[str, Mapping[str, Any]], title: str, before: str, after: str, drawn: bool) -> list[str]:
    if not rows:
        return []
    seeds = next(iter(rows.values()))["seeds"]
    over = "seeds and dev rows" if seeds > 1 else "dev rows alone, for there is one seed"
    lines = [f"## {title}", "", f"Dev scores; differences in points with 95 % intervals over {over}, paired.", ""]
    lines += [markdown_row(["task", before, after, "difference", "verdict"]), "|---|---|---|---|---|"]
    for task, row in rows.items():
        name = {RAW_MEAN: "mean", OVERALL: "overall"}.get(task, task)
        lines.append(markdown_row([name, f"{row['b']:.3f}", f"{row['a']:.3f}", points(row), row["verdict"]]))
    by_verdict: dict[str, list[str]] = {}
    for task, row in rows.items():
        if task not in (RAW_MEAN, OVERALL):
            by_verdict.setdefault(row["verdict"], []).append(task)
    said = [f"{word}: {', '.join(by_verdict[word])}" for word in ("gains", "loses", "undecided") if word in by_verdict]
    picture = title.split()[1]
    return [*lines, "", f"{'; '.join(said)}.", "", *([f"![{title}]({picture}.svg)", ""] if drawn else [])]


def _groups(found: Mapping[str, Any]) -> list[str]:
    if not found:
        return []
    lines = ["## Groups", ""]
    if found.get("why_not"):
        return [*lines, f"No suggestion: {found['why_not']}.", ""]
    lines += ["| models at most | groups | mean affinity onto a task, thousandths |", "|---|---|---|"]
    for row in found["by_models"]:
        shown = "; ".join(_group(group) for group in row["groups"])
        lines.append(markdown_row([str(row["models"]), shown, f"{1000 * row['score']:+.2f}"]))
    return [*lines, "", _groups_verdict(found), ""]


def _group(group: Mapping[str, Sequence[str]]) -> str:
    helping = [task for task in group["tasks"] if task not in group["serves"]]
    return ", ".join(group["serves"]) + (f" (helped by {', '.join(helping)})" if helping else "")


def _groups_verdict(found: Mapping[str, Any]) -> str:
    if found["low"] is None:
        return "Undecided: there are fewer than four measurements."
    values = [1000 * found[key] for key in ("difference", "low", "high")]
    interval = "{:+.2f} ({:+.2f} to {:+.2f})".format(*values)
    how = f"chosen on half of the measurements, their affinity on the other half is {interval} above that of one model"
    words = {
        "groups": f"The groups promise more than one model: {how}. Train them before you believe it.",
        "one model": f"One model promises more than groups: {how}.",
        "undecided": f"Undecided whether groups are better than one model: {how}.",
    }
    return words[found["verdict"]]


def _affinity(found: Mapping[str, Any], figures: Sequence[str]) -> list[str]:
    if not found:
        return []
    lines = [
        "## Affinity",
        "",
        f"{found['measurements']} measurements in the joint runs. Look-ahead affinity is the share by which a step of "
        "plain gradient descent for the row's task lowers the loss of the column's task; the cosines are of the tasks' "
        "gradients of the shared parameters.",
        "",
    ]
    return [
        *lines,
        *(f"![{name}]({name}.svg)\n" for name in ("affinity", "cosines", "cosine_course") if name in figures),
    ]


def _weights(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not found:
        return []
    lines = ["## Weights", ""]
    lines += ["Weights with which all tasks would pull equally at the shared parameters, with 95 % intervals over the"]
    lines += [f"measurements. The suggestion stays from {LEAST:g} to {HIGHEST:g} times the weights of the runs. No run"]
    lines += ["has tried it.", ""]
    lines += ["| task | for an equal pull | suggested | verdict |", "|---|---|---|---|"]
    for task, row in found.items():
        equal = "" if row["low"] is None else "{balanced:.2f} ({low:.2f} to {high:.2f})".format(**row)
        lines.append(markdown_row([task, equal, f"{row['weight']:.2f}", row["verdict"]]))
    return [*lines, ""]


def _cost(forms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    heading = ["form", "what", "training, examples/s", "prediction, examples/s", "seconds", "parameters", "relative"]
    lines = ["## Cost", "", "Measured in the runs above, without the time of measuring affinities.", ""]
    lines += [markdown_row(heading), "|" + "---|" * len(heading)]
    for name, form in forms.items():
        if not form["seeds"]:
            continue
        cells = [name, form["what"], _number(form["examples_per_second"]), _number(form["predicted_per_second"])]
        cells += [f"{form['seconds']:.0f}", f"{form['parameters']:,}", f"{form['ratio']:.2f}" if form["ratio"] else ""]
        lines.append(markdown_row(cells))
    return [*lines, ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"
