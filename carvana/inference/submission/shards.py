"""Writes a large table as parts in a folder beside it, by several processes; the last process joins them.

A part is complete or does not exist, even when a process is killed. It is a gzip member, and a row of members is a gzip
file, so joining is copying. The names of parts hold a digest of all that decides their rows, so parts of another model
or of other images are not mixed up.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from carvana.errors import DataError, cause
from carvana.utils.files import atomic_path, digest, is_leftover, lock, read_json, write_bytes, write_json

_RECORD, _LOCK = "record.json", "lock"
_PART = re.compile(r"\d{6,}-[0-9a-f]{12}\.gz")
_LEVEL = 6  # runs shrink to 0.45 of their size; a higher level makes no difference


def clear_joined(out: Path) -> None:
    """Remove the parts of a finished table, which remain if its writer was killed just after it was joined."""
    folder = _folder(out)
    if out.exists() and folder.is_dir():
        with lock(folder / _LOCK):
            _remove(folder)


class Shards:
    """The parts of one table.

    Args:
        out: the table, which is compressed if its name ends in ``.gz``.
        record: all that decides the rows, as JSON values, each under a name for messages.
        count: the number of parts.
        header: the bytes before all parts.
    """

    def __init__(self, out: Path, record: Mapping[str, Any], *, count: int, header: bytes) -> None:
        self.out = out
        self.folder = _folder(out)
        self.count = count
        self._header = header
        self._record = json.loads(json.dumps(record))  # as it will be read back
        self._mark = digest(self._record)[:12]

    def begin(self) -> bool:
        """Begin in the folder, or continue there; false if other processes have finished the table meanwhile.

        Raises:
            DataError: the folder holds parts of another table, or cannot be written to.
        """
        with self._held():
            if self.out.exists():
                self._sweep()
                return False
            if (known := self._read_record()) == self._record:
                return True
            if list(self._numbers(known)):
                raise DataError(self._refusal(known))
            write_json(self.folder / _RECORD, self._record)
            return True

    def missing(self) -> list[int]:
        """The numbers of the parts that are missing, from 0."""
        there = set(self._numbers(self._record))
        return [number for number in range(self.count) if number not in there]

    def add(self, number: int, rows: Iterable[bytes]) -> None:
        """Write a part, unless other processes have finished the table meanwhile. Safe in any thread and any process.

        Raises:
            OSError: the folder cannot be written to.
        """
        try:
            write_bytes(self._path(number), _packed(b"".join(rows)))
        except FileNotFoundError:  # the folder is removed once the table is there
            if not self.out.exists():
                raise

    def join(self) -> bool:
        """Join the parts to the table and remove them, unless some are missing; whether the table is complete.

        Raises:
            OSError: the folder cannot be written to.
        """
        with self._held():
            if not self.out.exists():  # another process may have joined it
                if self.missing():
                    return False
                with atomic_path(self.out) as temporary:
                    self._write_joined(temporary)
                _remove(self.folder)
            self._sweep()
        return True

    @contextmanager
    def _held(self) -> Iterator[None]:
        try:
            with lock(self.folder / _LOCK):
                yield
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise DataError(f"{self.folder}: cannot be written to: {cause(error)}; take another --out") from error
        if sys.platform == "win32" and not (self.folder / _RECORD).exists():
            shutil.rmtree(self.folder, ignore_errors=True)  # an open file, as the lock was, cannot be removed there

    def _sweep(self) -> None:
        """Remove the folder if it holds only the lock, which taking the lock has made."""
        if not (self.folder / _RECORD).exists():
            _remove(self.folder)

    def _write_joined(self, path: Path) -> None:
        packed = self.out.suffix == ".gz"
        with open(path, "wb") as file:
            file.write(_packed(self._header) if packed else self._header)
            for number in range(self.count):
                with open(self._path(number), "rb") as part:
                    source = cast("IO[bytes]", part if packed else gzip.GzipFile(fileobj=part))
                    shutil.copyfileobj(source, file, 1 << 20)

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}-{self._mark}.gz"

    def _numbers(self, record: Any) -> Iterator[int]:
        """The numbers of the parts of a record."""
        ending = f"-{digest(record)[:12]}.gz"
        for path in self.folder.glob(f"*{ending}"):
            yield int(path.name.removesuffix(ending))

    def _read_record(self) -> Any:
        try:
            record = read_json(self.folder / _RECORD)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{self.folder / _RECORD}: cannot be read ({error}); remove {self.folder}") from error
        if not isinstance(record, dict) or not self._record.keys() & record.keys():
            raise DataError(f"{self.folder / _RECORD}: is not the record of an unfinished table; take another --out")
        return record

    def _refusal(self, known: Any) -> str:
        other = known if isinstance(known, dict) else {}
        differing = [
            f"{name} ({', '.join(_differences(other[name], self._record[name]))})"
            if isinstance(self._record[name], dict) and isinstance(other.get(name), dict)
            else name
            for name in self._record
            if other.get(name) != self._record[name]
        ]
        return (
            f"{self.folder}: holds an unfinished table with other {' and '.join(differing or ['format'])}; continue "
            "with those, take another --out, or remove the folder"
        )


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            yield f"{name} was {before.get(name, 'not given')}, is {now.get(name, 'not given')}"


def _packed(data: bytes) -> bytes:
    return gzip.compress(data, _LEVEL, mtime=0)  # without the time, equal rows are equal bytes


def _remove(folder: Path) -> None:
    """Remove this module's files from a folder, and the folder if it is empty then."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.name in (_RECORD, _LOCK) or _PART.fullmatch(path.name) or is_leftover(path):
                path.unlink()
        folder.rmdir()


def _folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")
