"""Reads and writes the competition's table of masks: a header, then ``name,runs`` per image; gzip or plain text."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from carvana.errors import DataError

HEADER = b"img,rle_mask"

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def make_row(name: str, runs: str) -> bytes:
    r"""The line of an image, with its line break.

    Raises:
        DataError: the name holds a line break, which would be two lines.

    >>> make_row("car_01.jpg", "2 5 8 1"), make_row("a,b.jpg", "")
    (b'car_01.jpg,2 5 8 1\n', b'"a,b.jpg",\n')
    """
    if "\n" in name or "\r" in name:
        raise DataError(f"the image {name!r} has a line break in its name; rename it")
    if "," in name or '"' in name:
        name = '"' + name.replace('"', '""') + '"'
    return os.fsencode(name) + b"," + runs.encode() + b"\n"


def split_row(line: bytes) -> tuple[str, bytes] | None:
    """The name and the runs of a line without its line break; None if it does not have two columns.

    >>> split_row(b"car_01.jpg,2 5 8 1"), split_row(b'"a,b.jpg",'), split_row(b"car_01.jpg"), split_row(b"a,b,1 1")
    (('car_01.jpg', b'2 5 8 1'), ('a,b.jpg', b''), None, None)
    """
    quoted, comma, runs = line.rpartition(b",")
    name = os.fsdecode(quoted)
    if name.startswith('"') and name.endswith('"') and len(name) > 1:
        name = name[1:-1].replace('""', '"')
    elif "," in name:
        return None
    return (name, runs.strip(b'"')) if comma else None


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
    """The images that a table names, in its order.

    Raises:
        DataError: it cannot be read, names none, or names one twice.
    """
    names: dict[str, None] = {}
    with open_table(path) as lines:
        next(lines, None)
        for number, line in enumerate(lines, start=2):
            row = split_row(line)
            if row is None:
                raise DataError(f"{path}, line {number}: expected a name, a comma and runs, as in {HEADER.decode()}")
            if row[0] in names:
                raise DataError(f"{path}, line {number}: names {row[0]} a second time; expected each image once")
            names[row[0]] = None
    if not names:
        raise DataError(f"{path}: names no image; expected a header and a line for each image")
    return list(names)


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
