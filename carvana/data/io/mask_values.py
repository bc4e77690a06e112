"""From the values of a mask file to a mask of 0 and 1, where object and background are clear.

A file of labels (instances, classes, a rim to be ignored) is refused: it does not say which of its values are
the object.
"""

from __future__ import annotations

import io
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.decode import JPEG_FORMATS, check_pixels
from carvana.errors import DataError

UInt8 = NDArray[np.uint8]

LOSSY_FORMATS = (*JPEG_FORMATS, "WEBP", "AVIF", "HEIF", "JPEG2000")
"""Formats whose compression turns two values into many; that some of their files are lossless is not visible."""

_FEW = 16  # distinct values: 3 to 16 are labels
_LEAST_PART = 0.002  # of the pixels: a hue on fewer is ignored
_NEAR_ENDS = 0.98  # of the pixels of an antialiased mask lie within a tenth of black or white
_LOW_LABELS = 9, 0.001  # an antialiased mask has no value of 1 to 9 (of 255) on more than this share of its pixels
_LEAST_LABEL = 0.01  # of the pixels: a value between lowest and highest on more of them is a label
_EXPECTED = "expected 0 and 1, 0 and 255, or a palette in which the object is bright"


def mask_values(picture: Image.Image, name: str) -> NDArray[Any]:
    """How bright each pixel (H, W) of a mask is, by its brightest channel, in the file's own range.

    What is transparent is black.

    Raises:
        DataError: more than two indices of a palette, or more than two colours; ``name`` begins the message.
    """
    if picture.mode == "P":
        return _palette_values(picture, name)
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
    coloured = picture.convert("RGB")
    colours = [cast("tuple[int, int, int]", colour) for _, colour in coloured.getcolors(_FEW) or ()]
    if len(colours) > 2 and picture.format not in LOSSY_FORMATS and any(len({*colour}) > 1 for colour in colours):
        raise _ambiguous(name, f"the colours {_hex(colours)}, more than the two of a mask, black and white")
    if len(colours) == 2 and min(map(max, colours)) > 127 and picture.format not in LOSSY_FORMATS:
        raise _ambiguous(name, f"the colours {_hex(colours)}, both bright: which is the object? {_EXPECTED}")
    if not colours and _has_several_hues(coloured):
        raise _ambiguous(name, "objects of several colours; expected black and white")
    brightest: UInt8 = np.asarray(coloured).max(axis=2)
    return brightest


def object_of(values: NDArray[Any], name: str, *, lossy: bool = False) -> UInt8:
    """The 0/1 of a mask file's values: 1 where they are 1, if none is higher, else where they exceed half their range.

    Args:
        values: (H, W), as :func:`mask_values` gives them.
        name: The file's, in the message.
        lossy: They are from one of the ``LOSSY_FORMATS``.

    Raises:
        DataError: there are values above 1, and none in the upper half; or more values than the two of a mask and
            those of its antialiased boundary.
    """
    highest = values.max(initial=0)
    lowest = values.min(initial=highest)
    if lowest < 0:
        raise _ambiguous(name, f"{_listed(_distinct(values)[0])}, some below 0; {_EXPECTED}")
    if highest <= 1 and np.issubdtype(values.dtype, np.integer):
        return values if values.dtype == np.uint8 else values.astype(np.uint8)
    full = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    found, counts = _distinct(values)
    if len(found) > 2 and not _is_antialiased(found, counts / values.size, full, lossy=lossy):
        raise _ambiguous(name, _several(found))
    if 0 < highest <= full / 2 or (len(found) == 2 and lowest > full / 2):
        raise _ambiguous(name, f"{_listed(found)}: which of them are the object? {_EXPECTED}")
    return np.asarray(values > full / 2).view(np.uint8)


def is_npy(data: bytes) -> bool:
    """Whether these first bytes are those of a NumPy array file."""
    return data[:6] == np.lib.format.MAGIC_PREFIX


def npy_size(start: bytes, name: str) -> tuple[int, int]:
    """The (height, width) of a mask in NumPy's format, from the first bytes of its file.

    Raises:
        DataError: it is not one value a pixel.
    """
    file = io.BytesIO(start)
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
    except Exception as error:  # NumPy's parser raises nearly anything on damaged bytes
        raise DataError(f"{name}: cannot be read as a NumPy array ({error})") from error
    sides = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape[:2] if shape[2:] == (1,) else shape
    if len(sides) != 2 or 0 in sides or kind.kind not in "buif":
        raise DataError(f"{name}: an array of {kind} {shape} is not a mask; expected numbers of shape (height, width)")
    return int(sides[0]), int(sides[1])


def read_npy(data: bytes, name: str, limit: int) -> NDArray[Any]:
    """The values (H, W) of a mask in NumPy's format.

    Raises:
        DataError: as for :func:`npy_size`, or there are more than ``limit`` pixels, or fewer than it says.
    """
    size = npy_size(data, name)
    check_pixels(*size, limit, name)
    try:
        values: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    except ValueError as error:
        raise DataError(f"{name}: damaged or cut ({error}); replace the file or leave it out") from error
    values = np.nan_to_num(values.reshape(size))
    return values.view(np.uint8) if values.dtype == np.bool_ else values


def _has_several_hues(picture: Image.Image) -> bool:
    """Whether parts of a picture have different hues; one colour keeps its hue where it fades to black or white."""
    hue, saturation, value = np.moveaxis(np.asarray(picture.convert("HSV")), 2, 0)
    hues = np.bincount(hue[(saturation > 64) & (value > 64)] >> 4, minlength=16)
    there = np.flatnonzero(hues > _LEAST_PART * hue.size)
    neighbours = len(there) == 2 and there[1] - there[0] in (1, 15)
    return len(there) > 1 and not neighbours


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.float64]]:
    """The values that there are, in order, and the number of pixels of each."""
    if values.dtype != np.uint8:
        found, counts = np.unique(values, return_counts=True)
        return found, counts.astype(np.float64)
    counts = cv2.calcHist([np.ascontiguousarray(values)], [0], None, [256], [0, 256]).ravel()
    found = np.flatnonzero(counts)
    return found, counts[found].astype(np.float64)


def _is_antialiased(found: NDArray[Any], shares: NDArray[np.float64], full: int, *, lossy: bool) -> bool:
    """Whether more than two values are black, white, and the boundary between them."""
    near_ends = shares[(found <= full / 10) | (found >= full * 0.9)].sum() >= _NEAR_ENDS
    if lossy:
        return bool(near_ends)
    highest, most = _LOW_LABELS
    low = (found > 0) & (found <= highest * full / 255)
    labels = (low & (shares > most)).any() or (shares[1:-1] > _LEAST_LABEL).any()
    return bool(near_ends and len(found) > _FEW and not labels)


def _ambiguous(name: str, what: str) -> DataError:
    """The error about a file that does not say which pixels are the object."""
    return DataError(f"{name}: the mask holds {what}", kind="not-binary")


def _several(found: NDArray[Any]) -> str:
    """What a file of labels holds, and how a config will name them."""
    task = _task(found)
    return f"{_listed(found)}, more than the two of a mask, 0 and 255" + (
        f"; this version cannot read labels, a later one will, by a config with {task}" if task else ""
    )


def _hex(colours: list[tuple[int, int, int]]) -> str:
    return ", ".join(sorted("#{:02x}{:02x}{:02x}".format(*colour) for colour in colours))


def _listed(found: NDArray[Any]) -> str:
    if len(found) <= _FEW:
        return f"the values {', '.join(f'{value:g}' for value in found)}"
    return f"{len(found):,} values from {found[0]:g} to {found[-1]:g}"


def _task(found: NDArray[Any]) -> str:
    """The ``task`` of such labels in a config; "" where they are not whole numbers."""
    if not np.issubdtype(found.dtype, np.integer):
        return ""
    # 0, 1, ... and a rim of 255, or a few of such classes and the rim.
    ignored = found[-1] == 255 and found[0] == 0 and (found[-2] == len(found) - 2 or found[-2] < 64)
    labels = found[:-1] if ignored else found
    if len(labels) > _FEW:
        low, high = labels[labels > 0][0], labels[-1]
        classes = f'object: "{low}-{high}"'
    elif labels.tolist() == [0, 1]:
        classes = "object: 1"
    else:
        classes = ", ".join(f"class_{value}: {value}" for value in labels)
    return f"task: {{classes: {{{classes}}}{', ignore: [255]' if ignored else ''}}}"


def _palette_values(picture: Image.Image, name: str) -> UInt8:
    """The brightest channel of each pixel's palette colour; the indices if all colours are equally bright."""
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
    found, _ = _distinct(indices)
    if len(found) > 2 and np.ptp(palette.reshape(256, 3)[found], axis=1).any():  # not the greys of a picture
        raise _ambiguous(name, _several(found))
    values: UInt8 = cv2.LUT(indices, brightness)
    return values
