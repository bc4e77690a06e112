"""How samples become batches: worker processes, the order of an epoch, and the time spent waiting for them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.workers import end_with_parent
from carvana.devices import cpu_count, processes_here
from carvana.errors import CarvanaError, ConfigError
from carvana.training.batches import EpochBatches
from carvana.training.explain import ReaderKilledError

STEP_SECONDS = 30
"""How long a reader lives on after SIGTERM, for the step that is under way."""

AHEAD_BYTES = 512 * 2**20
"""What all readers together may hold ready, in shared memory."""


def make_loader(
    data: SegmentationDataset, batches: EpochBatches, *, workers: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Batches of (images uint8 (N, 3, h, w), coverage float32 (N, 1, h, w)), read by processes that live on.

    Raises:
        ConfigError: the data set is empty.
    """
    if not len(data):
        raise ConfigError("a data set is empty; expected at least one photo")
    largest = max(batches.sizes)
    return DataLoader(
        data,
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
        prefetch_factor=_ahead(data.size, largest, workers) if workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_begin_worker,
        # One of its own: the loader draws a number at each start, which the network's generator must not notice.
        generator=torch.Generator(),
    )


def end_readers(loader: DataLoader[Any] | None) -> None:
    """End the reading processes of a loader; it starts new ones if it is used again.

    Left to itself torch ends them when nothing refers to them any more, and the traceback of an error does.
    """
    if loader is not None and loader._iterator is not None:
        if loader.num_workers:
            with suppress(RuntimeError):  # torch tells of a killed reader once more; the others end
                loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        loader._iterator = None


def worker_count(workers: int | str) -> int:
    """The number of processes that read; "auto" is one a core, at most 8, shared among the processes that train.

    Raises:
        ConfigError: neither a number nor "auto".
    """
    if workers == "auto":
        return max(1, min(8, cpu_count() // processes_here()))
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
            # torch puts the worker's traceback around the message; its last line is what was said.
            raise type(error)(str(error).strip().splitlines()[-1].removeprefix(_full_name(error))) from None
        except (ConnectionError, EOFError) as error:  # it was sending a batch
            raise ReaderKilledError from error
        yield batch, time.perf_counter() - began


def _ahead(size: tuple[int, int], batch_size: int, workers: int) -> int:
    """Batches that each process reads ahead: four, or fewer where all of them would take more than AHEAD_BYTES."""
    batch = batch_size * size[0] * size[1] * 7  # three bytes of image and four of coverage a pixel
    return max(1, min(4, AHEAD_BYTES // (batch * workers)))


def _begin_worker(_: int) -> None:
    # Readers are many already; threads of their own would only get in one another's way.
    cv2.setNumThreads(0)
    # Ctrl-C and a cluster's SIGTERM reach readers as well, but the training finishes its step and still needs them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STEP_SECONDS))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # torch's own watch does not see a training that was killed before the watch began.
    threading.Thread(target=end_with_parent, daemon=True).start()


def _full_name(error: Exception) -> str:
    return f"{type(error).__module__}.{type(error).__qualname__}: "
