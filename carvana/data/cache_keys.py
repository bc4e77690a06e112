"""Digests of files, remembered so that a file is not read again: an index by what the system says about a file.

A file is identified by its device, its inode, its size and the times of its last change. The system itself sets the
last of them (ctime), so that a changed file never looks unchanged; links to one file are one file. In doubt (a copy,
another mount) a file is read again, which takes a tenth of a millisecond.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.cache_pack import KEY
from carvana.data.samples import Sample
from carvana.utils.devices import cpu_count
from carvana.utils.files import atomic_path, file_digest
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

REMEMBERED = 500_000
"""The number of files whose digests are kept, the latest ones: 28 MB."""

_FILE = np.dtype("S40")  # five numbers of 64 bits, compared as bytes; all zero (empty): a missing file
_ENTRY = np.dtype([("file", _FILE), ("digest", KEY)])
_FRESH = 3_000_000_000
"""Nanoseconds within which a file may change again with the same times: a file that new is not remembered."""


class DigestIndex:
    """The digests of files, read from ``path`` and written there again by :meth:`save`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        self._entries = _load(path)

    def keys(self, samples: Sequence[Sample], *, reporter: Reporter) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """A key for the content of each sample, S16 (n,), and its files as :func:`identify` has them, int64 (n, 10).

        A key is made of the image's bytes and the mask's bytes; it is empty where a file is missing or cannot be read.
        Files that are not known are read, by several threads.
        """
        numbers = (number for sample in samples for number in identify(sample))
        files = np.fromiter(numbers, np.int64, 10 * len(samples)).reshape(-1, 5)
        unique, first, inverse = np.unique(files.view(_FILE)[:, 0], return_index=True, return_inverse=True)
        digests, places = self._find(unique)
        unknown = np.flatnonzero((digests == b"") & (unique != b""))
        if unknown.size:
            digests[unknown] = np.fromiter(_read_digests(samples, first[unknown], reporter), KEY)
        self._remember(unique, digests, places, newest=files[first, 3:].max(axis=1))
        return _pair_keys(digests[inverse].reshape(-1, 2)), files.reshape(-1, 10)

    @property
    def bytes(self) -> int:
        """The size of the file that :meth:`save` writes."""
        return 4 + self._entries.nbytes

    def save(self) -> None:
        """Write the index, atomically.

        Raises:
            OSError: the folder cannot be written to.
        """
        data = self._entries.view(np.uint8).data
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            file.write(zlib.crc32(data).to_bytes(4, "little"))
            file.write(data)
        self.changed = False

    def _find(self, files: NDArray[np.bytes_]) -> tuple[NDArray[np.bytes_], NDArray[np.int64]]:
        """The digests of files (n,), sorted, as far as they are known, and the place in them of each entry, or -1."""
        found = np.zeros(len(files), KEY)
        if not len(files):
            return found, np.full(len(self._entries), -1)
        places = np.searchsorted(files, self._entries["file"]).clip(max=len(files) - 1)
        places[files[places] != self._entries["file"]] = -1
        found[places[places >= 0]] = self._entries["digest"][places >= 0]
        return found, places

    def _remember(
        self,
        files: NDArray[np.bytes_],
        digests: NDArray[np.bytes_],
        places: NDArray[np.int64],
        *,
        newest: NDArray[np.int64],
    ) -> None:
        settled = (digests != b"") & (newest < time.time_ns() - _FRESH)
        entries = np.zeros(int(settled.sum()), _ENTRY)
        entries["file"], entries["digest"] = files[settled], digests[settled]
        others = self._entries[~np.append(settled, False)[places]]  # -1, the last: none of these files
        self.changed = len(others) + len(entries) > len(self._entries)
        # Usually all entries are of these files: then nothing is copied.
        self._entries = np.concatenate([entries, others])[:REMEMBERED] if len(others) else entries[:REMEMBERED]


def identify(sample: Sample) -> tuple[int, ...]:
    """Five numbers for each of a sample's two files, which change with the file; zeros where it is missing."""
    return (*_identify(sample.image), *_identify_mask(sample.masks))


def _identify_mask(paths: tuple[Path, ...]) -> tuple[int, ...]:
    if len(paths) == 1:
        return _identify(paths[0])
    each = [_identify(path) for path in paths]
    if not each or not all(map(any, each)):
        return (0,) * 5
    joined = hashlib.blake2b(repr(each).encode(), digest_size=8).digest()
    sizes, *times = ([one[place] for one in each] for place in (2, 3, 4))
    return each[0][0], int.from_bytes(joined, signed=True), sum(sizes), *map(max, times)


def _identify(path: Path) -> tuple[int, ...]:
    try:
        stat = os.stat(path)  # noqa: PTH116 - 50,000 of them
    except OSError:
        return (0,) * 5
    # Devices and inodes are unsigned in the kernel.
    device, inode = (number - (1 << 64) if number >> 63 else number for number in (stat.st_dev, stat.st_ino))
    return device, inode, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _read_digests(samples: Sequence[Sample], places: NDArray[np.int64], reporter: Reporter) -> Iterator[bytes]:
    """The digests of files: place 2 i is the image of sample i, 2 i + 1 its mask."""
    paths = (_paths(samples[place // 2], place % 2) for place in places.tolist())
    digests = threaded(_digest, paths, workers=min(4 * cpu_count(), 32))
    yield from track(digests, reporter, "reading images", len(places))


def _paths(sample: Sample, mask: int) -> tuple[Path, ...]:
    return sample.masks if mask else (sample.image,)


def _digest(paths: tuple[Path, ...]) -> bytes:
    with suppress(OSError):
        digests = [bytes.fromhex(file_digest(path)) for path in paths]
        return (
            digests[0] if len(digests) == 1 else hashlib.blake2b(b"".join(digests), digest_size=KEY.itemsize).digest()
        )
    return b""


def _pair_keys(digests: NDArray[np.bytes_]) -> NDArray[np.bytes_]:
    keys = np.zeros(len(digests), KEY)
    complete = (digests != b"").all(axis=1)
    pairs = np.ascontiguousarray(digests[complete]).view(np.uint8).reshape(-1, 2 * KEY.itemsize)
    made = (hashlib.blake2b(pair.data, digest_size=KEY.itemsize).digest() for pair in pairs)
    keys[complete] = np.fromiter(made, KEY, len(pairs))
    return keys


def _load(path: Path) -> NDArray[np.void]:
    """The entries; none if the file is missing or damaged, since images are quickly read again."""
    data = b""
    with suppress(OSError):
        data = path.read_bytes()
    if len(data) % _ENTRY.itemsize != 4 or zlib.crc32(memoryview(data)[4:]) != int.from_bytes(data[:4], "little"):
        return np.zeros(0, _ENTRY)
    return np.frombuffer(data, _ENTRY, offset=4)
