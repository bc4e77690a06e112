"""Digests of the contents of images and masks, remembered so that a file is not read again.

An index, ``$CARVANA_CACHE/samples/files``, maps what the system says about the files of a sample (device, inode, size
and the times of the last change) to the digest of their bytes. The system itself sets the last of these times (ctime),
so a changed file never looks unchanged. In doubt (a copy, another mount) a file is read again, which takes a tenth of a
millisecond.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.utils.devices import cpu_count
from carvana.utils.files import atomic_path, digest, expanded, file_digest
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

KEY = np.dtype("S16")
"""A BLAKE2b digest of 128 bits. Its bytes compare as numbers do; the empty string stands for a missing file."""

REMEMBERED = 500_000
"""The number of samples whose digests are kept, the latest ones: 16 MB."""

_ENTRY = np.dtype([("files", KEY), ("content", KEY)])
_FORMAT = 2  # where the checksum of the index begins, so that an index of another format is not read
_FRESH = 3_000_000_000
"""Nanoseconds within which a file may change again with the same times: a file that new is not remembered."""


def cache_home() -> Path:
    """``$CARVANA_CACHE``, or else ``carvana`` in the user's cache folder (``$XDG_CACHE_HOME``, by default ~/.cache).

    It holds what can be made again: images at the training size, drawn cars. A user without a home folder, as in some
    containers, has one among the temporary files.
    """
    own = os.environ.get("CARVANA_CACHE")
    if own:
        return expanded(own)
    try:
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        if sys.platform == "win32":
            return Path(tempfile.gettempdir(), "carvana")
        return Path(tempfile.gettempdir(), f"carvana-{os.getuid()}")  # all users share that folder
    return users / "carvana"


def content_digests(samples: Sequence[Sample], *, remember: bool = True, reporter: Reporter | None = None) -> list[str]:
    """A digest of the bytes of each image and its mask; empty where one of them is missing or cannot be read.

    Files whose digest is remembered in the cache are not read. If there is a cache, and ``remember`` is true, the
    digests of the others are remembered.
    """
    index = DigestIndex(cache_home() / "samples" / "files")
    keys, _ = index.keys(samples, reporter=reporter or default_reporter())
    if remember and index.changed and index.path.parent.is_dir():  # no cache is begun: a training of crops has none
        with suppress(OSError):
            index.save()
    return [key.ljust(KEY.itemsize, b"\0").hex() if key else "" for key in keys.tolist()]


def content_digest(samples: Sequence[Sample], *, reporter: Reporter | None = None) -> str:
    """A digest of the bytes of all images and masks, in this order, without their names.

    Raises:
        DataError: a file is missing or cannot be read.
    """
    digests = content_digests(samples, reporter=reporter)
    for sample, found in zip(samples, digests, strict=True):
        if not found:
            raise DataError(
                f"{sample.image}: it or its mask {next(iter(sample.masks), '')} is missing or cannot be read; bring it "
                "back, or remove the image"
            )
    return digest("".join(digests))


class DigestIndex:
    """The digests of files, read from ``path`` and written there again by :meth:`save`.

    Attributes:
        changed: Whether there are digests that are not in the file yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.changed = False
        self._entries = _load(path)

    def keys(self, samples: Sequence[Sample], *, reporter: Reporter) -> tuple[NDArray[np.bytes_], NDArray[np.bytes_]]:
        """A key for the content of each sample, S16 (n,), and its files as :func:`identify` has them, S16 (n,).

        A key is made of the image's bytes and the masks' bytes; it is empty where a file is missing or cannot be read.
        Files that are not known are read, by several threads.
        """
        files = np.zeros(len(samples), KEY)
        newest = np.zeros(len(samples), np.int64)
        for place, sample in enumerate(samples):
            files[place], newest[place] = identify(sample)
        unique, first, inverse = np.unique(files, return_index=True, return_inverse=True)
        keys = np.zeros(len(unique), KEY)
        _, known, entries = np.intersect1d(unique, self._entries["files"], assume_unique=True, return_indices=True)
        keys[known] = self._entries["content"][entries]
        unknown = np.flatnonzero((keys == b"") & (unique != b""))
        if unknown.size:
            unread = (samples[place] for place in first[unknown].tolist())
            contents = threaded(_content, unread, workers=min(4 * cpu_count(), 32))
            keys[unknown] = np.fromiter(track(contents, reporter, "reading images", unknown.size), KEY)
        settled = (keys != b"") & (newest[first] < time.time_ns() - _FRESH)
        self.changed = int(settled.sum()) > len(known)
        if self.changed:
            latest = np.zeros(int(settled.sum()), _ENTRY)
            latest["files"], latest["content"] = unique[settled], keys[settled]
            self._entries = np.concatenate([latest, np.delete(self._entries, entries)])[:REMEMBERED]
        return keys[inverse], files

    def save(self) -> None:
        """Write the index, atomically.

        Raises:
            OSError: the folder cannot be written to.
        """
        data = self._entries.view(np.uint8).data
        with atomic_path(self.path) as temporary, open(temporary, "wb") as file:
            file.write(zlib.crc32(data, _FORMAT).to_bytes(4, "little"))
            file.write(data)
        self.changed = False


def identify(sample: Sample) -> tuple[bytes, int]:
    """Up to 16 bytes that change with the files of a sample, and the time of their last change in nanoseconds.

    There are no bytes where a file is missing, or where there is no mask.
    """
    try:
        stats = [os.stat(path) for path in (sample.image, *sample.masks)]  # noqa: PTH116 - 100,000 of them
    except OSError:
        return b"", 0
    if len(stats) == 1 and not sample.by_class:
        return b"", 0
    numbers: list[object] = [
        (each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in stats
    ]
    numbers += _categories(sample)
    newest = max(max(each.st_mtime_ns, each.st_ctime_ns) for each in stats)
    return _digest(repr(numbers).encode()).rstrip(b"\0"), newest  # as NumPy gives it back


def _content(sample: Sample) -> bytes:
    """The key of a sample: a digest of the image's digest and the mask's, or that of several masks' digests."""
    files = sample.masks if sample.annotation is None else ()  # it has other images, too
    try:
        image, *masks = (bytes.fromhex(file_digest(path)) for path in (sample.image, *files))
    except OSError:
        return b""
    masks += _categories(sample)
    return _digest(image + (masks[0] if len(masks) == 1 else _digest(b"".join(masks))))


def _categories(sample: Sample) -> list[bytes]:
    """The content of a sample besides the bytes of files: its page, its objects, or the names of its masks' folders."""
    page = sample.spec.page
    pages = [f"page {page}".encode()] if isinstance(page, int) else []
    if sample.annotation is not None:
        return [*pages, sample.annotation.content]
    folders = [path.parent.name for path in sample.masks]
    return [*pages, *([repr(folders).encode()] if sample.by_class else [])]


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY.itemsize).digest()


def _load(path: Path) -> NDArray[np.void]:
    """The entries; none if the file is missing or damaged, since images are quickly read again."""
    data = b""
    with suppress(OSError):
        data = path.read_bytes()
    checksum = zlib.crc32(memoryview(data)[4:], _FORMAT).to_bytes(4, "little")
    sound = len(data) % _ENTRY.itemsize == 4 and data[:4] == checksum
    return np.frombuffer(data, _ENTRY, offset=4) if sound else np.zeros(0, _ENTRY)
