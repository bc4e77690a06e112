"""Outlines of masks: a polygon for each connected part, from which the mask can be made again pixel by pixel.

An outline crosses each unit of the boundary between the centres of the two pixels beside it, at most 0.45 pixels from
the boundary. So the centre of a pixel is inside of the polygon if the pixel is in the mask, and few points are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

UInt8 = NDArray[np.uint8]
Ring = NDArray[np.float64]

_REACH = 0.45  # pixels from the boundary
_SHARP = 3  # a corner between two edges of this length is one of the object, and not of the grid of pixels
_SMALL = 16  # pixels around: smaller parts keep their corners
_AHEAD = 64  # places that are tried for the end of a line after the last that fitted
_COMPARED = 10_000_000  # distances, in all, by which the ends of bridges are chosen


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
