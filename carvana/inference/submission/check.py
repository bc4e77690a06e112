"""Checks a table of masks as the competition does: names, their order, and runs inside the image."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field

from carvana.data.io.rle import RleError, runs_of
from carvana.inference.submission.table import open_table, read_names, split_row
from carvana.utils.progress import Reporter, default_reporter, track

SIZE = 1280, 1918
"""(height, width) of the competition's images."""

SHOWN = 20
"""Problems that are reported in detail."""


@dataclass
class SubmissionReport:
    """The problems of a table.

    Attributes:
        rows: the rows that the table has.
        expected: the rows that it should have.
        counts: how many problems there are of each kind.
        first: the first problems of all, one line each, at most :data:`SHOWN`.
    """

    rows: int = 0
    expected: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.counts

    def add(self, kind: str, message: str) -> None:
        """Count a problem, and keep its message if it is one of the first."""
        self.counts[kind] += 1
        if len(self.first) < SHOWN:
            self.first.append(message)


def check_submission(
    path: str | os.PathLike[str],
    against: str | os.PathLike[str],
    *,
    size: tuple[int, int] = SIZE,
    reporter: Reporter | None = None,
) -> SubmissionReport:
    """Compare a table with the competition's sample: the same images in the same order, and valid runs in each row.

    Both files are read line by line, and only the names are kept, so memory does not grow with the runs.

    Args:
        path: the table, plain or gzip.
        against: the sample, plain or gzip; its runs do not matter.
        size: (height, width) of all images.
        reporter: shows progress.

    Raises:
        DataError: one of the files cannot be read, or the sample is not a table.
    """
    places = {name: place for place, name in enumerate(read_names(against))}
    report = SubmissionReport(expected=len(places))
    seen: set[int] = set()
    furthest = -1
    with open_table(against) as sample, open_table(path) as lines:
        header, expected = next(lines, b""), next(sample)
        if header != expected:
            report.add("header", f"line 1: begins {_shown(header)}; expected {expected.decode('utf-8', 'replace')!r}")
        rows = track(lines, reporter or default_reporter(), "checking", len(places))
        for number, line in enumerate(rows, start=2):
            report.rows += 1
            row = split_row(line)
            if row is None:
                report.add("no row", f"line {number}: {_shown(line)} is not a row; expected a name, a comma and runs")
                continue
            name, runs = row
            where = f"line {number}, {name}"
            try:
                runs_of(runs, size)
            except RleError as error:
                report.add(error.problem, f"{where}: {error}")
            place = places.get(name)
            if place is None:
                report.add("unknown", f"{where}: the sample has no such image")
                continue
            if place in seen:
                report.add("doubled", f"{where}: has a row already")
            elif place < furthest:
                report.add("out of order", f"{where}: stands behind images that follow it in the sample")
            seen.add(place)
            furthest = max(furthest, place)
    for name, place in places.items():
        if place not in seen:
            report.add("missing", f"{name}: has no row")
    return report


def _shown(line: bytes) -> str:
    return repr(line[:40].decode("utf-8", "replace"))
