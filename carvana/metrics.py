"""Dice, IoU and pixel accuracy from counts of pixels, which ``carvana.evaluation.thresholds`` takes of an image.

The measure of the Carvana challenge is the Dice coefficient of each image at its full size, averaged over images, 1
where both masks are empty (https://www.kaggle.com/c/carvana-image-masking-challenge/overview/evaluation).
"""

from __future__ import annotations

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


def _ratio(part: NDArray[Any], of: NDArray[Any]) -> NDArray[np.float64]:
    return np.where(of > 0, part / np.maximum(of, 1), 1.0)


def as_binary(mask: ArrayLike) -> NDArray[np.uint8]:
    """A mask as uint8 0/1: what is not zero is the object."""
    array = np.asarray(mask)
    return np.ascontiguousarray(array != 0).view(np.uint8)


def check_same_shape(prediction: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
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
