"""From Pillow's pictures to plain arrays: upright, eight bits, RGB or the two values of a mask."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.errors import DataError

UInt8 = NDArray[np.uint8]


_ORIENTATION = 0x0112  # EXIF tag, see JEITA CP-3451


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is damaged or says something else."""
    try:
        # Not the method that PNG files have of their own: it decodes all pixels to see whether EXIF stands behind them.
        orientation = int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes, and the pixels are sound
        return 1
    return orientation if 1 <= orientation <= 8 else 1


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


def pixels_in_memory(source: object) -> UInt8 | None:
    """The pixels of an image in memory, uint8 (H, W, 3) RGB, upright, white where it is transparent; None for others.

    Raises:
        DataError: an array or a tensor that is not an image.
    """
    if isinstance(source, Image.Image):
        return turn(to_rgb(source), orientation_of(source))
    if hasattr(source, "detach") and hasattr(source, "cpu"):  # a tensor of torch, which is not imported here
        array = source.detach().cpu().numpy()
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 3 or 0 in array.shape:
            raise DataError(
                f"a tensor of {array.dtype} {array.shape} is not an image; expected uint8 of shape"
                " (3, height, width), RGB"
            )
        return np.ascontiguousarray(array.transpose(1, 2, 0))
    if isinstance(source, np.ndarray):
        channels = source.shape[2] if source.ndim == 3 else 1
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in source.shape:
            raise DataError(
                f"an array of {source.dtype} {source.shape} is not an image; expected uint8 of shape (height, width),"
                " (height, width, 3) RGB or (height, width, 4) RGBA"
            )
        return _rgb_of(source)
    return None


def _rgb_of(pixels: UInt8) -> UInt8:
    """Grey, RGB or RGBA pixels as RGB: as :func:`to_rgb` makes them of files."""
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return pixels if pixels.shape[2] == 3 else to_rgb(Image.fromarray(pixels))


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
