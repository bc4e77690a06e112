"""An object cut out of its photo: soft edges, and no rim of the old background's colour."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.errors import DataError

FloatImage = NDArray[np.float32]

EDGE_WIDTH = 2.5
"""Pixels over which a cut-out's edge goes from opaque to clear."""

_WIDE, _NARROW = 91, 7  # sides of the boxes of the two passes, in pixels


def cutout(
    image: NDArray[np.uint8], probabilities: FloatImage, threshold: float = 0.5, *, softness: float = 1.0
) -> NDArray[np.uint8]:
    """Cut the object out of a photo.

    The probabilities, sharpened around the threshold, become the opacity. At the edge a photo's pixel mixes the object
    with what is behind it; the object's own colour there is estimated by blur fusion (Forte 2021, Approximate Fast
    Foreground Colour Estimation, https://doi.org/10.1109/ICIP42928.2021.9506164), so nothing of the old background
    shows on a new one.

    Args:
        image: uint8 (H, W, 3), RGB.
        probabilities: float32 (H, W) in [0, 1].
        threshold: the probability of half opacity.
        softness: how far probabilities may lie apart, around the threshold, for opacity to go from 0 to 1; at most 1.
            See :func:`edge_softness`.

    Returns:
        uint8 (H, W, 4), RGBA, not premultiplied. The colour runs on for some pixels under full transparency, so that
        enlarging the picture draws no dark rim; further out all is 0.

    Raises:
        DataError: the sizes differ.
    """
    if probabilities.shape != image.shape[:2]:
        raise DataError(f"probabilities of shape {probabilities.shape} do not fit a photo of {image.shape[:2]}")
    opacity = sharpen(probabilities, threshold, softness)
    result = np.zeros((*image.shape[:2], 4), np.uint8)
    left, top, width, height = cv2.boundingRect((opacity > 0).view(np.uint8))
    if not width:
        return result
    rows = slice(max(0, top - _WIDE), top + height + _WIDE)
    columns = slice(max(0, left - _WIDE), left + width + _WIDE)
    near, alpha = image[rows, columns], opacity[rows, columns]
    result[rows, columns, :3] = _foreground(near, alpha)
    result[rows, columns, 3] = np.rint(255 * alpha)
    return result


def edge_softness(photo_size: tuple[int, int], network_size: tuple[int, int], width: float = EDGE_WIDTH) -> float:
    """The ``softness`` that makes a cut-out's edge about ``width`` pixels wide.

    A network that sees a photo ten times smaller says where the edge runs to a fraction of its own pixel, but its
    enlarged probabilities rise over some ten pixels of the photo. Only their middle part is taken.

    Args:
        photo_size: (height, width).
        network_size: (height, width) at which the network saw the photo.
        width: in pixels of the photo.

    >>> edge_softness((1280, 1920), (640, 960), width=1.0)
    0.5
    """
    ratio = max(photo / network for photo, network in zip(photo_size, network_size, strict=True))
    return float(min(1.0, width / ratio))


def sharpen(probabilities: FloatImage, threshold: float, softness: float) -> FloatImage:
    """Turn probabilities into opacity: 0.5 at the threshold, straight to 0 and to 1 within ``softness`` around it.

    A certain 0 stays 0 and a certain 1 stays 1, whatever the threshold.
    """
    below = max(min(softness / 2, threshold), 1e-6)
    above = max(min(softness / 2, 1 - threshold), 1e-6)
    points = np.array([0, threshold - below, threshold, threshold + above, 1], np.float32)
    distance = probabilities - points[2]
    opacity = np.where(distance < 0, distance / np.float32(2 * below), distance / np.float32(2 * above)) + 0.5
    result: FloatImage = np.clip(opacity, 0, 1).astype(np.float32)
    return result


def _foreground(image: NDArray[np.uint8], alpha: FloatImage) -> NDArray[np.uint8]:
    """Estimate the object's colour at each pixel: roughly from afar, then refined from close by."""
    pixels = image.astype(np.float32)
    foreground, background = _fuse(pixels, pixels, pixels, alpha, _WIDE)
    foreground, _ = _fuse(pixels, foreground, background, alpha, _NARROW)
    reach = cv2.dilate(alpha, np.ones((_NARROW, _NARROW), np.uint8)) > 0
    return np.where(reach[..., None], np.rint(foreground), 0).astype(np.uint8)


def _fuse(
    image: FloatImage, foreground: FloatImage, background: FloatImage, alpha: FloatImage, side: int
) -> tuple[FloatImage, FloatImage]:
    """One pass: the neighbourhood's mean colours, corrected by what they leave unexplained of the pixel itself."""
    weight = alpha[..., None]
    mean_foreground = _blur(foreground * weight, side) / (_blur(alpha, side)[..., None] + 1e-5)
    mean_background = _blur(background * (1 - weight), side) / (_blur(1 - alpha, side)[..., None] + 1e-5)
    unexplained = image - weight * mean_foreground - (1 - weight) * mean_background
    return np.clip(mean_foreground + weight * unexplained, 0, 255), mean_background


def _blur(values: FloatImage, side: int) -> FloatImage:
    blurred: FloatImage = cv2.blur(values, (side, side))
    return blurred
