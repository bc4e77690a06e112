"""Summaries of all images and masks of a data folder, in half a kilobyte each."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import COARSE, coarse
from carvana.data.check.files import PairSummary, Size
from carvana.data.check.problems import Problem

_DIGEST = np.dtype("S16")


class SummaryTable:
    """What is kept of the summary of each pair.

    Args:
        count: The number of pairs.

    Attributes:
        problems: Those inside of files.
        shares: (count,), the share that each mask's object covers; NaN where no mask can be read.
        borders: (count,), the share of its border that each mask's object covers; NaN as for ``shares``.
        turned: Where EXIF turns an image and not its mask, whether the mask fits better turned as well.
        ceilings: The best Dice possible, for the masks for which it was computed.
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

    def add(self, number: int, summary: PairSummary) -> None:
        """Add the summary of a pair; pairs come in their order."""
        self.problems += summary.problems
        if summary.image is not None:
            self._sizes[number] = summary.image.size
            self._first[number] = first = self._known.setdefault(summary.image.digest, number)
            if first == number:
                self._different.append(number)
                self._pictures += coarse(summary.image.thumbnail).tobytes()
        if summary.turned is not None:
            self.turned[number] = summary.turned
        if summary.mask is not None:
            self._masks[number], self.shares[number] = summary.mask.digest, summary.mask.share
            self.borders[number] = summary.mask.border
            if summary.mask.ceilings is not None:
                self.ceilings.append(summary.mask.ceilings)

    def readable(self) -> Iterator[int]:
        """The pairs whose image can be read."""
        return iter(np.flatnonzero(self._first >= 0).tolist())

    def size(self, number: int) -> Size:
        """The (height, width) of an image."""
        height, width = self._sizes[number].tolist()
        return height, width

    def count_sizes(self) -> dict[Size, int]:
        """The number of images of each (height, width)."""
        sizes, counts = np.unique(self._sizes[self._first >= 0], axis=0, return_counts=True)
        return {(height, width): count for (height, width), count in zip(sizes.tolist(), counts.tolist(), strict=True)}

    def repeated_images(self) -> Iterator[tuple[int, int]]:
        """Images with the same pixels as an earlier one, and that one."""
        repeated = np.flatnonzero((self._first >= 0) & (self._first != np.arange(len(self._first))))
        return ((number, int(self._first[number])) for number in repeated.tolist())

    def repeated_masks(self) -> Iterator[tuple[int, int]]:
        """Masks with the same pixels as an earlier image's, and that one; without empty and full masks."""
        looked_at = np.flatnonzero((self._first >= 0) & (self.shares > 0) & (self.shares < 1))
        _, first, inverse = np.unique(self._masks[looked_at], return_index=True, return_inverse=True)
        for number, other in zip(looked_at.tolist(), looked_at[first[inverse]].tolist(), strict=True):
            if self._first[number] != self._first[other]:
                yield number, other

    def different_images(self) -> tuple[Sequence[int], NDArray[np.uint16]]:
        """The pairs whose images differ, and what these are compared by, uint16 (n, 16, 16)."""
        return self._different, np.frombuffer(self._pictures, np.uint16).reshape(-1, COARSE, COARSE)
