"""Search spaces: which keys of a recipe a search sets, and which values each may take."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from ..errors import Problem, RecipeError
from .fields import Report, read_fields, shown
from .yaml_layers import parse_yaml, unreadable

if TYPE_CHECKING:
    from optuna import Trial

    from .schema import Recipe

KINDS = ("float", "int", "categorical")
DRAWS = 20  # how many points of a space a value is tried with before it counts as one that never works
OWN = ("training.output_dir", "training.resume_from_checkpoint")


@dataclass(frozen=True)
class Dimension:
    """The values that one key may take.

    Attributes:
        type: `float`, `int` or `categorical`.
        low: the least value, included. Not for `categorical`.
        high: the greatest value, included. Not for `categorical`.
        log: draw evenly on a logarithmic scale; `low` must then be positive.
        step: the distance between values, counted from `low`; None: any (`int`: 1). Not with `log`.
        choices: the values of a `categorical`, any that the key takes.
    """

    type: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    choices: list[Any] | None = None

    def problems(self) -> list[Problem]:
        """One problem for each value that is wrong."""
        if self.type not in KINDS:
            return [Problem(("type",), f"is {shown(self.type)}, but must be one of: {', '.join(KINDS)}")]
        if self.type == "categorical":
            return self._categorical_problems()
        low: Any = self.low
        problems = []
        if self.choices is not None:
            problems.append(
                Problem(("choices",), f"is {self.choices}, but must be absent: they are for type: categorical")
            )
        if missing := [key for key in ("low", "high") if getattr(self, key) is None]:
            return [*problems, *(Problem((key,), "is null, but must be a number") for key in missing)]
        if low > self.high:
            problems.append(Problem(("low",), f"is {self.low}, but must be at most high, which is {self.high}"))
        if self.log and low <= 0:
            problems.append(Problem(("low",), f"is {self.low}, but must be positive with log: true"))
        if self.step is not None and self.step <= 0:
            problems.append(Problem(("step",), f"is {self.step}, but must be positive"))
        if self.step is not None and self.log:
            problems.append(Problem(("step",), f"is {self.step}, but must be absent with log: true"))
        if self.type == "int":
            values = {key: getattr(self, key) for key in ("low", "high", "step")}
            odd = {key: value for key, value in values.items() if value is not None and value != int(value)}
            problems += [Problem((key,), f"is {value}, but must be whole with type: int") for key, value in odd.items()]
        return problems

    def _categorical_problems(self) -> list[Problem]:
        problems = []
        for key in ("low", "high", "step"):
            if getattr(self, key) is not None:
                problems.append(Problem((key,), f"is {getattr(self, key)}, but must be absent with type: categorical"))
        if self.log:
            problems.append(Problem(("log",), "is true, but must be absent with type: categorical"))
        if not self.choices:
            problems.append(
                Problem(("choices",), f"is {self.choices or 'missing or empty'}, but must be a list of values")
            )
        elif repeated := [shown(choice) for i, choice in enumerate(self.choices) if choice in self.choices[:i]]:
            problems.append(Problem(("choices",), f"is {self.choices}, but must not hold {', '.join(repeated)} twice"))
        return problems

    def ends(self) -> list[Any]:
        """The values to try before a search: both ends, or every choice."""
        if self.type == "categorical":
            return list(self.choices or ())
        ends: Any = dict.fromkeys((self.low, self.high))
        return [int(end) if self.type == "int" else float(end) for end in ends]

    def draw(self, random: Random) -> Any:
        """A value at random, of the ends and choices."""
        return random.choice(self.ends())

    def suggest(self, trial: Trial, key: str) -> Any:
        """The value that an optuna trial takes for `key`."""
        low: Any = self.low
        high: Any = self.high
        if self.type == "float":
            return trial.suggest_float(key, low, high, log=self.log, step=self.step)
        if self.type == "int":
            return trial.suggest_int(key, int(low), int(high), log=self.log, step=int(self.step or 1))
        labels = self.labels()
        return (self.choices or [])[labels.index(trial.suggest_categorical(key, labels))]

    def labels(self) -> list[Any]:
        """The choices as a study stores them: lists and mappings, which it does not take, as JSON."""
        return [json.dumps(choice) if isinstance(choice, list | dict) else choice for choice in self.choices or ()]


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted key as the overrides of a command line."""
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    return [f"--{key}={text}" for key, text in texts.items()]


def read_space(path: str | Path) -> tuple[dict[str, Dimension], list[str], dict[str, str]]:
    """Read a YAML file of dotted keys and their Dimension's fields.

    Returns:
        The dimensions without faults, by key; what is wrong with the file, one problem a line; where each key stands.
    """
    path = Path(path)
    try:
        tree, origins = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except RecipeError as error:
        return {}, list(error.problems), {}
    except (OSError, ValueError) as error:
        return {}, [f"{path}: cannot be read: {unreadable(error)}"], {}
    if not isinstance(tree, dict) or not tree:
        return {}, [f"{path}: a space must map dotted keys to their values, but this is {shown(tree)}"], {}
    space, report = {}, Report(str(path), origins)
    for key, values in tree.items():
        given = read_fields(Dimension, values, (key,), report)
        if any(key_path[0] == key for key_path in report.told):
            continue
        dimension = Dimension(**given)
        problems = dimension.problems()
        report.add_all(problem.under(key) for problem in problems)
        if not problems:
            space[key] = dimension
    for key in tree:
        if key in OWN:
            report.add(Problem((key,), "is set by the search itself; drop it"))
        for other in tree:
            if key.startswith(f"{other}."):
                report.add(Problem((key,), f"lies within {other}, which the space sets as a whole; drop one of them"))
    return space, report.lines, {key: origins[(key,)] for key in tree}


def check_space(
    space: Mapping[str, Dimension], origins: Mapping[str, str], load: Callable[[list[str]], Recipe]
) -> list[str]:
    """What of a space no recipe takes: keys that do not exist, values of a wrong type or out of their range.

    Each end or choice is tried alone upon the recipe, and where that fails (a schedule may need its temperature)
    together with random values of the other keys.

    Args:
        origins: where each key stands, as `read_space` says.
        load: overrides → a checked recipe; raises RecipeError.

    Returns:
        One problem a line; if no value of a key works, those of its first one.
    """
    space_problems, random = [], Random(0)

    def problems(values: dict[str, Any]) -> tuple[str, ...]:
        try:
            load(as_overrides(values))
        except RecipeError as error:
            return error.problems
        return ()

    for key, dimension in space.items():
        refused = []
        for value in dimension.ends():
            alone = problems({key: value})
            others = (
                {other_key: space[other_key].draw(random) for other_key in space} for _ in range(DRAWS if alone else 0)
            )
            if alone and all(problems({**other, key: value}) for other in others):
                refused.append([f"{origins[key]}: {problem.removeprefix('command line: ')}" for problem in alone])
        space_problems += (
            refused[0] if len(refused) == len(dimension.ends()) else [line for lines in refused for line in lines]
        )
    return space_problems
