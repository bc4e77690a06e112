"""Backgrounds for cut-outs: a colour, or an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import cv2
import numpy as np

from carvana.data.io.display import over_white, parse_colour, read_shown
from carvana.data.io.images import UInt8, resize_image
from carvana.errors import ConfigError
from carvana.utils.files import expanded, file_digest


class Background(Protocol):
    """The background of a cut-out."""

    def pixels(self, size: tuple[int, int]) -> UInt8:
        """uint8 (H, W, 3), RGB, of this (height, width); not to be written into. Safe in any thread."""

    def settings(self) -> Any:
        """A JSON value for manifests."""


@dataclass(frozen=True)
class Colour:
    """One colour everywhere: red, green and blue, 0 to 255."""

    rgb: tuple[int, int, int]

    def pixels(self, size: tuple[int, int]) -> UInt8:
        """The colour, as a view that takes no memory."""
        return np.broadcast_to(np.array(self.rgb, np.uint8), (*size, 3))

    def settings(self) -> Any:
        """Its three numbers."""
        return list(self.rgb)


@dataclass(frozen=True, eq=False)
class Picture:
    """An image, scaled until it covers the cut-out, and cropped around its middle.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        digest: of the file's bytes.
    """

    image: UInt8
    digest: str

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read an image, in sRGB, its transparent parts white.

        Raises:
            DataError: it cannot be read.
        """
        return cls(over_white(read_shown(path)), file_digest(path))

    def pixels(self, size: tuple[int, int]) -> UInt8:
        """The image, scaled and cropped to this size."""
        return cover(self.image, size)

    def settings(self) -> Any:
        """The digest of its bytes."""
        return self.digest


def parse_background(text: str) -> Background:
    """A colour by name, or else an image by path.

    Raises:
        ConfigError: it is neither.
        DataError: the file is not an image.

    >>> parse_background("#ffd60a")
    Colour(rgb=(255, 214, 10))
    """
    path = expanded(text)
    try:
        return Colour(parse_colour(text))
    except ConfigError as error:
        if path.suffix or path.exists():
            return Picture.read(path)
        raise ConfigError(f"{text!r} is not an image file, and {error}") from error


def cover(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Scale an image (H, W, 3) evenly until it covers ``size`` (height, width), and crop it around its middle.

    >>> cover(np.zeros((100, 300, 3), np.uint8), (50, 60)).shape
    (50, 60, 3)
    """
    factor = max(wanted / have for wanted, have in zip(size, image.shape[:2], strict=True))
    height, width = (max(wanted, round(have * factor)) for wanted, have in zip(size, image.shape[:2], strict=True))
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return np.ascontiguousarray(resize_image(image, (height, width))[top : top + size[0], left : left + size[1]])


def compose(cut: UInt8, background: Background) -> UInt8:
    """Lay a cut-out onto a background.

    Args:
        cut: uint8 (H, W, 4), RGBA, not premultiplied, as :func:`carvana.inference.outputs.cutout.cutout` gives it.
        background: the new background.

    Returns:
        uint8 (H, W, 3), RGB.
    """
    colours, opacity = np.ascontiguousarray(cut[..., :3]), np.ascontiguousarray(cut[..., 3])
    result = background.pixels(cut.shape[:2]).copy()
    cv2.copyTo(colours, cv2.compare(opacity, 255, cv2.CMP_EQ), result)
    mixed = (opacity > 0) & (opacity < 255)
    share = opacity[mixed, None].astype(np.float32) / 255
    result[mixed] = np.rint(share * colours[mixed] + (1 - share) * result[mixed]).astype(np.uint8)
    return result
