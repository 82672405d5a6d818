"""Run rows of the reports (or any recipes) with several seeds, and write a table next to the published figures.

    mtbert reproduce A4 E5,E6 compare/pal --encoder DIR_OR_HUB_NAME --data_dir DIR --seeds 1,2,3

A row is a recipe of `cs224n` by its name (ranges as in A1-A12), a recipe of another folder as folder/name, or a file.
Every run has its own process, folder and log; a run that has ended well is not repeated. Rows that become the same run
under a budget share it, and rows with the same pre-training share that. If runs were evaluated more than once, the dev
curves of all rows are written beside the table, as one figure and as JSON; --curves evaluates after each epoch.

    mtbert reproduce --candidates FILE.yaml --folds K --encoder DIR_OR_HUB_NAME --data_dir DIR

compares the candidates of a file, or rows, by K folds of the training rows: which of them are better or worse than the
baseline, and which are undecided. The recipe to go on with is written to chosen.yaml. Dev files are not opened.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import yaml

from ..errors import InputError
from ..evaluation.run_tables import environment, table
from ..evaluation.table_curves import write_curves
from ..evaluation.table_files import to_markdown, write
from ..runs import bundled
from ..runs.budget_keys import load, small_budget
from ..runs.candidates import CandidateFile, read_candidates, rows_as_candidates
from ..runs.fair import ALL, FairTable, Protocol
from ..runs.fair_page import write_page
from ..runs.fold_page import CHOSEN, to_markdown as to_markdown_page, write_report
from ..runs.fold_plan import FoldPlan
from ..runs.fold_table import FoldTable
from ..runs.form_page import hide_places, write_forms
from ..runs.forms import FormProtocol, FormTable
from ..runs.kept_runs import LOGITS, execute_kept
from ..runs.result_files import Result
from ..runs.row_runs import Run, execute_all
from ..runs.table_plan import TablePlan, plan_runs
from ..training.methods import method_classes
from . import arguments
from .main import run as run_command
from .pages import print_page
from .parsers_tables import uses_folds

PUBLISHED = yaml.safe_load((bundled.folder() / "published.yaml").read_text(encoding="utf-8"))


def planned(args: argparse.Namespace) -> TablePlan:
    """The table that the command line asks for."""
    return TablePlan(
        rows=tuple(args.rows),
        encoder=args.encoder,
        data_dir=args.data_dir,
        seeds=tuple(args.seeds or ()),
        budget=args.budget,
        learning_rate=args.learning_rate,
        instead_of_pooler=args.instead_of_pooler,
        mixed_precision=args.mixed_precision,
        output=args.output,
        overrides=tuple(args.more),
        curves=args.curves,
    )


def fair(args: argparse.Namespace) -> int:
    """Run the rows of the fair budget that have no result file, and write their table; return the exit status."""
    protocol = Protocol.read(args.protocol or bundled.folder() / "fair.yaml")
    rows = FairTable(planned(args), protocol, args.results, args.commit)
    failed = [] if args.finished_only else rows.run_all(args.jobs)
    print_page(write_page(rows, PUBLISHED, method_classes(), args.page))
    return 1 if failed else 0


def wide(args: argparse.Namespace, argv: Sequence[str]) -> int:
    """Run the forms of the wide budget that have no result file, and write their page; return the exit status."""
    given = ["--encoder", args.encoder, "--data_dir", args.data_dir, *args.more]
    file = args.protocol or bundled.folder() / "wide.yaml"
    protocol = FormProtocol.read(file, lambda path: list(load(path, given).tasks))
    names = [form.name for form in protocol.forms]
    rows = [name for row in args.rows for name in row.split(",") if name]
    if unknown := [row for row in rows if row not in (*names, ALL)]:
        raise InputError(f"there is no form {unknown[0]!r} in {file}; there are: {', '.join(names)}, and {ALL}")
    wanted = names if ALL in rows else rows
    plan = replace(planned(args), output=args.output / "wide")
    forms = FormTable(plan, protocol.forms, protocol.budget, args.results, args.commit)
    failed = [] if args.finished_only else forms.run_all(args.jobs, wanted)
    command = " ".join(["mtbert", "reproduce", *hide_places(argv)])
    print_page(write_forms(forms, protocol.against, names, "Twelve heads over one encoder", command))
    return 1 if failed else 0


def fold_table(args: argparse.Namespace) -> FoldTable:
    """The candidates that the command line asks for, and how folds compare them.

    Raises:
        InputError: the number of folds is not given, or there are problems in the file or in the candidates.
    """
    content: CandidateFile | None = None
    if args.candidates is None:
        candidates = rows_as_candidates(args.rows)
    else:
        candidates, content = read_candidates(args.candidates)
    given: dict[str, Any] = {}
    for name in ("folds", "first_folds", "seeds", "steps", "score", "baseline"):
        value = getattr(args, name) if getattr(args, name) is not None else getattr(content, name, None)
        if value is not None:
            given[name] = tuple(value) if isinstance(value, list) else value
    if "folds" not in given:
        raise InputError(f"{args.candidates} says no number of folds; give --folds K, or folds in the file")
    budget = partial(small_budget, learning_rate=args.learning_rate) if args.budget == "small" else None
    results = args.results or args.output / "results"
    return FoldTable(planned(args), FoldPlan(**given), candidates, results, args.commit, budget)


def by_folds(args: argparse.Namespace) -> int:
    """Run the fold-runs that have no result file, and write what was decided; return the exit status."""
    table = fold_table(args)
    rounds, failed = table.run_all(args.jobs, args.finished_only)
    title = args.candidates.stem if args.candidates is not None and args.title == "table" else args.title
    values = write_report(table, rounds, failed, title, args.page)
    print_page(to_markdown_page(values))
    if values["chosen"] is not None:
        print(f"chosen recipe: {table.results / CHOSEN}")
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """Run all rows and write their table; return the exit status: 1 if a run failed."""
    args = arguments.reproduce(argv)
    if uses_folds(args):
        return by_folds(args)
    if args.budget == "fair":
        return fair(args)
    if args.budget == "wide":
        return wide(args, argv)
    plan = planned(args)
    runs: Sequence[Run | Result]
    if args.results is None:
        runs = started = plan_runs(plan)
        execute_all(started, args.jobs)
    else:
        kept = plan_runs(replace(plan, overrides=(*plan.overrides, *LOGITS)))
        runs = execute_kept(kept, args.jobs, args.results, args.commit)
    entries = table(runs, PUBLISHED, method_classes())
    about = environment(runs, ["mtbert", "reproduce", *argv])
    write(entries, about, args.output, args.title)
    write_curves(runs, args.output, args.title)
    print_page(to_markdown(entries, about))
    return 1 if any(run.failed for run in runs) else 0


if __name__ == "__main__":
    sys.exit(run_command("reproduce"))
