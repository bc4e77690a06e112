"""Keeps images at the training size in memory-mapped files, so that each image is decoded once for all runs of a user.

The files in ``$CARVANA_CACHE/samples`` or ``~/.cache/carvana/samples``::

    lock                                            held while packs are written or removed
    files                                           digests of images and masks (digest.py)
    v2-128x128-coverage-<versions>-<images>.pack    the images of one list at one size (cache_pack.py); for label files
                                                    the task's digest stands behind coverage

The same image in other places, or linked a hundred times, is kept once. The name holds the versions of the libraries
that decode and resize: after an upgrade the pixels might differ by a bit, and training with the cache must be the same
as without it.
"""

from __future__ import annotations

import functools
import itertools
import logging
import mmap
import os
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Literal

import cv2
import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray

from carvana.data.cache_pack import (
    FORMAT,
    SUFFIX,
    DamagedPackError,
    Pack,
    Shapes,
    UInt8,
    create_pack,
    pack_bytes,
    record_bytes,
    write_record,
)
from carvana.data.digest import DigestIndex, cache_home, identify
from carvana.data.io.images import read_image, resize_image
from carvana.data.samples import Sample
from carvana.data.target import packed_shape, read_target
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.files import bytes_digest, digest, is_leftover, lock
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

Target = Literal["coverage", "nearest"]

DISK_SHARE = 0.5
"""The largest share of the disk's free space that the cache may take."""

_MOST_COPIED = 8
"""Packs from which records are copied, each an open file."""

_SOUND, _LOST = 1, 2  # the state of a record; 0: not read yet


class SampleCache:
    """The cached images of a list of samples, found by their index; made by :func:`build_caches`.

    It may be shared by forked processes and sent to others, which open the pack anew. The first reading of each record
    checks its checksum. If a record is damaged, or the pack is gone, its image is read from its files from then on, a
    warning names the pack, and the next run writes the record again.

    Args:
        pack: An open pack; None if nothing is cached.
        places: int32 (n,), for each sample the place of its record; -1 where it is not cached.
        size: (height, width) of the images.
        target: How masks were shrunk.
        task: The task.
    """

    def __init__(
        self, pack: Pack | None, places: NDArray[np.int32], *, size: tuple[int, int], target: Target, task: Task
    ) -> None:
        self.size = size
        self.target = target
        self.task = task
        self._pack = pack
        self._path = Path() if pack is None else pack.path
        self._places = places
        self._shapes = _shapes(size, task)
        self._known = _shared(len(places))
        self._reported = False

    def __len__(self) -> int:
        return len(self._places)

    @property
    def held(self) -> int:
        """The number of samples in the cache; the others are read from their files."""
        return int((self._places >= 0).sum())

    def read(self, index: int) -> tuple[UInt8, UInt8] | None:
        """The image, uint8 (h, w, 3), and its target, both read-only; None if not cached."""
        place = self._places[index]
        if place < 0 or self._known[index] == _LOST:
            return None
        try:
            if self._pack is None:
                self._pack = Pack(self._path, self._shapes)
            if self._known[index] != _SOUND and not self._pack.is_sound(place):
                raise DamagedPackError
            self._known[index] = _SOUND
        except (DamagedPackError, OSError) as error:
            self._lose(index, error)
            return None
        images, coverages = self._pack.arrays
        return images[place], coverages[place]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_pack": None, "_known": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._known = _shared(len(self))

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
    size: tuple[int, int],
    *,
    target: Target = "coverage",
    task: Task | None = None,
    limit_gb: float = 10.0,
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> list[SampleCache]:
    """Cache the images that are not cached yet, and open the cache for each of several lists of samples.

    The cached bytes are those that :func:`read_shrunken` gives. Several processes may call this at once: one decodes,
    the others wait and find it done. Killed or interrupted, all finished images stay. Where the folder cannot be
    written to or the disk is full, a warning is given and what is not cached is read from its files.

    Args:
        parts: Lists of samples, for instance those to train on and those to validate on.
        size: (height, width).
        target: "coverage" or "nearest".
        task: What the masks, or label files, are; None for masks of one object.
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
        >>> data = carvana.SegmentationDataset(samples, size=(128, 128), cache=cache)  # doctest: +SKIP
    """
    size, task = (int(size[0]), int(size[1])), task or Task.binary()
    samples = list(itertools.chain(*parts))
    pack, places = None, np.full(len(samples), -1, np.int32)
    if limit_gb > 0:
        home = Path(folder or cache_home() / "samples")
        builder = _Builder(samples, size, target, task, home, reporter or default_reporter())
        pack = builder.build(int(limit_gb * 10**9), workers)
        if pack is not None:
            places = pack.find(builder.keys)
    ends = np.cumsum([len(part) for part in parts])
    return [SampleCache(pack, part, size=size, target=target, task=task) for part in np.split(places, ends[:-1])]


def read_shrunken(
    sample: Sample, size: tuple[int, int], *, target: str, task: Task | None = None
) -> tuple[UInt8, UInt8]:
    """The image, uint8 (h, w, 3), and its target, uint8, from their files: see :mod:`carvana.data.target`.

    Args:
        sample: A labelled image.
        size: (height, width).
        target: "coverage" or "nearest", as :func:`carvana.data.io.masks.shrink_mask` takes it.
        task: What its mask, or label file, is; None for a mask of one object.

    Raises:
        DataError: there is no mask, or a file cannot be used.
    """
    image = resize_image(read_image(sample.image, at_least=size), size)
    return image, read_target(sample, size, task=task or Task.binary(), target=target)


class _Builder:
    """Fills the pack of one list of images at one size."""

    def __init__(
        self, samples: Sequence[Sample], size: tuple[int, int], target: Target, task: Task, folder: Path,
        reporter: Reporter,
    ) -> None:  # fmt: skip
        self.samples = samples
        self.size = size
        self.target = target
        self.task = task
        self.folder = folder
        self.reporter = reporter
        self.shapes = _shapes(size, task)
        self.index = DigestIndex(folder / "files")
        self.keys, self.files = self.index.keys(samples, reporter=reporter)
        contents, first = np.unique(self.keys, return_index=True)
        readable = contents != b""
        self.contents, self.first = contents[readable], first[readable]  # the keys in the pack, and samples with them
        versions = digest(cv2.__version__, simplejpeg.__version__, PIL.__version__)[:8]
        # Names and colours of classes change no target.
        values = "" if task.reads_masks else f"-{digest([task.kind, [c.value for c in task.classes], task.ignore])[:8]}"
        self.kind = f"v{FORMAT}-{size[0]}x{size[1]}-{target}{values}-{versions}"
        self.path = folder / f"{self.kind}-{bytes_digest(self.contents.tobytes())[:16]}{SUFFIX}"

    def build(self, limit: int, workers: int | None) -> Pack | None:
        """Bring the pack up to date, and open it; None if nothing is cached."""
        if not len(self.contents):
            return None
        try:
            held = sum(stat.st_size for stat in _files(self.folder).values())
            if self.index.changed or len(self._missing(self._open())) or held > limit:
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
        # Mapped before some are removed, since they stay readable; Windows would not remove what is mapped.
        packs = [] if sys.platform == "win32" else self._packs_with(self.contents)
        count, each = len(self.contents), record_bytes(self.shapes)
        full = pack_bytes(count, self.shapes)
        room = _make_space(self.folder, full, limit=limit, own=self.path)
        if packs and DISK_SHARE * shutil.disk_usage(self.folder).free < full:
            packs = []  # on a disk that is nearly full, removed packs take room until they are closed
            room = _make_space(self.folder, full, limit=limit, own=self.path)
        left_out = min(count, max(0, -(-(full - room) // each)))
        if left_out:
            self.reporter.info(
                f"{left_out} images do not fit into the cache (data.cache_gb = {limit / 1e9:g}, and half of the disk's "
                f"free space, in {self.folder}); they are read from their files in every epoch"
            )
        missing = self._missing(self._open())
        missing = missing[missing < count - left_out]
        if not len(missing):
            return
        if not self.path.exists():
            create_pack(self.path, self.contents, self.shapes)
        with open(self.path, "r+b") as file:
            for pack in packs:
                missing = self._copy(pack, missing, file)
            if len(missing):
                self._decode(missing, file, workers)

    def _copy(self, pack: Pack, missing: NDArray[np.intp], file: IO[bytes]) -> NDArray[np.intp]:
        """Take what another pack has, as that of a list with one image less; returns what is still missing."""
        left = []
        for place, there in zip(missing.tolist(), pack.find(self.contents[missing]).tolist(), strict=True):
            if there >= 0 and pack.is_sound(there):
                write_record(file, self.contents, place, pack.records[there])
            else:
                left.append(place)
        return np.array(left, np.intp)

    def _decode(self, missing: NDArray[np.intp], file: IO[bytes], workers: int | None) -> None:
        began = time.perf_counter()
        missing = missing[np.argsort(self.first[missing])]  # in the order of the files
        records = threaded(self._read, missing.tolist(), workers=workers, ahead=4, bytes_of=len)
        written = map(functools.partial(write_record, file, self.contents), missing.tolist(), records)
        for _ in track(written, self.reporter, "caching", len(missing)):
            pass
        seconds, megabytes = time.perf_counter() - began, len(missing) * record_bytes(self.shapes) / 1e6
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

    def _missing(self, pack: Pack | None) -> NDArray[np.intp]:
        """The places of the images that the pack does not have."""
        return np.flatnonzero(pack.find(self.contents) < 0) if pack is not None else np.arange(len(self.contents))

    def _open(self) -> Pack | None:
        try:
            pack = Pack(self.path, self.shapes)
            if np.array_equal(pack.keys, self.contents):
                return pack
        except DamagedPackError:
            pass
        except OSError:
            return None  # there is none, or it belongs to another user
        self.reporter.warn(f"{self.path}: damaged and removed; its images are read from their files again")
        with suppress(OSError):
            self.path.unlink()
        return None

    def _packs_with(self, keys: NDArray[np.bytes_]) -> list[Pack]:
        """The newest packs of this kind that hold any of the keys, a few at the most."""
        found: list[Pack] = []
        others = {path: stat for path, stat in _files(self.folder).items() if path.name.startswith(f"{self.kind}-")}
        for path in sorted(others, key=lambda path: -others[path].st_mtime_ns):
            with suppress(DamagedPackError, OSError):
                pack = Pack(path, self.shapes)
                if (pack.find(keys) >= 0).any():
                    found.append(pack)
            if len(found) == _MOST_COPIED:
                break
        return found


def _shapes(size: tuple[int, int], task: Task) -> Shapes:
    """The arrays of a record: the image and its target."""
    return (*size, 3), packed_shape(size, task)


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


def _shared(length: int) -> UInt8:
    """Zeros in memory that forked processes share, so that a record is checked once for all of them."""
    return np.frombuffer(mmap.mmap(-1, max(1, length)), np.uint8, length)
