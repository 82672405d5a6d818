"""int8 under guard: quantise a graph, score every head against fp32, and leave in fp32 what costs a head too much."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ..evaluation.metrics import METRICS
from ..evaluation.report.comparison import bootstrap
from ..evaluation.report.distances import evenly
from . import standalone
from .graphs import TaskGraph
from .scored_rows import SPLIT, ScoredTask

SAMPLE = 64  # dev rows of each task by which ways of quantising and parts are compared
RESAMPLES = 1000
CALIBRATION_TOKENS = 8192  # about so many; a quantiser keeps the states of all of them in memory
TIMED_ROWS, TIMED_RUNS = 32, 5
TRIED = 3  # parts, the most sensitive, that are tried in fp32 before one is taken back
Say = Callable[[str], None]
Logits = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class HeadLoss:
    """What int8 costs a head on dev rows.

    Attributes:
        task: its task.
        metric: the task's main metric.
        rows: number of labelled dev rows.
        fp32, int8: the scores.
        lost: hundredths of the metric that are lost; negative if int8 is better.
        low, high: its 95 % interval, by a bootstrap that is paired over rows.
    """

    task: str
    metric: str
    rows: int
    fp32: float
    int8: float
    lost: float
    low: float
    high: float


@dataclass(frozen=True)
class Quantised:
    """What was quantised, how, and at what cost.

    Attributes:
        precision: how the graphs were quantised, such as `int8 dynamic`.
        max_loss: most points that a head may lose.
        heads: the loss of every head.
        kept: part that was left in fp32 → why.
        tried: a sentence for each way of quantising.
        split: the split that heads are scored on.
    """

    precision: str
    max_loss: float
    heads: tuple[HeadLoss, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    tried: tuple[str, ...] = ()
    split: str = SPLIT


class Quantiser(Protocol):
    """Quantises one graph.

    Attributes:
        parts: name of a part of the graph → its nodes.
        families: ways of quantising that are compared; of each family the most exact way is taken.
    """

    parts: Mapping[str, Sequence[str]]
    families: Sequence[Sequence[str]]

    def __call__(self, way: str, parts: Sequence[str], target: Path) -> None:
        """Write the graph with these parts in int8."""


def quantise_graphs(
    folder: Path,
    graphs: Sequence[TaskGraph],
    rows: Mapping[str, ScoredTask],
    max_loss: float,
    say: Say,
    scales: str | None = None,
) -> Quantised:
    """Replace the graphs of an exported folder by int8 ones.

    Args:
        folder: the folder, complete in fp32.
        graphs: its graphs.
        rows: task name → rows to calibrate and score on.
        max_loss: most points that a head may lose.
        say: called with each line that a user should read.
        scales: `dynamic` or `static` scales of activations; None: those that are faster.
    """
    results = []
    for graph in graphs:
        model = standalone.Model(folder, torch.get_num_threads())
        guard = Guard(model, graph, {name: rows[name] for name in graph.outputs}, max_loss, say, scales)
        label = "" if len(graphs) == 1 else f"{', '.join(graph.outputs)}: "
        results.append(guard.run(_quantiser(folder, graph, model, rows), label))
    ways = list(dict.fromkeys(result.precision for result in results))
    return Quantised(
        ", ".join(ways),
        max_loss,
        tuple(head for result in results for head in result.heads),
        {part: why for result in results for part, why in result.kept.items()},
        tuple(note for result in results for note in result.tried),
    )


def _quantiser(folder: Path, graph: TaskGraph, model: Any, rows: Mapping[str, ScoredTask]) -> Quantiser:
    arrays = calibration_arrays(model, graph, rows)
    if graph.file.endswith(".onnx"):
        from .int8_onnx import OnnxQuantiser

        return OnnxQuantiser(folder / graph.file, graph.parts, arrays)
    from .int8_openvino import OpenVinoQuantiser

    return OpenVinoQuantiser(folder / graph.file, graph.parts, arrays)


def calibration_arrays(
    model: standalone.Model, graph: TaskGraph, rows: Mapping[str, ScoredTask]
) -> list[dict[str, np.ndarray]]:
    """Batches of train rows as the graph takes them, with little padding; some of them, if there are many tokens."""
    arrays = []
    for names in model.passes(list(graph.outputs)):
        encoding = model.tasks[names[0]]["encoding"]
        train = [row for name in names for row in rows[name].train]
        encoded = standalone.encode(model.tokenizer, encoding, train)
        lengths = np.array([max(len(ids) for ids, _ in row["inputs"]) for row in encoded])
        for chosen in standalone.batches(lengths, len(encoding["inputs"]), standalone.BATCH_TOKENS, None):
            inputs = [one for row in chosen for one in encoded[row]["inputs"]]
            arrays.append(standalone.pad(inputs, model.padding, model.inputs))
    tokens = sum(batch["input_ids"].size for batch in arrays)
    return arrays[:: -(-tokens // CALIBRATION_TOKENS)] if tokens else []  # from long to short rows


class Guard:
    """Chooses what of one graph is quantised, and how.

    Args:
        model: the exported folder in fp32.
        graph: the graph.
        rows: its tasks' rows.
        max_loss: most points that a head may lose.
        say: called with each line for the user.
        scales: as in `quantise_graphs`.
    """

    def __init__(
        self,
        model: standalone.Model,
        graph: TaskGraph,
        rows: Mapping[str, ScoredTask],
        max_loss: float,
        say: Say,
        scales: str | None = None,
    ):
        self.model, self.graph, self.rows, self.max_loss, self.say = model, graph, rows, max_loss, say
        self.scales = scales
        self.path = model.folder / graph.file
        self.sample = {name: evenly(len(task.dev), SAMPLE) for name, task in rows.items()}
        self.fp32 = self.logits(None)

    def run(self, quantiser: Quantiser, label: str = "") -> Quantised:
        """Replace the graph by the best int8 one that loses no more than allowed."""
        options = []
        for family in quantiser.families:
            if self.scales is not None and self.scales not in family[0]:
                continue
            way, error = self.most_exact(quantiser, family, label)
            options.append((way, error, *self.within_loss(quantiser, way)))
        seconds = self.seconds([option[4] for option in options])
        best = min(range(len(options)), key=lambda i: (seconds[i], options[i][1]))
        close = [i for i in range(len(options)) if seconds[i] <= 1.05 * seconds[best]]
        best = min(close, key=lambda i: options[i][1])  # of equally fast ones the more exact
        tried = []
        for (way, error, heads, kept, _), time_ in zip(options, seconds, strict=True):
            worst = max(heads, key=lambda head: head.lost)
            tried.append(
                f"{label}{way}: {len(kept)} of {len(quantiser.parts)} parts in fp32, at most {worst.lost:+.2f} points "
                f"lost ({worst.task}), logits off by {error:.1%}, {TIMED_ROWS} dev rows in {1000 * time_:.0f} ms"
            )
            self.say(tried[-1])
        way, _, heads, kept, path = options[best]
        self.say(f"{label}taken: {way}")
        for part, why in kept.items():
            self.say(f"  {part} stays in fp32: {why}")
        for head in heads:
            self.say(
                f"  {head.task}: {head.metric} {head.fp32:.4f} in fp32, {head.int8:.4f} in int8, {head.lost:+.2f} "
                f"points lost (95 %: {head.low:+.2f} … {head.high:+.2f}; {head.rows:,} {SPLIT} rows)"
            )
        for option in options:
            if option[4] != path:
                remove_graph(option[4])
        move_graph(path, self.path)
        return Quantised(way, self.max_loss, heads, {f"{label}{part}": why for part, why in kept.items()}, tuple(tried))

    def logits(self, path: Path | None, rows: Mapping[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """Logits of every head for dev rows; `path`: another file of the graph, `rows`: some of each task's rows."""
        own = self.model.graphs[self.graph.file]
        try:
            if path is not None:
                self.model.graphs[self.graph.file] = standalone.Graph(path, torch.get_num_threads(), exact=False)
            logits: dict[str, np.ndarray] = {}
            for name, task in self.rows.items():
                chosen = task.dev if rows is None else [task.dev[row] for row in rows[name]]
                logits |= self.model.logits([name], chosen)[0]
            return logits
        finally:
            self.model.graphs[self.graph.file] = own

    def errors(self, path: Path) -> dict[str, float]:
        """For each head: root mean square of the logits' change on the sample, over that of their spread in fp32."""
        found, errors = self.logits(path, self.sample), {}
        for name, logits in found.items():
            exact = self.fp32[name][self.sample[name]]
            exact = exact[tuple(map(slice, logits.shape))]  # the sample's longest text may have fewer words
            spread = np.sqrt(np.mean((exact - exact.mean(axis=0)) ** 2)) + 1e-6
            errors[name] = float(np.sqrt(np.mean((logits - exact) ** 2)) / spread)
        return errors

    def most_exact(self, quantiser: Quantiser, ways: Sequence[str], label: str) -> tuple[str, float]:
        """The way whose logits are nearest to fp32 with all parts in int8, and their mean error."""
        errors = {}
        for way in ways:
            path = self._write(quantiser, way, ())
            errors[way] = float(np.mean(list(self.errors(path).values())))
            remove_graph(path)
        if len(errors) > 1:
            self.say(f"{label}error of the logits: " + ", ".join(f"{way} {error:.1%}" for way, error in errors.items()))
        best = min(errors, key=lambda way: errors[way])
        return best, errors[best]

    def within_loss(self, quantiser: Quantiser, way: str) -> tuple[tuple[HeadLoss, ...], dict[str, str], Path]:
        """Take parts back to fp32, one at a time, until no head loses more than allowed.

        The most sensitive parts are tried first, up to `TRIED` of them, and that part is taken back with which the
        heads lose least. In the end a part that need not have been taken back goes to int8 again.
        """
        kept: dict[str, str] = {}
        heads = self._try(quantiser, way, kept)
        sensitivity = {} if self._within(heads) else self.sensitivity(quantiser, way)
        while not self._within(heads) and len(kept) < len(sensitivity):
            beyond = [head for head in heads if head.lost > self.max_loss]
            changes = {part: max(errors[head.task] for head in beyond) for part, errors in sensitivity.items()}
            options: dict[str, tuple[HeadLoss, ...]] = {}
            for part in sorted((part for part in changes if part not in kept), key=lambda part: -changes[part])[:TRIED]:
                options[part] = self._try(quantiser, way, [*kept, part])
                if self._within(options[part]):
                    break
            taken = min(options, key=lambda part: max(head.lost for head in options[part]))
            why = ", ".join(f"{head.task} lost {head.lost:.2f} points" for head in beyond)
            kept[taken] = f"{why} with it in int8; alone it changes the logits by {changes[taken]:.1%}"
            heads = options[taken]
        for part in list(kept)[::-1] if len(kept) > 1 and self._within(heads) else ():
            fewer = {name: why for name, why in kept.items() if name != part}
            found = self._try(quantiser, way, fewer)
            if self._within(found):
                heads, kept = found, fewer
        return heads, kept, self._write(quantiser, way, kept)

    def _within(self, heads: Sequence[HeadLoss]) -> bool:
        return all(head.lost <= self.max_loss for head in heads)

    def _try(self, quantiser: Quantiser, way: str, kept: Collection[str]) -> tuple[HeadLoss, ...]:
        """What each head loses with these parts in fp32."""
        path = self._write(quantiser, way, kept)
        heads = self.losses(self.logits(path))
        remove_graph(path)
        return heads

    def sensitivity(self, quantiser: Quantiser, way: str) -> dict[str, dict[str, float]]:
        """Part → head → error of the logits with only this part in int8."""
        table = {}
        for part in quantiser.parts:
            path = self._write(quantiser, way, quantiser.parts.keys() - {part})
            table[part] = self.errors(path)
            remove_graph(path)
        return table

    def losses(self, logits: Logits) -> tuple[HeadLoss, ...]:
        """What each head loses on the dev rows, in points."""
        heads = []
        for name, task in self.rows.items():
            exact, rounded = task.scored(self.fp32[name]), task.scored(logits[name])
            result = bootstrap(exact, rounded, task.metric, 0, RESAMPLES)
            sign = 100 if METRICS[task.metric].rises else -100
            ends = sorted(sign * result[end] for end in ("low", "high"))
            lost = round(float(sign * result["difference"]), 6)  # a row of 200 is half a point, and no more
            heads.append(HeadLoss(name, task.metric, len(exact), result["a"], result["b"], lost, *ends))
        return tuple(heads)

    def seconds(self, paths: Sequence[Path]) -> list[float]:
        """Best time of each graph for the same rows, one at a time and together; graphs take turns."""
        rows = {name: evenly(len(task.dev), TIMED_ROWS) for name, task in self.rows.items()}
        graphs = [standalone.Graph(path, torch.get_num_threads(), exact=False) for path in paths]
        runs = [[self._time(graph, rows) for graph in graphs] for _ in range(TIMED_RUNS if len(paths) > 1 else 1)]
        return [min(times) for times in zip(*runs, strict=True)]

    def _time(self, graph: standalone.Graph, rows: Mapping[str, np.ndarray]) -> float:
        own = self.model.graphs[self.graph.file]
        self.model.graphs[self.graph.file] = graph
        try:
            name = next(iter(rows))
            chosen = [self.rows[name].dev[row] for row in rows[name]]
            self.model.logits([name], chosen[:1])
            start = time.perf_counter()
            self.model.logits([name], chosen)
            for row in chosen[:8]:
                self.model.logits([name], [row])
            return time.perf_counter() - start
        finally:
            self.model.graphs[self.graph.file] = own

    def _write(self, quantiser: Quantiser, way: str, kept: Collection[str]) -> Path:
        """The graph with all parts in int8 but these; it replaces the last one of this way."""
        target = self.path.with_name(f"part-{way.replace(' ', '-').replace('%', '')}{self.path.suffix}")
        quantiser(way, [part for part in quantiser.parts if part not in kept], target)
        return target


def graph_files(path: Path) -> list[Path]:
    """All files of a graph: OpenVINO's `.xml` has a `.bin`."""
    return [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]


def remove_graph(path: Path) -> None:
    """Remove the files of a graph."""
    for file in graph_files(path):
        file.unlink(missing_ok=True)


def move_graph(path: Path, target: Path) -> None:
    """Give a graph's files another name; files of that name are replaced."""
    for file, new in zip(graph_files(path), graph_files(target), strict=True):
        shutil.move(file, new)
