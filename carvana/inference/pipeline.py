"""Overlaps reading, the network and writing: threads or processes read ahead while the network computes.

Each stage is a generator that pulls from the one before it and holds few items, so memory does not grow with the number
of images. For most work threads suffice: decoding, OpenCV and the network release the interpreter's lock. Worker
processes read where an image costs the network as little as its decoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from carvana.errors import ConfigError, DataError
from carvana.inference.inputs import unreadable
from carvana.inference.preprocess import PreprocessedImage, Preprocessor
from carvana.utils.devices import cpu_count
from carvana.utils.parallel import (
    SHARED_BYTES,
    begin_reader,
    check_readers_can_begin,
    end_readers,
    explain_killed_readers,
    read_ahead,
    reader_count,
    threaded,
)

T = TypeVar("T")
R = TypeVar("R")

FEWER_READERS = "take fewer with --workers; what was done is kept"
"""Advice when a reading process is killed."""

_FEW = 8
"""Fewer images than this are read by threads: processes take longer to start."""

_SAMPLED = 8
"""Images that are read beforehand, to estimate the largest size."""


def overlapped(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    bytes_of: Callable[[R], int] | None = None,
) -> Iterator[R]:
    """Apply ``function`` in threads while the caller works, in order: see :func:`carvana.utils.parallel.threaded`.

    After an exception or Ctrl-C, items that were pulled before are finished, so that their files are complete.

    Args:
        function: called in other threads.
        items: pulled in the caller's thread.
        workers: threads, with two items each in flight; None for one per core, from 2 to 8.
        bytes_of: the size of a result, where these may be large.
    """
    workers = workers or min(max(cpu_count(), 2), 8)
    return threaded(function, items, workers=workers, ahead=2, bytes_of=bytes_of, finish=True)


def read_prepared(
    preprocessor: Preprocessor,
    images: Sequence[Path],
    *,
    max_pixels: int,
    workers: int | None = None,
) -> Generator[PreprocessedImage | str, None, None]:
    """Read images ahead and prepare them for a predictor, in their order.

    Worker processes do it, which the interpreter's lock does not slow down; a few images are read by threads. The bytes
    that wait for the network are limited, by the size of the largest of a sample of the images.

    Args:
        preprocessor: the predictor's.
        images: image files.
        max_pixels: files that hold more are not read.
        workers: processes; 0 reads in threads; None is one a core, at most 8, shared among the processes that torchrun
            started on this machine.

    Yields:
        Each image, prepared, or the line that says why it cannot be read.

    Raises:
        ConfigError: the number of workers is negative, or reading processes cannot begin.
        ReaderKilledError: a process was killed.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"workers = {workers}: expected a number of processes, or 0 to read in threads")
    reader = _Reader(preprocessor, images, max_pixels)
    workers = reader_count() if workers is None else workers
    if workers == 0 or len(images) < _FEW:
        yield from overlapped(reader.read, images, bytes_of=_bytes_of)
        return
    check_readers_can_begin()
    sample = overlapped(reader.read, images[:: -(-len(images) // _SAMPLED)], bytes_of=_bytes_of)
    sizes = [(prepared.nbytes, prepared.read_nbytes) for prepared in sample if not isinstance(prepared, str)]
    each, largest = (max(1, *column) for column in zip((1, 1), *sizes, strict=True))
    workers = max(1, min(workers, len(images), SHARED_BYTES // largest))
    loader = DataLoader(
        reader,
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=True,  # else the loader does not know them, and cannot end them
        prefetch_factor=read_ahead(each, workers),
        worker_init_fn=begin_reader,
        generator=torch.Generator(),  # one of its own: the loader draws a number, which the caller need not notice
    )
    try:
        with explain_killed_readers(FEWER_READERS):
            yield from loader
    finally:
        end_readers(loader)


class _Reader(Dataset[Any]):
    """Reads and prepares images, in this process or in those of a loader.

    The paths are one array: as objects they would be copied into each process, page by page, since reading an object
    changes its reference count.
    """

    def __init__(self, preprocessor: Preprocessor, images: Sequence[Path], max_pixels: int) -> None:
        self._preprocessor = preprocessor
        self._max_pixels = max_pixels
        self._paths = np.array([os.fsencode(image) for image in images], np.bytes_)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> PreprocessedImage | str:
        prepared = self.read(Path(os.fsdecode(bytes(self._paths[index]))))
        for tensor in () if isinstance(prepared, str) else prepared.images:
            # Shared here, not by the thread that sends it: without room, that one would drop the image silently.
            tensor.share_memory_()
        return prepared

    def read(self, image: Path) -> PreprocessedImage | str:
        """A prepared image, or a line that says why it cannot be read."""
        try:
            pixels = self._preprocessor.read(image, max_pixels=self._max_pixels)
            return self._preprocessor(pixels, os.fspath(image))
        except (OSError, DataError) as error:
            return unreadable(image, error)


def _bytes_of(prepared: PreprocessedImage | str) -> int:
    return 0 if isinstance(prepared, str) else prepared.read_nbytes


def _as_it_is(prepared: T) -> T:
    """Replaces torch's own, which makes lists of tuples."""
    return prepared
