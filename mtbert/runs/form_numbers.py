"""What the finished runs of forms say: scores, parameters, time, and differences from one form with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.metrics import averages
from ..evaluation.row_differences import OVERALL, RAW_MEAN, row_difference
from ..evaluation.run_tables import describing_comment
from ..evaluation.table_files import main_keys
from .dev_rows import DevRows, Predictions, predictions_by_seed, read_dev_rows
from .forms import FormTable
from .result_files import Result

LEVEL = 0.01  # a form is level with another if its mean is surely no more than a point below


class FormNumbers:
    """The numbers of a table of forms, from its result files alone.

    Args:
        table: the forms.
        against: name of the form with which the others are compared.

    Attributes:
        results: form → seed → results of its models.
        metrics: task → its main metric.
    """

    def __init__(self, table: FormTable, against: str):
        self.table, self.against = table, against
        self.results = {name: table.results_of(name) for name in table.forms}
        self.tasks = table.tasks
        self._dev: dict[str, DevRows] = {}
        self._recipe = table.recipe_of_all()
        self._specs = {name: task.spec(name) for name, task in self._recipe.tasks.items()}
        self.metrics: dict[str, str] = {}
        for by_seed in self.results.values():
            for results in by_seed.values():
                for result in results:
                    keys = main_keys(result.scores, list(result.recipe["tasks"]))
                    self.metrics |= {name: key.removeprefix(f"eval_{name}_") for name, key in keys.items()}

    def form(self, name: str) -> dict[str, Any]:
        """All numbers of a form.

        Returns:
            `form`, `what`, `seeds` (those that have ended), `planned` (all), `scores` (task, `raw_mean` and `overall` →
            a value for each seed), `further` (task → metric → values), `parameters` in all models, `ratio` to one model
            of `against`, `seconds` of all models (mean over seeds), `examples_per_second` of training,
            `predicted_per_second` of dev rows, `steps`, `commits`, and `difference` from `against` (see
            `row_difference`; empty if there is nothing to compare).
        """
        form, by_seed = self.table.forms[name], self.results[name]
        scores: dict[str, list[float]] = {}
        further: dict[str, dict[str, list[float]]] = {}
        for results in by_seed.values():
            for key, value in self._scores(results).items():
                scores.setdefault(key, []).append(value)
            for task, metric, value in self._further(results):
                further.setdefault(task, {}).setdefault(metric, []).append(value)
        parameters = self.parameters(name)
        one = self.parameters(self.against, first=True)
        seconds = self.seconds(name)
        return {
            "form": name,
            "what": form.what or describing_comment(form.models[0].path),
            "seeds": list(by_seed),
            "planned": list(form.seeds),
            "scores": scores,
            "further": further,
            "parameters": parameters,
            "ratio": parameters / one if parameters and one else None,
            "seconds": seconds,
            "examples_per_second": self._examples(name) / seconds if seconds else None,
            "predicted_per_second": self._predicted(name),
            "steps": sum(model.steps for model in self.table.models[name]),
            "commits": sorted({result.commit for results in by_seed.values() for result in results if result.commit}),
            "difference": {} if name == self.against else self.difference(name, self.against),
        }

    def _scores(self, results: Sequence[Result]) -> dict[str, float]:
        """Task → its main score, in the order of the tasks, and the averages."""
        found: dict[str, float] = {}
        for result in results:
            keys = main_keys(result.scores, list(result.recipe["tasks"]))
            found |= {task: result.scores[key] for task, key in keys.items()}
        ordered = {task: found[task] for task in self.tasks if task in found}
        means = averages({task: (self.metrics[task], value) for task, value in ordered.items()})
        return ordered | {RAW_MEAN: means[RAW_MEAN], OVERALL: means[OVERALL]}

    def _further(self, results: Sequence[Result]) -> list[tuple[str, str, float]]:
        """(task, metric, score) of all scores besides the main ones."""
        found = []
        for result in results:
            tasks = list(result.recipe["tasks"])
            for task in tasks:
                longer = tuple(f"eval_{other}_" for other in tasks if other.startswith(f"{task}_"))
                for key, value in result.scores.items():
                    metric = key.removeprefix(f"eval_{task}_")
                    left_out = metric in (key, "loss", self.metrics.get(task)) or metric.endswith("_undefined")
                    if not left_out and not key.startswith(longer):
                        found.append((task, metric, float(value)))
        return found

    def parameters(self, name: str, first: bool = False) -> int | None:
        """Parameters of a form's models in all; weights that are frozen are the same in all models and count once.

        Args:
            first: of its first model alone.
        """
        for results in self.results[name].values():
            tables = [result.record["parameters"] for result in (results[:1] if first else results)]
            trained = sum(table[-1]["trainable"] for table in tables)
            return int(trained + max(map(_frozen, tables)))
        return None

    def seconds(self, name: str) -> float | None:
        """Seconds of training of a form's models in all, without those of measuring affinities; mean over seeds."""
        by_seed = [sum(map(_seconds, results)) for results in self.results[name].values()]
        return sum(by_seed) / len(by_seed) if by_seed else None

    def _examples(self, name: str) -> float:
        """Rows that a form's models are trained on, mean over seeds."""
        counts = [
            sum(count for result in results for epoch in result.record["examples"].values() for count in epoch.values())
            for results in self.results[name].values()
        ]
        return sum(counts) / len(counts)

    def _predicted(self, name: str) -> float | None:
        """Dev rows a second in the final evaluations of a form's models, over all seeds."""
        results = [result for found in self.results[name].values() for result in found]
        seconds = sum(float(result.scores.get("eval_runtime", 0.0)) for result in results)
        rows = sum(sum(result.record["rows"]["dev"].values()) for result in results)
        return rows / seconds if seconds else None

    def difference(self, name: str, other: str) -> dict[str, dict[str, Any]]:
        """Differences of a form from another, with paired intervals over seeds and dev rows; see `row_difference`."""
        seeds = self.results[name].keys() & self.results[other].keys()
        if not seeds:
            return {}
        for results in self.results[other].values():
            for result in results:
                read_dev_rows(self._recipe, result.scores, self._dev)
        tasks = {task: self._dev[task].task for task in self.tasks if task in self._dev}
        return row_difference(self._predictions(name), self._predictions(other), tasks, means=(RAW_MEAN, OVERALL))

    def _predictions(self, name: str) -> Predictions:
        results = [result for found in self.results[name].values() for result in found]
        return predictions_by_seed(results, self._specs, self._dev, str(self._recipe.data_dir))


def _frozen(table: Sequence[Mapping[str, Any]]) -> int:
    """Frozen parameters of a model's encoder. (peft keeps a frozen copy of each head beside the trained one.)"""
    return sum(row["parameters"] - row["trainable"] for row in table if row["component"] == "encoder")


def _seconds(result: Result) -> float:
    measured: Sequence[Mapping[str, Any]] = result.affinity.get("measured", ())
    return float(result.record["seconds"] or 0) - sum(entry["seconds"] for entry in measured)


def judged(low: float, high: float, level: float = LEVEL) -> str:
    """Say what an interval of a difference shows: `better`, `level` (no more than a point below), `worse`, or not."""
    if low > 0:
        return "better"
    if low > -level:
        return "level"
    return "worse" if high < 0 else "undecided"
