"""Cuts an object out of its image, with soft edges and no rim of the old background, and lays it onto another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.display import over_white, parse_colour, read_shown
from carvana.data.io.images import UInt8, enlarge_part, resize_image
from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.postprocess import follow
from carvana.utils.files import expanded, file_digest

FloatImage = NDArray[np.float32]
Window = tuple[slice, slice]

EDGE_WIDTH = 2.5
"""Pixels over which a cut-out's edge goes from opaque to clear."""

_WIDE, _NARROW = 91, 7  # sides of the boxes of the two passes, in pixels


def cutout(
    image: NDArray[np.uint8],
    probabilities: FloatImage,
    threshold: float = 0.5,
    *,
    softness: float = 1.0,
    cleaned: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Cut the object out of an image.

    The probabilities, sharpened around the threshold, become the opacity. At the edge an image's pixel mixes the object
    with what is behind it; the object's own colour there is estimated by blur fusion (Forte 2021, Approximate Fast
    Foreground Colour Estimation, https://doi.org/10.1109/ICIP42928.2021.9506164), so nothing of the old background
    shows on a new one. What is transparent in the image stays so: the smaller of both opacities counts.

    Args:
        image: uint8 (H, W, 3), RGB, or (H, W, 4), RGBA and not premultiplied. An array has no colour profile: its
            colours stay as they are. :func:`carvana.data.io.display.read_shown` reads a file in sRGB, with its opacity.
        probabilities: float32 (H, W) in [0, 1].
        threshold: the probability of half opacity.
        softness: how far probabilities may lie apart, around the threshold, for opacity to go from 0 to 1; at most 1.
            See :func:`edge_softness`.
        cleaned: uint8 (H, W) of 0 and 1, the cleaned mask. The opacity then follows it:
            see :func:`carvana.inference.outputs.postprocess.follow`.

    Returns:
        uint8 (H, W, 4), RGBA, not premultiplied. The colour runs on for some pixels under full transparency, so that
        enlarging the picture draws no dark rim; further out all is 0.

    Raises:
        DataError: the sizes differ.
    """
    if probabilities.shape != image.shape[:2]:
        raise DataError(f"probabilities of shape {probabilities.shape} do not fit an image of {image.shape[:2]}")
    opacity = sharpen(probabilities, threshold, softness)
    result = np.zeros((*image.shape[:2], 4), np.uint8)
    left, top, width, height = cv2.boundingRect((opacity > 0).view(np.uint8))
    if not width:
        return result
    rows = slice(max(0, top - _WIDE), top + height + _WIDE)
    columns = slice(max(0, left - _WIDE), left + width + _WIDE)
    near, alpha = image[rows, columns], opacity[rows, columns]
    if cleaned is not None:
        alpha = follow(alpha, cleaned[rows, columns])
    if image.shape[2] == 4:
        within, own = alpha == 1, near[..., 3]
        alpha = np.minimum(alpha, own / np.float32(255))
        # Laid onto white, the colours are mixed with a background, as the estimate presumes; within the mask they are
        # known, but for those under full transparency, which mean nothing.
        estimated = _foreground(over_white(near), alpha)
        colours = np.where((within & (own > 0))[..., None], near[..., :3], estimated)
    else:
        colours = _foreground(near, alpha)
    result[rows, columns, :3] = colours
    result[rows, columns, 3] = np.rint(255 * alpha)
    return result


def edge_softness(image_size: tuple[int, int], network_size: tuple[int, int], width: float = EDGE_WIDTH) -> float:
    """The ``softness`` that makes a cut-out's edge about ``width`` pixels wide.

    A network that sees an image ten times smaller says where the edge runs to a fraction of its own pixel, but its
    enlarged probabilities rise over some ten pixels of the image. Only their middle part is taken.

    Args:
        image_size: (height, width).
        network_size: (height, width) at which the network saw the image.
        width: in pixels of the image.

    >>> edge_softness((1280, 1920), (640, 960), width=1.0)
    0.5
    """
    ratio = max(image / network for image, network in zip(image_size, network_size, strict=True))
    return float(min(1.0, width / ratio))


def sharpen(probabilities: FloatImage, threshold: float, softness: float) -> FloatImage:
    """Turn probabilities into opacity: 0.5 at the threshold, straight to 0 and to 1 within ``softness`` around it.

    A certain 0 stays 0 and a certain 1 stays 1, whatever the threshold.
    """
    below = max(min(softness / 2, threshold), 1e-6)
    above = max(min(softness / 2, 1 - threshold), 1e-6)
    distance = probabilities - np.float32(threshold)
    opacity = distance * np.float32(0.5 / below)
    if above != below:  # two slopes that meet at the threshold: the lower line where the left one is steeper
        lower_or_upper = np.minimum if below < above else np.maximum
        lower_or_upper(opacity, distance * np.float32(0.5 / above), out=opacity)
    opacity += np.float32(0.5)
    return np.clip(opacity, 0, 1, out=opacity)


@dataclass(frozen=True, eq=False)
class Background:
    """What cut-outs are laid onto: an image, scaled until it covers them and cropped around its middle.

    Attributes:
        image: uint8 (H, W, 3), RGB; a colour is an image of one pixel.
        settings: what stands for it in manifests, as a JSON value: the colour, or the digest of the file.
    """

    image: UInt8
    settings: Any


def parse_background(text: str) -> Background:
    """A colour by name, or else an image by path: in sRGB, its transparent parts white.

    Raises:
        ConfigError: it is neither.
        DataError: the file is not an image.

    >>> parse_background("#ffd60a").settings
    [255, 214, 10]
    """
    path = expanded(text)
    try:
        colour = parse_colour(text)
    except ConfigError as error:
        if path.suffix or path.exists():
            return Background(over_white(read_shown(path)), file_digest(path))
        raise ConfigError(f"{text!r} is not an image file, and {error}") from error
    return Background(np.array(colour, np.uint8)[None, None], list(colour))


def cover(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Scale an image (H, W, 3) evenly until it covers ``size`` (height, width), and crop it around its middle.

    What is enlarged is cropped first, so that memory does not grow with the part that is cut off.

    >>> cover(np.zeros((100, 300, 3), np.uint8), (50, 60)).shape
    (50, 60, 3)
    """
    factor = max(wanted / have for wanted, have in zip(size, image.shape[:2], strict=True))
    height, width = (max(wanted, round(have * factor)) for wanted, have in zip(size, image.shape[:2], strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    if factor > 1:
        down, across = image.shape[0] / height, image.shape[1] / width
        box = (left * across, top * down, (left + size[1]) * across, (top + size[0]) * down)
        return enlarge_part(image, box, size)
    return np.ascontiguousarray(resize_image(image, (height, width))[top : top + size[0], left : left + size[1]])


def compose(cut: UInt8, background: Background) -> UInt8:
    """Lay a cut-out onto a background.

    Args:
        cut: uint8 (H, W, 4), RGBA, not premultiplied, as :func:`cutout` gives it.
        background: the new background.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    colours, opacity = np.ascontiguousarray(cut[..., :3]), np.ascontiguousarray(cut[..., 3])
    result = cover(background.image, cut.shape[:2]).copy()
    cv2.copyTo(colours, cv2.compare(opacity, 255, cv2.CMP_EQ), result)
    mixed = (opacity > 0) & (opacity < 255)
    share = opacity[mixed, None].astype(np.float32) / 255
    result[mixed] = np.rint(share * colours[mixed] + (1 - share) * result[mixed]).astype(np.uint8)
    return result


def _foreground(image: NDArray[np.uint8], alpha: FloatImage) -> NDArray[np.uint8]:
    """Estimate the object's colour: the pixel's own where it is opaque, fused from around it along the edge."""
    reach = cv2.dilate(alpha, np.ones((_NARROW, _NARROW), np.uint8)) > 0
    colours = np.zeros_like(image)
    cv2.copyTo(image, (alpha == 1).view(np.uint8), colours)
    foreground, background = _means_from_afar(image, alpha)
    for core, window in _edge_windows(reach & (alpha < 1)):
        pixels, weight = image[window].astype(np.float32), alpha[window][..., None]
        rough = _explain(pixels, weight, foreground[window], background[window])
        near = _means(rough, background[window], weight, _NARROW)
        fused = np.rint(_explain(pixels, weight, *near)).astype(np.uint8)
        inside = tuple(slice(c.start - w.start, c.stop - w.start) for c, w in zip(core, window, strict=True))
        np.copyto(colours[core], fused[inside], where=(reach[core] & (alpha[core] < 1))[..., None])
    return colours


def _means_from_afar(image: NDArray[np.uint8], alpha: FloatImage) -> tuple[FloatImage, FloatImage]:
    """The mean colours of object and background within a wide box; so smooth that a quarter of the size holds them."""
    height, width = alpha.shape
    small = (max(1, width // 4), max(1, height // 4))
    pixels = cv2.resize(image, small, interpolation=cv2.INTER_AREA).astype(np.float32)
    share = cv2.resize(alpha, small, interpolation=cv2.INTER_AREA)[..., None]
    foreground, background = _means(pixels, pixels, share, _WIDE // 4 | 1)
    foreground, background = (cv2.resize(colours, (width, height)) for colours in (foreground, background))
    return foreground, background


def _means(
    foreground: FloatImage, background: FloatImage, weight: FloatImage, side: int
) -> tuple[FloatImage, FloatImage]:
    box = (side, side)
    return (
        cv2.blur(foreground * weight, box) / (cv2.blur(weight, box)[..., None] + 1e-5),
        cv2.blur(background * (1 - weight), box) / (cv2.blur(1 - weight, box)[..., None] + 1e-5),
    )


def _explain(pixels: FloatImage, weight: FloatImage, foreground: FloatImage, background: FloatImage) -> FloatImage:
    """The mean colour, corrected by what the two means leave unexplained of the pixel itself."""
    unexplained = pixels - weight * foreground - (1 - weight) * background
    colours: FloatImage = np.clip(foreground + weight * unexplained, 0, 255)
    return colours


def _edge_windows(wanted: NDArray[np.bool_], side: int = 96) -> Iterator[tuple[Window, Window]]:
    """Squares that hold a wanted pixel, and each with the margin that the narrow pass looks at."""
    margin = _NARROW // 2
    for top in range(0, wanted.shape[0], side):
        for left in range(0, wanted.shape[1], side):
            core = np.s_[top : top + side, left : left + side]
            if wanted[core].any():
                yield (
                    core,
                    np.s_[max(0, top - margin) : top + side + margin, max(0, left - margin) : left + side + margin],
                )
