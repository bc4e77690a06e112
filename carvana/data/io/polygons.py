"""Polygons and runs of annotation files: what they cover, as masks, by the centres of pixels.

Coordinates are those of COCO: (0, 0) is the corner of the first pixel, whose centre is (0.5, 0.5). A pixel is inside of
a ring if its centre is (Foley et al., Computer Graphics, 1990, 3.6), so that rings that touch share no pixel.
``cv2.fillPoly`` takes the pixels at the boundary as well: 121 for a square of 10 x 10.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Box = tuple[slice, slice]


@dataclass(frozen=True, slots=True)
class Shape:
    """One object of an annotation file; it is small, and compares and hashes by its contents.

    Attributes:
        category: The name of its category.
        rings: Its outlines, which are joined: the bytes of float32 (n, 2), x and y in pixels.
        runs: Instead of rings the bytes of int32 (n,): the lengths of runs of outside, inside, outside ..., down the
            columns from left to right, as COCO counts them.
    """

    category: str
    rings: tuple[bytes, ...] = ()
    runs: bytes = b""

    def mask(self, size: tuple[int, int]) -> tuple[Box, UInt8]:
        """Its pixels in an image of ``size`` (height, width): rows and columns, and uint8 of 0 and 1 for these."""
        if self.runs:
            counts = np.frombuffer(self.runs, np.int32)
            values = (np.arange(len(counts)) & 1).astype(np.uint8)
            return (slice(0, size[0]), slice(0, size[1])), np.repeat(values, counts).reshape(size[::-1]).T
        return fill([np.frombuffer(ring, np.float32).reshape(-1, 2) for ring in self.rings], size)


@dataclass(frozen=True)
class Annotation:
    """The objects of one image, in an annotation file that may have those of other images, too.

    Attributes:
        path: The annotation file.
        size: (height, width) of the image, as the file has it.
        shapes: The objects, in the order of the file.
        notes: What else the file has, or lacks, a line for each kind; the same for all of its images.
    """

    path: Path
    size: tuple[int, int]
    shapes: tuple[Shape, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def content(self) -> bytes:
        """What identifies the annotation, whatever its file is called."""
        return hashlib.blake2b(repr((self.size, self.shapes)).encode(), digest_size=32).digest()

    @property
    def categories(self) -> set[str]:
        """The categories of its objects."""
        return {shape.category for shape in self.shapes}


def ring_of(points: Any) -> bytes:
    """The bytes of a ring: points (n, 2), or x and y in turn."""
    return np.ascontiguousarray(points, dtype=np.float32).tobytes()


def circle(centre: Any, radius: float) -> bytes:
    """The bytes of a ring that is nowhere further than a twentieth of a pixel from a circle."""
    count = max(8, int(np.ceil(np.pi / np.arccos(max(0.5, 1 - 0.05 / max(radius, 0.1))))))
    angles = np.arange(count) * (2 * np.pi / count)
    return ring_of(np.asarray(centre) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1))


def runs_of(mask: UInt8) -> bytes:
    """The bytes of the runs of a mask (H, W) of 0 and 1, as :class:`Shape` has them."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    return np.diff(edges, prepend=0, append=flat.size).astype(np.int32).tobytes()


def decode_counts(text: str) -> NDArray[np.int64]:
    """The lengths of runs in COCO's compressed text.

    Each number is in groups of five bits, the lowest first, the sixth bit saying that another group follows; from the
    fourth number on it is the difference to the last but one (pycocotools, maskApi.c).

    >>> decode_counts("52203").tolist()
    [5, 2, 2, 2, 5]
    """
    codes = np.frombuffer(text.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    last = np.flatnonzero(codes & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    if not len(last) or last[-1] != len(codes) - 1 or codes.min() < 0 or codes.max() > 63 or (last - first).max() > 6:
        return np.array([-1])
    places = np.arange(len(codes)) - np.repeat(first, last - first + 1)
    numbers = np.add.reduceat((codes & 31) << 5 * places, first)
    numbers -= np.where(codes[last] & 16, 1 << 5 * (places[last] + 1), 0)
    numbers[1::2] = numbers[1::2].cumsum()
    numbers[2::2] = numbers[2::2].cumsum()
    return numbers


def fill(rings: Sequence[NDArray[Any]], size: tuple[int, int]) -> tuple[Box, UInt8]:
    """The pixels whose centre is inside of a ring, or of any of several.

    Of one ring that crosses itself, what is inside an odd number of times counts.

    Args:
        rings: Each (n, 2), x and y in pixels. What lies outside of the image is cut off.
        size: (height, width) of the image.

    Returns:
        Rows and columns of the image, and uint8 of 0 and 1 for these.

    >>> fill([np.array([[1, 0], [3, 0], [3, 2], [1, 2]])], (2, 4))[1]
    array([[1, 1],
           [1, 1]], dtype=uint8)
    """
    points = rings[0] if len(rings) == 1 else np.concatenate(rings)
    (left, top), (right, bottom) = (
        (_first_centre(x, size[1]), _first_centre(y, size[0]))
        for x, y in (points.min(0).tolist(), points.max(0).tolist())
    )
    box = slice(top, max(top, bottom)), slice(left, max(left, right))
    shape = box[0].stop - top, box[1].stop - left
    if not shape[0] * shape[1]:
        return box, np.zeros(shape, np.uint8)
    covered = _inside(rings[0] - np.array([left, top], np.float64), shape)
    for ring in rings[1:]:
        covered |= _inside(ring - np.array([left, top], np.float64), shape)
    return box, covered


def _first_centre(bound: float, most: int) -> int:
    """The first pixel whose centre is not below a coordinate, from 0 to ``most``."""
    return math.ceil(min(max(bound, 0.0), float(most)) - 0.5)


def _inside(ring: NDArray[Any], shape: tuple[int, int]) -> UInt8:
    """The pixels (h, w) inside of one ring: between the first and the second crossing of their row, and so on.

    The crossings of all rows, one row after the other, are the ends of runs, as each row has an even number of them.
    """
    height, width = shape
    ring = np.concatenate([ring, ring[:1]])
    x, y = ring[:, 0], ring[:, 1]
    rows = np.minimum(np.maximum(np.ceil(y - 0.5), 0), height).astype(np.intp)
    first, crossed = np.minimum(rows[1:], rows[:-1]), np.abs(rows[1:] - rows[:-1])
    edge = np.repeat(np.arange(len(crossed)), crossed)
    row = np.arange(len(edge)) + (first - np.cumsum(crossed) + crossed)[edge]
    x_first, y_first = x[edge], y[edge]
    crossing = x_first + (row + 0.5 - y_first) * (x[edge + 1] - x_first) / (y[edge + 1] - y_first)
    column = np.minimum(np.maximum(np.ceil(crossing - 0.5), 0), width).astype(np.intp)
    ends = np.empty(len(edge) + 2, np.intp)
    ends[0], ends[-1], ends[1:-1] = 0, height * width, row * width + column
    ends.sort()
    inside = np.arange(len(ends) - 1, dtype=np.uint8) & np.uint8(1)
    return np.repeat(inside, ends[1:] - ends[:-1]).reshape(height, width)
