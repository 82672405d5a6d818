"""A folder of result files: finished runs are found there by their settings, and new ones are written and committed."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import write_json
from ..modeling.checkpoint_loading import read_json
from .result_files import Result, commit_file


class ResultFolder:
    """The result files of a table, of several tables, or of the studies that share runs with them.

    Args:
        folder: the folder, which need not exist.
        commit: whether each file that is written is committed to the git repository that holds it.
    """

    def __init__(self, folder: Path, commit: bool = False):
        self.folder, self.commit = folder, commit
        self._git = threading.Lock()

    def file(self, name: str, settings: str, seed: int) -> Path | None:
        """Return the file of a finished run; None if there is none.

        Args:
            name: of the file that this run writes, without `.json`; one with the same settings by another name counts.
            settings: hash of the run's settings.
            seed: its training seed.

        Raises:
            InputError: a file of the folder is damaged.
        """
        for file in (self.folder / f"{name}.json", self._others.get((settings, seed))):
            if file is not None and file.is_file() and _run_of(file) == (settings, seed):
                return file
        return None

    def find(self, name: str, settings: str, seed: int, path: Path) -> Result | None:
        """Return the result of a finished run, or None.

        Args:
            name: see `file`.
            settings: hash of the run's settings.
            seed: its training seed.
            path: the run's recipe file.

        Raises:
            InputError: a file of the folder is damaged.
        """
        file = self.file(name, settings, seed)
        return None if file is None else Result.read(file, path)

    @cached_property
    def _others(self) -> dict[tuple[str, int], Path]:
        """(Hash of the settings, seed) → file: of the runs that were there at the first look, or were written here."""
        return {run: file for file in sorted(self.folder.glob("*.json")) if (run := _run_of(file)) is not None}

    def keep(self, name: str, result: Result, of: str = "") -> None:
        """Write the file of a run that has finished, and say so.

        Args:
            name: of the file, without `.json`.
            result: the result.
            of: what was run, for the reader; default: the result's row.

        Raises:
            InputError: git refuses.
        """
        file, score = self.folder / f"{name}.json", result.scores.get("eval_overall", float("nan"))
        result.write(file)
        self._others[result.settings, result.seed] = file
        self._say(file, f"Result of {of or result.row}, seed {result.seed}: overall {score:.3f}")

    def keep_values(self, name: str, values: Mapping[str, Any], subject: str) -> None:
        """Write a file of other values, such as the scores of pilots; `subject` says what they are. See `keep`."""
        file = self.folder / f"{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, values)
        self._say(file, subject)

    def _say(self, file: Path, subject: str) -> None:
        print(subject, flush=True)
        if self.commit:
            with self._git:
                commit_file(file, subject)


def _run_of(file: Path) -> tuple[str, int] | None:
    """Return the hash of the settings and the seed that a file states; None if it is no result file."""
    values = read_json(file, "remove it, and the run is run again", limited=False)
    return (values["settings"], values["seed"]) if {"settings", "seed"} <= values.keys() else None
