"""Reading and writing of masks: uint8 (H, W) of 0 and 1, from image files and from NumPy's ``.npy``.

The competition's GIF files are read as runs of equal pixels (``gif.py``), all others as pixels, whose values
``mask_values.py`` turns into 0 and 1.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.convert import orientation_of, turn
from carvana.data.io.decode import Source, name_of, open_picture, read_bytes
from carvana.data.io.gif import MOST_CHANGES, read_runs
from carvana.data.io.images import MAX_PIXELS, SUFFIXES, UInt8, encode_with_opencv, image_header, resize_image, shrinks
from carvana.data.io.mask_values import LOSSY_FORMATS, is_npy, mask_values, object_of, read_npy
from carvana.data.io.runs import Runs
from carvana.errors import DataError
from carvana.utils.files import atomic_path, write_bytes

MASK_SUFFIXES = SUFFIXES | {".npy"}
"""The suffixes of masks, in lower case."""

MaskSource: TypeAlias = "Source | tuple[Source, ...]"
"""What :func:`read_mask` reads: a file, or the files of several masks that are joined."""


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
    found = _runs_or_mask(source, max_pixels)
    return found.mask() if isinstance(found, Runs) else found


def read_coverage(
    source: MaskSource, size: tuple[int, int], *, target: str = "coverage", max_pixels: int = MAX_PIXELS
) -> UInt8:
    """Read a mask at a training size: equal to :func:`shrink_mask` of :func:`read_mask`.

    For the competition's own files no pixels of the full size are made, which takes a tenth of the time.

    Args:
        source: As for :func:`read_mask`.
        size: (height, width).
        target: "coverage" or "nearest".
        max_pixels: Refuse masks that hold more pixels.

    Returns:
        uint8 (h, w) in 0..255.

    Raises:
        DataError: as for :func:`read_mask`.
    """
    found = _runs_or_mask(source, max_pixels)
    if not isinstance(found, Runs):
        return shrink_mask(found, size, target=target)
    if target == "coverage" and shrinks(found.size, size):
        return found.coverage(size)
    return shrink_mask(found.mask(), size, target=target)


def read_share(source: MaskSource, *, max_pixels: int = MAX_PIXELS) -> float:
    """The share of an image that its mask covers, in [0, 1].

    Raises:
        DataError: as for :func:`read_mask`.
    """
    found = _runs_or_mask(source, max_pixels)
    runs = found if isinstance(found, Runs) else Runs.of(found)
    return runs.area / (runs.size[0] * runs.size[1])


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
    data = read_bytes(source, max_pixels)
    runs = read_runs(data, max_pixels=max_pixels)
    if runs is not None:
        return MaskFile(runs.mask())
    values, mask, frames = _mask_from_pixels(data, source, max_pixels)
    found, counts = np.unique(values, return_counts=True)
    between = float(counts[1:-1].sum() / values.size)
    return MaskFile(mask, between, len(found), frames, image_header(data, max_pixels=max_pixels).orientation)


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
    return encode_with_opencv(white, ".png", [cv2.IMWRITE_PNG_BILEVEL, 1], name)


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
    if shrinks(mask.shape, size):
        runs = Runs.of(mask)
        if len(runs.changes) <= MOST_CHANGES:
            return runs.coverage(size)
    return resize_image(mask * np.uint8(255), size)


def _runs_or_mask(source: MaskSource, max_pixels: int) -> Runs | UInt8:
    """A mask in the form that is cheapest to read."""
    if isinstance(source, tuple):
        if not source:
            raise DataError("the tuple of mask files is empty; expected at least one")
        masks = [read_mask(one, max_pixels=max_pixels) for one in source]
        if len({mask.shape for mask in masks}) > 1:
            sizes = ", ".join(f"{name_of(one)} {mask.shape}" for one, mask in zip(source, masks, strict=True))
            raise DataError(f"masks of one image differ in size (height, width): {sizes}")
        joined: UInt8 = np.maximum.reduce(masks)
        return joined
    data = read_bytes(source, max_pixels)
    runs = read_runs(data, max_pixels=max_pixels)
    return runs if runs is not None else _mask_from_pixels(data, source, max_pixels)[1]


def _mask_from_pixels(data: bytes, source: Source, max_pixels: int) -> tuple[NDArray[Any], UInt8, int]:
    """The values of a file, the mask, and the number of pictures."""
    name = name_of(source)
    if is_npy(data):
        values = read_npy(data, name, max_pixels)
        return values, object_of(values, name), 1
    with open_picture(data, source, max_pixels) as picture:
        values = turn(mask_values(picture, name), orientation_of(picture))
        lossy = picture.format in LOSSY_FORMATS
        frames = _frames(picture)  # the last step: it moves the file away from the first picture
    return values, object_of(values, name, lossy=lossy), frames


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # Pillow goes through what follows the first picture, and may raise nearly anything there
        return 1
