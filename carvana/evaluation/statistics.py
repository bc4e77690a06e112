"""The statistics of a leaderboard: intervals by bootstrap over groups, and a test of all pairs by sign flips of groups.

The images of a group are alike, so the unit of the test is the group. For each pair of networks, D of a group is the
sum over its images of the difference of their Dice. The D of all groups add up to the very gap that ranks the two, so a
group with more images weighs more, as it does in the mean. If neither network is better, D of a group might as well
have the other sign: T = abs(sum of D) / sqrt(sum of D^2) is compared with what T becomes when the signs of groups are
flipped. The root stays as it is, so a few very hard groups are as heavy in each flip as they are in T itself.

The mean IoU is not a mean over images: its pixels are counted over all of them. Its gap is divided among groups by
:func:`iou_differences`, whose D add up to it as exactly.

A leaderboard of eight rows has 28 pairs. So one flip is applied to all pairs, and the T of a pair is compared with the
largest T of all: the chance that the difference of any two equal networks is called significant is then at most the
level, however the pairs depend on one another and whichever network comes out best. Pairs that are significant are
taken out before the largest T of the others is sought (step-down), which finds more at the same level. Westfall and
Young 1993; Romano and Wolf 2005, https://doi.org/10.1198/016214504000000539.

The level is exact for any number of groups where D is as likely to be above as below 0 by as much, in all pairs at
once; for other D of mean 0 it is approached as groups grow in number (Canay, Romano and Shaikh 2017,
https://doi.org/10.3982/ECTA13081), slowly for a network that is better on most groups and fails on very few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.05
"""The difference of two networks is significant where the adjusted p is at most this."""

_ROUNDING = 1e-10  # far above what adding floats in another order changes, far below what one pixel does
_BLOCK = 2**18  # numbers worked on at a time: 2 MB, which stay in a processor's cache


def adjusted_p(
    differences: NDArray[np.float64], *, scale: float = 1.0, flips: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """P-values of no difference between each two of K networks, adjusted for all pairs.

    Exact where groups are so few that ``flips`` are enough for all patterns of signs; else at random.

    Args:
        differences: (P, C), D of each pair and group, the pairs in the order of ``np.triu_indices(K, k=1)``.
        scale: of the scores: what is below 1e-10 of it is rounding.
        flips: how many patterns of signs to try at most.
        seed: equal seeds give equal values.

    Returns:
        (K, K), symmetric, in (0, 1], 1 on the diagonal.

    Two pairs of three networks, one of which is worse on all of eight groups:

    >>> adjusted_p(np.array([[0.0] * 8, [0.1] * 8, [0.1] * 8]))[0].tolist()
    [1.0, 1.0, 0.0078125]
    """
    count = (1 + math.isqrt(1 + 8 * len(differences))) // 2
    adjusted = np.ones((count, count))
    if count > 1:
        first, second = np.triu_indices(count, k=1)
        p = _step_down(_of_length_one(differences, scale), flips, seed)
        adjusted[first, second] = adjusted[second, first] = p
    return adjusted


def iou_differences(
    hits: tuple[NDArray[np.floating], NDArray[np.floating]], union: tuple[NDArray[np.floating], NDArray[np.floating]]
) -> NDArray[np.float64]:
    """D of each group for two networks that are ranked by the mean IoU of pixels counted over all groups.

    With h and u the hits and unions of a class in a group, U the unions of all groups, I the IoU and bars for the means
    of the two networks, D of a group is the mean over classes of (dh - Ibar du) / Ubar. Since I_A U_A - I_B U_B =
    Ibar dU + Ubar dI, the D of all groups add up to the gap in mean IoU exactly.

    Args:
        hits: of both networks, each (S, C, K): seeds, groups, classes; the seeds may differ in number.
        union: the same of the unions; every class has one above 0 for each seed.

    Returns:
        (C,), whose sum is the mean IoU of the first network minus that of the second, each the mean over its seeds.
    """
    (a, b), (over_a, over_b) = (hits[0][:, None], hits[1][None]), (union[0][:, None], union[1][None])
    all_a, all_b = (each.sum(axis=2, keepdims=True) for each in (over_a, over_b))
    iou = (a.sum(axis=2, keepdims=True) / all_a + b.sum(axis=2, keepdims=True) / all_b) / 2
    shares = ((a - b) - iou * (over_a - over_b)) / ((all_a + all_b) / 2)
    found: NDArray[np.float64] = shares.mean(axis=(0, 1, 3))
    return found


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[str], *, samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """An interval for the mean of ``values`` that are alike within groups: whole groups are redrawn.

    The percentile bootstrap over clusters (Field and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x).

    Args:
        values: (N,), one an image.
        groups: N names.
        samples: how many times to draw.
        level: the share of draws inside the interval.
        seed: equal seeds give equal intervals.

    Returns:
        (low, high), or None for a single group, which cannot show how groups differ.
    """
    if len(set(groups)) < 2:
        return None
    return interval_of(bootstrap_means(values, groups, samples=samples, seed=seed), level=level)


def interval_of(draws: NDArray[np.float64], *, level: float = 0.95) -> tuple[float, float]:
    """The percentiles (low, high) of what draws gave; of two networks, those of the differences of equal draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return float(low), float(high)


def bootstrap_means(
    values: ArrayLike, groups: Sequence[str], *, samples: int = 10_000, seed: int = 0
) -> NDArray[np.float64]:
    """The mean of ``values`` in each draw of :func:`bootstrap_interval`, (samples,); equal seeds draw equal groups."""
    columns = np.stack([np.asarray(values, dtype=np.float64), np.ones(len(groups))], axis=1)
    return bootstrap_draws(_mean, columns, groups, samples=samples, seed=seed)


def bootstrap_draws(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    values: NDArray[np.floating] | NDArray[np.integer],
    groups: Sequence[str],
    *,
    samples: int = 10_000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """A function of sums over images, such as a quotient, in each draw of groups: (samples,).

    Args:
        statistic: the sums of each draw, (draws, M), to numbers (draws,).
        values: (N, M), what is summed.
        groups: N names.
        samples: how many times to draw.
        seed: equal seeds give equal draws.
    """
    _, members = np.unique(np.asarray(groups), return_inverse=True)
    count = int(members.max(initial=0)) + 1
    columns = [np.bincount(members, weights=column, minlength=count) for column in values.T.astype(np.float64)]
    sums: NDArray[np.float64] = np.stack(columns, axis=1)
    generator = np.random.default_rng(seed)
    found = np.empty(samples)
    step = max(1, 2**21 // max(count, sums.shape[1]))  # draws at a time: bounds the memory
    for start in range(0, samples, step):
        part = found[start : start + step]
        drawn = generator.integers(count, size=(len(part), count))
        part[:] = statistic(_drawn_sums(sums, drawn))
    return found


def _mean(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    return sums[:, 0] / sums[:, 1]


def _drawn_sums(sums: NDArray[np.float64], drawn: NDArray[np.int64]) -> NDArray[np.float64]:
    """The sums (draws, M) of the groups that were drawn, (draws, groups)."""
    if sums.shape[1] <= 2:  # adds up in the order of the draws
        return np.stack([column[drawn].sum(axis=1) for column in sums.T], axis=1)
    draws, groups = drawn.shape
    places = drawn + groups * np.arange(draws)[:, None]
    times = np.bincount(places.ravel(), minlength=draws * groups).reshape(draws, groups)
    return times @ sums


def groups_needed(level: float = LEVEL) -> int:
    """The least number of groups with which a difference can be significant.

    With C groups there are 2^C patterns of signs; the one that was found and its mirror image always count.

    Args:
        level: in (0, 1].

    >>> groups_needed()
    6
    """
    return math.ceil(1 - math.log2(level))


def _of_length_one(differences: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """D of each pair and group, (P, C), each pair's scaled to length 1 so that T is the size of a sum."""
    # Networks that are equal but for rounding are equal: their rounding errors might all point one way.
    differences = np.where(np.abs(differences) <= _ROUNDING * scale, 0, differences)
    lengths = np.linalg.norm(differences, axis=1, keepdims=True)
    scaled: NDArray[np.float64] = differences / np.where(lengths > 0, lengths, 1)
    return scaled


def _step_down(differences: NDArray[np.float64], flips: int, seed: int) -> NDArray[np.float64]:
    """The adjusted p of each pair, (P,), from its D of length 1, (P, C)."""
    found = np.abs(differences.sum(axis=1))
    order = np.argsort(found)  # so the pairs above a row are those that step-down leaves beside it
    rows = differences[order]
    reached = found[order, None] - _ROUNDING  # equal sums that were added up in another order are equal
    counts, tried = np.zeros(len(rows), dtype=np.int64), 0
    for signs in _signs(rows.shape[1], flips, seed, step=max(1, _BLOCK // max(rows.shape))):
        flipped = np.abs(rows @ signs.T)
        largest = np.maximum.accumulate(flipped, axis=0, out=flipped)
        counts += np.count_nonzero(largest >= reached, axis=1)
        tried += len(signs)
    # A pair can be no surer than one with a larger T.
    p = np.maximum.accumulate(counts[::-1] / tried)[::-1]
    adjusted = np.empty_like(p)
    adjusted[order] = p
    return adjusted


def _signs(groups: int, flips: int, seed: int, step: int) -> Iterator[NDArray[np.float64]]:
    """Patterns of signs, (at most ``step``, C) at a time; the first of all is no flip, which is what was found.

    All there are, if they are at most ``flips``; the last group's sign stays, as a pattern's mirror image gives the
    same T. Else ``flips`` at random beside the first, with which p is valid for any number of them (Phipson and Smyth
    2010, https://doi.org/10.2202/1544-6115.1585).
    """
    generator = np.random.default_rng(seed)
    patterns = 2 ** (groups - 1)
    exact = patterns <= flips
    total = patterns if exact else 1 + flips
    for start in range(0, total, step):
        numbers = np.arange(start, min(start + step, total))
        if exact:
            flipped = (numbers[:, None] >> np.arange(groups)) & 1 == 1
        else:
            flipped = generator.random((len(numbers), groups)) < 0.5
            flipped[numbers == 0] = False
        yield np.where(flipped, -1.0, 1.0)
