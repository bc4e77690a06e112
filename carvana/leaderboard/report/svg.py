"""The geometry of a chart: scales with ticks, and labels that do not cover each other. The page's template draws it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Point = tuple[float, float]
"""(x, y) in pixels, from the top left."""

_CHARACTER = 0.57 * 12.0
"""A little more than the mean width of a letter, in pixels, of the font that page.css gives charts."""

_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_OFFSETS = (0.0, *(sign * step for step in (0.9, 1.6, 2.4, 3.4, 4.4, 5.4, 6.6, 8.0) for sign in (-1, 1)))
"""Offsets of a label up or down, in its heights."""

_NEAR = 10.0
"""Pixels between a point and its label at the least."""


@dataclass(frozen=True)
class AxisScale:
    """An axis: from values to pixels.

    Attributes:
        low: the value at ``start``.
        high: the value at ``stop``.
        start: in pixels.
        stop: in pixels.
        log: whether equal ratios lie equally far apart.
        title: the words beside it.
        tick: a value as text.
        count: about how many ticks it has.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False
    title: str = ""
    tick: Callable[[float], str] = "{:,.4g}".format
    count: int = 5

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside go to the nearer end."""
        value = min(max(value, min(self.low, self.high)), max(self.low, self.high))
        low, high, value = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (self.stop - self.start) * ((value - low) / (high - low) if high != low else 0.5)

    def ticks(self) -> list[float]:
        """Round values along the axis."""
        low, high = sorted((self.low, self.high))
        return _log_ticks(low, high, self.count) if self.log else _linear_ticks(low, high, self.count)


def padded(values: Sequence[float], share: float = 0.08) -> tuple[float, float]:
    """The range of some values above 0 with room at both ends, for a log scale."""
    low, high = min(values), max(values)
    room = max((high / low) ** share, 1.08)
    return low / room, high * room


def text_width(text: str) -> float:
    """The approximate width of a text in pixels."""
    return _CHARACTER * len(text)


class Box(NamedTuple):
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float


def place_labels(
    points: Sequence[Point], sizes: Sequence[tuple[float, float]], *, inside: Box, obstacles: Iterable[Box] = ()
) -> list[Box]:
    """A box for the label of each point: near it, inside the plot, and on as little as possible of what is there.

    Each label in turn is put at the best of some dozens of positions beside, above and below its point; labels of the
    most crowded points come first.

    Args:
        points: the (x, y) of each.
        sizes: the (width, height) of each label.
        inside: the box that no label may leave.
        obstacles: boxes that labels should not cover: marks, whiskers.
    """
    taken = list(obstacles)
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: -_crowding(points, index)):
        width, height = sizes[index]
        boxes, dislike = zip(*_positions(points[index], width, height), strict=True)
        outside = 1 - _overlaps(boxes, [inside])[:, 0] / (width * height)
        penalty = dislike + 400 * outside + _overlaps(boxes, taken).sum(axis=1) / 4
        placed[index] = boxes[penalty.argmin()]
        taken.append(placed[index])
    return [placed[index] for index in range(len(points))]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near the wanted ones, at least ``gap`` apart and between ``low`` and ``high`` as long as there is room.

    Example:
        >>> spread([10, 11, 50], gap=8, low=0, high=60)
        [10, 18, 50]
        >>> spread([55, 58], gap=8, low=0, high=60)
        [52, 60]
    """
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    found = list(wanted)
    floor = low
    for index in order:
        found[index] = max(found[index], floor)
        floor = found[index] + gap
    ceiling = high
    for index in reversed(order):
        found[index] = min(found[index], ceiling)
        ceiling = found[index] - gap
    return found


def _log_ticks(low: float, high: float, count: int) -> list[float]:
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in _STEPS:
        found = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if len(found) >= count - 1:
            return found[:: math.ceil(len(found) / (count + 2))]
    return _linear_ticks(low, high, count)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    if high <= low:
        return [low]
    rough = (high - low) / count
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * next(nice for nice in (1, 2, 5, 10) if nice * size >= rough)
    return [number * step for number in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _crowding(points: Sequence[Point], index: int) -> float:
    x, y = points[index]
    return sum(1 / (1 + (abs(x - a) / 60 + abs(y - b) / 20)) for a, b in points)


def _positions(point: Point, width: float, height: float) -> Iterator[tuple[Box, float]]:
    """Boxes around a point, each with a penalty: right before left, near before far."""
    (x, y), middle = point, -width / 2
    sides = ((_NEAR, 0.0), (-_NEAR - width, 1.0), (middle, 2.0), (4 * _NEAR, 4.0), (-4 * _NEAR - width, 5.0))
    for (shift, dislike), step in product(sides, _OFFSETS):
        if shift == middle and abs(step) < 1.6:
            continue  # on the point itself
        top = y + step * height - height / 2
        yield Box(x + shift, top, x + shift + width, top + height), dislike + 1.5 * abs(step)


def _overlaps(boxes: Sequence[Box], others: Sequence[Box]) -> NDArray[np.float64]:
    """The areas, (boxes, others), that two boxes both cover."""
    a, b = (np.array(each, np.float64).reshape(-1, 4) for each in (boxes, others))
    common = np.minimum(a[:, None, 2:], b[:, 2:]) - np.maximum(a[:, None, :2], b[:, :2])
    return np.asarray(common.clip(0).prod(axis=2))
