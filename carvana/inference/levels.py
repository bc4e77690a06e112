"""Probabilities in 8 bits that keep the mask of every threshold of a grid of 1/256 exact, 0.5 included.

A probability's *level* is the number of grid thresholds below it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

THRESHOLDS: NDArray[np.float64] = np.arange(1, 256) / 256
"""The grid: 1/256, 2/256, ..., 255/256."""


def levels(probabilities: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Count the grid thresholds below each probability: uint8, such that ``levels >= 256 t`` where ``probability > t``.

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
    """The index of the grid threshold that is nearest to ``threshold``.

    >>> float(THRESHOLDS[threshold_index(0.5)])
    0.5
    """
    return int(np.clip(round(threshold * 256), 1, 255)) - 1
