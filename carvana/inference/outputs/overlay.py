"""Draws a mask on the image."""

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
        # A brush of one pixel would find no gradient.
        paint_outline(shown, marked, brush if thickness > 1 else np.ones((3, 3), np.uint8))
    else:
        paint_errors(shown, marked, _binary(target, image), brush)
    return shown


def paint_outline(picture: NDArray[np.uint8], mask: NDArray[np.uint8], brush: NDArray[np.uint8]) -> None:
    """Paint a mask's outline in yellow.

    Args:
        picture: uint8 (H, W, 3), or (H, W, 4), where what is painted becomes opaque.
        mask: uint8 (H, W) of 0 and 1.
        brush: a kernel of 3 x 3 pixels or more, the width of the outline.
    """
    picture[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, brush) > 0] = (*OUTLINE, 255)[: picture.shape[2]]


def paint_errors(
    picture: NDArray[np.uint8], mask: NDArray[np.uint8], target: NDArray[np.uint8], brush: NDArray[np.uint8]
) -> None:
    """Paint red where a mask is too much and blue where it misses.

    Args:
        picture: as for :func:`paint_outline`.
        mask: uint8 (H, W) of 0 and 1.
        target: the true mask, likewise.
        brush: a kernel by which errors are made thicker.
    """
    for colour, wrong in ((EXTRA, mask & ~target), (MISSED, target & ~mask)):
        picture[cv2.dilate(wrong, brush) > 0] = (*colour, 255)[: picture.shape[2]]


def _binary(mask: ArrayLike, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(mask)
    if array.shape != image.shape[:2]:
        raise DataError(f"a mask of shape {array.shape} does not lie on an image of shape {image.shape[:2]}")
    return np.ascontiguousarray(array != 0).view(np.uint8)
