"""The page of a table of forms: markdown, JSON and figures, from result files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ..evaluation.report.study_figures import form_differences
from ..evaluation.report.write import write_figure
from ..evaluation.row_differences import OVERALL, RAW_MEAN
from ..evaluation.table_files import about_lines, markdown_row, spread
from ..files import write_json, write_text
from .form_numbers import LEVEL, FormNumbers, judged
from .forms import FormTable

PAGE, NUMBERS, FIGURE = "README.md", "forms.json", "differences"


def write_forms(table: FormTable, against: str, names: Sequence[str], title: str, command: str) -> str:
    """Write page, numbers and figure of a table of forms into the folder of its results.

    Args:
        table: the forms.
        against: the form with which the others are compared.
        names: the forms to show.
        title: heading of the page.
        command: the command that makes the page, as the page shows it.

    Returns:
        The page, markdown.
    """
    numbers = FormNumbers(table, against)
    forms = [numbers.form(name) for name in names]
    about = _about(numbers)
    found = {"against": against, "metrics": numbers.metrics, "about": about, "forms": forms}
    table.results.mkdir(parents=True, exist_ok=True)
    write_json(table.results / NUMBERS, found)
    compared = {form["form"]: form["difference"][RAW_MEAN] for form in forms if form["difference"]}
    if compared:
        draw = {"against": against, "differences": compared}
        write_figure(table.results, FIGURE, draw, form_differences, "svg")
    text = page(title, found, numbers.tasks, command)
    write_text(table.results / PAGE, text)
    return text


def _about(numbers: FormNumbers) -> dict[str, Any]:
    results = [result for forms in numbers.results.values() for found in forms.values() for result in found]
    planned = sum(1 for _ in numbers.table.order())
    about: dict[str, Any] = {"runs": f"{len(results)} of {planned}"}
    about["commits"] = ", ".join(sorted({result.commit[:7] for result in results if result.commit}))
    for key in ("device", "threads", "precision", "versions"):
        values: list[Any] = []
        for result in results:
            if result.record.get(key) not in values:
                values.append(result.record.get(key))
        if values:
            about[key] = values[0] if len(values) == 1 else values
    return about


def page(title: str, found: Mapping[str, Any], tasks: Sequence[str], command: str) -> str:
    """Format the page from its numbers."""
    against, metrics = found["against"], found["metrics"]
    done = [form for form in found["forms"] if form["seeds"]]
    lacking = [form["form"] for form in found["forms"] if not form["seeds"]]
    lines = [f"# {title}", "", f"Made from the result files of this folder by `{command}`.", ""]
    if not done:
        return "\n".join([*lines, f"Not run yet: {', '.join(lacking)}.", ""])
    lines += [*_what_figures_mean(against, metrics, tasks), "", *_overview(done, against), ""]
    lines += ["## Scores", "", *_scores(done, tasks, metrics), ""]
    if any(form["difference"] for form in done):
        lines += [f"## Differences from `{against}`, in points", "", *_differences(done, tasks), ""]
        lines += [f"![differences of the mean]({FIGURE}.svg)", ""]
    lines += ["## Further scores", "", *_further(done, tasks), ""]
    if lacking:
        lines += [f"Not run yet: {', '.join(lacking)}.", ""]
    return "\n".join([*lines, about_lines(found["about"]), ""])


def _what_figures_mean(against: str, metrics: Mapping[str, str], tasks: Sequence[str]) -> list[str]:
    by_metric: dict[str, list[str]] = {}
    for task in tasks:
        if task in metrics:
            by_metric.setdefault(metrics[task], []).append(task)
    figures = "; ".join(f"{metric}: {', '.join(names)}" for metric, names in by_metric.items())
    return [
        f"Dev scores, mean ± standard deviation over seeds. The mean over tasks is of one figure each ({figures}); a "
        f"correlation enters as it is. Differences from `{against}` are of the same seeds, with 95 % intervals by a "
        "bootstrap over seeds and dev rows, paired in both; with one seed over dev rows alone. *Level* means that the "
        f"interval ends above −{100 * LEVEL:.1f} points. Parameters are those of all models of a form together, "
        "relative to one single model; a frozen encoder counts once. Seconds are of the training of all models.",
    ]


def _overview(forms: Sequence[Mapping[str, Any]], against: str) -> list[str]:
    heading = ["form", "what", "mean", f"difference from {against}, points", "verdict", "parameters"]
    heading += ["seconds", "examples/s", "steps", "seeds"]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for form in forms:
        difference = form["difference"].get(RAW_MEAN)
        cells = [f"`{form['form']}`", form["what"].split(". ")[0].rstrip("."), spread(form["scores"][RAW_MEAN])]
        cells += [points(difference), judged(difference["low"], difference["high"])] if difference else ["", ""]
        seeds = f"{len(form['seeds'])} of {len(form['planned'])}"
        cells += [f"{form['ratio']:.2f}" if form["ratio"] else "", f"{form['seconds']:.0f}"]
        cells += [f"{form['examples_per_second']:.1f}", f"{form['steps']:,}", seeds]
        lines.append(markdown_row(cells))
    return lines


def points(difference: Mapping[str, float]) -> str:
    """Format a difference of scores with its interval in points, 100 times the score."""
    middle, low, high = (100 * difference[key] for key in ("difference", "low", "high"))
    return f"{middle:+.1f} ({low:+.1f} to {high:+.1f})"


def _scores(forms: Sequence[Mapping[str, Any]], tasks: Sequence[str], metrics: Mapping[str, str]) -> list[str]:
    heading = ["form", *(f"{task} {metrics.get(task, '')}".strip() for task in tasks), "mean", "overall"]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for form in forms:
        names = [*tasks, RAW_MEAN, OVERALL]
        lines.append(markdown_row([f"`{form['form']}`", *(spread(form["scores"].get(name, [])) for name in names)]))
    return lines


def _differences(forms: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    compared = [form for form in forms if form["difference"]]
    heading = ["task", *(f"`{form['form']}`" for form in compared)]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for task in (*tasks, RAW_MEAN):
        cells = [points(form["difference"][task]) if task in form["difference"] else "" for form in compared]
        lines.append(markdown_row(["mean" if task == RAW_MEAN else task, *cells]))
    return lines


def _further(forms: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> list[str]:
    names = list(
        dict.fromkeys((task, metric) for form in forms for task in tasks for metric in form["further"].get(task, ()))
    )
    heading = ["score", *(f"`{form['form']}`" for form in forms)]
    lines = [markdown_row(heading), "|" + "---|" * len(heading)]
    for task, metric in names:
        cells = [_mean(form["further"].get(task, {}).get(metric, [])) for form in forms]
        lines.append(markdown_row([f"{task} {metric}", *cells]))
    return lines


def _mean(values: Sequence[float]) -> str:
    return f"{mean(values):.3f}" if values else ""


def hide_places(argv: Sequence[str]) -> list[str]:
    """A command line for others: without the folders of this machine, and without what changes no number."""
    shown, words = [], list(argv)
    while words:
        word = words.pop(0)
        if word in ("--finished_only", "--commit"):
            continue
        if word in ("--encoder", "--data_dir", "--output", "--results", "--jobs") and words:
            words.pop(0)
            if word in ("--encoder", "--data_dir"):
                shown += [word, word[2:].upper()]
            continue
        shown.append(word)
    return shown
