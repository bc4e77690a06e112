"""The batches of an epoch, for one process or several, from the start of an epoch or from its middle."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

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
        self.sizes = [len(part) for part in np.array_split(np.arange(length), self._count)]

    def set_place(self, epoch: int, first: int = 0) -> None:
        """Choose the epoch of the next iteration, and its first batch."""
        # Validation must see the same crops each time.
        self.epoch = epoch if self._shuffle else 0
        self.first = first

    def indices(self, epoch: int, batch: int) -> NDArray[np.int64]:
        """The images of a batch, all processes together."""
        return np.array_split(self._order(epoch), self._count)[batch]

    def share(self, epoch: int, batch: int) -> tuple[NDArray[np.int64], int]:
        """This process's images of a batch, and how many of them count.

        A process without images in the batch gets one that does not count: all processes must take part in each step.
        """
        return self._share(self.indices(epoch, batch))

    def in_step(self, epoch: int, batch: int, every: int) -> tuple[int, float, bool]:
        """The part of a batch in its step, where ``every`` batches make a step.

        Returns:
            How many of this process's images count, the weight of its mean loss in the step (times the number of
            processes, over whom gradients are averaged), and whether this batch is the step's last.
        """
        group = self.sizes[batch - batch % every :][:every]
        images = self.share(epoch, batch)[1]
        return images, images * self._processes / sum(group), batch % every == len(group) - 1

    def keys_before(self, epoch: int, batch: int, count: int) -> list[list[Key]]:
        """The last ``count`` batches before a place (fewer at the beginning of the training), the oldest first."""
        places = [(epoch, number) for number in range(batch)]
        while len(places) < count and epoch > 0:
            epoch -= 1
            places = [(epoch, number) for number in range(self._count)] + places
        return [[(e, int(index)) for index in self.share(e, number)[0]] for e, number in places[-count:]]

    def __len__(self) -> int:
        return self._count - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, first = self.epoch, self.first
        for part in np.array_split(self._order(epoch), self._count)[first:]:
            yield [(epoch, index) for index in self._share(part)[0].tolist()]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        order = np.arange(self._length)
        return np.random.default_rng((self._seed, epoch)).permutation(order) if self._shuffle else order

    def _share(self, part: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
        own = part[self._process :: self._processes]
        return (own, len(own)) if len(own) else (part[:1], 0)
