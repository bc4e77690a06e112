"""The Pareto front: networks than which none is both better and cheaper."""

from __future__ import annotations

from collections.abc import Sequence


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points no other point beats: none is at most as high in both coordinates and lower in one.

    Args:
        points: pairs of a cost and an error; the less of either, the better.

    Returns:
        Places in ``points``, from the cheapest on. Equal points are all on the front or none is.

    Example:
        >>> pareto_front([(10, 0.2), (20, 0.1), (30, 0.15)])
        [0, 1]
    """
    front: list[int] = []
    for place in sorted(range(len(points)), key=points.__getitem__):
        # All before it cost at most as much, so only a smaller error than the last one's keeps it on the front.
        if not front or points[place][1] < points[front[-1]][1] or points[place] == points[front[-1]]:
            front.append(place)
    return front
