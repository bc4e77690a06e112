"""Packs: the files of the cache. Each has a few hundred images at one training size and never changes once written.

A head is followed by the records, all of one size: the image, uint8 (h, w, 3), and the coverage, uint8 (h, w). The
head has for each record the key of its content and a checksum, and a checksum of itself, so that a cut or damaged pack
is noticed: the head on opening, a record at its first read.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import sys
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.utils.files import atomic_path

UInt8 = NDArray[np.uint8]

SUFFIX = ".pack"
KEY = np.dtype("S16")
"""A BLAKE2b digest of 128 bits; the bytes compare as numbers do, and zero bytes at its end count."""

_MAGIC = b"carvana samples\n"
_HEAD = struct.Struct("<16s4I")  # magic, height, width, records, checksum of the rest of the head
_ALIGN = 4096  # records begin on a page


class DamagedPackError(Exception):
    """A pack is cut, or its head is not what was written."""


class Pack:
    """A pack that is open for reading: its records are mapped, not read.

    Attributes:
        path: The file; another process may remove it, and what is mapped stays readable.
        size: (height, width).
        keys: S16 (n,).
        sums: uint32 (n,), CRC-32 of each record.
    """

    def __init__(
        self, path: Path, *, size: tuple[int, int], keys: NDArray[np.bytes_], sums: NDArray[np.uint32]
    ) -> None:
        self.path = path
        self.size = size
        self.keys = keys
        self.sums = sums
        self._records: UInt8 | None = None

    @classmethod
    def open(cls, path: Path, *, size: tuple[int, int]) -> Pack:
        """Read a pack's head and map its records.

        Raises:
            DamagedPackError: it is cut or damaged, or holds images of another size.
            OSError: it is gone, or cannot be read.
        """
        with open(path, "rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size:
                raise DamagedPackError
            magic, height, width, count, checksum = _HEAD.unpack(head)
            length = os.fstat(file.fileno()).st_size
            if magic != _MAGIC or (height, width) != size or length != pack_bytes(count, size):
                raise DamagedPackError
            index = file.read(count * (KEY.itemsize + 4))
            if zlib.crc32(index, zlib.crc32(head[:-4])) != checksum:
                raise DamagedPackError
        keys = np.frombuffer(index, KEY, count)
        sums = np.frombuffer(index, np.uint32, count, offset=keys.nbytes)
        pack = cls(path, size=size, keys=keys, sums=sums)
        pack._records = pack._map()
        return pack

    def read(self, place: int) -> UInt8:
        """The bytes of a record, as they are mapped.

        Raises:
            DamagedPackError, OSError: in another process than the one that opened it, as for :meth:`open`.
        """
        if self._records is None:
            self._records = self._map()
        record: UInt8 = self._records[place]
        return record

    def check(self, place: int) -> None:
        """Make sure that a record holds the bytes that were written; a DamagedPackError if not."""
        if zlib.crc32(self.read(place).data) != int(self.sums[place]):
            raise DamagedPackError

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_records": None}

    def _map(self) -> UInt8:
        length = pack_bytes(len(self.keys), self.size)
        with open(self.path, "rb") as file:
            if os.fstat(file.fileno()).st_size != length:
                raise DamagedPackError  # reading a page behind the end of a file would kill the process
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        start = _records_start(len(self.keys))
        return np.frombuffer(mapped, np.uint8, offset=start).reshape(len(self.keys), record_bytes(self.size))


def write_pack(
    path: Path, keys: NDArray[np.bytes_], records: Iterable[tuple[UInt8, UInt8]], *, size: tuple[int, int]
) -> None:
    """Write a pack atomically; nothing of it remains if this fails or is stopped.

    Args:
        path: The new file.
        keys: S16 (n,).
        records: n pairs of image and coverage, consumed one by one.
        size: (height, width) of all of them.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    sums = []
    with atomic_path(path) as temporary, open(temporary, "r+b") as file:
        _reserve(file.fileno(), pack_bytes(len(keys), size))
        file.seek(_records_start(len(keys)))
        for image, coverage in records:
            image, coverage = np.ascontiguousarray(image), np.ascontiguousarray(coverage)
            assert image.nbytes + coverage.nbytes == record_bytes(size)
            sums.append(zlib.crc32(coverage.data, zlib.crc32(image.data)))
            file.write(image.data)
            file.write(coverage.data)
        assert len(sums) == len(keys)
        index = keys.tobytes() + np.array(sums, np.uint32).tobytes()
        head = _HEAD.pack(_MAGIC, *size, len(keys), 0)[:-4]
        file.seek(0)
        file.write(head + struct.pack("<I", zlib.crc32(index, zlib.crc32(head))) + index)


def discard(path: Path) -> None:
    """Remove a pack, if that is allowed; where it is mapped, it stays readable."""
    with suppress(OSError):
        path.unlink()


def find_records(keys: NDArray[np.bytes_], packs: Sequence[Pack]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """For each key the number of the pack that has it (-1: none) and its place there."""
    if not packs:
        return np.full(len(keys), -1, np.int32), np.full(len(keys), -1, np.int32)
    held = np.concatenate([pack.keys for pack in packs])
    numbers = np.repeat(np.arange(len(packs), dtype=np.int32), [len(pack.keys) for pack in packs])
    places = np.concatenate([np.arange(len(pack.keys), dtype=np.int32) for pack in packs])
    order = np.argsort(held, kind="stable")
    at = order[np.searchsorted(held, keys, sorter=order).clip(max=len(held) - 1)]
    found = held[at] == keys
    return np.where(found, numbers[at], np.int32(-1)), np.where(found, places[at], np.int32(-1))


def record_bytes(size: tuple[int, int]) -> int:
    """Bytes of one image at ``size`` (height, width).

    >>> record_bytes((128, 128))
    65536
    """
    return 4 * size[0] * size[1]


def pack_bytes(count: int, size: tuple[int, int]) -> int:
    """Bytes of a file that holds ``count`` images."""
    return _records_start(count) + count * record_bytes(size)


def _reserve(descriptor: int, length: int) -> None:
    """Reserve the space of a whole file, so that a full disk is noticed before the work."""
    if sys.platform in ("win32", "darwin"):
        return  # without such a call a full disk is noticed while writing
    try:
        os.posix_fallocate(descriptor, 0, length)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # a file system that cannot do it
            raise


def _records_start(count: int) -> int:
    head = _HEAD.size + count * (KEY.itemsize + 4)
    return -(-head // _ALIGN) * _ALIGN
