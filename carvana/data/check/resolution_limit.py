"""The best Dice that a perfect network could reach at full size, if it is trained at a smaller one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.images import resize_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import Sample
from carvana.utils.parallel import threaded

SIZES: tuple[tuple[int, int], ...] = ((128, 128), (256, 256), (512, 512), (512, 768), (640, 960), (1024, 1024))
"""Usual training sizes, (height, width)."""

TARGETS = ("coverage", "nearest")


@dataclass(frozen=True)
class ResolutionLimit:
    """The best mean Dice possible at a training size.

    Attributes:
        size: (height, width).
        coverage: with masks shrunk by area to a share in [0, 1].
        nearest: with masks shrunk by nearest neighbour.
    """

    size: tuple[int, int]
    coverage: float
    nearest: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"size": list(self.size), "coverage": self.coverage, "nearest": self.nearest}


def best_dice(mask: NDArray[np.uint8], size: tuple[int, int], *, target: str = "coverage") -> float:
    """The Dice, at full size, of a network that gives exactly the target it is trained on.

    The mask is shrunk as training does, enlarged as the Predictor does, cut at one half and compared with itself.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        size: (height, width) of the training.
        target: "coverage" or "nearest".

    Returns:
        in [0, 1].

    >>> stripes = np.tile(np.array([0, 1, 1, 1, 1, 0, 0, 0], np.uint8), (8, 1))
    >>> best_dice(stripes, (8, 8)), best_dice(stripes, (2, 2))
    (1.0, 0.75)
    """
    height, width = mask.shape
    small = shrink_mask(mask, size, target=target).astype(np.float32) / np.float32(255)
    found = (resize_image(small, (height, width)) > 0.5).view(np.uint8)
    # carvana.metrics.dice, without its checks: twelve of these are most of what a check of a data folder takes.
    marked = cv2.countNonZero(found) + cv2.countNonZero(mask)
    return 2 * cv2.countNonZero(cv2.bitwise_and(found, mask)) / marked if marked else 1.0


def mean_best_dice(samples: Sequence[Sample], size: tuple[int, int], *, target: str = "coverage") -> float:
    """The mean of :func:`best_dice` over the masks of images, read by as many threads as there are cores."""
    masks = (sample.mask for sample in samples if sample.mask is not None)
    return float(np.mean(list(threaded(lambda mask: best_dice(read_mask(mask), size, target=target), masks))))


def best_dices(mask: NDArray[np.uint8], sizes: Sequence[tuple[int, int]] = SIZES) -> NDArray[np.float64]:
    """:func:`best_dice` for some sizes and both targets: (sizes, 2), coverage first."""
    return np.array([[best_dice(mask, size, target=target) for target in TARGETS] for size in sizes])


def mean_ceilings(
    dices: Iterable[NDArray[np.float64]], sizes: Sequence[tuple[int, int]] = SIZES
) -> tuple[ResolutionLimit, ...]:
    """The mean over masks of what :func:`best_dices` gave; nothing for no masks."""
    rows = list(dices)
    if not rows:
        return ()
    means = np.mean(rows, axis=0)
    return tuple(ResolutionLimit(size, float(c), float(n)) for size, (c, n) in zip(sizes, means, strict=True))
