"""Finds the images on which networks disagree most, without reading all masks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from carvana.leaderboard.records import ScoredImage

Masks = Sequence[NDArray[np.uint8]]

READINGS = 240
"""The most masks that are read: some seconds at 1918 x 1280 pixels."""


@dataclass(frozen=True)
class Disagreement:
    """An image and how much its masks differ: the mean Jaccard distance of each two, in [0, 1]."""

    image: ScoredImage
    distance: float


def most_different(
    images: Sequence[ScoredImage],
    names: Sequence[str],
    read: Callable[[ScoredImage], Masks | None],
    *,
    count: int = 6,
    per_group: int = 2,
    readings: int = READINGS,
) -> list[Disagreement]:
    """The images whose masks differ most, at most ``per_group`` of one group.

    The Jaccard distance obeys the triangle inequality: the distance of two masks is at most the sum of their distances
    from the true mask, which follow from their scores. So masks are read in the order of this bound, the largest first,
    until no other image can be among the chosen. (Scores are at thresholds chosen on other groups and masks are not,
    which moves the bound a little; the images are examples, and no number depends on them.)

    Args:
        images: with the scores of all networks.
        names: of the networks.
        read: gives an image's masks, uint8 (H, W) of 0 and 1, in any order, or None where some are missing.
        count: how many images.
        per_group: how many of one group.
        readings: the most masks to read.

    Returns:
        At most ``count``, the largest distance first.
    """
    bounds = {image.image: _bound([image.dice[name] for name in names if name in image.dice]) for image in images}
    found: list[Disagreement] = []
    chosen: list[Disagreement] = []
    read_so_far = 0
    for image in sorted(images, key=lambda image: -bounds[image.image]):
        full = len(chosen) == count
        if read_so_far + len(names) > readings or (full and bounds[image.image] <= chosen[-1].distance):
            break
        masks = read(image)
        if masks is not None:
            read_so_far += len(masks)
            found.append(Disagreement(image, mean_distance(masks)))
            chosen = _at_most(found, count, per_group)
    return chosen


def mean_distance(masks: Masks) -> float:
    """The mean of 1 - intersection / union over all pairs of masks; 0 for two empty ones."""
    packed = [np.packbits(mask) for mask in masks]
    areas = [_area(mask) for mask in packed]
    distances = []
    for a, b in combinations(range(len(packed)), 2):
        both = _area(packed[a] & packed[b])
        either = areas[a] + areas[b] - both
        distances.append(1 - both / either if either else 0.0)
    return float(np.mean(distances)) if distances else 0.0


def _area(packed: NDArray[np.uint8]) -> int:
    return int(np.bitwise_count(packed).sum(dtype=np.int64))


def _bound(scores: Sequence[float]) -> float:
    """The largest mean distance that masks with these scores can have."""
    distances = [1 - dice / (2 - dice) for dice in scores]
    return float(np.mean([min(1.0, a + b) for a, b in combinations(distances, 2)])) if len(distances) > 1 else 0.0


def _at_most(found: Sequence[Disagreement], count: int, per_group: int) -> list[Disagreement]:
    """The largest distances, with at most ``per_group`` of one group."""
    chosen: list[Disagreement] = []
    for each in sorted(found, key=lambda each: -each.distance):
        same_group = sum(other.image.group == each.image.group for other in chosen)
        if same_group < per_group and len(chosen) < count:
            chosen.append(each)
    return chosen
