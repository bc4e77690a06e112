"""How good a mask is, at every threshold at once, and how sure one can be of the mean.

The measure of the Carvana challenge is the Dice coefficient of each photo at its full size, averaged over photos, 1
where both masks are empty (https://www.kaggle.com/c/carvana-image-masking-challenge/overview/evaluation). All else here
stands beside it.

Thresholds lie on a grid of 1/256. A probability's *level* is the number of grid thresholds below it, so a histogram of
levels knows the mask ``probability > threshold`` of every grid threshold exactly, 0.5 included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.errors import DataError

THRESHOLDS: NDArray[np.float64] = np.arange(1, 256) / 256
"""The grid: 1/256, 2/256, ..., 255/256."""

BOUNDARY_WIDTH = 7
"""Pixels on either side of the true boundary that boundary Dice looks at."""


@dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives, in pixels.

    Each field is one whole number, or an array with a place for each threshold.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    true_negatives: NDArray[np.int64]

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 TP / (2 TP + FP + FN), in [0, 1]; 1 where neither mask has a pixel.

        Dice 1945, https://doi.org/10.2307/1932409.
        """
        return _ratio(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

    @property
    def iou(self) -> NDArray[np.float64]:
        """TP / (TP + FP + FN), in [0, 1]; 1 where neither mask has a pixel (Jaccard 1912)."""
        return _ratio(self.true_positives, self.true_positives + self.false_positives + self.false_negatives)

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """The share of pixels that are right, in [0, 1]; 1 for no pixels."""
        right = self.true_positives + self.true_negatives
        return _ratio(right, right + self.false_positives + self.false_negatives)

    def __getitem__(self, index: int) -> Confusion:
        """The counts at one threshold."""
        return Confusion(
            self.true_positives[index],
            self.false_positives[index],
            self.false_negatives[index],
            self.true_negatives[index],
        )


def confusion(prediction: ArrayLike, target: ArrayLike) -> Confusion:
    """Count how one photo's mask agrees with the truth.

    Args:
        prediction: (H, W), false or 0 for background, anything else for foreground.
        target: the true mask, of the same shape.

    Raises:
        DataError: the shapes differ.
    """
    predicted, true = _binary(prediction), _binary(target)
    _same_shape(predicted, true)
    both = cv2.countNonZero(cv2.bitwise_and(predicted, true)) if predicted.size else 0
    positives, marked = np.count_nonzero(true), np.count_nonzero(predicted)
    counts = both, marked - both, positives - both, predicted.size - marked - positives + both
    return Confusion(*(np.asarray(count, dtype=np.int64) for count in counts))


def dice(prediction: ArrayLike, target: ArrayLike) -> float:
    """The Dice coefficient of two masks (H, W), in [0, 1]; 1 where both are empty.

    >>> dice([[1, 1, 0]], [[1, 0, 0]])
    0.6666666666666666
    """
    return float(confusion(prediction, target).dice)


def iou(prediction: ArrayLike, target: ArrayLike) -> float:
    """Intersection over union of two masks (H, W), in [0, 1]; 1 where both are empty.

    >>> iou([[1, 1, 0]], [[1, 0, 0]])
    0.5
    """
    return float(confusion(prediction, target).iou)


def pixel_accuracy(prediction: ArrayLike, target: ArrayLike) -> float:
    """The share of pixels on which two masks (H, W) agree, in [0, 1].

    >>> pixel_accuracy([[1, 1, 0, 0]], [[1, 0, 0, 0]])
    0.75
    """
    return float(confusion(prediction, target).accuracy)


def boundary_dice(prediction: ArrayLike, target: ArrayLike, width: int = BOUNDARY_WIDTH) -> float:
    """The Dice coefficient over the pixels near the true boundary alone: see :func:`boundary_band`.

    The inside of a car is easy and large; what differs between good masks lies here. A true mask without a boundary
    (empty, or all of the photo) has no band, and the whole photo's Dice takes its place: 1 if the prediction agrees,
    0 for a car that is not there.
    """
    predicted, true = _binary(prediction), _binary(target)
    _same_shape(predicted, true)
    band = boundary_band(true, width)
    return dice(predicted[band], true[band]) if band.any() else dice(predicted, true)


def boundary_band(target: ArrayLike, width: int = BOUNDARY_WIDTH) -> NDArray[np.bool_]:
    """Mark the pixels that have one of the other class within ``width`` pixels (Euclidean, centre to centre).

    So ``width`` pixels on either side of a straight boundary are marked. The picture's edge is no boundary.

    Args:
        target: the true mask (H, W).
        width: in pixels, at least 1.

    Returns:
        bool (H, W).

    >>> boundary_band([[0, 0, 0, 1, 1, 1]], width=1).astype(int)
    array([[0, 0, 1, 1, 0, 0]])
    """
    true = _binary(target)
    band = np.zeros(true.shape, dtype=bool)
    if true.size:
        rows, columns = _surroundings(true, width)
        near = true[rows, columns]
        band[rows, columns] = cv2.morphologyEx(near, cv2.MORPH_GRADIENT, _disk(width)) > 0
    return band


@dataclass(frozen=True, eq=False)
class PhotoCounts:
    """What one photo contributes at every threshold of the grid, in 4 KB: photos may be many.

    Attributes:
        histograms: (4, 256), pixels at each level: the object's and the background's of the whole photo, then the
            object's and the background's near the true boundary.
    """

    histograms: NDArray[np.int32] | NDArray[np.int64]

    @property
    def whole(self) -> Confusion:
        """The counts over the whole photo, each field (255,)."""
        return _at_every_threshold(*self.histograms[:2])

    @property
    def band(self) -> Confusion:
        """Those near the true boundary, or over the whole photo where the truth has no boundary."""
        return _at_every_threshold(*self.histograms[2:])


def threshold_counts(
    probabilities: NDArray[np.floating] | NDArray[np.uint8], target: ArrayLike, *, width: int = BOUNDARY_WIDTH
) -> PhotoCounts:
    """Compare one photo's probabilities with its true mask at all thresholds in one pass.

    Args:
        probabilities: (H, W), floats in [0, 1], or the levels that :func:`levels` makes of them.
        target: the true mask (H, W).
        width: of the boundary band on either side, in pixels.

    Raises:
        DataError: the shapes differ.

    >>> counts = threshold_counts(np.array([[0.9, 0.6, 0.2]]), [[1, 0, 0]])
    >>> float(counts.whole.dice[threshold_index(0.5)]), float(counts.whole.dice[threshold_index(0.75)])
    (0.6666666666666666, 1.0)
    """
    graded, true = levels(probabilities), _binary(target)
    _same_shape(graded, true)
    whole = _histograms(graded, true)
    if true.all() or not true.any():
        return _compact(*whole, *whole)
    window = _surroundings(true, width)
    graded, true = np.ascontiguousarray(graded[window]), np.ascontiguousarray(true[window])
    band = cv2.morphologyEx(true, cv2.MORPH_GRADIENT, _disk(width))
    return _compact(*whole, *_histograms(graded, true, band))


def levels(probabilities: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Count the grid thresholds below each probability: 8 bits that keep ``probability > threshold`` exact on the grid.

    Args:
        probabilities: float32 in [0, 1]; or uint8, taken to be levels already and handed back.

    >>> levels(np.array([0.0, 0.5, 0.50001, 1.0]))
    array([  0, 127, 128, 255], dtype=uint8)
    """
    if probabilities.dtype == np.uint8:
        return probabilities  # type: ignore[return-value]
    # A hair less than 256: truncation then gives ceil(256 p) - 1, exactly, for every float32 p in (0, 1].
    scaled = np.multiply(probabilities, np.float32(256 * (1 - 2**-24)), dtype=np.float32)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)  # interpolation leaves [0, 1] by a rounding at times


def threshold_index(threshold: float) -> int:
    """The place on the grid that is nearest to ``threshold``.

    >>> float(THRESHOLDS[threshold_index(0.5)])
    0.5
    """
    return int(np.clip(round(threshold * 256), 1, 255)) - 1


def best_threshold(counts: Sequence[PhotoCounts]) -> float:
    """The threshold of the grid with the highest mean Dice per photo.

    Where many do equally well, it is the middle of that plateau, and of several plateaus the one nearest 0.5.

    Raises:
        DataError: there are no photos.
    """
    if not counts:
        raise DataError("no photos to choose a threshold on; give at least one with a mask")
    return float(THRESHOLDS[_summit(_mean_dice(counts))])


def cross_fitted_thresholds(
    counts: Sequence[PhotoCounts], groups: Sequence[str], *, folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """For each photo the threshold that is best on other groups (cars), so that the choice cannot flatter its score.

    The groups are dealt out to ``folds`` parts, and each part's threshold is chosen on the others (cross-fitting:
    Chernozhukov et al. 2018, https://doi.org/10.1111/ectj.12097). One group leaves nothing to choose on: 0.5 for all.

    Returns:
        (N,) in (0, 1).
    """
    names, members = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) < 2:
        return np.full(len(counts), 0.5)
    order = np.random.default_rng(seed).permutation(len(names))
    fold_of_group = np.empty(len(names), dtype=np.intp)
    fold_of_group[order] = np.arange(len(names)) % folds
    fold = fold_of_group[members]
    sums = np.zeros((folds, len(THRESHOLDS)))
    for photo, part in zip(counts, fold, strict=True):
        sums[part] += photo.whole.dice
    chosen = np.empty(len(counts))
    for part in np.unique(fold):
        others = np.delete(sums, part, axis=0).sum(axis=0) / np.count_nonzero(fold != part)
        chosen[fold == part] = THRESHOLDS[_summit(others)]
    return chosen


def bootstrap_interval(
    values: ArrayLike, groups: Sequence[str], *, samples: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """An interval for the mean of ``values`` where those of one group (car) hang together: whole groups are redrawn.

    The percentile bootstrap over clusters (Field and Welsh 2007, https://doi.org/10.1111/j.1467-9868.2007.00593.x).

    Args:
        values: (N,), one a photo.
        groups: N names.
        samples: how many times to draw.
        level: the share of draws inside the interval.
        seed: equal seeds give equal intervals.

    Returns:
        (low, high), or None for a single group, which says nothing of how groups differ.
    """
    _, members, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return None
    sums = np.bincount(members, weights=np.asarray(values, dtype=np.float64))
    generator = np.random.default_rng(seed)
    means = np.empty(samples)
    step = max(1, 2**21 // len(sizes))  # draws at a time: bounds the memory
    for start in range(0, samples, step):
        part = means[start : start + step]
        drawn = generator.integers(len(sizes), size=(len(part), len(sizes)))
        part[:] = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    tail = (1 - level) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _ratio(part: NDArray[np.int64], of: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(of > 0, part / np.maximum(of, 1), 1.0)


def _binary(mask: ArrayLike) -> NDArray[np.uint8]:
    array = np.asarray(mask)
    return np.ascontiguousarray(array != 0).view(np.uint8)


def _same_shape(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
    if prediction.shape != target.shape:
        raise DataError(
            f"a prediction of shape {prediction.shape} cannot be compared with a mask of shape {target.shape}; "
            "both must have the photo's height and width"
        )


def _surroundings(true: NDArray[np.uint8], width: int) -> tuple[slice, slice]:
    """The window that holds all of the foreground and ``width`` pixels around it: the band cannot leave it."""
    left, top, columns, rows = cv2.boundingRect(true)
    return (
        slice(max(0, top - width), min(true.shape[0], top + rows + width)),
        slice(max(0, left - width), min(true.shape[1], left + columns + width)),
    )


@lru_cache
def _disk(radius: int) -> NDArray[np.uint8]:
    reach = np.arange(-radius, radius + 1)
    return (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)


def _histograms(
    graded: NDArray[np.uint8], true: NDArray[np.uint8], within: NDArray[np.uint8] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The levels of the object's pixels and of the background's."""
    inside, outside = true, true ^ np.uint8(1)
    if within is not None:
        inside, outside = cv2.bitwise_and(inside, within), cv2.bitwise_and(outside, within)
    return _histogram(graded, inside), _histogram(graded, outside)


def _at_every_threshold(foreground: NDArray[np.integer], background: NDArray[np.integer]) -> Confusion:
    below_foreground, below_background = (
        np.cumsum(histogram, dtype=np.int64)[:-1] for histogram in (foreground, background)
    )
    return Confusion(
        true_positives=foreground.sum(dtype=np.int64) - below_foreground,
        false_positives=background.sum(dtype=np.int64) - below_background,
        false_negatives=below_foreground,
        true_negatives=below_background,
    )


def _compact(*histograms: NDArray[np.int64]) -> PhotoCounts:
    stacked = np.stack(histograms)
    return PhotoCounts(stacked.astype(np.int32) if stacked.max() < 2**31 else stacked)


def _histogram(graded: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.int64]:
    total = np.zeros(256, dtype=np.int64)
    step = max(1, 2**23 // max(1, graded.shape[1]))  # OpenCV counts in float32, which is exact up to 2**24
    for start in range(0, graded.shape[0], step):
        rows = slice(start, start + step)
        # Most pixels are level 0, and adding to one place again and again is slow: those are counted apart.
        doubtful = cv2.bitwise_and(mask[rows], (graded[rows] > 0).view(np.uint8))
        part = cv2.calcHist([graded[rows]], [0], doubtful, [256], [0, 256]).ravel().astype(np.int64)
        part[0] = cv2.countNonZero(mask[rows]) - cv2.countNonZero(doubtful)
        total += part
    return total


def _mean_dice(counts: Sequence[PhotoCounts]) -> NDArray[np.float64]:
    """The mean Dice per photo at every threshold, (255,); one photo's curve at a time."""
    total = np.zeros(len(THRESHOLDS))
    for photo in counts:
        total += photo.whole.dice
    return total / len(counts)


def _summit(curve: NDArray[np.float64]) -> int:
    """Where a curve over the grid is highest: the middle of a plateau, of several the one nearest 0.5."""
    high = np.flatnonzero(curve >= curve.max() - 1e-12)
    plateaus = np.split(high, np.flatnonzero(np.diff(high) > 1) + 1)
    centre = threshold_index(0.5)
    middles = [(plateau[0] + plateau[-1]) / 2 for plateau in plateaus]
    middle = min(middles, key=lambda place: abs(place - centre))
    return int(np.ceil(middle) if middle < centre else np.floor(middle))
