"""Fills the cache: each image is decoded once, by several threads, and kept for all runs of this user.

The files below ``$CARVANA_CACHE/samples`` or ``~/.cache/carvana/samples``::

    lock                              held while packs are written or removed
    files                             digests of images and masks (cache_keys.py)
    v1-128x128-coverage-<versions>/   one folder for each size and target
        <random name>.pack            images by the digest of their content (cache_pack.py)

The same image in other places, or linked a hundred times, is kept once. The folder's name holds the versions of the
libraries that decode and resize: after an upgrade the pixels might differ by a bit, and training with the cache must
be the same as without it.
"""

from __future__ import annotations

import functools
import itertools
import operator
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from threading import Event

import cv2
import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray

from carvana.data.cache import SampleCache, Target
from carvana.data.cache_home import cache_home
from carvana.data.cache_keys import DigestIndex, identify
from carvana.data.cache_pack import (
    SUFFIX,
    DamagedPackError,
    Pack,
    discard,
    find_records,
    pack_bytes,
    record_bytes,
    write_pack,
)
from carvana.data.cache_space import CacheSpace, held_bytes, make_space, sweep, touch
from carvana.data.sample_list import SampleList
from carvana.data.samples import Sample
from carvana.data.target import read_shrunken
from carvana.errors import DataError
from carvana.utils.devices import cpu_count
from carvana.utils.files import digest, lock
from carvana.utils.progress import Reporter, default_reporter

FORMAT = 1
"""To be raised when the same files give other pixels, or when the layout of packs changes."""

PACK_IMAGES = 256
PACK_BYTES = 256 * 2**20
"""The largest number of images and bytes of a pack: the loss of a killed process, and the unit that is removed."""


def build_caches(
    parts: Sequence[Sequence[Sample]],
    size: tuple[int, int],
    *,
    target: Target = "coverage",
    limit_gb: float = 10.0,
    folder: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> list[SampleCache]:
    """Cache the images that are not cached yet, and open the cache for each of several lists of samples.

    The cached bytes are those that :func:`carvana.data.target.read_shrunken` gives. Several processes may call this at
    once: one decodes, the others wait and find it done. Killed or interrupted, all finished packs stay. Where the
    folder cannot be written to or the disk is full, a warning is given and what is not cached is read from its files.

    Args:
        parts: Lists of samples, for instance those to train on and those to validate on.
        size: (height, width).
        target: "coverage" or "nearest".
        limit_gb: Gigabytes (10^9 bytes) that the whole cache may hold, with all other sizes and data sets; the least
            recently used packs are removed for it. Half of the disk's free space is a second limit. Images that do not
            fit are not cached. 0 caches nothing and leaves the folder as it is.
        folder: The cache; by default ``samples`` in :func:`carvana.data.cache_home.cache_home`.
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
    reporter = reporter or default_reporter()
    size = int(size[0]), int(size[1])
    samples = functools.reduce(operator.add, map(SampleList.of, parts))
    if limit_gb > 0:
        builder = _Builder(samples, size, target, Path(folder or cache_home() / "samples"), reporter)
        packs = builder.build(int(limit_gb * 10**9), workers or cpu_count())
        where = find_records(builder.keys, packs)
    else:
        packs, nowhere = [], np.full(len(samples), -1, np.int32)
        where = nowhere, nowhere
    whole = SampleCache(packs, *where, size=size, target=target)
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    return [whole.part(start, stop) for start, stop in itertools.pairwise(ends)]


class _Builder:
    """Fills the cache with one list of images at one size."""

    def __init__(
        self, samples: Sequence[Sample], size: tuple[int, int], target: Target, folder: Path, reporter: Reporter
    ) -> None:
        self.samples = samples
        self.size = size
        self.target = target
        self.folder = folder
        self.packs_folder = folder / _folder_name(size, target)
        self.reporter = reporter
        self.known = DigestIndex(folder / "files")
        self.keys, self.files = self.known.keys(samples, reporter=reporter)

    def build(self, limit: int, workers: int) -> list[Pack]:
        """Bring the cache up to date; returns the packs with any of the images."""
        packs = self._open()
        try:
            if self.known.changed or len(self._missing(packs)) or held_bytes(self.folder) > limit:
                with lock(self.folder / "lock"):
                    self._fill(limit, workers)
                packs = self._open()
        except OSError as error:
            self.reporter.warn(
                f"{self.folder}: images cannot be cached there ({error.strerror or error}); they are read from their "
                "files in every epoch; set CARVANA_CACHE to another folder, or data.cache_gb to 0"
            )
            packs = self._open()
        for pack in packs:
            touch(pack.path)
        return packs

    def _fill(self, limit: int, workers: int) -> None:
        sweep(self.folder)
        packs = self._open()
        index = self.known.bytes if self.known.changed else 0
        wanted = index + self._bytes(_plan(self._missing(packs), self.size, workers=workers))
        room = make_space(self.folder, wanted, limit=limit, needed={pack.path for pack in packs})
        if 0 < index <= room.bytes:
            self.known.save()
        missing = self._missing([pack for pack in packs if pack.path.exists()])
        plan = _plan(missing, self.size, workers=workers, room=room.bytes - index)
        fitting = sum(map(len, plan))
        if fitting < len(missing):
            self._report_limit(len(missing) - fitting, room, limit)
        if plan:
            began = time.perf_counter()
            self._decode(plan, workers)
            height, width = self.size
            seconds, megabytes = time.perf_counter() - began, self._bytes(plan) / 1e6
            self.reporter.info(
                f"cached {fitting} images at {height}x{width} in {seconds:.1f} s ({megabytes:.0f} MB in {self.folder})"
            )

    def _decode(self, plan: Sequence[NDArray[np.int64]], workers: int) -> None:
        """Write packs, each in one thread, and report every image: a map over packs would report a pack at a time."""
        done: SimpleQueue[Future[None] | None] = SimpleQueue()  # None for each image, a future for each pack
        stopped = Event()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="carvana")
        self.reporter.start("caching", sum(map(len, plan)))
        try:
            with _quiet_opencv():
                for places in plan:
                    pool.submit(self._write, places, done, stopped).add_done_callback(done.put)
                left = len(plan)
                while left:
                    pack = done.get()
                    if pack is None:
                        self.reporter.advance("caching")
                    else:
                        pack.result()
                        left -= 1
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            self.reporter.finish("caching")

    def _write(self, places: NDArray[np.int64], done: SimpleQueue[Future[None] | None], stopped: Event) -> None:
        path = self.packs_folder / f"{secrets.token_hex(8)}{SUFFIX}"
        write_pack(path, self.keys[places], self._read(places, done, stopped), size=self.size)

    def _read(
        self, places: NDArray[np.int64], done: SimpleQueue[Future[None] | None], stopped: Event
    ) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        for place in places.tolist():
            if stopped.is_set():
                raise CancelledError
            sample = self.samples[place]
            yield read_shrunken(sample, self.size, target=self.target)
            if identify(sample) != tuple(self.files[place].tolist()):
                raise DataError(f"{sample.image}: it or its mask was changed while it was read; start again")
            done.put(None)

    def _missing(self, packs: Sequence[Pack]) -> NDArray[np.int64]:
        """The samples in none of the packs, one of each content, without those that cannot be read."""
        keys, first = np.unique(self.keys, return_index=True)
        pack, _ = find_records(keys, packs)
        return np.sort(first[(pack < 0) & (keys != b"")])

    def _open(self) -> list[Pack]:
        """The packs with any of the images; cut or damaged ones are removed."""
        packs = []
        for path in self._paths():
            try:
                pack = Pack.open(path, size=self.size)
            except DamagedPackError:
                self.reporter.warn(f"{path}: damaged and removed; its images are read from their files again")
                discard(path)
            except OSError:
                continue  # another process has just removed it, or it belongs to another user
            else:
                if np.isin(pack.keys, self.keys).any():
                    packs.append(pack)
        return packs

    def _paths(self) -> list[Path]:
        try:
            return sorted(self.packs_folder.glob(f"[!.]*{SUFFIX}"))
        except OSError:
            return []  # it belongs to another user; writing there gives the warning

    def _bytes(self, plan: Sequence[NDArray[np.int64]]) -> int:
        return sum(pack_bytes(len(places), self.size) for places in plan)

    def _report_limit(self, left: int, room: CacheSpace, limit: int) -> None:
        bound = "half of the disk's free space" if room.disk_is_full else f"data.cache_gb = {limit / 1e9:g}"
        self.reporter.info(
            f"{left} images do not fit into the cache ({bound}, in {self.folder}); "
            "they are read from their files in every epoch"
        )


def _plan(
    missing: NDArray[np.int64], size: tuple[int, int], *, workers: int, room: int | None = None
) -> list[NDArray[np.int64]]:
    """Divide images into packs, equally many for each thread, up to ``room`` bytes (None: all of them)."""
    most = max(1, min(PACK_IMAGES, PACK_BYTES // record_bytes(size)))
    rounds = -(-len(missing) // (most * workers))
    each = -(-len(missing) // max(1, rounds * workers))
    plan = []
    while len(missing):
        count = min(each, len(missing))
        while room is not None and count and pack_bytes(count, size) > room:
            count = min(count - 1, max(0, room) // record_bytes(size))
        if not count:
            break
        room = None if room is None else room - pack_bytes(count, size)
        plan.append(missing[:count])
        missing = missing[count:]
    return plan


def _folder_name(size: tuple[int, int], target: str) -> str:
    versions = digest(cv2.__version__, simplejpeg.__version__, PIL.__version__)[:8]
    return f"v{FORMAT}-{size[0]}x{size[1]}-{target}-{versions}"


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """One thread for each call of OpenCV, since several threads call it at once."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)
