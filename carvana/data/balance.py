"""Divides groups so that every side has every class, in shares as equal as can be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DRAWS = 2000  # divisions of which the best is taken
_BATCH = 2**22  # units in all of the divisions that are compared at once
_WHOLE = 2**30  # the number that stands for all pixels of a class
_TRIED = 16  # units of a class that are tried in an exchange


def balanced_sides(counts: NDArray[np.float64], sizes: Sequence[int], rng: np.random.Generator) -> NDArray[np.intp]:
    """The side of each unit, with so many units on each: the best of many draws, then improved by exchanges.

    First of all each class is on as many sides as have room for it, then the shares on all sides are even.

    Args:
        counts: (units, K), pixels of classes.
        sizes: The number of units on each side.
        rng: Draws.
    """
    # Shares as whole numbers: their sums are exact in any order, and so the same split is best on any machine.
    shares = np.maximum(np.rint(counts / np.maximum(counts.sum(0), 1) * _WHOLE), counts > 0)
    goal = np.rint(np.array(sizes)[:, None] / len(counts) * _WHOLE)
    wanted = np.minimum((counts > 0).sum(0), len(sizes))  # the sides that can have each class
    labels = np.repeat(np.arange(len(sizes)), sizes)
    best, least = labels, (np.inf, np.inf)
    batch = max(1, min(_DRAWS, _BATCH // len(labels)))
    for first in range(0, _DRAWS, batch):
        drawn = rng.permuted(np.tile(labels, (min(batch, _DRAWS - first), 1)), axis=1)
        on = np.stack([(drawn == side).astype(np.float64) @ shares for side in range(len(sizes))], axis=1)
        absent, uneven = (wanted - (on > 0).sum(1)).sum(1), np.abs(on - goal).sum((1, 2))
        place = np.lexsort((uneven, absent))[0]
        if (absent[place], uneven[place]) < least:
            best, least = drawn[place], (absent[place], uneven[place])
    return _spread_classes(best, shares, goal, rng)


def _spread_classes(
    sides: NDArray[np.intp], shares: NDArray[np.float64], goal: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Exchange units of two sides where that brings a class to a side that has none of it, and takes none away.

    Args:
        sides: (units,), the side of each unit.
        shares: (units, K), of each class, whole numbers.
        goal: (sides, 1), the share that each side ought to have.
        rng: Draws units to be tried, where many have a class.
    """
    sides, there = sides.copy(), (shares > 0).astype(np.int64)
    members, on = (np.stack([each[sides == side].sum(0) for side in range(len(goal))]) for each in (there, shares))
    rarest = np.argsort(there.sum(0), kind="stable").tolist()
    improved = True
    while improved:
        improved = False
        for index, to in itertools.product(rarest, range(len(goal))):
            if members[to, index]:
                continue
            holders = np.flatnonzero((there[:, index] > 0) & (members[sides, index] > 1))
            others, tried = np.flatnonzero(sides == to), []
            for unit in rng.permutation(holders)[:_TRIED].tolist():
                here = [to, sides[unit]]
                into = np.stack([there[unit] - there[others], there[others] - there[unit]])  # (2, others, K)
                moved = np.stack([shares[unit] - shares[others], shares[others] - shares[unit]])
                gained = (members[here][:, None] + into > 0).sum((0, 2)) - (members[here] > 0).sum()
                uneven = np.abs(on[here][:, None] + moved - goal[here][:, None]).sum((0, 2))
                place = np.lexsort((uneven, -gained))[0]
                tried.append((-int(gained[place]), float(uneven[place]), unit, int(others[place])))
            if tried and min(tried)[0] < 0:
                *_, unit, other = min(tried)
                for side, come, go in ((to, unit, other), (sides[unit], other, unit)):
                    members[side] += there[come] - there[go]
                    on[side] += shares[come] - shares[go]
                sides[unit], sides[other] = to, sides[unit]
                improved = True
    return sides
