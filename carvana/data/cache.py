"""Keeps images at the training size in memory-mapped files, so that each image is decoded once for all runs of a user.

The files in ``$CARVANA_CACHE/samples`` or ``~/.cache/carvana/samples``::

    lock                                            held while packs are written or removed
    files                                           digests of images and masks (digest.py)
    v3-128x128-coverage-<versions>-<images>.pack    the images of one list at one size; of label files the digest of the
                                                    task's values stands behind coverage, and of other images than RGB
                                                    of 8 bits that of what they are

A pack has a checksum for each image (0: not written yet), and behind these the images in equal records, sorted by the
digests of their contents. A record counts only if its checksum is right, so a pack checks itself: a killed process
loses the record that it was writing and nothing else, and two writers write the same bytes.

The name of a pack holds the digest of these digests: the same image in other places, or linked a hundred times, is kept
once. It also holds the versions of the libraries that decode and resize: after an upgrade the pixels might differ by a
bit, and training with the cache must be the same as without it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import mmap
import os
import shutil
import sys
import time
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import cv2
import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray

from carvana.data.digest import DigestIndex, cache_home, identify
from carvana.data.samples import Sample
from carvana.data.target import packed_shape, read_shrunken
from carvana.errors import DataError
from carvana.image_spec import ImageSpec
from carvana.task import Task
from carvana.utils import version_of
from carvana.utils.files import atomic_path, bytes_digest, digest, is_leftover, lock
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

UInt8 = NDArray[np.uint8]
Size = tuple[int, int]
Target = Literal["coverage", "nearest"]

FORMAT = 4
"""To be raised when the same files give other pixels, or when the layout of packs changes."""

SUFFIX = ".pack"

DISK_SHARE = 0.5
"""The largest share of the disk's free space that the cache may take."""

_SUM = np.dtype("<u4")
_SOUND, _LOST = 1, 2  # the state of a record; 0: not read yet


class SampleCache:
    """The cached images of a list of samples, found by their index; made by :func:`build_caches`.

    It may be shared by forked processes and sent to others, which open the pack anew. In each process the first reading
    of a record checks its checksum. If a record is damaged, or the pack is gone, its image is read from its files from
    then on, a warning names the pack, and the next run writes the record again.

    Args:
        pack: An open pack; None if nothing is cached.
        places: int32 (n,), for each sample the place of its record; -1 where it is not cached.
        size: (height, width) of the images.
        target: How masks were shrunk.
        task: The task.
        channels: Values of a pixel.
    """

    def __init__(
        self, pack: Pack | None, places: NDArray[np.int32], *, size: Size, target: Target, task: Task, channels: int = 3
    ) -> None:
        self.channels = channels
        self.size = size
        self.target = target
        self.task = task
        self._shape = packed_shape(size, task)
        self._pack = pack
        self._path, self._count = (Path(), 0) if pack is None else (pack.path, len(pack.sums))
        self._places = places
        self._known = np.zeros(len(places), np.uint8)
        self._reported = False

    def __len__(self) -> int:
        return len(self._places)

    @property
    def held(self) -> int:
        """The number of samples in the cache; the others are read from their files."""
        return int((self._places >= 0).sum())

    def read(self, index: int) -> tuple[UInt8, UInt8] | None:
        """The image, uint8 (h, w, channels), and its target, both read-only; None if not cached."""
        place = self._places[index]
        if place < 0 or self._known[index] == _LOST:
            return None
        try:
            if self._pack is None:
                self._pack = Pack(self._path, self._count, record_bytes(self.size, self.task, self.channels))
            if self._known[index] != _SOUND and not self._pack.is_sound(place):
                raise DamagedPackError
            self._known[index] = _SOUND
        except (DamagedPackError, OSError) as error:
            self._lose(index, error)
            return None
        record, (height, width) = self._pack.records[place], self.size
        pixels = self.channels * height * width
        return record[:pixels].reshape(height, width, self.channels), record[pixels:].reshape(self._shape)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pack": None}

    def _lose(self, index: int, error: Exception) -> None:
        """Read an image from its files from now on, warn once, and let the next run write a damaged record again."""
        self._known[index] = _LOST
        if self._pack is not None:
            self._pack.forget(self._places[index])
        if not self._reported:
            self._reported = True
            what = "removed by another process" if isinstance(error, FileNotFoundError) else "damaged"
            logging.getLogger("carvana").warning("%s: %s; its images are read from their files", self._path, what)


def build_caches(
    parts: Sequence[Sequence[Sample]],
    size: Size,
    *,
    target: Target = "coverage",
    task: Task | None = None,
    limit_gb: float = 10.0,
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> list[SampleCache]:
    """Cache the images that are not cached yet, and open the cache for each of several lists of samples.

    The cached bytes are those of :func:`carvana.data.target.read_shrunken`. Several processes may call this at once:
    one decodes, the others wait and find it done. Killed or interrupted, all finished images stay. Where the folder
    cannot be written to or the disk is full, a warning is given and what is not cached is read from its files.

    Args:
        parts: Lists of samples, for instance those to train on and those to validate on.
        size: (height, width).
        target: "coverage" or "nearest".
        task: The classes of the label files; None means masks of one object.
        limit_gb: Gigabytes (10^9 bytes) that the whole cache may hold, with all other sizes and data sets; the least
            recently used packs are removed for it. Half of the disk's free space is a second limit. Images that do not
            fit are not cached. 0 caches nothing and leaves the folder as it is.
        folder: The cache; by default ``samples`` in :func:`carvana.data.digest.cache_home`.
        workers: Threads that decode; None takes one a core.
        reporter: Where progress goes.

    Returns:
        A cache for each of ``parts``.

    Raises:
        DataError: an image or a mask cannot be used, or was changed in these seconds.

    Example:
        >>> [cache] = build_caches([samples], (128, 128))  # doctest: +SKIP
    """
    size, task = (int(size[0]), int(size[1])), task or Task.binary()
    samples = list(itertools.chain(*parts))
    pack, places = None, np.full(len(samples), -1, np.int32)
    if limit_gb > 0:
        home = Path(folder or cache_home() / "samples")
        builder = _Builder(samples, size, target, task, home, reporter or default_reporter())
        pack = builder.build(int(limit_gb * 10**9), workers)
        if pack is not None:
            places = np.where(pack.sums[builder.places] != 0, builder.places, -1)
    ends = np.cumsum([len(part) for part in parts])
    channels = len(samples[0].spec.channels) if samples else 3
    return [
        SampleCache(pack, part, size=size, target=target, task=task, channels=channels)
        for part in np.split(places, ends[:-1])
    ]


class DamagedPackError(Exception):
    """A pack is cut, or not what was written."""


class Pack:
    """A pack that is open for reading: its records are mapped, not read.

    Args:
        path: The file; another process may remove it, and what is mapped stays readable.
        count: The number of its images.
        each: Bytes of a record.

    Attributes:
        sums: uint32 (n,), the checksum of each record, 0 where it is not written yet.
        records: uint8 (m, bytes of a record), m <= n, read-only: the file may end before records that are not written.
            A record is an image and its target.

    Raises:
        DamagedPackError: it is cut or damaged.
        OSError: it is gone, or cannot be read.
    """

    def __init__(self, path: Path, count: int, each: int) -> None:
        self.path = path
        start = count * _SUM.itemsize
        with open(path, "rb") as file:
            sums = file.read(start)
            # After the checksums: another process may be adding records, each before its checksum.
            length = os.fstat(file.fileno()).st_size
            if len(sums) < start:
                raise DamagedPackError
            mapped = mmap.mmap(file.fileno(), length, access=mmap.ACCESS_READ)
        held = min(count, (length - start) // each)
        self.sums = np.frombuffer(sums, _SUM)
        self.records: UInt8 = np.ndarray((held, each), np.uint8, mapped, start)
        if self.sums[held:].any():
            raise DamagedPackError

    def is_sound(self, place: int) -> bool:
        """Whether a record holds the bytes that were written."""
        return place < len(self.records) and _checksum(self.records[place]) == self.sums[place]

    def forget(self, place: int) -> None:
        """Mark a record as not written, if that is allowed."""
        with suppress(OSError), open(self.path, "r+b") as file:
            _write_sum(file, place, 0)


def record_bytes(size: Size, task: Task | None = None, channels: int = 3) -> int:
    """Bytes of a record; without a task, of a mask of one object.

    >>> record_bytes((128, 128))
    65536
    """
    return channels * size[0] * size[1] + math.prod(packed_shape(size, task or Task.binary()))


def pack_bytes(count: int, size: Size, task: Task | None = None, channels: int = 3) -> int:
    """Bytes of a pack in which ``count`` images are all written."""
    return count * (_SUM.itemsize + record_bytes(size, task, channels))


def _readers(samples: Sequence[Sample]) -> list[str]:
    """The versions of the packages that read only some kinds of images, if there are such images."""
    suffixes = {Path(name).suffix.lower() for sample in samples for name in (sample.image, *sample.masks)}
    names = [] if suffixes.isdisjoint({".tif", ".tiff"}) else ["tifffile", "imagecodecs"]
    names += [] if suffixes.isdisjoint({".heic", ".heif"}) else ["pillow-heif"]
    return [f"{name} {version_of(name)}" for name in names]


class _Builder:
    """Fills the pack of one list of images at one size."""

    def __init__(
        self, samples: Sequence[Sample], size: Size, target: Target, task: Task, folder: Path, reporter: Reporter
    ) -> None:
        self.samples = samples
        self.size = size
        self.target = target
        self.task = task
        self.channels = len(samples[0].spec.channels) if samples else 3
        self.each = record_bytes(size, task, self.channels)
        self.folder = folder
        self.reporter = reporter
        self.index = DigestIndex(folder / "files")
        keys, self.files = self.index.keys(samples, reporter=reporter)
        contents, first, places = np.unique(keys, return_index=True, return_inverse=True)
        unreadable = int((contents == b"").sum())  # 1 or 0; the empty key comes first
        self.first = first[unreadable:]  # of each place in the pack, the first sample with its content
        self.places = (places - unreadable).astype(np.int32)  # of each sample; -1 where it cannot be read
        versions = digest(cv2.__version__, simplejpeg.__version__, PIL.__version__, *_readers(samples))[:8]
        images = bytes_digest(contents[unreadable:].tobytes())[:16]
        # Colours of classes change no target, names only where they are those of categories.
        named = samples[0].categories is not None
        spec = samples[0].spec.of_page(None)  # the page is in the digests
        classes = [(each.value, each.categories) if named else each.value for each in task.classes]
        usual = task.reads_masks and not named and not task.ignore
        values = "" if usual else f"-{digest(task.kind, classes, task.ignore)[:8]}"
        values += "" if spec == ImageSpec() else f"-{digest(repr(spec))[:8]}"
        self.path = folder / f"v{FORMAT}-{size[0]}x{size[1]}-{target}{values}-{versions}-{images}{SUFFIX}"

    def build(self, limit: int, workers: int | None) -> Pack | None:
        """Bring the pack up to date, and open it; None if nothing is cached."""
        if not len(self.first):
            return None
        try:
            held = sum(stat.st_size for stat in _files(self.folder).values())
            if self.index.changed or len(self._missing()) or held > limit:
                with lock(self.folder / "lock"):
                    self._fill(limit, workers)
        except OSError as error:
            self.reporter.warn(
                f"{self.folder}: images cannot be cached there ({error.strerror or error}); they are read from their "
                "files in every epoch; set CARVANA_CACHE to another folder, or data.cache_gb to 0"
            )
        with suppress(OSError):
            os.utime(self.path)  # used now
        return self._open()

    def _fill(self, limit: int, workers: int | None) -> None:
        if self.index.changed:
            self.index.save()
        count, full = len(self.first), pack_bytes(len(self.first), self.size, self.task, self.channels)
        room = _make_space(self.folder, full, limit=limit, own=self.path)
        left_out = min(count, max(0, -(-(full - room) // self.each)))
        if left_out:
            self.reporter.info(
                f"{left_out} images do not fit into the cache (data.cache_gb = {limit / 1e9:g}, and half of the disk's "
                f"free space, in {self.folder}); they are read from their files in every epoch"
            )
        missing = self._missing()
        missing = missing[missing < count - left_out]
        if not len(missing):
            return
        if not self.path.exists():
            with atomic_path(self.path) as temporary:
                temporary.write_bytes(bytes(count * _SUM.itemsize))
        with open(self.path, "r+b") as file:
            self._decode(missing, file, workers)

    def _decode(self, missing: NDArray[np.intp], file: IO[bytes], workers: int | None) -> None:
        began = time.perf_counter()
        missing = missing[np.argsort(self.first[missing])]  # in the order of the files
        records = threaded(self._read, missing.tolist(), workers=workers, ahead=4, bytes_of=len)
        written = map(functools.partial(_write_record, file, len(self.first)), missing.tolist(), records)
        for _ in track(written, self.reporter, "caching", len(missing)):
            pass
        seconds, megabytes = time.perf_counter() - began, len(missing) * self.each / 1e6
        height, width = self.size
        self.reporter.info(
            f"cached {len(missing)} images at {height}x{width} in {seconds:.1f} s ({megabytes:.0f} MB in {self.folder})"
        )

    def _read(self, place: int) -> UInt8:
        number = self.first[place]
        sample = self.samples[number]
        arrays = read_shrunken(sample, self.size, target=self.target, task=self.task)
        if identify(sample)[0] != self.files[number]:
            raise DataError(f"{sample.image}: it or its mask was changed while it was read; start again")
        return np.concatenate([array.reshape(-1) for array in arrays])

    def _missing(self) -> NDArray[np.intp]:
        """The places of the images that the pack does not have."""
        pack = self._open()
        return np.arange(len(self.first)) if pack is None else np.flatnonzero(pack.sums == 0)

    def _open(self) -> Pack | None:
        try:
            return Pack(self.path, len(self.first), self.each)
        except OSError:
            return None  # there is none, or it belongs to another user
        except DamagedPackError:
            self.reporter.warn(f"{self.path}: damaged and removed; its images are read from their files again")
        with suppress(OSError):
            self.path.unlink()
        return None


def _write_record(file: IO[bytes], count: int, place: int, record: UInt8) -> None:
    """Write a record, and then its checksum, into a pack of ``count`` images that is open for writing.

    Not through a map: on a full disk that would end the process.

    Raises:
        OSError: the disk is full.
    """
    file.seek(count * _SUM.itemsize + place * len(record))
    file.write(record.data)
    _write_sum(file, place, _checksum(record))
    sys.audit("carvana.write", "appended", str(file.name), str(file.name))


def _write_sum(file: IO[bytes], place: int, value: int) -> None:
    file.seek(place * _SUM.itemsize)
    file.write(value.to_bytes(_SUM.itemsize, "little"))
    file.flush()


def _checksum(record: UInt8) -> int:
    """Never 0, which means: not written yet."""
    return zlib.crc32(record.data) or 1


def _make_space(folder: Path, wanted: int, *, limit: int, own: Path) -> int:
    """Remove packs, the least recently used ones first, until one of ``wanted`` bytes fits or no other is left.

    A process that has mapped a pack can still read it. Call this under the cache's lock.

    Args:
        folder: The cache, with all its sizes, targets and formats.
        wanted: The bytes that the pack will have.
        limit: Bytes that the whole cache may hold.
        own: The pack; where it is larger than what it may take, it is removed as well.

    Returns:
        The bytes that the pack may take.
    """
    files = _files(folder)
    written = files.pop(own, None)
    taken = 0 if written is None else getattr(written, "st_blocks", written.st_size // 512) * 512  # it may have holes
    held = sum(stat.st_size for stat in files.values())

    def room() -> int:
        return min(limit - held, taken + int(DISK_SHARE * shutil.disk_usage(folder).free))

    removable = [path for path in files if path.suffix == SUFFIX or is_leftover(path)]
    for path in sorted(removable, key=lambda path: files[path].st_mtime_ns):
        if room() >= wanted:
            break
        with suppress(PermissionError):  # on Windows as long as a process has it mapped
            path.unlink(missing_ok=True)
            held -= files[path].st_size
    if taken > room():
        with suppress(PermissionError):
            own.unlink()
    return room()


def _files(folder: Path) -> dict[Path, os.stat_result]:
    found = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                found[Path(place, name)] = Path(place, name).stat()
    return found
