"""Report on a split that was read: rows kept, rows left out and why, and warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

from .labels import SHOWN
from .readers import SHORT


@dataclass(frozen=True)
class Leak:
    """Train rows of one task that give away rows of a held-out split.

    Attributes:
        task: the task whose train rows they are.
        other: the task of the held-out split; it may be the same.
        split: `dev` or `test`.
        same: numbers of the train rows with the text of a held-out row, or its pair in either order.
        phrases: numbers of further train rows where one of two texts, of at least three words, is a phrase of the
            other; of pairs, both texts.
    """

    task: str
    other: str
    split: str
    same: tuple[int, ...]
    phrases: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        """All of the train rows, in their order."""
        return tuple(sorted({*self.same, *self.phrases}))


@dataclass(frozen=True)
class SplitReport:
    """Report on a split that was read: rows kept, rows left out and why.

    Rows are numbered from 1. In csv and tsv files the header and blank lines do not count: row n is line n + 1 of a
    file without blank lines and without line breaks inside quotes. In json lines row n is the n-th line that is not
    blank; elsewhere it is the n-th record.

    Attributes:
        task: the task's name.
        split: `train`, `dev`, `test` or `unlabelled`.
        source: the file or hub split, as the DataSpec names it.
        read: number of rows in the source.
        kept: number of usable rows.
        left_out: reason → numbers of the rows left out for it. Each row has one reason.
        shared: earlier split (`train`, `unlabelled`, for a test split also `dev`) → numbers of the kept rows whose
            text, or pair, the earlier split contains as well.
        untagged: numbers of the rows of a multi-label task that were left out because their label cell is empty.
        drawn: number of rows drawn from the usable ones, and the seed of the draw; None: all are used.
        share: with `dev_share`, number of the rows that are this split's, and the seed of their draw.
        fold: number of the rows that are this split's, the fold that is held out, and the number of folds.
        of_held_out: number of rows that were dropped, because they have a text of a held-out row of any task.
        leaks: train rows that give away rows of the held-out splits of any task.
        without_leaks: number of rows that are left when these are dropped; None: they are kept.
        short: numbers of the rows of a csv or tsv file that have fewer fields than its header.
    """

    task: str
    split: str
    source: str
    read: int
    kept: int
    left_out: dict[str, tuple[int, ...]]
    shared: dict[str, tuple[int, ...]] = field(default_factory=dict)
    untagged: tuple[int, ...] = ()
    drawn: tuple[int, int] | None = None
    share: tuple[int, int] | None = None
    short: tuple[int, ...] = ()
    leaks: tuple[Leak, ...] = ()
    without_leaks: int | None = None
    fold: tuple[int, int, int] | None = None
    of_held_out: int = 0

    def lines(self) -> list[str]:
        """Return the report as sentences for the log."""
        read = f"{self.read:,} row" + ("s" if self.read != 1 else "")
        line = f"{self.task} {self.split}: {read} read from {self.source}, {self.kept:,} kept"
        reasons = [f"{len(rows):,} left out: {why} ({_rows(rows)})" for why, rows in self.left_out.items()]
        if self.drawn:
            rows, seed = self.drawn
            reasons.append(f"{rows:,} of {self.kept:,} rows were drawn (sample_seed {seed})")
        if self.share:
            rows, seed = self.share
            reasons.append(f"{rows:,} of these are the {self.split} split (dev_share, sample_seed {seed})")
        if self.fold:
            rows, fold, folds = self.fold
            side = "the held-out fold" if self.split == "dev" else "the folds without"
            reasons.append(f"{rows:,} of these are {side} {fold} of {folds} (0 to {folds - 1})")
        if self.of_held_out:
            reasons.append(f"{self.of_held_out:,} dropped, which have a text of a held-out row")
        return ["; ".join([line, *reasons]), *self._warnings()]

    def _warnings(self) -> list[str]:
        where, lines = f"warning: {self.task} {self.split}", []
        if self.untagged:
            lines.append(
                f"{where}: {len(self.untagged):,} of {self.read:,} rows have an empty label cell and were left out as "
                f"not labelled ({_rows(self.untagged)}); if none of the labels is true of such a text, write [] there "
                "(in json, parquet and Python an empty list, in csv and tsv these two characters)"
            )
        what = "their scores say little about new texts; remove them from one of the two"
        lines += [
            f"{where}: {len(rows):,} of {self.kept:,} rows have the text of a row of {other} ({_rows(rows)}); {what}"
            for other, rows in self.shared.items()
        ]
        lines += [self._leak_line(leak) for leak in self.leaks]
        if self.without_leaks is not None:
            lines.append(f"{self.task} {self.split}: {self.without_leaks:,} rows are left without these (leaks: drop)")
        if self.short:
            lines.append(
                f"{where}: {len(self.short):,} of {self.read:,} rows have fewer fields than the header "
                f"({_rows(self.short)}), {SHORT}"
            )
        return lines

    def _leak_line(self, leak: Leak) -> str:
        counts = [f"{len(leak.same):,} have its text"] if leak.same else []
        counts += [f"{len(leak.phrases):,} share a phrase with it"] if leak.phrases else []
        start = f"{self.task} {self.split}: {len(leak.rows):,} of {self.kept:,} rows give away a row of {leak.other} "
        line = f"{start}{leak.split}: {', '.join(counts)} ({_rows(leak.rows)})"
        if self.without_leaks is not None:
            return line
        return f"warning: {line}; leaks: drop trains without them"


def _rows(rows: tuple[int, ...]) -> str:
    more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(f'{row:,}' for row in rows[:SHOWN])}{more}"
