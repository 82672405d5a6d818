"""Run rows of the reports (or any recipes) with several seeds, and write a table next to the published figures.

    mtbert reproduce A4 E5,E6 compare/pal --encoder DIR_OR_HUB_NAME --data_dir DIR --seeds 1,2,3

A row is a recipe of `cs224n` by its name (ranges as in A1-A12), a recipe of another folder as folder/name, or a file.
Every run has its own process, folder and log; a run that has ended well is not repeated. Rows that become the same run
under a budget share it, and rows with the same pre-training share that. If runs were evaluated more than once, the dev
curves of all rows are written beside the table, as one figure and as JSON; --curves evaluates after each epoch.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

import yaml
from rich.console import Console
from rich.markdown import Markdown

from ..errors import InputError
from ..evaluation.run_tables import environment, table
from ..evaluation.table_curves import write_curves
from ..evaluation.table_files import to_markdown, write
from ..runs import bundled
from ..runs.budget_keys import load
from ..runs.fair import ALL, FairTable, Protocol
from ..runs.fair_page import write_page
from ..runs.form_page import hide_places, write_forms
from ..runs.forms import FormProtocol, FormTable
from ..runs.row_runs import execute_all
from ..runs.table_plan import TablePlan, plan_runs
from ..training.methods import method_classes
from . import arguments
from .main import run as run_command

PUBLISHED = yaml.safe_load((bundled.folder() / "published.yaml").read_text(encoding="utf-8"))


def planned(args: argparse.Namespace) -> TablePlan:
    """The table that the command line asks for."""
    return TablePlan(
        rows=tuple(args.rows),
        encoder=args.encoder,
        data_dir=args.data_dir,
        seeds=tuple(args.seeds),
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
    Console().print(Markdown(write_page(rows, PUBLISHED, method_classes(), args.page)))
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
    Console().print(Markdown(write_forms(forms, protocol.against, names, "Twelve heads over one encoder", command)))
    return 1 if failed else 0


def main(argv: list[str]) -> int:
    """Run all rows and write their table; return the exit status: 1 if a run failed."""
    args = arguments.reproduce(argv)
    if args.budget == "fair":
        return fair(args)
    if args.budget == "wide":
        return wide(args, argv)
    runs = plan_runs(planned(args))
    execute_all(runs, args.jobs)
    entries = table(runs, PUBLISHED, method_classes())
    about = environment(runs, ["mtbert", "reproduce", *argv])
    write(entries, about, args.output, args.title)
    write_curves(runs, args.output, args.title)
    Console().print(Markdown(to_markdown(entries, about)))
    return 1 if any(run.failed for run in runs) else 0


if __name__ == "__main__":
    sys.exit(run_command("reproduce"))
