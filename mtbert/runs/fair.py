"""The fair budget: rows of equal length, each with a learning rate that pilots chose on held-out training rows.

Finished runs and pilots are result files. A table goes on from them, on any machine.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..evaluation.row_differences import OVERALL
from ..modeling.checkpoint_loading import read_json
from ..modeling.display import masked
from ..recipe import Recipe, RecipeError
from .budget import FAIR_STEPS, HEAD_PILOT_RATES, PILOT_FACTOR, PILOT_RATES, STEPS
from .budget_keys import fair_budget, load, pilot_keys
from .protocol_files import ProtocolFile, read_fair
from .result_files import Result, result_of, settings_hash
from .result_folder import ResultFolder
from .row_runs import Run, execute, remove_weights, run_threads
from .run_queue import work_in_turns
from .table_plan import CONFIGS, TablePlan, find_rows, row_settings

ALL = "all"  # in place of rows: those of the protocol
HALF = "-half"  # suffix of a row's name: the same row with half the steps
EVALUATED = 4  # epochs from one dev evaluation of the first seed to the next
PILOTS = "pilots"  # subfolder of their result files
SCORE = "eval_overall"  # chooses the learning rate


@dataclass(frozen=True)
class Protocol:
    """What `fair.yaml` says.

    Attributes:
        rows: names of all rows of the table.
        seeds: seeds of every row.
        compared_seeds: seeds of rows that a finding compares.
        half: rows that train half the steps.
        same_rate: row → the row whose learning rate it has.
        findings: dicts with `finding`, a sentence; `rows`, of which the first is to score higher; and `scores`.
        source: the file; None: there is none, and names are not checked.
    """

    rows: tuple[str, ...]
    seeds: tuple[int, ...]
    compared_seeds: tuple[int, ...]
    half: tuple[str, ...] = ()
    same_rate: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Mapping[str, Any], ...] = ()
    source: ProtocolFile | None = field(default=None, repr=False, compare=False)

    @classmethod
    def read(cls, file: Path) -> Protocol:
        """Read a protocol.

        Raises:
            InputError: lists all keys and values that are wrong.
        """
        source, keys, findings = read_fair(file)
        return cls(
            keys.rows,
            keys.seeds,
            keys.compared_seeds,
            keys.half,
            keys.same_rate,
            tuple(asdict(finding) for finding in findings),
            source,
        )

    def seeds_of(self, row: str) -> tuple[int, ...]:
        """Return the seeds of a row."""
        compared = any(row in finding["rows"] for finding in self.findings)
        return self.compared_seeds if compared else self.seeds


@dataclass
class Row:
    """A row under the fair budget.

    Attributes:
        name: its name in the table.
        path: its recipe file.
        plan: the table that it belongs to.
        steps: steps of an epoch.
        rate_of: the row whose pilots choose its learning rate; None: itself.
    """

    name: str
    path: Path
    plan: TablePlan
    steps: int
    rate_of: Row | None = None
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _settings: dict[float, str] = field(default_factory=dict, repr=False)

    def overrides(self, learning_rate: float, steps: int | None = None) -> tuple[list[str], Path | None]:
        """Return the keys of a run with this learning rate, and the folder of its pre-trained encoder, or None."""

        def budget(path: Path, more: list[str]) -> list[str]:
            return fair_budget(path, more, learning_rate, steps or self.steps)

        return row_settings(self.path, self.plan, budget)

    def recipe(self, learning_rate: float) -> Recipe:
        """Return the recipe of a run."""
        return load(self.path, self.overrides(learning_rate)[0])

    def settings(self, learning_rate: float) -> str:
        """Return the hash of a run's settings."""
        if learning_rate not in self._settings:
            self._settings[learning_rate] = settings_hash(self.recipe(learning_rate))
        return self._settings[learning_rate]

    @cached_property
    def pretrained(self) -> Path | None:
        """The folder of its pre-trained encoder, which rows may share; None: it has none."""
        return self.overrides(1.0)[1]

    @cached_property
    def unrated(self) -> Recipe:
        """The recipe with a learning rate of 1."""
        return self.recipe(1.0)

    @cached_property
    def model_key(self) -> str:
        """Hash of everything but the learning rate: rows with equal ones are one group of runs."""
        return settings_hash(self.unrated)

    @property
    def first_rates(self) -> tuple[float, float]:
        """The learning rates of the first two pilots."""
        recipe = self.unrated
        heads_alone = recipe.peft is not None or (recipe.model.freeze_encoder and not recipe.stages)
        return HEAD_PILOT_RATES if heads_alone else PILOT_RATES


class FairTable:
    """The rows of a table under the fair budget, their pilots and runs.

    Args:
        plan: the table; its `learning_rate` and `seeds` do not matter. Its `rows` are those to run; `all`: those of
            the protocol.
        protocol: what is run and compared.
        results: folder of the result files.
        commit: whether each new result file is committed to the git repository that holds it.
    """

    def __init__(self, plan: TablePlan, protocol: Protocol, results: Path, commit: bool = False):
        self.plan, self.protocol = plan, protocol
        self.results, self.kept = results, ResultFolder(results, commit)
        wanted = self._paths(protocol.rows if plan.rows == (ALL,) else plan.rows)
        paths = self._paths(protocol.rows) | wanted  # groups do not depend on what is wanted
        self.rows = {name: self._row(name, path) for name, path in paths.items()}
        self.wanted = [self.rows[name] for name in wanted]
        for row in list(self.rows.values()):
            model = protocol.same_rate.get(row.name.removesuffix(HALF), row.name.removesuffix(HALF))
            if model != row.name:
                row.rate_of = self.rows.get(model) or self._row(model, self._paths((model,))[model])
        self._check()
        self._check_names()

    def _check_names(self) -> None:
        """Check the names of rows and scores in the protocol.

        Raises:
            InputError: lists those that there are not.
        """
        protocol, source = self.protocol, self.protocol.source
        if source is None:
            return
        names = list(self._paths(protocol.rows))
        for number, row in enumerate(protocol.half):
            source.check_name(row, names, "row", "half", str(number))
        for row in protocol.same_rate:
            source.check_name(row, [name.removesuffix(HALF) for name in names], "row", "same_rate", row)
        for number, finding in enumerate(protocol.findings):
            for row in finding["rows"]:
                source.check_name(row, names, "row", "findings", str(number), "rows")
            tasks = [list(self.rows[row].unrated.tasks) for row in finding["rows"] if row in self.rows]
            scores = [OVERALL, *(name for name in tasks[0] if name in tasks[-1])] if tasks else []
            for score in finding["scores"] if scores else ():
                source.check_name(score, scores, "score", "findings", str(number), "scores")
        source.finish()

    def _paths(self, names: tuple[str, ...]) -> dict[str, Path]:
        paths: dict[str, Path] = {}
        for name in ",".join(names).split(","):
            known = {path.stem: path for path in (CONFIGS / "compare").glob("*.yaml")}
            short = name.removesuffix(HALF)
            found = {short: known[short]} if short in known else find_rows((short,))
            half = HALF if name.endswith(HALF) else ""
            paths |= {f"{row}{half}": path for row, path in found.items()}
        return paths

    def _row(self, name: str, path: Path) -> Row:
        half = name.endswith(HALF) or name in self.protocol.half
        return Row(name, path, self.plan, STEPS if half else FAIR_STEPS)

    def _check(self) -> None:
        """Check all recipes.

        Raises:
            InputError: lists the problems of all of them.
        """
        problems = []
        for row in self.rows.values():
            try:
                row.model_key  # noqa: B018  # it loads the recipe
            except RecipeError as error:
                problems.append(f"{row.name}: {error}")
        if problems:
            raise InputError("\n".join(problems))

    def group_of(self, row: Row) -> Row:
        """Return the first row that is the same but for its learning rate."""
        return next(other for other in self.rows.values() if other.model_key == row.model_key)

    # ---- learning rates ----

    def rate(self, row: Row) -> float | None:
        """Return the learning rate that the pilots of a row chose, from their file; None if there is no valid one."""
        chosen = self.pilots(self._pilots_of(row)).get("chosen")
        return None if chosen is None else float(chosen)

    def pilots(self, row: Row) -> dict[str, Any]:
        """Return the file of a row's own pilots: `rates` (rate → score) and, once all have ended, `chosen`.

        Empty if there is none, or it is of other settings.
        """
        file = self.results / PILOTS / f"{row.name}.json"
        if not file.is_file():
            return {}
        values = read_json(file, "remove it, and the pilots are run again", limited=False)
        return values if values.get("settings") == row.model_key else {}

    def _pilots_of(self, row: Row) -> Row:
        while row.rate_of is not None:
            row = row.rate_of
        return next((other for other in self.rows.values() if other.model_key == row.model_key), row)

    def choose_rate(self, row: Row, threads: int) -> float:
        """Return a row's learning rate; run its pilots first if they have no result file."""
        row = self._pilots_of(row)
        with row.lock:
            chosen = self.rate(row)
            return self._run_pilots(row, threads) if chosen is None else chosen

    def _run_pilots(self, row: Row, threads: int) -> float:
        tried = {float(rate): score for rate, score in self.pilots(row).get("rates", {}).items()}

        def best_of(rates: Sequence[float]) -> float:
            for rate in rates:
                if rate not in tried:
                    tried[rate] = self._pilot(row, rate, threads)
                    self._save_pilots(row, tried)
            return max(rates, key=lambda rate: tried[rate])

        first = row.first_rates
        better = best_of(first)
        beyond = better * PILOT_FACTOR if better == max(first) else better / PILOT_FACTOR
        chosen = best_of((*first, beyond))
        self._save_pilots(row, tried, chosen)
        return chosen

    def _save_pilots(self, row: Row, tried: Mapping[float, float], chosen: float | None = None) -> None:
        """Write the file of a row's pilots after each of them, so that none is run again."""
        rates = {f"{rate:g}": score for rate, score in sorted(tried.items())}
        values = {"row": row.name, "settings": row.model_key, "score": SCORE, "rates": rates, "chosen": chosen}
        done = f"{len(tried)} of 3" if chosen is None else f"learning rate {chosen:g}"
        self.kept.keep_values(f"{PILOTS}/{row.name}", values, f"Pilots of {row.name}: {done}")

    def _pilot(self, row: Row, rate: float, threads: int) -> float:
        keys, pretrained = row.overrides(rate, STEPS)
        keys += pilot_keys(load(row.path, keys))
        digest = settings_hash(load(row.path, keys))
        folder = self.plan.output / "fair" / PILOTS / f"{row.name}-{rate:g}-{digest}"
        run = Run(row.name, row.path, 0, folder, keys, self.plan.mixed_precision, pretrained=pretrained)
        execute(run, threads)
        remove_weights(run.output)
        return run.scores[SCORE]

    # ---- runs ----

    def order(self) -> Iterator[tuple[Row, int]]:
        """Yield the runs of all groups: first all rows with the first seed, then with the second, and so on."""
        groups = dict.fromkeys(self.group_of(row).name for row in self.wanted)
        for seed in sorted({*self.protocol.seeds, *self.protocol.compared_seeds}):
            for name in groups:
                if seed in self.seeds_of(self.rows[name]):
                    yield self.rows[name], seed

    def seeds_of(self, group: Row) -> tuple[int, ...]:
        """Return the seeds of a group: those of the row of it that has the most."""
        names = [row.name for row in self.rows.values() if row.model_key == group.model_key]
        return max((self.protocol.seeds_of(name) for name in names), key=len)

    def result(self, row: Row, seed: int) -> Result | None:
        """Return the result of a finished run; None if there is no file, or it is of other settings."""
        group = self.group_of(row)
        rate = self.rate(group)
        found = None if rate is None else self.kept.find(f"{group.name}-{seed}", group.settings(rate), seed, row.path)
        return None if found is None else replace(found, row=row.name)

    def run_all(self, jobs: int) -> list[str]:
        """Run everything that has no result file, `jobs` runs at a time; return what failed."""
        failed: list[str] = []

        def work(item: tuple[Row, int]) -> None:
            row, seed = item
            try:
                if self.result(row, seed) is None:
                    self._run(row, seed, run_threads(jobs))
            except Exception as error:
                failed.append(masked(f"{row.name}, seed {seed}: {error!r}"))
                print(failed[-1], flush=True)

        work_in_turns(self.order(), jobs, work, lambda item: item[0].pretrained)
        return failed

    def _run(self, row: Row, seed: int, threads: int) -> None:
        rate = self.choose_rate(row, threads)
        keys, pretrained = row.overrides(rate)
        settings = row.settings(rate)
        keys += ["--training.seed", str(seed)]
        if seed == self.protocol.seeds[0]:  # gives the dev curves, of three points
            steps = load(row.path, keys).schedule.steps_per_epoch
            keys += ["--training.eval_strategy", "steps", "--training.eval_steps", str(EVALUATED * (steps or 1))]
        folder = self.plan.output / "fair" / row.name / f"seed-{seed}-{settings}"
        run = Run(row.name, row.path, seed, folder, keys, self.plan.mixed_precision, pretrained=pretrained)
        execute(run, threads)
        self.kept.keep(f"{row.name}-{seed}", result_of(row.name, row.path, seed, settings, run.output))
        remove_weights(run.output)
