"""The batches of an epoch: which images they have in each process, who reads them, and the time spent waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from carvana.data.dataset import SegmentationDataset
from carvana.data.target import packed_again, packed_shape
from carvana.errors import CarvanaError, ConfigError
from carvana.training.signals import FEWER_READERS
from carvana.utils.parallel import (
    begin_reader,
    check_readers_can_begin,
    end_readers,
    explain_killed_readers,
    read_ahead,
    reader_count,
)

Key = tuple[int, int]
"""(epoch, index), the key of a data set: it names the epoch since worker processes live through all epochs."""


class EpochBatches(Sampler[list[Key]]):
    """The batches of an epoch, as lists of keys (epoch, index).

    The order of an epoch depends on the seed and the epoch alone. It is cut into as few batches as the batch size
    allows, whose sizes differ by at most one: each image is seen once, and there is no small last batch, over whose few
    images BatchNorm would average. Several processes cut the same batches, and each takes its share.

    Args:
        length: Images of the data set.
        batch_size: The most images of a batch in each process.
        seed: Of the orders.
        shuffle: A new order in each epoch; else the images' own order, for validation.
        process: The number of this process, from 0.
        processes: How many there are.

    Attributes:
        parts: The images of each batch of the chosen epoch, all processes together.
        sizes: How many images each batch has, all processes together.

    >>> batches = EpochBatches(9, 8, seed=0, shuffle=False)
    >>> batches.sizes
    [5, 4]
    >>> list(batches)[1]
    [(0, 5), (0, 6), (0, 7), (0, 8)]
    """

    def __init__(
        self, length: int, batch_size: int, *, seed: int, shuffle: bool, process: int = 0, processes: int = 1
    ) -> None:
        self.epoch = 0
        self.first = 0
        self._length = length
        self._seed = seed
        self._shuffle = shuffle
        self._process = process
        self._processes = processes
        self._count = max(1, -(-length // (batch_size * processes)))
        self.parts = self._cut(0)
        self.sizes = [len(part) for part in self.parts]

    def set_place(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch of the next iteration, and its first batch."""
        # Validation must see the same crops each time.
        self.epoch = epoch if self._shuffle else 0
        self.first = first
        self.parts = self._cut(self.epoch)

    def share(self, part: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        """This process's images of a batch, and how many of them count.

        A process without images in the batch gets one that does not count: all processes must take part in each step.
        """
        own = part[self._process :: self._processes]
        return (own, len(own)) if len(own) else (part[:1], 0)

    def in_step(self, batch: int, every: int) -> tuple[int, float, bool]:
        """The part of a batch in its step, where ``every`` batches make a step.

        Returns:
            How many of this process's images count, the weight of its mean loss in the step (times the number of
            processes, over whom gradients are averaged), and whether this batch is the step's last.
        """
        group = self.sizes[batch - batch % every :][:every]
        images = self.share(self.parts[batch])[1]
        return images, images * self._processes / sum(group), batch % every == len(group) - 1

    def keys_before(self, epoch: int, batch: int, count: int) -> list[list[Key]]:
        """The last ``count`` batches before a place (fewer at the beginning of the training), the oldest first."""
        found = [self._keys(epoch, part) for part in self._cut(epoch)[:batch]]
        while len(found) < count and epoch > 0:
            epoch -= 1
            found = [self._keys(epoch, part) for part in self._cut(epoch)] + found
        return found[-count:]

    def __len__(self) -> int:
        return self._count - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        for part in self.parts[self.first :]:
            yield self._keys(epoch, part)

    def _cut(self, epoch: int) -> list[NDArray[np.int64]]:
        """The batches of an epoch, all processes together."""
        order = np.arange(self._length)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(order)
        return np.array_split(order, self._count)

    def _keys(self, epoch: int, part: NDArray[np.int64]) -> list[Key]:
        return [(epoch, index) for index in self.share(part)[0].tolist()]


class Loader:
    """Batches of images, uint8 (N, 3, h, w), and packed targets, each with the seconds waited for it.

    :func:`carvana.data.target.unpack` makes the targets, where the network is.

    Args:
        data: The images.
        batch_size: The most images of a batch in this process.
        accelerator: Tells how many processes share the images.
        shuffle: A new order in each epoch.
        seed: Of the orders.
        workers: Processes that read; they live as long as the loader.

    Attributes:
        data: The images.
        batches: Chooses epoch and batch of the next iteration.

    Raises:
        ConfigError: the data set is empty, or reading processes cannot begin.
        CarvanaError: on iteration, a reader failed; the message is one line.
    """

    def __init__(
        self,
        data: SegmentationDataset,
        batch_size: int,
        accelerator: Accelerator,
        *,
        shuffle: bool,
        seed: int,
        workers: int,
    ) -> None:
        if not len(data):
            raise ConfigError("a data set is empty; expected at least one image")
        if workers:
            check_readers_can_begin()
        self.data = data
        self.batches = EpochBatches(
            len(data), batch_size, seed=seed, shuffle=shuffle,
            process=accelerator.process_index, processes=accelerator.num_processes,
        )  # fmt: skip
        # Three bytes of image and, of a target, four a plane, or twelve at most where classes exclude each other.
        target = 12 if data.task.kind == "multiclass" else 4 * math.prod(packed_shape((1, 1), data.task))
        largest = max(self.batches.sizes) * math.prod(data.largest_size) * (3 + target)
        self._loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
            _Packed(data),
            batch_sampler=self.batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=read_ahead(largest, workers) if workers else None,
            pin_memory=accelerator.device.type == "cuda",
            worker_init_fn=begin_reader,
            # A generator of its own: the loader draws a number at each start, and torch's own must not advance by it.
            generator=torch.Generator(),
        )

    def __iter__(self) -> Iterator[tuple[tuple[Tensor, Tensor], float]]:
        began = time.perf_counter()
        with explain_killed_readers(FEWER_READERS):
            try:
                for images, targets in self._loader:
                    yield (images, targets), time.perf_counter() - began
                    began = time.perf_counter()
            except CarvanaError as error:
                # torch puts the worker's traceback before the message, and an escaped line break after it.
                name = f"{type(error).__module__}.{type(error).__qualname__}: "
                raise type(error)(str(error).rpartition(name)[2].removesuffix(r"\n")) from None

    def end(self) -> None:
        """End the reading processes; new ones start if it is used again."""
        end_readers(self._loader)


class _Packed(Dataset[tuple[Tensor, Tensor]]):
    """The items of a data set with their targets packed."""

    def __init__(self, data: SegmentationDataset) -> None:
        self._data = data

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        if type(self._data).__getitem__ is SegmentationDataset.__getitem__:
            return self._data.packed(key)
        image, *targets = self._data[key]  # a data set of one's own
        return image, packed_again(targets, self._data.task)


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
