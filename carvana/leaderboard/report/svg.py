"""The parts of a chart as inline SVG: scales, axes, lines, and labels that do not cover each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product

from carvana.leaderboard.report.markup import Markup, element, joined

FONT = 12.0
"""The font size of charts in pixels, as in page.css."""

_CHARACTER = 0.57  # of the font size: a little more than the mean width of a letter in the fonts of systems
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_OFFSETS = (0.0, *(sign * step for step in (0.9, 1.6, 2.4, 3.4, 4.4, 5.4, 6.6, 8.0) for sign in (-1, 1)))
"""Offsets of a label up or down, in its heights."""


@dataclass(frozen=True)
class AxisScale:
    """Values to pixels along one axis.

    Attributes:
        low: the value at ``start``.
        high: the value at ``stop``.
        start: in pixels.
        stop: in pixels.
        log: whether equal ratios lie equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside go to the nearer end."""
        value = min(max(value, min(self.low, self.high)), max(self.low, self.high))
        low, high, value = (
            (math.log(v) for v in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return self.start + (self.stop - self.start) * ((value - low) / (high - low) if high != low else 0.5)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values along the axis, about ``count`` of them."""
        low, high = sorted((self.low, self.high))
        return _log_ticks(low, high, count) if self.log else _linear_ticks(low, high, count)


def padded(values: Sequence[float], *, log: bool, share: float = 0.08) -> tuple[float, float]:
    """The range of some values with room at both ends; on a log scale they are above 0."""
    low, high = min(values), max(values)
    if log:
        room = max((high / low) ** share, 1.08)
        return low / room, high * room
    room = max((high - low) * share, 1e-9)
    return low - room, high + room


def text_width(text: str, size: float = FONT) -> float:
    """The approximate width of a text in pixels."""
    return _CHARACTER * size * len(text)


def figure(width: float, height: float, *parts: str, title: str, description: str, class_: str = "") -> Markup:
    """A drawing with a title and a description for screen readers."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        viewBox=f"0 0 {width:g} {height:g}",
        class_=f"chart {class_}".strip(),
        role="img",
        aria_label=f"{title}. {description}",
    )


def axes(
    x: AxisScale,
    y: AxisScale,
    *,
    x_title: str,
    y_title: str,
    x_format: Callable[[float], str],
    y_format: Callable[[float], str],
    x_ticks: int = 6,
) -> Markup:
    """Grid lines, their labels and both titles; that of y is above the plot, where it is read first."""
    parts = []
    for value in y.ticks():
        parts.append(element("line", x1=x.start, x2=x.stop, y1=y(value), y2=y(value), class_="grid"))
        parts.append(text(x.start - 8, y(value) + 4, y_format(value), class_="tick", anchor="end"))
    for value in x.ticks(x_ticks):
        parts.append(element("line", x1=x(value), x2=x(value), y1=y.start, y2=y.stop, class_="grid"))
        parts.append(text(x(value), y.start + 18, x_format(value), class_="tick", anchor="middle"))
    parts.append(element("line", x1=x.start, x2=x.stop, y1=y.start, y2=y.start, class_="axis"))
    parts.append(text((x.start + x.stop) / 2, y.start + 38, x_title, class_="axis-title", anchor="middle"))
    parts.append(text(4, y.stop - 14, y_title, class_="axis-title"))
    return joined(parts)


def text(x: float, y: float, content: str, *, class_: str = "label", anchor: str | None = None) -> Markup:
    """A line of text; ``anchor`` is start, middle or end."""
    return element("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def polyline(points: Sequence[tuple[float, float]], *, class_: str, title: str | None = None) -> Markup:
    """A line through points, with a title as its tooltip."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    children = [element("title", title)] if title else []
    return element("polyline", *children, points=path, class_=class_)


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(width, 0.0) * max(height, 0.0)

    @property
    def area(self) -> float:
        """The area of the box."""
        return (self.right - self.left) * (self.bottom - self.top)


def place_labels(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    *,
    inside: Box,
    obstacles: Iterable[Box] = (),
    distance: float = 10.0,
) -> list[Box]:
    """A box for the label of each point: near it, inside the plot, and on as little as possible of what is there.

    Each label in turn is put at the best of some dozens of positions beside, above and below its point; labels of the
    most crowded points come first.

    Args:
        points: the (x, y) of each.
        sizes: the (width, height) of each label.
        inside: the box that no label may leave.
        obstacles: boxes that labels should not cover: marks, whiskers.
        distance: in pixels, between a point and its label at the least.
    """
    taken = list(obstacles)
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: -_crowding(points, index)):
        boxes = list(_positions(points[index], sizes[index], distance))
        best = min(boxes, key=lambda choice: _penalty(choice[0], choice[1], inside, taken))[0]
        placed[index] = best
        taken.append(best)
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


def _crowding(points: Sequence[tuple[float, float]], index: int) -> float:
    x, y = points[index]
    return sum(1 / (1 + (abs(x - a) / 60 + abs(y - b) / 20)) for a, b in points)


def _positions(point: tuple[float, float], size: tuple[float, float], distance: float) -> Iterable[tuple[Box, float]]:
    """Boxes around a point, each with a penalty: right before left, near before far."""
    (x, y), (width, height) = point, size
    near, far, middle = distance, 4 * distance, -width / 2
    sides = ((near, 0.0), (-near - width, 1.0), (middle, 2.0), (far, 4.0), (-far - width, 5.0))
    for (shift, dislike), step in product(sides, _OFFSETS):
        if shift == middle and abs(step) < 1.6:
            continue  # on the point itself
        top = y + step * height - height / 2
        yield Box(x + shift, top, x + shift + width, top + height), dislike + 1.5 * abs(step)


def _penalty(box: Box, dislike: float, inside: Box, taken: Sequence[Box]) -> float:
    outside = 1 - box.overlap(inside) / box.area
    return dislike + 400 * outside + sum(box.overlap(other) for other in taken) / 4
