"""Leaderboards of networks whose true quality is known, to count how often a method of comparing them is wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.evaluation.statistics import LEVEL, adjusted_p
from carvana.leaderboard.scores import PooledIou


def pairwise_p(scores: ArrayLike, groups: Sequence[str], *, flips: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """P-values (K, K) of no difference between each two of K networks, from the scores (K, N) of N images."""
    values = np.asarray(scores, dtype=np.float64)
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    sums = np.stack([np.bincount(members, weights=network) for network in values])
    first, second = np.triu_indices(len(values), k=1)
    return adjusted_p(sums[first] - sums[second], scale=float(np.abs(values).max()), flips=flips, seed=seed)


@dataclass(frozen=True)
class ErrorModel:
    """How the error 1 - Dice of networks of one recipe varies over groups and images.

    A group is hard for all networks alike, and harder for some than for others; what networks do not share is in
    proportion to how hard the group is. Each effect is a scaled lognormal: most groups are easy, a few are very hard.

    The numbers are those of networks of Dice 0.975 to 0.984 on real images (docs/benchmarks.md), whose effects are less
    skewed than these; the standard errors of their differences were 0.0003 to 0.0006.

    Attributes:
        mean: of the error of a network without a gap.
        group_sd: the standard deviation over groups of a group's mean error.
        correlation: of two networks' mean errors of a group.
        image_sd: the standard deviation of a network's images around their group's mean error.
        tail: the sigma of the lognormals; 0 is the normal distribution, and at 1 their kurtosis is 114.
        groups: how many.
        images: the least and the greatest number of a group's images, all between as likely.
    """

    mean: float = 0.02
    group_sd: float = 0.0033
    correlation: float = 0.8
    image_sd: float = 0.0032
    tail: float = 1.0
    groups: int = 51
    images: tuple[int, int] = (4, 4)

    @property
    def standard_error(self) -> float:
        """Of the difference of two networks' Dice, where all groups have the same number of images."""
        shared, own = self._shared_sd, self.group_sd * math.sqrt(1 - self.correlation)
        variance = (own**2 + self.image_sd**2 / self.images[1]) * (1 + (shared / self.mean) ** 2)
        return math.sqrt(2 * variance / self.groups)

    def draw(self, generator: np.random.Generator, gaps: Sequence[float]) -> tuple[NDArray[np.float64], list[str]]:
        """Draw one leaderboard.

        Args:
            generator: of what is random.
            gaps: how much Dice each of the K networks truly loses to the best one.

        Returns:
            scores (K, N) and the N names of groups.
        """
        counts = generator.integers(*self.images, size=self.groups, endpoint=True)
        members = np.repeat(np.arange(self.groups), counts)
        hard = self._shared_sd * self._effect(generator, self.groups)
        own = self.group_sd * math.sqrt(1 - self.correlation) * self._effect(generator, len(gaps), self.groups)
        image = self.image_sd * self._effect(generator, len(gaps), len(members))
        error = self.mean + hard[members] + (own[:, members] + image) * (1 + hard / self.mean)[members]
        return 1 - error - np.asarray(gaps)[:, None], [f"group-{member:03d}" for member in members]

    @property
    def _shared_sd(self) -> float:
        return self.group_sd * math.sqrt(self.correlation)

    def _effect(self, generator: np.random.Generator, *shape: int) -> NDArray[np.float64]:
        """Independent numbers of mean 0 and variance 1."""
        normal = generator.standard_normal(shape)
        if not self.tail:
            return normal
        square = math.exp(self.tail**2)
        return (np.exp(self.tail * normal) - math.sqrt(square)) / math.sqrt(square * (square - 1))


def called_worse(scores: NDArray[np.float64], p: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which rows (K,) a leaderboard calls worse than its best one, by the p-values (K, K)."""
    return p[scores.mean(axis=1).argmax()] <= LEVEL


def wrong(scores: NDArray[np.float64], called: NDArray[np.bool_], gaps: Sequence[float]) -> bool:
    """Whether some row is called worse than the best one although it is as good or better in truth."""
    true = np.asarray(gaps)
    return bool((called & (true <= true[scores.mean(axis=1).argmax()])).any())


@dataclass(frozen=True)
class LabelModel:
    """Counts of pixels of networks for several classes, the last of which is rare: on a third of the groups, small.

    A class is hard in a group for all networks alike, and harder for some than for others. A network without a gap
    finds about as much of each class as any other.

    Attributes:
        classes: how many.
        groups: how many.
        rare: the share of the pixels that the last class has.
        shared: the standard deviation of what a group adds to the log odds of a class's IoU for all networks.
        own: the same for each network alone.
    """

    classes: int = 11
    groups: int = 40
    rare: float = 0.001
    shared: float = 0.5
    own: float = 0.25

    def draw(self, generator: np.random.Generator, gaps: Sequence[float]) -> list[PooledIou]:
        """Draw the counts of networks that lose so much of the log odds of every IoU to the best one."""
        shape = (self.groups, self.classes)
        sizes = generator.dirichlet(np.full(self.classes - 1, 0.7)) * (1 - self.rare)
        sizes = 1e5 * np.append(np.maximum(sizes, 0.01), self.rare)
        true = sizes * generator.lognormal(0, 0.6, shape)
        true[generator.permutation(self.groups)[self.groups // 3 :], -1] = 0
        hard = np.append(generator.normal(1.5, 1.0, self.classes - 1), -0.5) + generator.normal(0, self.shared, shape)
        found = []
        for gap in gaps:
            odds = hard - gap + generator.normal(0, self.own, shape)
            missed = 1 / (1 + np.exp(odds))  # of the pixels of a class; as many are taken from others
            hits = np.round(true * (1 - missed))
            wrong = true.sum(1, keepdims=True) * missed.mean(1, keepdims=True) / 2
            false = np.round(wrong * generator.dirichlet(sizes, self.groups))
            found.append(PooledIou(hits[None], (true + false)[None]))
        return found

    def p(self, networks: Sequence[PooledIou], *, flips: int, seed: int) -> NDArray[np.float64]:
        """The p-values (K, K) of a leaderboard."""
        differences = [a.differences(b) for a, b in itertools.combinations(networks, 2)]
        return adjusted_p(np.stack(differences), flips=flips, seed=seed)
