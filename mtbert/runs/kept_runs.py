"""Runs of a table whose results are kept as small files, so that the table goes on on another machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .budget_keys import load
from .result_files import Result, commit_file, result_of, settings_hash
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
    digests = {id(run): settings_hash(load(run.path, run.overrides)) for run in runs}

    def file(run: Run) -> Path:
        return results / f"{run.row}-seed{run.seed}-{digests[id(run)]}.json"

    def keep(run: Run) -> None:
        result = result_of(run.row, run.path, run.seed, digests[id(run)], run.output)
        result.write(file(run))
        if commit:
            score = result.scores.get("eval_overall", float("nan"))
            commit_file(file(run), f"Result of {run.row}, seed {run.seed}: dev overall {score:.3f}")

    waiting = [run for run in runs if run.same_as is None and not file(run).is_file()]
    for run in waiting:
        if run.finished():  # interrupted before its result was written
            keep(run)
    execute_all([run for run in waiting if not run.finished()], jobs, keep)
    kept: list[Run | Result] = []
    for run in runs:
        first = run.same_as or run
        if not file(first).is_file():
            run.failed = run.failed or first.failed
            kept.append(run)
            continue
        result = Result.read(file(first), run.path)
        result.row = run.row
        if run.same_as is not None:
            result.same_as = Result(first.row, first.path, first.seed, digests[id(first)])
        kept.append(result)
    return kept
