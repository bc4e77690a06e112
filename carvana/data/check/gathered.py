"""What is known of all images of a data folder, in half a kilobyte each, however many there are."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import COARSE, coarse
from carvana.data.check.files import Facts, Size
from carvana.data.check.problems import Problem

_DIGEST = np.dtype("S16")


class Gathered:
    """What remains of the facts about each place once its files are closed.

    Args:
        count: How many places there are.

    Attributes:
        problems: What is wrong inside of files.
        shares: (count,), the share that each mask's object covers; NaN where no mask can be read.
        borders: (count,), the share of its border that each mask's object covers; NaN as for ``shares``.
        turned: Of images that EXIF turns and not their masks, whether each mask fits better turned as well.
        ceilings: The best Dice possible, of the masks of which it was found out.
    """

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.shares = np.full(count, np.nan)
        self.borders = np.full(count, np.nan)
        self.turned: dict[int, bool] = {}
        self.ceilings: list[NDArray[np.float64]] = []
        self._sizes = np.zeros((count, 2), np.int32)
        self._first = np.full(count, -1, np.int64)  # the first image of the same pixels; -1: it cannot be read
        self._masks = np.zeros(count, _DIGEST)
        self._known: dict[bytes, int] = {}
        self._different = array("q")
        self._pictures = bytearray()

    def add(self, number: int, facts: Facts) -> None:
        """Enter what is known of a place; places come in their order."""
        self.problems += facts.problems
        if facts.image is not None:
            self._sizes[number] = facts.image.size
            self._first[number] = first = self._known.setdefault(facts.image.digest, number)
            if first == number:
                self._different.append(number)
                self._pictures += coarse(facts.image.thumbnail).tobytes()
        if facts.turned is not None:
            self.turned[number] = facts.turned
        if facts.mask is not None:
            self._masks[number], self.shares[number] = facts.mask.digest, facts.mask.share
            self.borders[number] = facts.mask.border
            if facts.mask.ceilings is not None:
                self.ceilings.append(facts.mask.ceilings)

    def readable(self) -> Iterator[int]:
        """The places whose image can be read."""
        return iter(np.flatnonzero(self._first >= 0).tolist())

    def size(self, number: int) -> Size:
        """The (height, width) of an image."""
        height, width = self._sizes[number].tolist()
        return height, width

    def count_sizes(self) -> dict[Size, int]:
        """How many images there are of each (height, width)."""
        sizes, counts = np.unique(self._sizes[self._first >= 0], axis=0, return_counts=True)
        return {(height, width): count for (height, width), count in zip(sizes.tolist(), counts.tolist(), strict=True)}

    def repeated_images(self) -> Iterator[tuple[int, int]]:
        """Images of the same pixels as an earlier one, and that one."""
        repeated = np.flatnonzero((self._first >= 0) & (self._first != np.arange(len(self._first))))
        return ((number, int(self._first[number])) for number in repeated.tolist())

    def repeated_masks(self) -> Iterator[tuple[int, int]]:
        """Masks of the same pixels as an earlier image's, and that one; those of no object, or of nothing else, not."""
        looked_at = np.flatnonzero((self._first >= 0) & (self.shares > 0) & (self.shares < 1))
        _, first, inverse = np.unique(self._masks[looked_at], return_index=True, return_inverse=True)
        for number, other in zip(looked_at.tolist(), looked_at[first[inverse]].tolist(), strict=True):
            if self._first[number] != self._first[other]:
                yield number, other

    def different_images(self) -> tuple[Sequence[int], NDArray[np.uint16]]:
        """The places of images that differ, and what they are compared by, uint16 (n, 16, 16)."""
        return self._different, np.frombuffer(self._pictures, np.uint16).reshape(-1, COARSE, COARSE)
