"""Scores of an image's probabilities at every threshold of the grid in one pass, and the choice of a threshold.

A histogram of levels (``carvana.inference.prediction.levels``) holds the counts of every threshold's mask exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.errors import DataError
from carvana.inference.prediction import THRESHOLDS, levels, threshold_index
from carvana.metrics import BOUNDARY_WIDTH, Confusion, as_binary, check_same_shape, disk, strips, surroundings


@dataclass(frozen=True, eq=False)
class ImageCounts:
    """The counts of one image at every threshold of the grid, in 4 KB.

    Attributes:
        histograms: (4, 256), pixels at each level: the object's and the background's of the whole image, then the
            object's and the background's near the true boundary.
    """

    histograms: NDArray[np.int32]

    @property
    def whole(self) -> Confusion:
        """The counts over the whole image, each field (255,)."""
        return _at_every_threshold(*self.histograms[:2])

    @property
    def pixels(self) -> int:
        """The pixels of the true object."""
        return int(self.histograms[0].sum())

    @property
    def counted(self) -> bool:
        """Whether any pixel counts."""
        return bool(self.histograms[:2].any())

    @property
    def present(self) -> bool:
        """Whether the image holds the object."""
        return self.pixels > 0

    @property
    def band(self) -> Confusion:
        """The counts near the true boundary, or over the whole image where none of its pixels counts."""
        return _at_every_threshold(*self.histograms[2:])


def threshold_counts(
    probabilities: NDArray[np.floating] | NDArray[np.uint8],
    target: ArrayLike,
    *,
    width: int = BOUNDARY_WIDTH,
    valid: NDArray[np.bool_] | None = None,
) -> ImageCounts:
    """Compare one image's probabilities with its true mask at all thresholds in one pass.

    Args:
        probabilities: (H, W), floats in [0, 1], or their levels.
        target: the true mask (H, W).
        width: of the boundary band on either side, in pixels; 0 counts none.
        valid: (H, W), the pixels that count; None for all.

    Raises:
        DataError: the shapes differ.

    >>> counts = threshold_counts(np.array([[0.9, 0.6, 0.2]]), [[1, 0, 0]])
    >>> float(counts.whole.dice[threshold_index(0.5)]), float(counts.whole.dice[threshold_index(0.75)])
    (0.6666666666666666, 1.0)
    """
    graded, true = levels(probabilities), as_binary(target)
    check_same_shape(graded, true)
    near = np.zeros_like(true)
    if width:
        window = surroundings(true, width)
        if valid is None:
            near[window] = cv2.morphologyEx(true[window], cv2.MORPH_GRADIENT, disk(width))
        else:  # near the object and near the background: where the object meets void, its boundary is not known
            near[window] = cv2.dilate(true[window], disk(width))
            background = (valid[window] & (true[window] == 0)).view(np.uint8)
            near[window] &= cv2.dilate(background, disk(width))
    # Background and object, away from the true boundary and near it, all counted at once.
    found = np.zeros(4 * 256, np.int64)
    for rows in strips(true.shape):
        bins = 256 * (2 * near[rows] + true[rows]).astype(np.uint16) + graded[rows]
        found += np.bincount(bins.ravel() if valid is None else bins[valid[rows]], minlength=4 * 256)
    counts = found.reshape(2, 2, 256)
    whole = counts.sum(axis=0)
    band = counts[1] if counts[1].any() else whole  # a boundary may lie in void alone
    return ImageCounts(np.stack([whole[1], whole[0], band[1], band[0]]).astype(np.int32))


def best_threshold(counts: Sequence[ImageCounts]) -> float:
    """The threshold of the grid with the highest mean Dice per image.

    Where many do equally well, it is the middle of that plateau, and of several plateaus the one nearest 0.5.

    Raises:
        DataError: there are no images.
    """
    if not counts:
        raise DataError("no images to choose a threshold on; give at least one with a mask")
    total = sum((image.whole.dice for image in counts), np.zeros(len(THRESHOLDS)))
    return float(THRESHOLDS[_summit(total / len(counts))])


def cross_fitted_thresholds(
    counts: Sequence[ImageCounts],
    groups: Sequence[str],
    *,
    among: NDArray[np.bool_] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> NDArray[np.float64]:
    """For each image the threshold that is best on other groups, so that its choice does not flatter the score.

    The groups are dealt out to ``folds`` parts, and each part's threshold is chosen on the others (cross-fitting:
    Chernozhukov et al. 2018, https://doi.org/10.1111/ectj.12097). With one group all thresholds are 0.5.

    Args:
        counts: of each image.
        groups: the names of the images' groups.
        among: (N,), the images whose Dice counts in a choice; None for all. Where others have none, it is 0.5.
        folds: the number of parts.
        seed: which group goes to which part.

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
    counted = np.ones(len(counts), bool) if among is None else among
    for image, part, counts_here in zip(counts, fold, counted, strict=True):
        if counts_here:
            sums[part] += image.whole.dice
    chosen = np.full(len(counts), 0.5)
    for part in np.unique(fold):
        if others := np.count_nonzero(counted & (fold != part)):
            curve = np.delete(sums, part, axis=0).sum(axis=0) / others
            chosen[fold == part] = THRESHOLDS[_summit(curve)]
    return chosen


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


def _summit(curve: NDArray[np.float64]) -> int:
    """Where a curve over the grid is highest: the middle of a plateau, of several the one nearest 0.5."""
    high = np.flatnonzero(curve >= curve.max() - 1e-12)
    plateaus = np.split(high, np.flatnonzero(np.diff(high) > 1) + 1)
    centre = threshold_index(0.5)
    middles = [(plateau[0] + plateau[-1]) / 2 for plateau in plateaus]
    middle = min(middles, key=lambda place: abs(place - centre))
    return int(np.ceil(middle) if middle < centre else np.floor(middle))
