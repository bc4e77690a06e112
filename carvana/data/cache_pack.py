"""Packs: the files of the cache. Each has the images of one list at one training size, in equal records.

A header is followed by the sorted keys of the images' contents, a checksum for each record (0: not written yet), and
the records: the arrays of one image, one after the other. A record counts only if its checksum is right, so a pack
checks itself: a killed process loses the record that it was writing and nothing else, and two writers write the same
bytes.
"""

from __future__ import annotations

import itertools
import math
import mmap
import os
import re
import sys
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from carvana.data.digest import KEY
from carvana.utils.files import atomic_path

UInt8 = NDArray[np.uint8]
Shapes = tuple[tuple[int, ...], ...]
"""The shapes of the arrays of a record, which are uint8."""

FORMAT = 2
"""To be raised when the same files give other pixels, or when the layout of packs changes."""

SUFFIX = ".pack"

_HEADER = 128  # bytes
_SUM = np.dtype("<u4")
_ALIGN = 4096  # records begin on a page


class DamagedPackError(Exception):
    """A pack is cut, or not what was written."""


class Pack:
    """A pack that is open for reading: its records are mapped, not read.

    Args:
        path: The file; another process may remove it, and what is mapped stays readable.
        shapes: The shapes of the arrays of a record.

    Attributes:
        keys: S16 (n,), sorted.
        sums: uint32 (n,), the checksum of each record, 0 where it is not written yet.
        records: uint8 (m, bytes of a record), m <= n: the file may end before records that are not written.
        arrays: The same bytes, read-only, as the arrays that they are, each (m, *shape).

    Raises:
        DamagedPackError: it is cut or damaged, or holds records of other shapes.
        OSError: it is gone, or cannot be read.
    """

    def __init__(self, path: Path, shapes: Shapes) -> None:
        self.path = path
        with open(path, "rb") as file:
            header = file.read(_HEADER)
            found = re.match(rb"carvana cache \d+\n([1-9]\d*) ", header)
            count = int(found[1]) if found else 0
            if header != _header(count, shapes):
                raise DamagedPackError
            head = file.read(_records_start(count) - _HEADER)
            # After the checksums: another process may be adding records, each before its checksum.
            length = os.fstat(file.fileno()).st_size
            if length < _records_start(count):
                raise DamagedPackError
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        each = record_bytes(shapes)
        held = min(count, (length - _records_start(count)) // each)
        self.keys = np.frombuffer(head, KEY, count)
        self.sums = np.frombuffer(head, _SUM, count, self.keys.nbytes)
        self.records: UInt8 = np.ndarray((held, each), np.uint8, mapped, _records_start(count))
        ends = itertools.pairwise(np.cumsum([0, *map(math.prod, shapes)]).tolist())
        self.arrays = [
            self.records[:, start:end].reshape(held, *shape) for (start, end), shape in zip(ends, shapes, strict=True)
        ]
        if self.sums[held:].any():
            raise DamagedPackError

    def find(self, keys: NDArray[np.bytes_]) -> NDArray[np.int32]:
        """The place of the record of each key; -1 where there is none."""
        places = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        found = (self.keys[places] == keys) & (self.sums[places] != 0)
        return np.where(found, places, -1).astype(np.int32)

    def is_sound(self, place: int) -> bool:
        """Whether a record holds the bytes that were written."""
        return place < len(self.records) and _checksum(self.keys[place], self.records[place]) == self.sums[place]

    def forget(self, place: int) -> None:
        """Mark a record as not written, if that is allowed."""
        with suppress(OSError), open(self.path, "r+b") as file:
            _write_sum(file, len(self.keys), place, 0)


def create_pack(path: Path, keys: NDArray[np.bytes_], shapes: Shapes) -> None:
    """Write a pack without records, atomically.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    head = _header(len(keys), shapes) + keys.tobytes()
    with atomic_path(path) as temporary:
        temporary.write_bytes(head.ljust(_records_start(len(keys)), b"\0"))


def write_record(file: IO[bytes], keys: NDArray[np.bytes_], place: int, record: UInt8) -> None:
    """Write a record, and then its checksum, into a pack with these keys that is open for writing.

    Not through a map: on a full disk that would end the process.

    Raises:
        OSError: the disk is full.
    """
    file.seek(_records_start(len(keys)) + place * len(record))
    file.write(record.data)
    _write_sum(file, len(keys), place, _checksum(keys[place], record))
    sys.audit("carvana.write", "appended", str(file.name), str(file.name))


def record_bytes(shapes: Shapes) -> int:
    """Bytes of a record.

    >>> record_bytes(((128, 128, 3), (128, 128)))
    65536
    """
    return sum(map(math.prod, shapes))


def pack_bytes(count: int, shapes: Shapes) -> int:
    """Bytes of a pack in which ``count`` images are all written."""
    return _records_start(count) + count * record_bytes(shapes)


def _records_start(count: int) -> int:
    head = _HEADER + count * (KEY.itemsize + _SUM.itemsize)
    return -(-head // _ALIGN) * _ALIGN


def _header(count: int, shapes: Shapes) -> bytes:
    return f"carvana cache {FORMAT}\n{count} records of {shapes}\n".encode().ljust(_HEADER, b"\0")


def _checksum(key: bytes, record: UInt8) -> int:
    """Of a record and its key, so that no damaged key leads to a record; never 0, which means: not written yet."""
    return zlib.crc32(record.data, zlib.crc32(key)) or 1


def _write_sum(file: IO[bytes], count: int, place: int, value: int) -> None:
    file.seek(_HEADER + count * KEY.itemsize + place * _SUM.itemsize)
    file.write(value.to_bytes(_SUM.itemsize, "little"))
    file.flush()
