"""Checks a table of masks as the competition does: names, their order, and runs inside the image."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from carvana.data.io.rle import RleError, runs_of
from carvana.inference.submission.table import open_table, read_names, split_row
from carvana.utils.progress import Reporter, default_reporter

SIZE = 1280, 1918
"""(height, width) of the competition's images."""

SHOWN = 20
"""Problems that are reported in detail."""

_ROWS_PER_UPDATE = 256


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
    reporter = reporter or default_reporter()
    places = {name: place for place, name in enumerate(read_names(against))}
    report = SubmissionReport(expected=len(places))
    seen = bytearray(len(places))
    task = "checking"
    reporter.start(task, len(places))
    try:
        with open_table(against) as sample, open_table(path) as lines:
            _check_header(next(lines, b""), next(sample), report)
            last = -1
            for number, line in enumerate(lines, start=2):
                report.rows += 1
                last = _check_row(number, line, places, seen, last, size, report)
                if report.rows % _ROWS_PER_UPDATE == 0:
                    reporter.advance(task, _ROWS_PER_UPDATE)
    finally:
        reporter.finish(task)
    for name in _unseen(places, seen):
        report.add("missing", f"{name}: has no row")
    return report


def _check_header(found: bytes, expected: bytes, report: SubmissionReport) -> None:
    if found != expected:
        shown = found[:40].decode("utf-8", "replace")
        report.add("header", f"line 1: begins {shown!r}; expected {expected.decode('utf-8', 'replace')!r}")


def _check_row(
    number: int,
    line: bytes,
    places: dict[str, int],
    seen: bytearray,
    last: int,
    size: tuple[int, int],
    report: SubmissionReport,
) -> int:
    """Check one row; returns the furthest place in the sample so far."""
    row = split_row(line)
    if row is None:
        shown = line[:40].decode("utf-8", "replace")
        report.add("no row", f"line {number}: {shown!r} is not a row; expected a name, a comma and runs")
        return last
    name, runs = row
    try:
        runs_of(runs, size)
    except RleError as error:
        report.add(error.problem, f"line {number}, {name}: {error}")
    place = places.get(name)
    if place is None:
        report.add("unknown", f"line {number}, {name}: the sample has no such image")
        return last
    if seen[place]:
        report.add("doubled", f"line {number}, {name}: has a row already")
    elif place < last:
        report.add("out of order", f"line {number}, {name}: stands behind images that follow it in the sample")
    seen[place] = 1
    return max(last, place)


def _unseen(places: dict[str, int], seen: bytearray) -> Iterator[str]:
    return (name for name, place in places.items() if not seen[place])
