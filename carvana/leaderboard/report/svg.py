"""The parts of a chart as inline SVG: scales, ticks, axes and markers. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from carvana.leaderboard.report.markup import Markup, element, joined

FONT = 12.0
"""Pixels, of all text in charts; page.css says the same."""

_CHARACTER = 0.57  # of the font size: a little more than the mean width of a letter in the fonts of systems
_STEPS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 3.5, 4, 5, 6, 7, 8, 9))
_SHAPES = ("circle", "square", "triangle", "diamond", "inverse", "cross")


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
    """How wide a text is, about, in pixels."""
    return _CHARACTER * size * len(text)


def figure(width: float, height: float, *parts: str, title: str, description: str, class_: str = "") -> Markup:
    """A drawing with a name and what it shows in words, for those who do not see it."""
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
    """Grid lines, their labels and both titles: that of y stands above the plot, where it is read first."""
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
    """A line through points, with a title that shows where the mouse rests on it."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    children = [element("title", title)] if title else []
    return element("polyline", *children, points=path, class_=class_)


def marker(
    x: float, y: float, place: int, *, radius: float = 5.5, title: str | None = None, class_: str = ""
) -> Markup:
    """A network's mark. The first six places have different shapes, so that colour is not all that tells them apart."""
    shape = _SHAPES[place % len(_SHAPES)]
    children = [element("title", title)] if title else []
    names = f"mark {class_}".strip()
    if shape == "circle":
        return element("circle", *children, cx=x, cy=y, r=radius, class_=names)
    corners = {
        "square": [(-0.88, -0.88), (0.88, -0.88), (0.88, 0.88), (-0.88, 0.88)],
        "triangle": [(0, -1.2), (1.1, 0.8), (-1.1, 0.8)],
        "diamond": [(0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)],
        "inverse": [(0, 1.2), (1.1, -0.8), (-1.1, -0.8)],
        "cross": [
            *((-0.4, -1.15), (0.4, -1.15), (0.4, -0.4), (1.15, -0.4), (1.15, 0.4), (0.4, 0.4)),
            *((0.4, 1.15), (-0.4, 1.15), (-0.4, 0.4), (-1.15, 0.4), (-1.15, -0.4), (-0.4, -0.4)),
        ],
    }[shape]
    path = " ".join(f"{x + radius * dx:.1f},{y + radius * dy:.1f}" for dx, dy in corners)
    return element("polygon", *children, points=path, class_=names)


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
    return [place * step for place in range(math.ceil(low / step), math.floor(high / step) + 1)]
