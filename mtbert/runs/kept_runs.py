"""Runs of a table whose results are kept as small files, so that the table goes on on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .budget_keys import load
from .result_files import Result, result_of, settings_hash
from .result_folder import ResultFolder
from .row_runs import Run, execute_all

LOGITS = ("--training.save_logits", "true")  # results hold them


def execute_kept(runs: Sequence[Run], jobs: int, results: Path, commit: bool) -> list[Run | Result]:
    """Run what has no result file, and write that of each run at once; the weights stay in the run's folder.

    Args:
        runs: the runs of a table, with the overrides `LOGITS`.
        jobs: runs at a time.
        results: folder of the result files.
        commit: whether each new result file is committed to the git repository that holds it.

    Returns:
        A result for each run, or the run itself if it failed.
    """
    folder = ResultFolder(results, commit)
    digests = {id(run): settings_hash(load(run.path, run.overrides)) for run in runs}

    def file_name(run: Run) -> str:
        return f"{run.row}-seed{run.seed}-{digests[id(run)]}"

    def find(run: Run) -> Result | None:
        return folder.find(file_name(run), digests[id(run)], run.seed, run.path)

    def keep(run: Run) -> None:
        folder.keep(file_name(run), result_of(run.row, run.path, run.seed, digests[id(run)], run.output))

    waiting = [run for run in runs if run.same_as is None and find(run) is None]
    for run in waiting:
        if run.finished():  # interrupted before its result was written
            keep(run)
    execute_all([run for run in waiting if not run.finished()], jobs, keep)
    kept: list[Run | Result] = []
    for run in runs:
        first = run.same_as or run
        result = find(first)
        if result is None:
            run.failed = run.failed or first.failed
            kept.append(run)
            continue
        if run.same_as is not None:
            result.same_as = Result(first.row, first.path, first.seed, digests[id(first)])
        kept.append(replace(result, row=run.row))
    return kept
