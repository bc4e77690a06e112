"""How samples become batches: worker processes, the order of an epoch, and the time spent waiting for them."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
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
    data: SegmentationDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of (images uint8 (N, 3, h, w), coverage float32 (N, 1, h, w)), read by processes that live on.

    Raises:
        ConfigError: the data set is empty, or reading processes cannot begin.
    """
    if not len(data):
        raise ConfigError("a data set is empty; expected at least one image")
    if workers:
        check_readers_can_begin()
    # Three bytes of image and four of coverage a pixel.
    largest = max(batches.sizes) * math.prod(data.largest_size) * 7
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=read_ahead(largest, workers) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=begin_reader,
        # One of its own: the loader draws a number at each start, which the network's generator must not notice.
        generator=torch.Generator(),
    )


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
    """Each batch with the seconds that it was waited for.

    Raises:
        CarvanaError: what a reader met, as one line.
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
            # torch puts the worker's traceback before the message, and a line break, by now in two letters, behind it.
            raise type(error)(str(error).rpartition(_full_name(error))[2].removesuffix(r"\n")) from None
        except (ConnectionError, EOFError) as error:  # it was sending a batch
            raise ReaderKilledError(FEWER_READERS) from error
        except OSError as error:
            raise (ReaderKilledError(FEWER_READERS) if tells_of_no_room(error) else error) from error
        yield batch, time.perf_counter() - began


def _full_name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: "
