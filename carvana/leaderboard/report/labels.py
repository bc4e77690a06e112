"""Where labels go so that they do not lie on each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product

_STEPS = (0.0, *(sign * step for step in (0.9, 1.6, 2.4, 3.4, 4.4, 5.4, 6.6, 8.0) for sign in (-1, 1)))
"""How far up or down a label may go, in its heights."""


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
        """Its own."""
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

    Each label in turn takes the best of some dozens of places beside, above and below its point; those whose points
    have the most company choose first.

    Args:
        points: the (x, y) of each.
        sizes: the (width, height) of each label.
        inside: what no label may leave.
        obstacles: what labels should keep off: marks, whiskers.
        distance: in pixels, between a point and its label at the least.
    """
    taken = list(obstacles)
    placed: dict[int, Box] = {}
    for index in sorted(range(len(points)), key=lambda index: -_company(points, index)):
        boxes = list(_places(points[index], sizes[index], distance))
        best = min(boxes, key=lambda choice: _trouble(choice[0], choice[1], inside, taken))[0]
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


def _company(points: Sequence[tuple[float, float]], index: int) -> float:
    x, y = points[index]
    return sum(1 / (1 + (abs(x - a) / 60 + abs(y - b) / 20)) for a, b in points)


def _places(point: tuple[float, float], size: tuple[float, float], distance: float) -> Iterable[tuple[Box, float]]:
    """Boxes round a point, each with how little it is liked: right before left, near before far."""
    (x, y), (width, height) = point, size
    near, far, middle = distance, 4 * distance, -width / 2
    sides = ((near, 0.0), (-near - width, 1.0), (middle, 2.0), (far, 4.0), (-far - width, 5.0))
    for (shift, dislike), step in product(sides, _STEPS):
        if shift == middle and abs(step) < 1.6:
            continue  # on the point itself
        top = y + step * height - height / 2
        yield Box(x + shift, top, x + shift + width, top + height), dislike + 1.5 * abs(step)


def _trouble(box: Box, dislike: float, inside: Box, taken: Sequence[Box]) -> float:
    outside = 1 - box.overlap(inside) / box.area
    return dislike + 400 * outside + sum(box.overlap(other) for other in taken) / 4
