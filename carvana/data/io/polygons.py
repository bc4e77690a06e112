"""Polygons and runs of annotation files: what they cover, as masks, by the centres of pixels; and polygons of masks.

Coordinates are those of COCO: (0, 0) is the corner of the first pixel, whose centre is (0.5, 0.5). A pixel is inside of
a ring if its centre is (Foley et al., Computer Graphics, 1990, 3.6), so that rings that touch share no pixel.
``cv2.fillPoly`` takes the pixels at the boundary as well: 121 for a square of 10 x 10.

An outline, a polygon for each connected part of a mask, crosses each unit of the boundary between the centres of the
two pixels beside it, at most 0.45 pixels from the boundary. So the mask can be made again pixel by pixel, and few
points are needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Box = tuple[slice, slice]
Ring = NDArray[np.float64]

_REACH = 0.45  # pixels from the boundary
_SHARP = 3  # a corner between two edges of this length is one of the object, and not of the grid of pixels
_SMALL = 16  # pixels around: smaller parts keep their corners
_AHEAD = 64  # places that are tried for the end of a line after the last that fitted
_COMPARED = 10_000_000  # distances, in all, by which the ends of bridges are chosen


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


class Outline(NamedTuple):
    """One connected part of a mask.

    Attributes:
        ring: (n, 2), x and y of its outline, in multiples of half a pixel; (0, 0) is the corner of the first pixel.
            Holes are joined to it by lines of no width that are passed there and back.
        area: The number of its pixels.
        box: left, top, width and height of its pixels.
    """

    ring: Ring
    area: int
    box: tuple[int, int, int, int]


def outlines(mask: UInt8) -> list[Outline]:
    """The connected parts of a mask, uint8 (H, W) of 0 and 1; pixels that share a corner alone are not connected.

    >>> outlines(np.array([[0, 0, 0], [0, 1, 1]], np.uint8))[0].ring.tolist()
    [[1.0, 1.0], [3.0, 1.0], [3.0, 2.0], [1.0, 2.0]]
    """
    rings = list(_rings(mask))
    # Of its uppermost corners the first is the leftmost: the ring is below it and to the right.
    outer = [ring for ring in rings if mask[ring[0, 1], ring[0, 0]]]
    holes = [ring for ring in rings if not mask[ring[0, 1], ring[0, 0]]]
    within: dict[int, list[NDArray[np.intp]]] = {}
    if holes and len(outer) > 1:  # labelling takes ten times as long as all else
        _, labels = cv2.connectedComponents(mask, connectivity=4)
        parts = {int(labels[ring[0, 1], ring[0, 0]]): place for place, ring in enumerate(outer)}
        for hole in holes:
            within.setdefault(parts[int(labels[hole[0, 1] - 1, hole[0, 0]])], []).append(hole)
    elif holes:
        within[0] = holes
    return [_outline(ring, within.get(place, ())) for place, ring in enumerate(outer)]


def _outline(corners: NDArray[np.intp], holes: Sequence[NDArray[np.intp]]) -> Outline:
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    ring = _joined(_simplified(corners), [_simplified(hole)[::-1] for hole in holes])
    area = area_of(corners) - sum(map(area_of, holes))
    return Outline(ring, round(area), (left, top, right - left, bottom - top))


def area_of(ring: NDArray[Any]) -> float:
    """The area within a ring (n, 2)."""
    x, y = ring[:, 0].astype(np.float64), ring[:, 1].astype(np.float64)
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _rings(mask: UInt8) -> Iterator[NDArray[np.intp]]:
    """The corners (n, 2), x and y, of each ring of the boundary between pixels, in both directions by turns.

    Along each row and each column of the grid, corners are the ends of edges, two by two. Where two pixels touch at a
    corner, there are two corners, linked so that the pixels are apart.
    """
    padded = np.pad(mask, 1)
    edges = padded[:, 1:] ^ padded[:, :-1]
    touch = edges[1:] & edges[:-1] & (padded[1:, 1:] ^ padded[:-1, 1:])
    corner = edges[1:] ^ edges[:-1] | touch
    places = np.flatnonzero(corner.view(bool))
    twice = touch.ravel()[places]
    places = np.repeat(places, 1 + twice)
    rows, columns = np.divmod(places, corner.shape[1])
    second = np.zeros(len(places), bool)
    second[1:] = places[1:] == places[:-1]
    rising = np.repeat(twice, 1 + twice).astype(bool) & (padded[rows, columns] == 0)
    order = np.lexsort((second ^ rising, rows, columns))
    across = np.empty(len(places), np.intp)
    across[order] = order[np.arange(len(order)) ^ 1]
    points = np.stack([columns, rows], axis=1)
    following, seen = across.tolist(), bytearray(len(places))
    for start in range(len(places)):
        ring = []
        at = start
        while not seen[at]:
            end = at ^ 1
            seen[at] = seen[end] = 1
            ring += [at, end]
            at = following[end]
        if ring:
            yield points[ring]


def _simplified(corners: NDArray[np.intp]) -> Ring:
    """The outline of a ring of corners: lines as long as they cross the boundary between the same centres of pixels.

    From its first point on, a line is as long as the cone of the directions that pass all gates up to its end allows
    (as in Imai and Iri 1988, Computational Morphology, 71-86, who seek the fewest lines). A gate is at the middle of a
    unit of the boundary and at right angles to it; of a straight edge the first and the last one matter. Lines end in
    the middle of a gate, or in a corner.
    """
    steps = np.roll(corners, -1, axis=0) - corners
    lengths = np.abs(steps).sum(1)
    if lengths.sum() <= _SMALL:
        return corners.astype(np.float64)
    units = steps / lengths[:, None]
    sharp = (lengths >= _SHARP) & (np.roll(lengths, 1) >= _SHARP)
    first, last = corners + units / 2, corners + steps - units / 2
    normals = _REACH * units[:, ::-1] * (-1, 1)
    points = np.stack([corners, first, last], axis=1).reshape(-1, 2)
    sides = np.stack([0 * normals, normals, normals], axis=1).reshape(-1, 2)
    kept = np.stack([sharp, np.ones_like(sharp), lengths > 1], axis=1).ravel()
    points, sides = points[kept], sides[kept]
    begin = int(np.argmin(np.abs(sides).sum(1)))  # a sharp corner, if there is one
    points, sides = (np.concatenate([each[begin:], each[: begin + 1]]) for each in (points, sides))
    return points[_line_ends(points.tolist(), sides.tolist())]


def _line_ends(points: Sequence[Sequence[float]], sides: Sequence[Sequence[float]]) -> list[int]:
    """The places of the points at which lines begin; the last point is the first one again."""
    ends, at, total = [], 0, len(points) - 1
    while at < total:
        ends.append(at)
        x, y = points[at]
        best = at + 1
        dx, dy = points[best][0] - x, points[best][1] - y
        side_x, side_y = sides[best]
        left_x, left_y, right_x, right_y = dx - side_x, dy - side_y, dx + side_x, dy + side_y
        for place in range(best + 1, total + 1):
            dx, dy = points[place][0] - x, points[place][1] - y
            if left_x * dy >= left_y * dx and dx * right_y >= dy * right_x:
                best = place
            elif place > best + _AHEAD:
                break
            side_x, side_y = sides[place]
            new_x, new_y = dx - side_x, dy - side_y
            if left_x * new_y > left_y * new_x:
                left_x, left_y = new_x, new_y
            new_x, new_y = dx + side_x, dy + side_y
            if new_x * right_y > new_y * right_x:
                right_x, right_y = new_x, new_y
            if left_x * right_y < left_y * right_x:
                break
        at = best
    return ends


def _joined(ring: Ring, holes: Sequence[Ring]) -> Ring:
    """One ring of an outline and its holes: from the point nearest to a hole a line leads to the hole and back.

    What is passed twice changes neither what is inside an odd number of times nor what is wound around.
    """
    if not holes:
        return ring
    step = 1 + len(ring) * len(holes) // _COMPARED
    parts: dict[int, list[Ring]] = {}
    for hole in holes:
        place = step * _nearest(ring[::step], hole[0])
        begin = _nearest(hole, ring[place])
        place = step * _nearest(ring[::step], hole[begin])
        parts.setdefault(place, []).append(np.concatenate([hole[begin:], hole[: begin + 1], ring[place : place + 1]]))
    pieces, done = [], 0
    for place in sorted(parts):
        pieces += [ring[done : place + 1], *parts[place]]
        done = place + 1
    return np.concatenate([*pieces, ring[done:]])


def _nearest(points: Ring, to: Any) -> int:
    return int(np.square(points - to).sum(1).argmin())
