"""Figures of a report. Every function draws the result of an analysis and computes nothing itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count, islice
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, MaxNLocator

# Safe for colour-blind readers (Okabe and Ito, 2008); lines also differ in their dashes and points in their markers.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
# One scale of colours, light enough for black text in every cell: from orange (below 0) through white (0) to blue.
DIVERGING = LinearSegmentedColormap.from_list("mtbert", ["#E9863B", "#FFFFFF", "#5B9BD0"])
SHADES = LinearSegmentedColormap.from_list("mtbert_shades", ["#FFFFFF", "#5B9BD0"])
EMPTY = "#DDDDDD"  # of a cell without a value
DASHES = ("-", "--", "-.", ":")
MARKERS = "os^Dv"
LINE, MOST_TOKENS = 112, 120  # characters of a line of tokens, and most tokens of a row
MOST_CLASSES = 12  # most classes for which the cells of a confusion matrix have room for numbers


def _panels(columns: int, width: float = 5.0, height: float = 3.6) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _styles() -> Iterator[tuple[str, str, str]]:
    """Yield a colour, a dash and a marker for each of any number of lines; 40 of them differ."""
    for number in count():
        dash = number + number // len(COLOURS)  # the ninth line has the colour of the first, but not its dash
        yield COLOURS[number % len(COLOURS)], DASHES[dash % len(DASHES)], MARKERS[number % len(MARKERS)]


def _line(axes: Axes, course: Sequence[Mapping[str, float]], label: str, style: Any, x: str = "epoch") -> None:
    colour, dash, marker = style
    points = [(point[x], point["value"]) for point in course]
    size = 4 if len(points) <= 50 else 0
    axes.plot(*zip(*points, strict=True), dash, color=colour, marker=marker, markersize=size, label=label)


def learning_curves(curves: Mapping[str, Any], name: str) -> Figure:
    """Draw a task's losses by epoch, and its main metric with the best epoch marked."""
    figure, (left, right) = _panels(2)
    dev, train, steps = islice(_styles(), 3)
    for label, scores, style in (("dev", curves["dev"], dev), ("train split", curves["train"], train)):
        for axes, key in ((left, "loss"), (right, curves["main"])):
            if key in scores:
                _line(axes, scores[key], label, style)
    if curves["loss"]:
        _line(left, curves["loss"], "training steps", steps)
    left.set(title=f"{name}: loss", xlabel="epoch", ylabel="mean loss of a row")
    if curves["best"] is not None:
        epoch, value = curves["best"]["epoch"], curves["best"]["value"]
        right.plot([epoch], [value], "*", color=COLOURS[5], markersize=14, label=f"best: {value:.3f}, epoch {epoch:g}")
    right.set(title=f"{name}: {curves['main']}", xlabel="epoch", ylabel=curves["main"])
    epochs = [point["epoch"] for curve in (curves["loss"], *_scores_of(curves)) for point in curve]
    for axes in (left, right):
        if axes.has_data():
            axes.set_xlim(0, max(epochs) * 1.02 or 1)  # the same limits for both, even if one has a single point
            axes.legend()
    return figure


def pretraining_losses(losses: Mapping[str, Any]) -> Figure:
    """Draw the train and dev loss of a masked-language model by epoch, and the epoch whose encoder was fine-tuned."""
    figure, (axes,) = _panels(1, 6)
    dev, _, train = islice(_styles(), 3)
    for label, style in (("train", train), ("dev", dev)):
        if losses[label]:
            _line(axes, losses[label], label, style)
    if losses["use_epoch"] is not None:
        label = f"fine-tuned: epoch {losses['use_epoch']}"
        axes.axvline(losses["use_epoch"], color="black", linestyle=":", linewidth=1, label=label)
    axes.set(title="Masked-language model: loss", xlabel="epoch", ylabel="mean cross-entropy of a chosen token")
    axes.legend()
    return figure


def _scores_of(curves: Mapping[str, Any]) -> list[Sequence[Mapping[str, float]]]:
    """Return the curves of all scores of a task, of both splits."""
    return [course for split in ("dev", "train") for course in curves[split].values()]


def sampling(table: Sequence[Mapping[str, Any]], tasks: Sequence[str]) -> Figure:
    """Draw each task's logged share of the rows by epoch, with its probability (or its planned share)."""
    figure, (axes,) = _panels(1, 7)
    epochs = [row["epoch"] for row in table]
    for task, style in zip(tasks, _styles()):
        totals = [max(1, sum(row["sampled"].values())) for row in table]
        shares = [row["sampled"][task] / total for row, total in zip(table, totals, strict=True)]
        axes.plot(epochs, shares, style[2], color=style[0], label=f"{task}: sampled")
        if all("planned" in row for row in table):
            planned = [_expected(row, task) for row in table]
            axes.plot(epochs, planned, style[1], color=style[0], label=f"{task}: {_expectation(table)}")
    axes.set(title="What each epoch drew", xlabel="epoch", ylabel="share of the epoch's rows", ylim=(0, 1))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(fontsize="small")
    return figure


def _expected(epoch: Mapping[str, Any], task: str) -> float:
    if epoch["probability"] is not None:
        return epoch["probability"][task]
    return epoch["planned"][task] / max(1, sum(epoch["planned"].values()))


def _expectation(table: Sequence[Mapping[str, Any]]) -> str:
    return "probability" if table[0]["probability"] is not None else "plan"


def confusion(counts: np.ndarray, rates: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix as counts and as shares of each true class."""
    side = 3.2 + 0.45 * min(len(classes), 20)
    figure, panels = _panels(2, side + 1, side)
    for axes, values, what in zip(panels, (counts, rates), ("rows", "share of the true class"), strict=True):
        shown = np.asarray(values, dtype=np.float64)
        top = 1.0 if what != "rows" else max(1.0, float(np.nanmax(shown, initial=0)))
        image = axes.imshow(shown, cmap=SHADES, vmin=0, vmax=top)
        figure.colorbar(image, ax=axes, label=what, shrink=0.8)
        axes.set(title=f"{title}: {what}", xlabel="predicted class", ylabel="true class")
        axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
        axes.set_yticks(range(len(classes)), classes)
        if len(classes) <= MOST_CLASSES:
            for (i, j), value in np.ndenumerate(shown):
                text = f"{value:,.0f}" if what == "rows" else f"{value:.2f}"
                if np.isnan(value):
                    text = "–"
                axes.text(j, i, text, ha="center", va="center")
        axes.set_facecolor(EMPTY)  # shows in the cells of a class without rows
    return figure


def reliability(found: Mapping[str, Any], title: str) -> Figure:
    """Draw a reliability diagram: accuracy against confidence, above the number of decisions in each bin."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = found["bins"]
    centres, width = [(interval["low"] + interval["high"]) / 2 for interval in bins], bins[0]["high"] - bins[0]["low"]
    upper.bar(
        centres,
        [interval["accuracy"] for interval in bins],
        width,
        color=COLOURS[4],
        edgecolor="black",
        label="accuracy",
    )
    upper.plot(
        [interval["confidence"] for interval in bins],
        [interval["accuracy"] for interval in bins],
        "o",
        color=COLOURS[5],
        label="bins",
    )
    upper.plot([0, 1], [0, 1], "--", color="black", label="perfectly calibrated")
    upper.set(title=f"{title}: ECE {found['ece']:.3f}", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    upper.legend(loc="upper left")
    lower.bar(centres, [interval["rows"] for interval in bins], width, color=COLOURS[0], edgecolor="black")
    lower.set(xlabel="confidence (probability of the predicted class)", ylabel="decisions")
    return figure


def scatter(labels: Sequence[float], predicted: Sequence[float], title: str) -> Figure:
    """Draw predicted against true scores."""
    figure, (axes,) = _panels(1, 5, 4.6)
    alpha = 0.7 if len(labels) < 300 else 0.25
    axes.plot(labels, predicted, "o", color=COLOURS[0], alpha=alpha, markersize=4, markeredgewidth=0, label="rows")
    ends = [min(*labels, *predicted), max(*labels, *predicted)]
    axes.plot(ends, ends, "--", color="black", label="predicted = true")
    axes.set(title=f"{title}: predicted against true", xlabel="true score", ylabel="predicted score")
    axes.legend()
    return figure


def by_length(found: Mapping[str, Any], title: str, xlabel: str, ylabel: str) -> Figure:
    """Draw the mean error by length, with two standard errors, and the number of rows."""
    figure, (axes,) = _panels(1, 6)
    bins = found["bins"]
    middle = [(interval["low"] + interval["high"]) / 2 for interval in bins]
    spread = [0 if np.isnan(interval["standard_error"]) else 2 * interval["standard_error"] for interval in bins]
    errors = [interval["error"] for interval in bins]
    axes.errorbar(middle, errors, spread, fmt="o-", color=COLOURS[0], capsize=3, label="mean ± 2 standard errors")
    axes.set(title=title, xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    counts = axes.twinx()
    counts.plot(middle, [interval["rows"] for interval in bins], "s:", color=COLOURS[1], label="rows (right axis)")
    counts.set(ylabel="rows", ylim=(0, 1.1 * max((interval["rows"] for interval in bins), default=1)))
    counts.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return figure


def signed_errors(found: Mapping[str, Any], xlabels: Mapping[str, str], title: str) -> Figure:
    """Draw signed errors against each measure of length: rows as points, and the mean of each bin."""
    figure, panels = _panels(len(found), 5.4)
    for axes, (key, measure) in zip(panels, found.items(), strict=True):
        points, bins = measure["points"], measure["bins"]
        alpha = 0.5 if len(points["length"]) < 300 else 0.2
        style = {"color": COLOURS[4], "alpha": alpha, "markersize": 4, "markeredgewidth": 0}
        axes.plot(points["length"], points["error"], "o", label="rows", **style)
        middle = [(interval["low"] + interval["high"]) / 2 for interval in bins]
        spread = [0 if np.isnan(interval["standard_error"]) else 2 * interval["standard_error"] for interval in bins]
        means = [interval["error"] for interval in bins]
        axes.errorbar(middle, means, spread, fmt="s-", color=COLOURS[5], capsize=3, label="mean ± 2 standard errors")
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set(title=title, xlabel=xlabels[key], ylabel="predicted − true")
        axes.legend(fontsize="small")
    return figure


def groups(found: Mapping[str, Any], value: str, title: str) -> Figure:
    """Draw a value for each group; accuracies with their 95 % intervals."""
    table = found["groups"]
    figure, (axes,) = _panels(1, 6, 1.4 + 0.35 * len(table))
    places, values = range(len(table)), [group[value] for group in table]
    spread = None
    if value == "accuracy":
        spread = [
            [group["accuracy"] - group["accuracy_low"] for group in table],
            [group["accuracy_high"] - group["accuracy"] for group in table],
        ]
    axes.barh(places, values, xerr=spread, color=COLOURS[4], edgecolor="black", capsize=3)
    axes.set_yticks(places, [f"{group['group'][:30]} ({group['rows']:,})" for group in table])
    axes.invert_yaxis()
    axes.set(title=title, xlabel=value, ylabel="group (rows)")
    return figure


def heat_map(axes: Axes, matrix: Any, tasks: Sequence[str], limit: float, label: str, digits: int = 2) -> None:
    """Draw a value for each pair of tasks, with its number, on a scale from −`limit` to `limit`."""
    values = np.asarray(matrix, dtype=np.float64)
    figure: Any = axes.figure
    image = axes.imshow(values, cmap=DIVERGING, vmin=-limit, vmax=limit)
    figure.colorbar(image, ax=axes, label=label, shrink=0.8)
    for (i, j), value in np.ndenumerate(values):
        text = "–" if np.isnan(value) else f"{value:.{digits}f}"
        axes.text(j, i, text, ha="center", va="center")
    axes.set_facecolor(EMPTY)
    axes.set_xticks(range(len(tasks)), tasks, rotation=45, ha="right")
    axes.set_yticks(range(len(tasks)), tasks)


def cosines(found: Mapping[str, Any]) -> Figure:
    """Draw the mean cosine of each pair of tasks' gradients, and the cosines by step."""
    figure, (left, right) = _panels(2, 5.4, 4)
    heat_map(left, found["cosines"], found["tasks"], 1.0, "cosine")
    left.set(title="Gradients: mean cosine", xlabel="task", ylabel="task")
    for (pair, course), style in zip(found["course"].items(), _styles()):
        _line(right, course, pair, style, "step")
    right.axhline(0, color="black", linewidth=0.8)
    right.set(title="Gradients: cosine by step (below 0: conflict)", xlabel="step", ylabel="cosine", ylim=(-1.05, 1.05))
    if found["course"]:
        right.legend(fontsize="small")
    return figure


def gradient_course(found: Mapping[str, Any]) -> Figure:
    """Draw the share of steps with a gradient conflict, and each task's gradient norm, by step."""
    figure, (left, right) = _panels(2)
    if found["conflicts"]:
        _line(left, found["conflicts"], "conflicts", next(_styles()), "step")
    left.set(title="Gradients: conflicts", xlabel="step", ylabel="share of steps with a conflict", ylim=(-0.02, 1.02))
    for (task, course), style in zip(found["norms"].items(), _styles()):
        _line(right, course, task, style, "step")
    right.set(title="Gradients: norms", xlabel="step", ylabel="norm of the task's gradient", yscale="log")
    right.yaxis.set_major_formatter("{x:g}")  # plain text, because a report's figures do not parse `$…$`
    right.yaxis.set_minor_formatter(LogFormatter())
    if found["norms"]:
        right.legend()
    return figure


def attention(examples: Sequence[Mapping[str, Any]], title: str) -> Figure:
    """Draw the tokens of some rows, shaded by their weight."""
    lines, cells = 0, []
    heads: list[tuple[int, str]] = []
    for example in examples:
        heads.append((lines, f"row {example['row']}: true {example['label']}, predicted {example['predicted']}"))
        lines, column = lines + 1, 0
        for token, weight in list(zip(example["tokens"], example["weights"], strict=True))[:MOST_TOKENS]:
            if column and column + len(token) > LINE:
                lines, column = lines + 1, 0
            cells.append((column, lines, token, weight))
            column += len(token) + 1
        left_out = len(example["tokens"]) - MOST_TOKENS
        heads += [(lines + 1, f"… and {left_out} more tokens")] if left_out > 0 else []
        lines += 3 if left_out > 0 else 2
    top = max(max(example["weights"]) for example in examples)
    figure = Figure(figsize=(9, 1.2 + 0.19 * lines), layout="constrained")
    axes = figure.subplots()
    shades = ScalarMappable(Normalize(0, top), SHADES)
    for column, line, token, weight in cells:
        box = {"facecolor": shades.to_rgba(weight), "edgecolor": "none", "pad": 1}
        axes.text(column, line, token, family="monospace", fontsize=8, va="center", bbox=box, clip_on=True)
    for line, text in heads:
        axes.text(0, line, text, fontsize=8, style="italic", va="center", clip_on=True)
    axes.set(xlim=(-1, LINE + 1), ylim=(lines, -1), xticks=[], yticks=[])
    axes.set(title=title, xlabel="tokens in their order", ylabel="rows")
    figure.colorbar(shades, ax=axes, label="weight, mean over heads", fraction=0.03, pad=0.01)
    return figure


def table_curves(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, float]]]]) -> Figure:
    """Draw the dev curves of a table's rows: a panel for each score, and in all of them the same line for a row."""
    rows = list(dict.fromkeys(row for by_row in curves.values() for row in by_row))
    styles = dict(zip(rows, _styles()))
    columns = min(2, len(curves))
    lines = -(-len(curves) // columns)
    height = max(3.8 * lines, 0.8 + 0.22 * len(rows))
    figure = Figure(figsize=(5.4 * columns + 1.6, height), layout="constrained")
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    handles: dict[str, Any] = {}
    for axes, (score, by_row) in zip(panels, curves.items(), strict=False):
        for row, points in by_row.items():
            _line(axes, points, row, styles[row])
            handles.setdefault(row, axes.lines[-1])
        axes.set(title=f"dev: {score}", xlabel="epoch", ylabel=score)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    for axes in panels[len(curves) :]:
        axes.remove()
    figure.legend([handles[row] for row in rows], rows, loc="outside right upper", handlelength=3.5)
    return figure


def score_by_rate(rates: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw the score of each row's pilots against their learning rate; a star marks the chosen rate."""
    figure = Figure(figsize=(8.5, max(4.2, 0.8 + 0.22 * len(rates))), layout="constrained")
    axes = figure.subplots()
    for (row, pilots), style in zip(rates.items(), _styles()):
        points = sorted((float(rate), score) for rate, score in pilots["rates"].items())
        axes.plot(*zip(*points, strict=True), style[1], color=style[0], marker=style[2], markersize=4, label=row)
        chosen = [point for point in points if point[0] == pilots["chosen"]]
        axes.plot(*zip(*chosen, strict=True), "*", color=style[0], markersize=11)
    axes.set(title="Pilots on held-out training rows", xlabel="learning rate", ylabel="overall", xscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", handlelength=3.5)
    return figure


def differences(found: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the differences of two runs with their 95 % intervals."""
    figure, (axes,) = _panels(1, 7, 1.6 + 0.4 * len(found))
    places, centres = np.arange(len(found)), np.array([row["difference"] for row in found.values()])
    ends = np.array([[row["low"], row["high"]] for row in found.values()])
    spread = np.nan_to_num(np.abs(ends - centres[:, None])).T
    axes.errorbar(centres, places, xerr=spread, fmt="o", color=COLOURS[0], capsize=4)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, list(found))
    axes.invert_yaxis()
    axes.set(title="A − B, with intervals of 95 %", xlabel="difference of the score", ylabel="task and metric")
    return figure
