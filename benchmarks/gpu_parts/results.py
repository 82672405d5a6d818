"""gpu.json and gpu.md, written anew whenever a part has more to show. Does not import torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tables import Table, facts, print_tables, write

TITLE = "Benchmarks on one GPU"
OF_ONE_RUN = ("commit", "device")  # parts of runs that agree in these stand in one file


@dataclass(frozen=True)
class Bar:
    """A measured value and its bound; a value on the bound passes.

    Attributes:
        what: what was measured.
        value: the measured value.
        least: lower bound; None: no bound.
        most: upper bound; None: no bound.
        aim: whether the bound is a goal rather than a requirement.
    """

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    aim: bool = False

    @property
    def passed(self) -> bool:
        above = self.least is None or self.value >= self.least
        return math.isfinite(self.value) and above and (self.most is None or self.value <= self.most)

    def row(self) -> list[Any]:
        """Return the row of the table of bars."""
        bounds = [f"{sign} {bound:g}" for sign, bound in (("≥", self.least), ("≤", self.most)) if bound is not None]
        wanted = " and ".join(bounds) + (" (aim)" if bounds and self.aim else "")
        value = f"{self.value:.2e}" if 0 < abs(self.value) < 1e-3 else float(self.value)
        result = "FAIL" if not self.passed else "pass" if bounds else ""
        return [self.what, value, wanted, result]


class Results:
    """The results of a run, in a folder.

    Args:
        folder: holds gpu.json and gpu.md. Parts that they already have are kept if commit and device are the same.
        environment: describes this run; None: that of the stored results.
    """

    def __init__(self, folder: Path, environment: dict[str, Any] | None = None):
        self.folder = folder
        stored = _stored(folder / "gpu.json")
        self.environment = stored["environment"] if environment is None else environment
        same = all(stored["environment"].get(key) == self.environment.get(key) for key in OF_ONE_RUN)
        self.parts: dict[str, dict[str, Any]] = stored["parts"] if same else {}

    def put(
        self,
        part: str,
        values: dict[str, Any],
        tables: Sequence[Table] = (),
        bars: Sequence[Bar] = (),
        stopped: str = "",
    ) -> None:
        """Replace the part's results, and write both files.

        Args:
            part: name of the part.
            values: what gpu.json gets.
            tables: what gpu.md gets.
            bars: the part's bars.
            stopped: the reason why the part has not ended, if so.
        """
        self.parts[part] = {
            "stopped": stopped,
            "values": values,
            "bars": [{**asdict(bar), "passed": bar.passed} for bar in bars],
            "tables": [asdict(table) for table in tables],
        }
        self.write()

    def stop(self, part: str, why: str) -> None:
        """Say why a part has not ended; what it has measured stays."""
        self.parts.setdefault(part, {"values": {}, "bars": [], "tables": []})["stopped"] = why
        self.write()

    def bars(self, part: str | None = None) -> list[Bar]:
        """Return the bars of a part, or of all parts."""
        found = [bar for name, each in self.parts.items() if part in (None, name) for bar in each["bars"]]
        return [Bar(**{key: value for key, value in bar.items() if key != "passed"}) for bar in found]

    def tables(self) -> list[Table]:
        """Return the table of bars, and those of all parts."""
        bars = [bar.row() for bar in self.bars()]
        summary = [Table("Bars", ["what", "value", "wanted", "result"], bars)] if bars else []
        return summary + [Table(**table) for each in self.parts.values() for table in each["tables"]]

    def show(self) -> None:
        """Print all tables and the parts that have not ended."""
        print_tables(self.tables())
        print("\n".join([*self._stopped(), f"written: {self.folder / 'gpu'}.md and .json"]))

    def _stopped(self) -> list[str]:
        return [f"- {part} has not ended: {each['stopped']}" for part, each in self.parts.items() if each["stopped"]]

    def write(self) -> None:
        """Write both files."""
        lines = [*facts(self.environment), *self._stopped()]
        text = "\n".join([f"# {TITLE}", "", *lines, "", *(table.markdown() for table in self.tables())])
        write(self.folder, "gpu", text, {"environment": self.environment, "parts": self.parts})


def _stored(file: Path) -> dict[str, Any]:
    """Return the content of gpu.json; that of another form counts as none."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return found if {"environment", "parts"} <= found.keys() else {"environment": {}, "parts": {}}
