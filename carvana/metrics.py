"""Dice, IoU and pixel accuracy from counts of pixels, which ``carvana.evaluation.thresholds`` takes of an image.

The measure of the Carvana challenge is the Dice coefficient of each image at its full size, averaged over images, 1
where both masks are empty (https://www.kaggle.com/c/carvana-image-masking-challenge/overview/evaluation).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.errors import DataError

BOUNDARY_WIDTH = 7
"""Pixels on either side of the true boundary that boundary Dice looks at.

The inside of an object is easy and large; what differs between good masks lies near its boundary.
"""


@dataclass(frozen=True)
class Confusion:
    """True and false positives and negatives, in pixels.

    Each field is one whole number, or an array over thresholds.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    true_negatives: NDArray[np.int64]

    @property
    def dice(self) -> NDArray[np.float64]:
        """2 TP / (2 TP + FP + FN), in [0, 1]; 1 where neither mask has a pixel."""
        return dice_of(self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)

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
        return Confusion(*(counts[index] for counts in vars(self).values()))


def dice_of(both: ArrayLike, total: ArrayLike) -> NDArray[np.float64]:
    """The Dice coefficient from counts of pixels (Dice 1945, https://doi.org/10.2307/1932409).

    Args:
        both: pixels that both masks hold.
        total: the pixels of the one mask plus those of the other.

    Returns:
        2 both / total, in [0, 1]; 1 where total is 0.
    """
    return _ratio(2 * np.asarray(both), np.asarray(total))


def label_confusion(
    prediction: NDArray[np.integer], target: NDArray[np.integer], *, classes: int, void: int
) -> NDArray[np.int64]:
    """Count the pixels of each true class that each class was predicted for.

    Args:
        prediction: (H, W), indices of classes.
        target: the true label map, of the same shape: indices of classes, and ``void`` where nothing counts.
        classes: how many classes there are.
        void: that index.

    Returns:
        (K, K): rows true, columns predicted.

    Raises:
        DataError: the shapes differ.

    >>> label_confusion(np.array([[0, 1, 1]]), np.array([[0, 0, 255]]), classes=2, void=255)
    array([[1, 1],
           [0, 0]])
    """
    check_same_shape(prediction, target)
    counts = np.zeros(classes**2, np.int64)
    for rows in strips(target.shape):
        pairs = target[rows].astype(np.int64).ravel() * classes + prediction[rows].ravel()
        if pairs.size and int(target[rows].max()) >= classes:
            pairs = pairs[target[rows].ravel() != void]
        counts += np.bincount(pairs, minlength=classes**2)
    return counts.reshape(classes, classes)


def strips(shape: tuple[int, ...]) -> Iterator[slice]:
    """Rows of an image (H, W) in strips of about 2**18 pixels: counting takes 8 bytes and more for each pixel.

    >>> list(strips((300, 1024)))
    [slice(0, 256, None), slice(256, 512, None)]
    """
    step = max(1, 2**18 // max(1, shape[1]))
    return (slice(first, first + step) for first in range(0, shape[0], step))


def class_ious(matrix: NDArray[Any]) -> NDArray[np.float64]:
    """The IoU of each class, (..., K), from counts (..., K, K); NaN for a class that is neither true nor predicted."""
    hits = np.diagonal(matrix, axis1=-2, axis2=-1).astype(np.float64)
    union = matrix.sum(-1) + matrix.sum(-2) - hits
    ious: NDArray[np.float64] = np.divide(hits, union, out=np.full(union.shape, np.nan), where=union > 0)
    return ious


def mean_iou(matrix: NDArray[Any]) -> float:
    """The mean IoU over the classes that are true or predicted anywhere, from counts (K, K); NaN if none is.

    >>> mean_iou(np.array([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    0.7083333333333333
    """
    ious = class_ious(matrix)
    return float(np.nanmean(ious)) if np.isfinite(ious).any() else math.nan


def mean_accuracy(matrix: NDArray[Any]) -> float:
    """The mean recall over the classes that are true anywhere, from counts (K, K); NaN if none is."""
    true = matrix.sum(1)
    return float((np.diagonal(matrix)[true > 0] / true[true > 0]).mean()) if true.any() else math.nan


def overall_accuracy(matrix: NDArray[Any]) -> float:
    """The share of pixels that are right, from counts (K, K); NaN if there is none."""
    return float(np.trace(matrix) / matrix.sum()) if matrix.any() else math.nan


def _ratio(part: NDArray[Any], of: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(of > 0, part / np.maximum(of, 1), 1.0)


def as_binary(mask: ArrayLike) -> NDArray[np.uint8]:
    """A mask as uint8 0/1: what is not zero is the object."""
    array = np.asarray(mask)
    return np.ascontiguousarray(array != 0).view(np.uint8)


def check_same_shape(prediction: NDArray[np.integer], target: NDArray[np.integer]) -> None:
    """Raise a DataError where two masks are not of one shape."""
    if prediction.shape != target.shape:
        raise DataError(
            f"a prediction of shape {prediction.shape} cannot be compared with a mask of shape {target.shape}; "
            "both must have the image's height and width"
        )


def surroundings(true: NDArray[np.uint8], width: int) -> tuple[slice, slice]:
    """The window that holds all of the foreground and ``width`` pixels around it: the band cannot leave it."""
    left, top, columns, rows = cv2.boundingRect(true)
    return (
        slice(max(0, top - width), min(true.shape[0], top + rows + width)),
        slice(max(0, left - width), min(true.shape[1], left + columns + width)),
    )


@lru_cache
def disk(radius: int) -> NDArray[np.uint8]:
    """The pixels within ``radius`` of a middle pixel, as a kernel (2 radius + 1, 2 radius + 1)."""
    reach = np.arange(-radius, radius + 1)
    return (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.uint8)
