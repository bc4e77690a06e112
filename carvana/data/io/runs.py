"""A mask of two values as the places where its value changes: a few thousand numbers instead of millions of pixels.

An outline crosses each row of an image about twice. The share of each small pixel that the object covers, which is all
that training needs of a mask, follows from those crossings alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Runs:
    """A mask of 0/1, row after row.

    Attributes:
        size: (height, width).
        changes: (N,), rising: the flat places (row * width + column) of all pixels that differ from the one before
            them, or from 0 at the first.

    >>> runs = Runs.of(np.array([[0, 1, 1, 1], [1, 1, 0, 0]], np.uint8))
    >>> runs.changes
    array([1, 6])
    >>> runs.coverage((1, 2))
    array([[191, 128]], dtype=uint8)
    """

    size: tuple[int, int]
    changes: Int64

    @classmethod
    def of(cls, mask: UInt8) -> Runs:
        """The runs of a mask (H, W) of 0/1."""
        flat = mask.ravel()
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        if flat[:1].any():
            changes = np.concatenate([[0], changes])
        return cls((mask.shape[0], mask.shape[1]), changes.astype(np.int64, copy=False))

    @property
    def area(self) -> int:
        """The number of pixels that are 1."""
        begins, ends = self.changes[::2], self.changes[1::2]
        open_end = self.size[0] * self.size[1] if len(begins) > len(ends) else 0
        return int(ends.sum() - begins.sum()) + open_end

    def mask(self) -> UInt8:
        """All pixels: uint8 (H, W) of 0/1."""
        values = (np.arange(len(self.changes) + 1) & 1).astype(np.uint8)
        return _filled(self.changes, values, self.size[0] * self.size[1]).reshape(self.size)

    def coverage(self, size: tuple[int, int]) -> UInt8:
        """255 times the share that the object covers of each pixel of a smaller picture: uint8 (h, w).

        A step from 0 to 1 adds to its own pixel of the result the part to its right, and all of every pixel further on
        in the row; a step back takes as much away. Areas are counted in whole numbers (a pixel of the mask is h * w of
        them, one of the result H * W), so the result is exact, rounded once.

        Args:
            size: (height, width), neither larger than the mask's.
        """
        (height, width), (h, w) = self.size, size
        rows, columns, signs = self._steps()
        top, left = rows * h // height, columns * w // width
        below = np.maximum(rows * h + h - (top + 1) * height, 0)  # the part of the row that lies in the next one below
        right = columns * w - left * width  # the part of the pixel that lies before the step
        # A column more than there are takes what lies beyond the last one, where every row is back at 0.
        places = top * (w + 1) + left
        amounts = signs * (h - below) * (width - right), signs * (h - below) * right
        places, parts = np.concatenate([places, places + 1]), np.concatenate(amounts)
        split = np.flatnonzero(below)
        if split.size:
            places = np.concatenate([places, places[split] + w + 1, places[split] + w + 2])
            lower = signs[split] * below[split]
            parts = np.concatenate([parts, lower * (width - right[split]), lower * right[split]])
        order = np.argsort(places)
        places, sums = places[order], np.cumsum(parts[order])
        last = np.flatnonzero(np.diff(places, append=-1))
        area = height * width
        values = np.zeros(len(last) + 1, np.uint8)
        values[1:] = (510 * sums[last] + area) // (2 * area)
        padded = _filled(places[last], values, h * (w + 1))
        return np.ascontiguousarray(padded.reshape(h, w + 1)[:, :w])

    def _steps(self) -> tuple[Int64, Int64, Int64]:
        """Row, column and sign (1 up, -1 down) of every change, each row closed at its end and opened again."""
        height, width = self.size
        rows = self.changes // width
        columns = self.changes - rows * width
        signs = 1 - 2 * (np.arange(len(rows)) & 1)
        inside = np.flatnonzero(np.cumsum(np.bincount(rows, minlength=height)) & 1)  # rows that end on the object
        if inside.size:
            opened = inside[inside + 1 < height] + 1
            rows = np.concatenate([rows, inside, opened])
            columns = np.concatenate([columns, np.full(len(inside), width), np.zeros(len(opened), np.int64)])
            signs = np.concatenate([signs, np.full(len(inside), -1), np.ones(len(opened), np.int64)])
        return rows, columns, signs


def _filled(places: Int64, values: UInt8, length: int) -> UInt8:
    """``values[0]`` up to the first place, ``values[1]`` from there to the second, and so on to the end."""
    return np.repeat(values, np.diff(places, prepend=0, append=length))
