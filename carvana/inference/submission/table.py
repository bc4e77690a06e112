"""The table of masks, gzip or plain text: a header, then a row for each image, of several classes for each of them.

A large table is made of parts, which several processes write and one of them joins. A finished one is checked as a
competition does: names, their order, and runs inside the image.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from carvana.data.io.rle import RleError, runs_of
from carvana.errors import DataError
from carvana.inference.predict_folder import MANIFEST, Manifest
from carvana.utils.files import atomic_path, bytes_digest, digest, file_digest, is_leftover, read_json, read_json_lines
from carvana.utils.progress import Reporter, default_reporter, track

SIZE = 1280, 1918
"""(height, width) of the competition's images."""

SHOWN = 20
"""Problems that are reported in detail."""

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_LEVEL = 6  # runs shrink to 0.45 of their size; a higher level makes no difference

_SOME_RUNS = re.compile(r"\d+ \d+(?: \d+ \d+)*")
_PART = re.compile(r"\d{6,}-[0-9a-f]{12}\.gz")
_OLD_RECORD, _OLD_LOCK = "record.json", "lock"  # of the release before, which had no manifest here


class Header(NamedTuple):
    """The first line of a table.

    Attributes:
        columns: the names of its columns, two or more.
        runs: the place of the column of runs, from 0.
    """

    columns: tuple[str, ...]
    runs: int


USUAL = Header(("img", "rle_mask"), 1)
"""The competition's."""


def split_row(line: bytes, header: Header = USUAL) -> tuple[str, bytes] | None:
    """The columns besides the runs, with commas between them, and the runs; None if it has other columns.

    Args:
        line: without its line break.
        header: the columns.

    >>> split_row(b"car_01.jpg,2 5 8 1"), split_row(b'"a,b.jpg",'), split_row(b"car_01.jpg"), split_row(b"a,b,1 1")
    (('car_01.jpg', b'2 5 8 1'), ('a,b.jpg', b''), None, None)
    """
    count = len(header.columns)
    if header.runs == count - 1:  # long, and not to be searched for commas
        head, comma, runs = line.rpartition(b",")
        fields = _fields(os.fsdecode(head))
        return (",".join(fields), runs.strip(b'"')) if comma and len(fields) == count - 1 else None
    fields = _fields(os.fsdecode(line))
    if len(fields) != count:
        return None
    runs = os.fsencode(fields.pop(header.runs))
    return ",".join(fields), runs


def read_header(path: str | os.PathLike[str]) -> Header:
    """The columns of a table.

    Runs are in the last column, unless in the first row another one of three or more holds runs, and the last does not.

    Raises:
        DataError: it cannot be read, or there are less than two columns.
    """
    with open_table(path) as lines:
        columns, first = (_fields(os.fsdecode(next(lines, b""))) for _ in range(2))
    if len(columns) < 2:
        raise DataError(f"{path}, line 1: {columns[0]!r:.60}; expected the names of two columns or more: img,rle_mask")
    last = len(columns) - 1
    runs = last
    if 1 < last < len(first) and not _SOME_RUNS.fullmatch(first[last]):
        runs = next((place for place, field in enumerate(first) if _SOME_RUNS.fullmatch(field)), last)
    return Header(tuple(columns), runs)


@contextmanager
def open_table(path: str | os.PathLike[str]) -> Iterator[Iterator[bytes]]:
    """The lines of a table, header included, without line breaks; one at a time, so it may be of any size.

    Raises:
        DataError: it does not exist, or its gzip is cut or damaged.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(2) == _GZIP
            file.seek(0)
            yield _lines(gzip.GzipFile(fileobj=file) if packed else file)
    except EOFError as error:
        raise DataError(f"{path}: is cut short; make or copy it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged ({error}); make or copy it again") from error
    except BrokenPipeError:  # the reader of this process's output has ended
        raise
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}; expected a table of masks") from error


def read_names(path: str | os.PathLike[str]) -> list[str]:
    """The names of a table's rows, in its order: what stands in the columns besides the runs.

    Raises:
        DataError: it cannot be read, names none, or names one twice.
    """
    names: dict[str, None] = {}
    header = read_header(path)
    columns = header.columns
    with open_table(path) as lines:
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            row = split_row(line, header)
            if row is None:
                raise DataError(f"{path}, line {number}: expected a row of {len(columns)} columns: {','.join(columns)}")
            if row[0] in names:
                raise DataError(f"{path}, line {number}: names {row[0]} a second time; expected each row once")
            names[row[0]] = None
    if not names:
        raise DataError(f"{path}: names no image; expected a header and a line for each image")
    return list(names)


def _fields(text: str) -> list[str]:
    with suppress(csv.Error):  # a name that begins with a quotation mark, and was not quoted
        return next(csv.reader([text], strict=True), [""]) if '"' in text else text.split(",")
    return text.split(",")


def _lines(file: Iterable[bytes]) -> Iterator[bytes]:
    blank = 0
    for number, line in enumerate(file):
        bare = (line.removeprefix(_BOM) if number == 0 else line).rstrip(b"\r\n")
        if not bare:  # ignored at the end, where spreadsheets leave some
            blank += 1
            continue
        yield from [b""] * blank
        blank = 0
        yield bare


class Parts:
    """The rows of a table in parts, each a gzip file in ``<out>.parts/``, with a manifest of them.

    A part counts if the manifest has the digest of its bytes and all that decides its rows, so a part that is cut or
    damaged is made again, and parts of another model or of other images are never mixed in. A row of gzip files is a
    gzip file, so joining is copying. Processes need no lock: whatever two of them write alike is equal to the byte.

    Args:
        out: the table, which is compressed if its name ends in ``.gz``.
        record: all that decides the rows, as JSON values, each under a name for messages.
        count: the number of parts.
        header: the first line of the table.
    """

    def __init__(self, out: Path, record: Mapping[str, Any], *, count: int, header: bytes) -> None:
        self._out = out
        self._header = header
        self._folder = _folder(out)
        self._record = json.loads(json.dumps(record))  # as it will be read back
        self._names = [f"{number:06}-{digest(self._record)[:12]}.gz" for number in range(count)]
        self._log = Manifest(self._folder)

    def begin(self) -> None:
        """Begin in the folder, or continue there.

        Raises:
            DataError: the folder holds parts of another table.
            OSError: the folder cannot be written to.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        _adopt_old_parts(self._folder, like=self._record)
        for name, known in Manifest(self._folder).made_of.items():
            if known != self._record and (self._folder / name).exists():
                raise DataError(
                    f"{self._folder}: holds an unfinished table with other {_difference(known, self._record)}; "
                    "continue with those, take another --out, or remove the folder"
                )
        self._log.add({}, self._record)  # before any work: perhaps nothing can be written here

    def missing(self) -> list[int]:
        """The numbers of the parts that are missing, from 0."""
        manifest = Manifest(self._folder)  # read anew: others write into it
        return [place for place, name in enumerate(self._names) if manifest.state(name, self._record) != "current"]

    def add(self, number: int, rows: Iterable[bytes]) -> None:
        """Write a part, unless other processes have finished the table meanwhile. Safe in any thread and any process.

        Raises:
            OSError: the folder cannot be written to.
        """
        name, data = self._names[number], _packed(b"".join(rows))
        if self._out.exists() and not self._folder.exists():  # they have, and removed the parts
            return
        try:
            with atomic_path(self._folder / name) as temporary:
                temporary.write_bytes(data)
                self._log.add({name: bytes_digest(data)}, self._record)
            if self._out.exists() and not _is_begun(self._folder):  # it was removed, and is made anew
                for path in (self._folder / name, self._folder / MANIFEST):
                    path.unlink()
                self._folder.rmdir()
        except FileNotFoundError:  # the folder is removed once the table is there
            if not self._out.exists():
                raise

    def join(self) -> bool:
        """Join the parts to the table and remove them, unless some are missing; whether the table is complete.

        Raises:
            DataError: there is another file in its place.
            OSError: the folder cannot be written to.
        """
        try:
            if not self._out.exists() and not self.missing():
                with atomic_path(self._out) as temporary:
                    self._write_joined(temporary)
                    self._log.add({_joined(self._out): file_digest(temporary)}, self._record)
        except FileNotFoundError:  # another process has joined the parts, and is removing them
            if not self._out.exists():
                raise
        # In this order: another process that removes the parts removes the manifest last.
        if self._out.exists() and not _is_joined(self._out) and _is_begun(self._folder):
            raise DataError(
                f"{self._out}: is not the table of the parts in {self._folder}, which are kept; move it away, and the "
                "same command goes on"
            )
        return remove_joined(self._out)

    def _write_joined(self, path: Path) -> None:
        packed = self._out.suffix == ".gz"
        with open(path, "wb") as file:
            file.write(_packed(self._header) if packed else self._header)
            for name in self._names:
                with open(self._folder / name, "rb") if packed else gzip.open(self._folder / name) as part:
                    shutil.copyfileobj(part, file, 1 << 20)


def remove_joined(out: Path) -> bool:
    """Remove the parts that a table was joined from, though not what others put beside them; whether it exists."""
    if not out.exists():
        return False
    with suppress(OSError):
        if _is_joined(out):
            # The manifest goes last: it says that the others may go.
            for path in sorted(_folder(out).iterdir(), key=lambda path: path.name == MANIFEST):
                if path.name in (MANIFEST, _OLD_LOCK) or _PART.fullmatch(path.name) or is_leftover(path):
                    path.unlink(missing_ok=True)
        _folder(out).rmdir()
    return True


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def _joined(out: Path) -> str:
    """The table in the manifest of its parts."""
    return f"../{out.name}"


def _is_joined(out: Path) -> bool:
    """Whether a table exists and is what the parts beside it were joined to."""
    return out.exists() and Manifest(_folder(out)).state(_joined(out), {}) in ("own", "current")


def _is_begun(folder: Path) -> bool:
    """Whether a folder of parts has the line with which each process begins."""
    with suppress(OSError):
        return any(isinstance(line, dict) and line.get("files") == {} for line in read_json_lines(folder / MANIFEST))
    return False


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, _LEVEL, mtime=0)  # without the time, equal rows are equal bytes


def _adopt_old_parts(folder: Path, *, like: Mapping[str, Any]) -> None:
    """Enter parts of a release that had a record in place of the manifest; their names are the same."""
    try:
        record = read_json(folder / _OLD_RECORD)
    except (FileNotFoundError, ValueError):
        return
    if isinstance(record, dict) and record.keys() == like.keys():
        for part in folder.glob(f"*-{digest(record)[:12]}.gz"):
            Manifest(folder).add({part.name: file_digest(part)}, record)
        (folder / _OLD_RECORD).unlink(missing_ok=True)


def _difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The names of the values that differ; the settings in detail."""
    old, new = before.get("settings"), now["settings"]
    old = old if isinstance(old, dict) else {}
    settings = [
        f"{key} was {old.get(key, 'not given')}, is {new.get(key, 'not given')}"
        for key in {**old, **new}
        if old.get(key) != new.get(key)
    ]
    details = {"settings": f"settings ({', '.join(settings)})"}
    return " and ".join(details.get(name, name) for name in now if before.get(name) != now[name]) or "format"


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
    """Compare a table with the competition's sample: the same rows in the same order, and valid runs in each of them.

    Whether pixels are numbered row after row or column after column does not matter: runs lie inside the image, or do
    not, in either order.

    Both files are read line by line, and only the names are kept, so memory does not grow with the runs.

    Args:
        path: the table, plain or gzip.
        against: the sample, plain or gzip; its runs do not matter.
        size: (height, width) of all images.
        reporter: shows progress.

    Raises:
        DataError: one of the files cannot be read, or the sample is not a table.
    """
    expected = read_header(against)
    columns = expected.columns
    places = {name: place for place, name in enumerate(read_names(against))}
    report = SubmissionReport(expected=len(places))
    seen: set[int] = set()
    furthest = -1
    with open_table(path) as lines:
        header = next(lines, b"")
        if _fields(os.fsdecode(header)) != list(columns):
            report.add("header", f"line 1: begins {_shown(header)}; expected {','.join(columns)!r}")
        rows = track(lines, reporter or default_reporter(), "checking", len(places))
        for number, line in enumerate(rows, start=2):
            report.rows += 1
            row = split_row(line, expected)
            if row is None:
                report.add("no row", f"line {number}: {_shown(line)} is not a row; expected {','.join(columns)}")
                continue
            name, runs = row
            where = f"line {number}, {name}"
            try:
                runs_of(runs, size)
            except RleError as error:
                report.add(error.problem, f"{where}: {error}")
            place = places.get(name)
            if place is None:
                report.add("unknown", f"{where}: the sample has no such row")
                continue
            if place in seen:
                report.add("doubled", f"{where}: has a row already")
            elif place < furthest:
                report.add("out of order", f"{where}: stands behind rows that follow it in the sample")
            seen.add(place)
            furthest = max(furthest, place)
    for name, place in places.items():
        if place not in seen:
            report.add("missing", f"{name}: has no row")
    return report


def _shown(line: bytes) -> str:
    return repr(line[:40].decode("utf-8", "replace"))
