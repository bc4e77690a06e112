"""What networks are ranked by: a mean over images, or the mean IoU of pixels that are counted over all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.evaluation.labels import mean_iou_of
from carvana.evaluation.statistics import bootstrap_draws, bootstrap_means, iou_differences

Floats = NDArray[np.float64]
ImageRecords = Sequence[Mapping[str, Any]]
"""``per_image`` of an evaluation, in the order of the images of the comparison."""


@dataclass(frozen=True, eq=False)
class MeanOverImages:
    """The mean of an image's score over images: Dice.

    Attributes:
        images: (N,), the score of each image, the mean over the seeds.
        groups: N names.
    """

    images: Floats
    groups: Sequence[str]

    @property
    def score(self) -> float:
        """The mean."""
        return float(self.images.mean())

    @cached_property
    def draws(self) -> Floats:
        """The mean in each draw of groups, which are the same for all networks."""
        return bootstrap_means(self.images, self.groups)

    def differences(self, other: MeanOverImages) -> Floats:
        """D of each group, (C,): see :mod:`carvana.evaluation.statistics`."""
        _, members = np.unique(np.asarray(self.groups), return_inverse=True)
        own, others = (np.bincount(members, weights=each.images).astype(np.float64) for each in (self, other))
        return own - others


@dataclass(frozen=True, eq=False)
class PooledIou:
    """The mean IoU of classes, whose pixels are counted over all images; the mean over the seeds.

    Attributes:
        hits: (S, C, K), the right pixels of each seed, group and class.
        union: (S, C, K), those that each class is true or predicted for; every class is true somewhere.
    """

    hits: Floats
    union: Floats

    @classmethod
    def of(cls, seeds: Sequence[ImageRecords], groups: Sequence[str], true: Sequence[bool]) -> PooledIou:
        """The score of a network on images of N groups, over the classes (K,) that are true anywhere.

        These are the same for all networks; what is predicted as another class is a missing pixel of a true one.
        """
        _, members = np.unique(np.asarray(groups), return_inverse=True)
        counts = np.zeros((2, len(seeds), int(members.max()) + 1, len(true)))
        for seed, images in enumerate(seeds):
            for image, group in zip(images, members.tolist(), strict=True):
                found = np.array(image["counts"], np.int64).reshape(-1, 3)
                counts[:, seed, group, found[:, 0]] += found[:, 1:].T
        hits, union = counts[..., np.array(true)]
        return cls(hits, union)

    @property
    def score(self) -> float:
        """The mean IoU."""
        return float(np.mean(self.seeds))

    @property
    def seeds(self) -> list[float]:
        """The mean IoU of each seed."""
        found: list[float] = (self.hits.sum(1) / self.union.sum(1)).mean(-1).tolist()
        return found

    @cached_property
    def draws(self) -> Floats:
        """The mean IoU in each draw of groups, which are the same for all networks."""
        seeds, groups, classes = self.hits.shape
        columns = np.concatenate([self.hits, self.union], axis=2).swapaxes(0, 1).reshape(groups, -1)

        def mean(sums: Floats) -> Floats:
            found: Floats = mean_iou_of(sums.reshape(-1, 2 * classes)).reshape(-1, seeds).mean(1)
            return found

        return bootstrap_draws(mean, columns, [f"{group:09}" for group in range(groups)])

    def differences(self, other: PooledIou) -> Floats:
        """D of each group, (C,): see :func:`carvana.evaluation.statistics.iou_differences`."""
        return iou_differences((self.hits, other.hits), (self.union, other.union))


NetworkScore = MeanOverImages | PooledIou
