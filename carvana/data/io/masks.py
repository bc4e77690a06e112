"""Reading and writing of masks: uint8 (H, W) of 0 and 1, from image files and from NumPy's ``.npy``.

Object and background must be clear from a file's values. A file of labels (instances, classes, a rim to be ignored) is
refused: it does not say which of its values are the object.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.convert import UInt8, is_wide, laid_onto, orientation_of, turn
from carvana.data.io.decode import JPEG_FORMATS, Source, is_npy, name_of, open_picture, read_bytes, read_npy
from carvana.data.io.images import MAX_PIXELS, SUFFIXES, encode_image, resize_image
from carvana.data.io.labels import FEW_VALUES, suggest_colors, suggest_task, task_in_a_line
from carvana.errors import DataError
from carvana.utils.files import atomic_path, write_bytes

MASK_SUFFIXES = SUFFIXES | {".npy"}
"""The suffixes of masks, in lower case."""

MaskSource: TypeAlias = "Source | tuple[Source, ...]"
"""What :func:`read_mask` reads: a file, or the files of several masks that are joined."""

_LOSSY_FORMATS = (*JPEG_FORMATS, "WEBP", "AVIF", "HEIF", "JPEG2000")
"""Formats whose compression turns two values into many; that some of their files are lossless is not visible."""

_LEAST_PART = 0.002  # of the pixels: a hue on fewer is ignored
_NEAR_ENDS = 0.98  # of the pixels of an antialiased mask lie within a tenth of black or white
_LOW_LABELS = 9, 0.001  # an antialiased mask has no value of 1 to 9 (of 255) on more than this share of its pixels
_LEAST_LABEL = 0.01  # of the pixels: a value between lowest and highest on more of them is a label
_STRIP = 64  # rows that are shrunk at once: what stays in the processor's cache is several times as fast
_EXPECTED = "expected 0 and 1, 0 and 255, or a palette in which the object is bright"


def read_mask(source: MaskSource, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read a mask: uint8 (H, W), 1 where the object is.

    Black is background. Files of 0/1, of 0/255, bilevel and palette files are all understood, and arrays in NumPy's
    ``.npy``: where no value exceeds 1, 1 is the object, else everything of more than half brightness (the brightest
    channel counts). Between black and white there may be what antialiasing or JPEG leave at the object's boundary.

    Args:
        source: A path, the bytes of an image file, or one that is open; a tuple of them is joined: 1 where any is.
        max_pixels: Refuse masks that hold more pixels.

    Raises:
        DataError: the file is missing, damaged, too large or not an image; or its values do not say which pixels are
            the object: some exceed 1 and none is bright, as in files of 0/100, or there are more than two values that
            are not those of an antialiased boundary. Or joined masks differ in size.

    Example:
        >>> read_mask("car_mask.gif").max()  # doctest: +SKIP
        np.uint8(1)
    """
    if not isinstance(source, tuple):
        return _read(source, max_pixels)[1].mask
    if not source:
        raise DataError("the tuple of mask files is empty; expected at least one")
    masks = [read_mask(one, max_pixels=max_pixels) for one in source]
    if len({mask.shape for mask in masks}) > 1:
        sizes = ", ".join(f"{name_of(one)} {mask.shape}" for one, mask in zip(source, masks, strict=True))
        raise DataError(f"masks of one image differ in size (height, width): {sizes}")
    joined: UInt8 = np.maximum.reduce(masks)
    return joined


def share_of(mask: UInt8) -> float:
    """The share of a mask's pixels that are object, in [0, 1]."""
    return cv2.countNonZero(mask) / mask.size


@dataclass(frozen=True)
class MaskFile:
    """A mask, and what else is known of its file.

    Attributes:
        mask: uint8 (H, W) of 0/1.
        between: The share of the pixels whose value is neither the lowest nor the highest.
        values: The number of different values.
        frames: The number of pictures in the file, of which the first one is read.
        orientation: EXIF's, 1 to 8; the mask is upright.
    """

    mask: UInt8
    between: float = 0.0
    values: int = 2
    frames: int = 1
    orientation: int = 1


def inspect_mask(source: Source, *, max_pixels: int = MAX_PIXELS) -> MaskFile:
    """Read one mask file and count its values, which takes longer than :func:`read_mask`.

    Raises:
        DataError: as for :func:`read_mask`.
    """
    values, file = _read(source, max_pixels)
    found, counts = _distinct(values)
    return replace(file, between=float(counts[1:-1].sum() / values.size), values=len(found))


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a mask (H, W), nonzero where the object is, as a 1-bit PNG (black and white), atomically.

    Raises:
        DataError: it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_mask(f"{folder}/mask.png", np.eye(3, dtype=np.uint8))
        ...     read_mask(f"{folder}/mask.png").sum()
        np.uint64(3)
    """
    write_bytes(path, encode_mask(mask, name=path))


def encode_mask(mask: NDArray[np.uint8] | NDArray[np.bool_], *, name: str | os.PathLike[str] = "mask") -> bytes:
    """The bytes of the 1-bit PNG that :func:`write_mask` writes; ``name`` begins the message of an error."""
    white = (mask != 0).view(np.uint8) * np.uint8(255)
    return encode_image(white, ".png", bilevel=True, name=name)


def write_palette_mask(path: str | os.PathLike[str], mask: UInt8) -> None:
    """Write a mask of 0/1 (H, W) as the competition's are: a GIF of indices 0 and 1, shown black and white."""
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    with atomic_path(path) as temporary:
        picture.save(temporary, format="GIF", optimize=False, interlace=0)


def shrink_mask(mask: UInt8, size: tuple[int, int], *, target: str = "coverage") -> UInt8:
    """Bring a mask of 0/1 to a training size, as uint8 (h, w) in 0..255: 255 times the share that the object covers.

    Args:
        mask: uint8 (H, W) of 0/1.
        size: (height, width).
        target: "coverage" averages over the area of each new pixel; "nearest" takes the old pixel at the corner of
            each new one, as OpenCV's INTER_NEAREST does and the seed's notebook did: only 0 or 255, and shifted by
            half a pixel, which limits every network (docs/explanation/coverage.md).
    """
    height, width = size
    if mask.shape == (height, width):
        return mask * np.uint8(255)
    if target == "nearest":
        nearest: UInt8 = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return nearest * np.uint8(255)
    least = min(mask.shape[0], height), min(mask.shape[1], width)
    shrunk = mask * np.uint8(255) if least == mask.shape else _coverage(mask, least)
    return resize_image(shrunk, size)


def _coverage(mask: UInt8, size: tuple[int, int]) -> UInt8:
    """The share of each pixel of a smaller picture, exact in whole numbers and rounded once, half up.

    The sums over all pixels above and to the left (Crow 1984, https://doi.org/10.1145/800031.808600) give the sum over
    any rectangle. Within a pixel of the mask they grow evenly, so rectangles may begin and end between pixels.
    """
    height, width = size
    sums = cv2.integral(mask)  # int32 (H + 1, W + 1)
    rows, columns = np.arange(height + 1), np.arange(width + 1)
    coverage = np.empty(size, np.uint8)
    for top in range(0, height, _STRIP):
        strip = np.ascontiguousarray(_between(sums, rows[top : top + _STRIP + 1], height).T)
        areas = _between(strip, columns, width).T.astype(np.float64)
        coverage[top : top + _STRIP] = 255 * areas / mask.size + 0.5
    return coverage


def _between(sums: NDArray[np.int32], edges: NDArray[np.int64], new: int) -> NDArray[np.int32]:
    """By how much sums (N + 1, ...) grow between edges, which are in ``new`` parts of all; times ``new``."""
    old = len(sums) - 1
    whole, part = np.divmod(edges * old, new)
    # What passes 32 bits here comes back in the difference.
    before, grown = sums[whole], sums[np.minimum(whole + 1, old)]
    grown -= before
    grown *= part.astype(np.int32)[:, None]
    before *= new
    before += grown
    return np.diff(before, axis=0)


def _read(source: Source, max_pixels: int) -> tuple[NDArray[Any], MaskFile]:
    """The values (H, W) of a file, and the mask that they are; its values are not counted."""
    data, name = read_bytes(source, max_pixels), name_of(source)
    if is_npy(data):
        values = np.nan_to_num(read_npy(data, name, max_pixels))
        return values, MaskFile(_object_of(values, name))
    with open_picture(data, source, max_pixels) as picture:
        orientation = orientation_of(picture)
        values = turn(_values_of(picture, name), orientation)
        mask = _object_of(values, name, lossy=picture.format in _LOSSY_FORMATS)
        # The last step: it moves the file away from the first picture.
        return values, MaskFile(mask, frames=_frames(picture), orientation=orientation)


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # Pillow goes through what follows the first picture, and may raise nearly anything there
        return 1


def _values_of(picture: Image.Image, name: str) -> NDArray[Any]:
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
    if is_wide(picture):
        wide: NDArray[Any] = np.nan_to_num(np.asarray(picture))
        return wide
    coloured = laid_onto("black", picture)
    exact = picture.has_transparency_data or picture.format not in _LOSSY_FORMATS
    colours = [cast("tuple[int, int, int]", colour) for _, colour in coloured.getcolors(FEW_VALUES) or ()]
    found = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in sorted(colours)]
    if exact and len(colours) > 2 and any(len({*colour}) > 1 for colour in colours):
        task = task_in_a_line(suggest_colors(found, Path(name).parent.parent, Path(name).parent))
        raise _ambiguous(
            name,
            f"the colours {', '.join(found)}, more than the two of a mask, as label maps have; they need a task in the "
            f"config: {task} (`carvana data check` prints that of all files)",
        )
    if exact and len(colours) == 2 and min(map(max, colours)) > 127:
        raise _ambiguous(name, f"the colours {', '.join(found)}, both bright: which is the object? {_EXPECTED}")
    if not colours and _has_several_hues(coloured):
        raise _ambiguous(
            name,
            "objects of several colours; expected black and white, or a task whose classes have these colours "
            "(`carvana data check` lists them)",
        )
    brightest: UInt8 = np.asarray(coloured).max(axis=2)
    return brightest


def _object_of(values: NDArray[Any], name: str, *, lossy: bool = False) -> UInt8:
    """The 0/1 of a mask file's values: 1 where they are 1, if none is higher, else where they exceed half their range.

    Args:
        values: (H, W), as :func:`_values_of` gives them.
        name: The file's, in the message.
        lossy: They are from one of the ``_LOSSY_FORMATS``.

    Raises:
        DataError: there are values above 1, and none in the upper half; or more values than the two of a mask and
            those of its antialiased boundary.
    """
    highest = values.max(initial=0)
    lowest = values.min(initial=highest)
    if lowest < 0:
        found = _distinct(values)[0]
        raise _ambiguous(name, _several(found) if len(found) > 2 else f"{_listed(found)}, some below 0; {_EXPECTED}")
    if highest <= 1 and np.issubdtype(values.dtype, np.integer):
        return values if values.dtype == np.uint8 else values.astype(np.uint8)
    full = 1 if highest <= 1 else 255 if highest <= 255 else 65535
    found, counts = _distinct(values)
    if len(found) > 2 and not _is_antialiased(found, counts / values.size, full, lossy=lossy):
        if lossy and len(found) > FEW_VALUES:
            raise _ambiguous(name, f"{_listed(found)}, which its format changes; save masks and labels as PNG")
        raise _ambiguous(name, _several(found))
    if 0 < highest <= full / 2 or (len(found) == 2 and lowest > full / 2):
        task = f"; or name the object's value, as in task.classes={{object: {found[-1]:g}}}"
        raise _ambiguous(name, f"{_listed(found)}: which of them are the object? {_EXPECTED}{task}")
    return np.asarray(values > full / 2).view(np.uint8)


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
    return bool(near_ends and len(found) > FEW_VALUES and not labels)


def _ambiguous(name: str, what: str) -> DataError:
    """The error about a file that does not say which pixels are the object."""
    return DataError(f"{name}: the mask holds {what}", kind="not-binary")


def _listed(found: NDArray[Any]) -> str:
    if len(found) <= FEW_VALUES:
        return f"the values {', '.join(f'{value:g}' for value in found)}"
    return f"{len(found):,} values from {found[0]:g} to {found[-1]:g}"


def _several(found: NDArray[Any]) -> str:
    """What a file of labels holds, and what to write into a config.

    Args:
        found: The distinct values, as :func:`carvana.data.io.labels.read_values` reads them.
    """
    what = f"{_listed(found)}, more than the two of a mask, 0 and 255, as label maps have"
    if (found != np.trunc(found)).any():
        return what
    task = task_in_a_line(suggest_task(found.astype(np.int64).tolist()))
    if len(found) > FEW_VALUES:
        return (
            f"{_listed(found)}, more than the two of a mask, 0 and 255: numbers of objects, or not a mask; of objects "
            f"of one class the config needs {task}, of classes all values in task.classes (`carvana data check` lists "
            "them)"
        )
    return f"{what}; label maps need a task in the config: {task} (`carvana data check` prints that of all files)"


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
    values: UInt8 = cv2.LUT(indices, brightness)
    found, _ = _distinct(indices)
    if len(found) > 2:
        coloured = np.ptp(palette.reshape(256, 3)[found], axis=1).any()
        levels, counts = _distinct(values)
        if coloured or (len(levels) > 2 and not _is_antialiased(levels, counts / values.size, 255, lossy=False)):
            raise _ambiguous(name, _several(found))
    return values
