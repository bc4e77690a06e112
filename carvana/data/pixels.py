"""From Pillow's pictures to plain arrays: upright, eight bits, RGB or the two values of a mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.errors import DataError

UInt8 = NDArray[np.uint8]


def turn(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo an EXIF orientation (1 to 8, the same turns as Pillow's exif_transpose)."""
    turned = {
        2: lambda: image[:, ::-1],
        3: lambda: image[::-1, ::-1],
        4: lambda: image[::-1],
        5: lambda: image.swapaxes(0, 1),
        6: lambda: image[::-1].swapaxes(0, 1),
        7: lambda: image[::-1, ::-1].swapaxes(0, 1),
        8: lambda: image[:, ::-1].swapaxes(0, 1),
    }.get(orientation, lambda: image)()
    return np.ascontiguousarray(turned)


def to_rgb(picture: Image.Image) -> UInt8:
    """Any picture as uint8 (H, W, 3); what is transparent shows white."""
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = _eight_bit(np.asarray(picture))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def mask_values(picture: Image.Image) -> NDArray[Any]:
    """How bright each pixel (H, W) of a mask is, by its brightest channel, in the file's own range.

    What is transparent is black.
    """
    if picture.mode == "P":
        return _palette_values(picture)
    if picture.mode == "1":
        return np.asarray(picture).view(np.uint8)
    if picture.mode == "L":
        return np.array(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        wide: NDArray[Any] = np.nan_to_num(np.asarray(picture))
        return wide
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture)
    brightest: UInt8 = np.asarray(picture.convert("RGB")).max(axis=2)
    return brightest


def object_of(values: NDArray[Any], name: str) -> UInt8:
    """The 0/1 of a mask file's values: 1 where they are 1, if none is higher, else where they exceed half their range.

    Raises:
        DataError: there are values above 1, and none in the upper half; ``name`` is the file's in the message.
    """
    highest = values.max(initial=0)
    if highest <= 1:
        return values if values.dtype == np.uint8 else (values > 0.5).view(np.uint8)
    half = 127 if highest <= 255 else 32767
    if highest <= half:
        found = np.unique(values)
        told = ", ".join(f"{value:g}" for value in found[:5]) + (", ..." if len(found) > 5 else "")
        raise DataError(
            f"{name}: the mask holds the values {told}: which of them are the object? expected 0 and 1, 0 and 255, "
            "or a palette that shows the object bright"
        )
    return np.asarray(values > half).view(np.uint8)


def _palette_values(picture: Image.Image) -> UInt8:
    """Indices looked up in the palette's brightest channel; the bare indices where the palette tells nothing apart."""
    indices = np.array(picture)
    palette = np.zeros(768, np.uint8)
    colours = picture.getpalette() or []
    palette[: len(colours)] = colours
    brightness = palette.reshape(256, 3).max(axis=1)
    highest = int(indices.max(initial=0))
    if highest == 0:
        return np.full_like(indices, brightness[0] > 127)  # one colour everywhere: the object if it is bright
    if len(np.unique(brightness[: highest + 1])) == 1:
        return indices
    if brightness[0] == 0 and brightness[1] > 127 and highest <= 1:
        return indices  # Carvana's own files: no look-up needed
    values: UInt8 = cv2.LUT(indices, brightness)
    return values


def _eight_bit(values: NDArray[np.generic]) -> UInt8:
    """16-bit values (0..65535) to 8 bits; what stays under 256 already is kept."""
    wide = np.clip(values, 0, 65535)
    if wide.max(initial=0) > 255:
        wide = wide / 257
    return np.asarray(wide + 0.5).astype(np.uint8)
