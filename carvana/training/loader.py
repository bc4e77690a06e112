"""Batches of samples: the worker processes that read them, and the time spent waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from carvana.data.dataset import SegmentationDataset
from carvana.data.reader_processes import (
    ReaderKilledError,
    begin_reader,
    check_readers_can_begin,
    read_ahead,
    reader_count,
    tells_of_no_room,
)
from carvana.errors import CarvanaError, ConfigError
from carvana.training.failures import FEWER_READERS
from carvana.training.sampler import EpochBatches


def make_loader(
    data: SegmentationDataset,
    batch_size: int,
    accelerator: Accelerator,
    *,
    shuffle: bool,
    seed: int,
    workers: int,
    pin_memory: bool,
) -> tuple[EpochBatches, DataLoader[tuple[Tensor, Tensor]]]:
    """Batches of (images uint8 (N, 3, h, w), coverage float32 (N, 1, h, w)).

    Args:
        data: The images.
        batch_size: The most images of a batch in this process.
        accelerator: Tells how many processes share the images.
        shuffle: A new order in each epoch.
        seed: Of the orders.
        workers: Processes that read; they live as long as the loader.
        pin_memory: Copy batches to pinned memory, for an NVIDIA GPU.

    Returns:
        The sampler, which chooses epoch and batch, and the loader.

    Raises:
        ConfigError: the data set is empty, or reading processes cannot begin.
    """
    if not len(data):
        raise ConfigError("a data set is empty; expected at least one image")
    batches = EpochBatches(
        len(data), batch_size, seed=seed, shuffle=shuffle,
        process=accelerator.process_index, processes=accelerator.num_processes,
    )  # fmt: skip
    if workers:
        check_readers_can_begin()
    # Three bytes of image and four of coverage a pixel.
    largest = max(batches.sizes) * math.prod(data.largest_size) * 7
    loader = DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=read_ahead(largest, workers) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=begin_reader,
        # A generator of its own: the loader draws a number at each start, and torch's own must not advance by it.
        generator=torch.Generator(),
    )
    return batches, loader


def worker_count(workers: int | str) -> int:
    """The number of processes that read; "auto" is one a core, at most 8, shared among the processes that train.

    Raises:
        ConfigError: neither a number nor "auto".
    """
    if workers == "auto":
        return reader_count()
    if not isinstance(workers, int) or workers < 0:
        raise ConfigError(f"workers = {workers!r}: expected a number of processes, or auto")
    return workers


def timed(batches: Iterable[Any]) -> Iterator[tuple[Any, float]]:
    """Each batch, and the seconds spent waiting for it.

    Raises:
        CarvanaError: a reader failed; the message is one line.
    """
    iterator: Iterator[Any] | None = None
    while True:
        began = time.perf_counter()
        try:
            iterator = iterator or iter(batches)
            batch = next(iterator)
        except StopIteration:
            return
        except CarvanaError as error:
            # torch puts the worker's traceback before the message, and an escaped line break after it.
            raise type(error)(str(error).rpartition(_full_name(error))[2].removesuffix(r"\n")) from None
        except (ConnectionError, EOFError) as error:  # the reader died while it was sending a batch
            raise ReaderKilledError(FEWER_READERS) from error
        except OSError as error:
            raise (ReaderKilledError(FEWER_READERS) if tells_of_no_room(error) else error) from error
        yield batch, time.perf_counter() - began


def _full_name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: "
