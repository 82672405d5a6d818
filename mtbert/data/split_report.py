"""Report on a split that was read: rows kept, rows left out and why, and warnings."""

from __future__ import annotations

from dataclasses import dataclass, field

from .labels import SHOWN
from .readers import SHORT
from .row_files import Parts


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
        aside: with a held-out fold, split → number of the rows that are cut off for it first, and that no fold has.
        of_held_out: number of rows that were dropped, because they have a text of a held-out row of any task.
        leaks: train rows that give away rows of the held-out splits of any task.
        without_leaks: number of rows that are left when these are dropped; None: they are kept.
        blank: numbers of the kept rows without a label of this task, which are those of a source.
        short: numbers of the rows of a csv or tsv file that have fewer fields than its header.
        cut: of splits that are cut by hashes: number of the rows that are this split's, and split → share of each.
        scarce: labels of which a split that was cut off has no row → their number of rows in all.
        parts: the files; rows are numbered over all of them. None: one.
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
    blank: tuple[int, ...] = ()
    short: tuple[int, ...] = ()
    leaks: tuple[Leak, ...] = ()
    without_leaks: int | None = None
    cut: tuple[int, dict[str, float]] | None = None
    scarce: dict[str, int] = field(default_factory=dict)
    parts: Parts | None = None
    fold: tuple[int, int, int] | None = None
    aside: dict[str, int] = field(default_factory=dict)
    of_held_out: int = 0

    def lines(self) -> list[str]:
        """Return the report as sentences for the log."""
        read = f"{self.read:,} row" + ("s" if self.read != 1 else "")
        line = f"{self.task} {self.split}: {read} read from {self.source}, {self.kept:,} kept"
        reasons = [f"{len(rows):,} left out: {why} ({self._rows(rows)})" for why, rows in self.left_out.items()]
        if self.blank:
            reasons.append(f"{len(self.blank):,} of these have no label of this task ({self._rows(self.blank)})")
        if self.drawn:
            rows, seed = self.drawn
            reasons.append(f"{rows:,} of {self.kept:,} rows were drawn (sample_seed {seed})")
        if self.share:
            rows, seed = self.share
            reasons.append(f"{rows:,} of these are the {self.split} split (dev_share, sample_seed {seed})")
        if self.cut:
            rows, shares = self.cut
            named = " and ".join(f"{split} {100 * share:.4g}%" for split, share in shares.items())
            reasons.append(f"{rows:,} of these are the {self.split} split ({named}, by the hashes of the texts)")
        if self.aside:
            named = " and ".join(f"{rows:,} of these are the {split} split" for split, rows in self.aside.items())
            reasons.append(f"{named}, which no fold has")
        if self.fold:
            rows, fold, folds = self.fold
            side = "the held-out fold" if self.split == "dev" else "the folds without"
            reasons.append(f"{rows:,} of these are {side} {fold} of {folds} (0 to {folds - 1})")
        if self.of_held_out:
            reasons.append(f"{self.of_held_out:,} dropped, which have a text of a held-out row")
        return ["; ".join([line, *reasons]), *self._warnings()]

    def _warnings(self) -> list[str]:
        where, lines = f"warning: {self.task} {self.split}", []
        left = "count" if self.blank else "were left out"
        if self.untagged:
            lines.append(
                f"{where}: {len(self.untagged):,} of {self.read:,} rows have an empty label cell and {left} as "
                f"not labelled ({self._rows(self.untagged)}); if none of the labels is true of such a text, write "
                "empty: none under data, or [] there (in json, parquet and Python an empty list, in csv and tsv these "
                "two characters); empty: unlabelled leaves such rows out without this warning"
            )
        what = "their scores say little about new texts; remove them from one of the two"
        lines += [
            f"{where}: {len(rows):,} of {self.kept:,} rows have the text of a row of {other} ({self._rows(rows)}); "
            f"{what}"
            for other, rows in self.shared.items()
        ]
        lines += [self._leak_line(leak) for leak in self.leaks]
        if self.without_leaks is not None:
            lines.append(f"{self.task} {self.split}: {self.without_leaks:,} rows are left without these (leaks: drop)")
        if self.scarce:
            labels = [f"{name!r} ({count:,})" for name, count in self.scarce.items()]
            more = f" and {len(labels) - SHOWN:,} more" if len(labels) > SHOWN else ""
            cut_off = " or ".join(self.cut[1] if self.cut else ())
            lines.append(
                f"{where}: {cut_off} has no row of the labels {', '.join(labels[:SHOWN])}{more}, which have too few "
                "rows (in brackets), or rows that share texts; name a file, or give a larger share"
            )
        if self.short:
            lines.append(
                f"{where}: {len(self.short):,} of {self.read:,} rows have fewer fields than the header "
                f"({self._rows(self.short)}), {SHORT}"
            )
        return lines

    def _leak_line(self, leak: Leak) -> str:
        counts = [f"{len(leak.same):,} have its text"] if leak.same else []
        counts += [f"{len(leak.phrases):,} share a phrase with it"] if leak.phrases else []
        start = f"{self.task} {self.split}: {len(leak.rows):,} of {self.kept:,} rows give away a row of {leak.other} "
        line = f"{start}{leak.split}: {', '.join(counts)} ({self._rows(leak.rows)})"
        if self.without_leaks is not None:
            return line
        return f"warning: {line}; leaks: drop trains without them"

    def _rows(self, rows: tuple[int, ...]) -> str:
        places = (self.parts or Parts(("",), (self.read,))).place
        more = f" and {len(rows) - SHOWN:,} more" if len(rows) > SHOWN else ""
        shown = ", ".join(places(row - 1).removeprefix("row ") for row in rows[:SHOWN])
        return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"
