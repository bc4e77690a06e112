"""On which images networks disagree most, found without reading the masks of all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from carvana.leaderboard.records import ScoredImage

Masks = Sequence[NDArray[np.uint8]]

READINGS = 240
"""How many masks are read at most: some seconds where they are 1918 x 1280."""


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

    The Jaccard distance obeys the triangle inequality: two masks are no farther from each other than both are from the
    truth together, and that much their scores tell. So images are read from the largest such bound on, until no other
    can come in. (Scores are of thresholds chosen on other groups and masks are not, which moves the bound by a little;
    the images shown are examples, and no number depends on them.)

    Args:
        images: with the scores of all networks.
        names: of the networks.
        read: gives an image's masks, uint8 (H, W) of 0 and 1, in any order, or None where some are missing.
        count: how many images.
        per_group: how many of one group.
        readings: when to stop reading masks even so.

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
    """The mean of 1 - intersection / union over each two of some masks; two empty ones are alike."""
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
    """The most that masks of these scores can differ, on the mean of each two."""
    distances = [1 - dice / (2 - dice) for dice in scores]
    return float(np.mean([min(1.0, a + b) for a, b in combinations(distances, 2)])) if len(distances) > 1 else 0.0


def _at_most(found: Sequence[Disagreement], count: int, per_group: int) -> list[Disagreement]:
    """The largest of them, with no group more often than allowed."""
    chosen: list[Disagreement] = []
    for each in sorted(found, key=lambda each: -each.distance):
        same_group = sum(other.image.group == each.image.group for other in chosen)
        if same_group < per_group and len(chosen) < count:
            chosen.append(each)
    return chosen
