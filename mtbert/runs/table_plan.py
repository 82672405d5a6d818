"""The runs of a table of reproduced rows: which recipes, with which keys, and in which folders."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..recipe import Recipe, RecipeError
from .budget_keys import load, small_budget
from .bundled import folder as bundled_folder
from .row_runs import Run

Budget = Callable[[Path, list[str]], list[str]]
CONFIGS = bundled_folder() / "configs"


@dataclass(frozen=True)
class TablePlan:
    """What a table of reproduced rows is made from.

    Attributes:
        rows: names of rows (`A4`), ranges (`A1-A12`), recipes of other folders (`compare/pal`) and files; one text may
            hold several, separated by commas.
        encoder: folder or hub name of the encoder.
        data_dir: folder of the data files.
        seeds: training seed of each run of a row.
        budget: `small` or `published` (what the recipe says).
        learning_rate: rate of all rows under the small budget.
        instead_of_pooler: pooling of the rows that use the encoder's pooler; None: the pooler.
        mixed_precision: `no`, `bf16` or `fp16`.
        output: folder of the runs.
        overrides: keys of all recipes, as on the command line.
        curves: whether runs under the small budget are evaluated after each epoch, for dev curves.
    """

    rows: tuple[str, ...]
    encoder: str
    data_dir: str
    seeds: tuple[int, ...]
    budget: str
    learning_rate: float
    instead_of_pooler: str | None
    mixed_precision: str
    output: Path
    overrides: tuple[str, ...]
    curves: bool = False


def find_rows(names: Sequence[str]) -> dict[str, Path]:
    """Return the recipe file of each row, in the order of `names`.

    Raises:
        ValueError: no recipe has a name (the message lists the names), or two recipes have it.
    """
    recipe_files = {path.stem: path for path in sorted((CONFIGS / "cs224n").glob("[A-Z]*.yaml"), key=_row_number)}
    rows: dict[str, Path] = {}
    for name in filter(None, ",".join(names).split(",")):
        ends = re.fullmatch(r"([A-Z])(\d+)-(?:\1)?(\d+)", name)
        if ends:
            report, first, last = ends[1], int(ends[2]), int(ends[3])
            matches = {}
            for path in recipe_files.values():
                row_report, number, _ = _row_number(path)
                if row_report == report and first <= number <= last:
                    matches[path.stem] = path
        elif name in recipe_files:
            matches = {name: recipe_files[name]}
        else:
            path = Path(name) if name.endswith(".yaml") else CONFIGS / f"{name}.yaml"
            matches = {path.stem: path} if path.is_file() else {}
        if not matches:
            raise InputError(
                f"there is no row {name!r}; there are: {', '.join(recipe_files)}, and recipes by folder/name"
            )
        for row, path in matches.items():
            if row in rows and rows[row].resolve() != path.resolve():
                raise InputError(f"two recipes are named {row}: {rows[row]} and {path}; rename one")
        rows |= matches
    return rows


def _row_number(path: Path) -> tuple[str, int, str]:
    match: Any = re.fullmatch(r"([A-Z])(\d+)(.*)", path.stem)
    report, number, rest = match.groups()
    return report, int(number), rest


def plan_runs(plan: TablePlan) -> list[Run]:
    """Return all runs of the table; all recipes are checked first.

    Raises:
        ValueError: lists the problems of all recipes.
    """
    small = partial(small_budget, learning_rate=plan.learning_rate, curves=plan.curves)
    budget = small if plan.budget == "small" else None
    runs, problems = [], []
    first: dict[str, Run] = {}
    for row, path in find_rows(plan.rows).items():
        try:
            fixed, pretrained = row_settings(path, plan, budget)
            for seed in plan.seeds:
                overrides = [*fixed, "--training.seed", str(seed)]
                digest = hashed(load(path, overrides).to_dict(), plan.mixed_precision)
                folder = plan.output / plan.budget / path.parent.name / row / f"seed-{seed}-{digest}"
                run = Run(row, path, seed, folder, overrides, plan.mixed_precision)
                run.same_as, run.pretrained = first.get(digest), pretrained
                runs.append(run)
                first.setdefault(digest, run)
        except RecipeError as error:
            problems.append(f"{row}: {error}")
    if problems:
        raise InputError("\n".join(problems))
    return runs


def row_settings(path: Path, plan: TablePlan, budget: Budget | None = None) -> tuple[list[str], Path | None]:
    """Return the overrides of a row's recipe, and the folder of its pre-trained encoder, or None.

    Args:
        budget: maps the recipe file and the other overrides to those of the budget; None: the recipe's own length.
    """
    fixed = ["--encoder", plan.encoder, "--data_dir", plan.data_dir]
    fixed += [*(budget(path, [*fixed, *plan.overrides]) if budget else []), *plan.overrides]
    recipe = load(path, fixed)
    if plan.instead_of_pooler:
        pooled = [name for name, task in recipe.tasks.items() if task.pooling == "pooler"]
        fixed += [part for name in pooled for part in (f"--tasks.{name}.pooling", plan.instead_of_pooler)]
    if recipe.pretraining is None:
        return fixed, None
    folder = recipe.pretraining.get("output_dir")
    if folder is None:
        folder = str(shared_pretraining(recipe, plan))
        fixed += ["--pretraining.output_dir", folder]
    return fixed, Path(folder, f"epoch-{recipe.pretraining.get('use_epoch')}")


def shared_pretraining(recipe: Recipe, plan: TablePlan) -> Path:
    """Return the folder of a pre-training, which rows with the same texts and settings share."""
    texts = [recipe.encoder, str(recipe.data_dir), {name: asdict(task.data) for name, task in recipe.tasks.items()}]
    settings = {key: value for key, value in (recipe.pretraining or {}).items() if key != "use_epoch"}
    return plan.output / "pretraining" / hashed(texts, settings, plan.mixed_precision)


def hashed(*content: Any) -> str:
    """Return a hash of the content, of ten hexadecimal digits."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]
