"""How samples become batches: worker processes, the order of an epoch, and the time spent waiting for them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import cv2
from torch import Tensor
from torch.utils.data import DataLoader

from carvana.data.dataset import EpochSampler, SegmentationDataset
from carvana.devices import cpu_count
from carvana.errors import CarvanaError, ConfigError

AHEAD_BYTES = 512 * 2**20
"""What all readers together may hold ready, in shared memory."""


def make_loader(
    data: SegmentationDataset, *, batch_size: int, seed: int, shuffle: bool, workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of (images uint8 (N, 3, h, w), coverage float32 (N, 1, h, w)).

    ``shuffle`` marks the training side: a new order each epoch, and no batch of a single photo.

    Raises:
        ConfigError: the data set is empty.
    """
    if not len(data):
        raise ConfigError("a data set is empty; expected at least one photo")
    # A last batch of one photo has no variance for BatchNorm to divide by.
    single = len(data) % batch_size == 1 and len(data) > batch_size
    return DataLoader(
        data,
        batch_size=batch_size,
        sampler=EpochSampler(len(data), seed=seed, shuffle=shuffle),
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=_ahead(data.size, batch_size, workers) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_quiet_worker,
        drop_last=shuffle and single,
    )


def worker_count(workers: int | str) -> int:
    """The number of processes that read; "auto" is one a core, at most 8.

    Raises:
        ConfigError: neither a number nor "auto".
    """
    if workers == "auto":
        return min(8, cpu_count())
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"workers = {workers!r}: expected a number of processes, or auto")
    return workers


def timed(batches: Iterable[Any]) -> Iterator[tuple[Any, float]]:
    """Each batch with the seconds that it was waited for; a reader's error comes out as its one line."""
    iterator = iter(batches)
    while True:
        began = time.perf_counter()
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except CarvanaError as error:
            # torch puts the worker's traceback around the message; its last line is what was said.
            raise type(error)(str(error).strip().splitlines()[-1].removeprefix(_full_name(error))) from None
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise CarvanaError(
                "a reading process was killed, for want of memory or of room in /dev/shm: "
                "take fewer with data.workers, or smaller train.batch_size"
            ) from error
        yield batch, time.perf_counter() - began


def _ahead(size: tuple[int, int], batch_size: int, workers: int) -> int:
    """Batches that each process reads ahead: four, or fewer where all of them would take more than AHEAD_BYTES."""
    batch = batch_size * size[0] * size[1] * 7  # three bytes of image and four of coverage a pixel
    return max(1, min(4, AHEAD_BYTES // (batch * workers)))


def _quiet_worker(_: int) -> None:
    # Readers are many already; threads of their own would only get in one another's way.
    cv2.setNumThreads(0)


def _full_name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: "
