"""Draws a mask on its image."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.errors import DataError

OUTLINE = (255, 214, 10)
"""Yellow: the mask's outline."""
EXTRA = (255, 45, 85)
"""Red: marked, but background (false positives)."""
MISSED = (10, 132, 255)
"""Blue: foreground, but not marked (false negatives)."""

_DIMMED = 0.45  # of the image's light that is left outside the mask


def overlay(
    image: NDArray[np.uint8], mask: ArrayLike, target: ArrayLike | None = None, *, thickness: int | None = None
) -> NDArray[np.uint8]:
    """Draw a mask on its image: the background is dimmed, the outline drawn.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: (H, W), nonzero where the object was predicted.
        target: the true mask (H, W). With it, errors are painted in place of the outline: false positives red, misses
            blue.
        thickness: pixels of the outline, or by which errors are made thicker so that they are seen when the picture is
            shrunk; None takes one for each 500 pixels of the image's width.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: the sizes differ.
    """
    marked = _binary(mask, image)
    thickness = max(1, round(image.shape[1] / 500)) if thickness is None else thickness
    shade = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shown = np.where(marked[..., None] > 0, image, cv2.convertScaleAbs(shade, alpha=_DIMMED))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness - 1, 2 * thickness - 1))
    if target is None:
        shown[cv2.morphologyEx(marked, cv2.MORPH_GRADIENT, _grown(brush)) > 0] = OUTLINE
        return shown
    true = _binary(target, image)
    shown[cv2.dilate(marked & ~true, brush) > 0] = EXTRA
    shown[cv2.dilate(true & ~marked, brush) > 0] = MISSED
    return shown


def _binary(mask: ArrayLike, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(mask)
    if array.shape != image.shape[:2]:
        raise DataError(f"a mask of shape {array.shape} does not lie on an image of shape {image.shape[:2]}")
    return np.ascontiguousarray(array != 0).view(np.uint8)


def _grown(brush: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """At least three pixels: a gradient with a brush of one pixel finds nothing."""
    return brush if brush.shape[0] > 1 else np.ones((3, 3), np.uint8)
