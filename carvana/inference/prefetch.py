"""Reads and resizes images in worker processes, in order, while the network runs on those before."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from carvana.data.io.images import image_size, read_image
from carvana.data.reader_processes import (
    AHEAD_BYTES,
    ReaderKilledError,
    begin_reader,
    check_readers_can_begin,
    end_readers,
    read_ahead,
    reader_count,
    tells_of_no_room,
)
from carvana.errors import ConfigError, DataError
from carvana.inference.base import BasePredictor, P
from carvana.inference.inputs import unreadable
from carvana.inference.pipeline import overlapped
from carvana.inference.preprocessed import PreprocessedImage, bytes_of

FEWER_READERS = "take fewer with --workers; what was done is kept"
"""Advice when a reading process is killed."""

_FEW = 8
"""Fewer images than this are read by threads: processes take longer to start."""

_SAMPLED = 16
"""Images whose headers are read, to estimate the largest size."""


def read_prepared(
    predictor: BasePredictor[P], images: Sequence[Path], *, workers: int | None = None
) -> Generator[tuple[Path, P | str], None, None]:
    """Read images ahead and prepare them for a predictor, in their order.

    Worker processes do it, which the interpreter's lock does not slow down; a few images are read by threads. The bytes
    that wait for the network are limited, by the size of the largest of a sample of the images.

    Args:
        predictor: prepares the images.
        images: image files.
        workers: processes; 0 reads in threads; None is one a core, at most 8, shared among the processes that torchrun
            started on this machine.

    Yields:
        Each image, prepared, or with the line that says why it cannot be read.

    Raises:
        ConfigError: the number of workers is negative, or reading processes cannot begin.
        ReaderKilledError: a process was killed.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"workers = {workers}: expected a number of processes, or 0 to read in threads")
    reader = _Reader(predictor.preprocessor, predictor.max_pixels)
    workers = reader_count() if workers is None else workers
    if workers == 0 or len(images) < _FEW:
        yield from zip(images, overlapped(reader, images, bytes_of=bytes_of), strict=True)
        return
    check_readers_can_begin()
    each = max(1, _bytes_of_largest(reader, images))
    workers = max(1, min(workers, len(images), AHEAD_BYTES // each))
    loader = DataLoader(
        _Images(reader, images),
        batch_size=None,
        collate_fn=_as_it_is,
        num_workers=workers,
        persistent_workers=True,  # else the loader does not know them, and cannot end them
        prefetch_factor=read_ahead(each, workers),
        worker_init_fn=begin_reader,
        generator=torch.Generator(),  # one of its own: the loader draws a number, which the caller need not notice
    )
    try:
        for image, shipped in zip(images, _watched(loader), strict=True):
            yield image, shipped if isinstance(shipped, str) else cast("P", _unpacked(shipped))
    finally:
        end_readers(loader)


class _Reader:
    """Reads and prepares an image; returns a line that says why where it cannot be read."""

    def __init__(self, preprocessor: Callable[[NDArray[np.uint8]], Any], max_pixels: int) -> None:
        self._preprocessor = preprocessor
        self.max_pixels = max_pixels

    def __call__(self, image: Path) -> Any:
        try:
            return self._preprocessor(read_image(image, max_pixels=self.max_pixels))
        except (OSError, DataError) as error:
            return unreadable(image, error)


class _Images(Dataset[Any]):
    """Images for a loader's processes: by number, and in tensors, which travel in shared memory.

    The paths are one array: as objects they would be copied into each process, page by page, since reading an object
    changes its reference count.
    """

    def __init__(self, reader: _Reader, images: Sequence[Path]) -> None:
        self._reader = reader
        self._paths = np.array([os.fsencode(image) for image in images], np.bytes_)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Any:
        prepared = self._reader(Path(os.fsdecode(bytes(self._paths[index]))))
        return prepared if isinstance(prepared, str) else _packed(prepared, {})


def _packed(prepared: Any, known: dict[int, Tensor]) -> Any:
    """A prepared image with tensors in place of arrays, which torch sends without a copy; the same array once."""
    if isinstance(prepared, PreprocessedImage):
        image = prepared.image
        tensor = known.get(id(image))
        if tensor is None:
            # Shared here, not by the thread that sends it: without room, that one would drop the image silently.
            tensor = torch.from_numpy(np.require(image, requirements="W")).share_memory_()
            known[id(image)] = tensor
        return tensor, prepared.size
    return [_packed(part, known) for part in prepared]  # a list: a single image is a tuple


def _as_it_is(shipped: Any) -> Any:
    """Replaces torch's own, which makes lists of tuples."""
    return shipped


def _unpacked(shipped: Any) -> Any:
    if isinstance(shipped, tuple):
        tensor, size = shipped
        return PreprocessedImage(tensor.numpy(), size)
    return tuple(_unpacked(part) for part in shipped)


def _watched(loader: DataLoader[Any]) -> Iterator[Any]:
    try:
        yield from loader
    except (ConnectionError, EOFError) as error:  # it was sending an image
        raise ReaderKilledError(FEWER_READERS) from error
    except OSError as error:
        raise (ReaderKilledError(FEWER_READERS) if tells_of_no_room(error) else error) from error


def _bytes_of_largest(reader: _Reader, images: Sequence[Path]) -> int:
    """The bytes of the largest prepared image, of an evenly spread sample."""
    largest, pixels = images[0], 0
    for image in images[:: -(-len(images) // _SAMPLED)]:
        try:
            height, width = image_size(image, max_pixels=reader.max_pixels)
        except DataError:  # reported at its turn
            continue
        if height * width > pixels:
            largest, pixels = image, height * width
    prepared = reader(largest)
    return bytes_of(prepared)
