"""Reading and writing of image files: the one place of the package that opens them.

An image is a uint8 array (H, W, 3), RGB, upright; a mask is a uint8 array (H, W) of 0 and 1. Whatever bytes stand on
disk (JPEG, PNG, GIF, TIFF, WebP, BMP; grey, palette, alpha, CMYK, 16 bit, turned by EXIF), that is what comes out.
All of it may be called from many threads at once.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from carvana.data.io.convert import bits_of, check_dropped_bits, orientation_of, pixels_in_memory, to_rgb, turn
from carvana.data.io.decode import (
    Source,
    check_pixels,
    heif_is_installed,
    name_of,
    open_header,
    open_picture,
    read_bytes,
    stream,
)
from carvana.data.io.gif import MOST_CHANGES, read_runs
from carvana.data.io.jpeg import START, check_complete, is_jpeg, jpeg_header, jpeg_size, read_jpeg
from carvana.data.io.jpeg_segments import without_junk
from carvana.data.io.masks import LOSSY_FORMATS, is_npy, mask_values, npy_size, object_of, read_npy
from carvana.data.io.runs import Runs
from carvana.errors import DataError
from carvana.utils.files import atomic_path, write_bytes

if TYPE_CHECKING:
    import torch

UInt8 = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)

MAX_PIXELS = 300_000_000
"""Images with more pixels than this are refused unless the caller allows more: a small file can claim any size."""

_LONGEST_JPEG = 65_500  # pixels of a side, by libjpeg's own limit

_SUFFIXES_OF_HEIF = frozenset((".heic", ".heif") if heif_is_installed() else ())

SUFFIXES = _SUFFIXES_OF_HEIF | frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""What a folder is searched for, in lower case; HEIC as well where pillow-heif is installed."""

MASK_SUFFIXES = SUFFIXES | {".npy"}
"""What a folder is searched for masks."""


MaskSource: TypeAlias = "Source | tuple[Source, ...]"
"""What :func:`read_mask` takes: a file, or the files of several masks that are joined."""

ImageSource: TypeAlias = "Source | Image.Image | NDArray[np.uint8] | torch.Tensor"
"""What :func:`read_image` takes."""


def read_image(source: ImageSource, *, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read an image.

    Args:
        source: A path, the bytes of an image file, or one that is open; or an image in memory: a PIL image, a uint8
            array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, or a uint8 tensor (3, H, W) RGB.
        at_least: (height, width). Where the file allows it (JPEG), decode at an eighth, a quarter, ... of the size,
            but never below this one. It is faster by up to 8 times and changes the pixels a little, so it is for
            training, where the image is shrunk anyway.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8 (H, W, 3), RGB, turned upright as EXIF says. Transparent pixels show white.

    Raises:
        DataError: the file is missing, damaged, too large or no image.

    Example:
        >>> read_image("car.jpg").shape  # doctest: +SKIP
        (1280, 1918, 3)
    """
    pixels = pixels_in_memory(source)
    if pixels is not None:
        check_pixels(pixels.shape[0], pixels.shape[1], max_pixels, "the image")
        return pixels
    source = cast("Source", source)
    data = read_bytes(source, max_pixels)
    if is_jpeg(data):
        header = jpeg_header(data)
        if header is None:
            data = without_junk(data)
            header = jpeg_header(data)
        if header is not None and header[2] == "CMYK":
            check_complete(data, source)
        elif header is not None:
            check_pixels(header[0], header[1], max_pixels, source)
            image = read_jpeg(data, source, at_least)
            if image is not None:
                return image
    with open_picture(data, source, max_pixels) as picture:
        name = name_of(source)
        check_dropped_bits(picture, data, name)
        return turn(to_rgb(picture, name), orientation_of(picture))


def read_mask(source: MaskSource, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read a mask: uint8 (H, W), 1 where the object is.

    Black is background. Files of 0/1, of 0/255, bilevel and palette files are all understood, and arrays in NumPy's
    ``.npy``: where no value exceeds 1, 1 is the object, else everything of more than half brightness (the brightest
    channel counts). Between black and white there may be what antialiasing or JPEG leave at the object's boundary.

    Args:
        source: A path, the bytes of an image file, or one that is open; a tuple of them is joined: 1 where any is.
        max_pixels: Refuse masks that hold more pixels.

    Raises:
        DataError: the file is missing, damaged, too large or no image, or its values tell no object from background:
            none exceeds 1, yet none is bright either, as in files of 0/100; or they are labels: more than two values,
            and not those of an antialiased boundary. Or joined masks differ in size.

    Example:
        >>> read_mask("car_mask.gif").max()  # doctest: +SKIP
        np.uint8(1)
    """
    found = _runs_or_mask(source, max_pixels)
    return found.mask() if isinstance(found, Runs) else found


def read_coverage(
    source: MaskSource, size: tuple[int, int], *, target: str = "coverage", max_pixels: int = MAX_PIXELS
) -> UInt8:
    """Read a mask at a training size: what :func:`shrink_mask` makes of :func:`read_mask`.

    From the competition's own files it is made without any pixels of the full size, in a tenth of the time.

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
    if target == "coverage" and _shrinks(found.size, size):
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
    """What a mask file holds beside its mask.

    Attributes:
        mask: uint8 (H, W) of 0/1.
        between: The share of the pixels whose value is neither the lowest nor the highest.
        values: How many values there are.
        frames: How many pictures, of which the first one counts.
        orientation: What EXIF said, 1 to 8; the mask is upright.
    """

    mask: UInt8
    between: float = 0.0
    values: int = 2
    frames: int = 1
    orientation: int = 1


def inspect_mask(source: Source, *, max_pixels: int = MAX_PIXELS) -> MaskFile:
    """Read one mask file, and look at its values; it takes longer than :func:`read_mask`.

    Raises:
        DataError: as for :func:`read_mask`.
    """
    data = read_bytes(source, max_pixels)
    runs = read_runs(data, max_pixels=max_pixels)
    if runs is not None:
        return MaskFile(runs.mask())
    values, mask, frames = _unusual_mask(data, source, max_pixels)
    found, counts = np.unique(values, return_counts=True)
    between = float(counts[1:-1].sum() / values.size)
    return MaskFile(mask, between, len(found), frames, image_header(data, max_pixels=max_pixels).orientation)


class Header(NamedTuple):
    """What the header of an image file tells.

    Attributes:
        size: (height, width), upright.
        orientation: EXIF's, 1 to 8; 1 is upright.
        bits: How many a value has.
    """

    size: tuple[int, int]
    orientation: int = 1
    bits: int = 8


def image_header(source: Source, *, max_pixels: int = MAX_PIXELS) -> Header:
    """What the header of an image file, or of a mask in ``.npy``, tells: a file of any size takes a fraction of a ms.

    Raises:
        DataError: the file is missing, no image, or holds more than ``max_pixels``.
    """
    with stream(source, max_pixels) as file:
        start = file.read(START)
        if is_npy(start):
            return Header(npy_size(start, name_of(source)))
        found = jpeg_size(start, file) if is_jpeg(start) else None
        height, width, orientation, bits = (*found, 8) if found else _pillow_header(start, file, source, max_pixels)
    check_pixels(height, width, max_pixels, source)
    return Header((width, height) if orientation >= 5 else (height, width), orientation, bits)


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) of an upright image file, from its header alone.

    Raises:
        DataError: as for :func:`image_header`.
    """
    return image_header(source, max_pixels=max_pixels).size


def write_image(path: str | os.PathLike[str], pixels: UInt8, *, quality: int = 92) -> None:
    """Write uint8 pixels, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, atomically; the suffix names the format.

    Raises:
        DataError: no format goes by this suffix, or it cannot hold so many rows or columns.
    """
    write_bytes(path, encode_image(pixels, Path(path).suffix.lower(), quality=quality, name=path))


def encode_image(pixels: UInt8, suffix: str, *, quality: int = 92, name: str | os.PathLike[str] = "picture") -> bytes:
    """The bytes of an image file of such pixels; ``name`` begins the message if there can be none.

    Raises:
        DataError: as for :func:`write_image`.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    jpeg = suffix in {".jpg", ".jpeg"}
    return _encode(pixels, suffix, [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else [], name)


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
    """The bytes of the 1-bit PNG that :func:`write_mask` writes; ``name`` begins the message if there can be none."""
    white = (mask != 0).view(np.uint8) * np.uint8(255)
    return _encode(white, ".png", [cv2.IMWRITE_PNG_BILEVEL, 1], name)


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
            each new one, as OpenCV's INTER_NEAREST does and the seed's notebook did: 0 or 255 alone, and half a pixel
            beside its place, which caps what any network can reach (docs/explanation/coverage.md).
    """
    height, width = size
    if mask.shape == (height, width):
        return mask * np.uint8(255)
    if target == "nearest":
        nearest: UInt8 = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return nearest * np.uint8(255)
    if _shrinks(mask.shape, size):
        runs = Runs.of(mask)
        if len(runs.changes) <= MOST_CHANGES:
            return runs.coverage(size)
    return resize_image(mask * np.uint8(255), size)


def resize_image(image: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Bring an image, or a map, (H, W) or (H, W, C) to (height, width): by area where it shrinks, else bilinearly."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    how = cv2.INTER_AREA if _shrinks(image.shape, size) else cv2.INTER_LINEAR
    return cast("NDArray[Pixel]", cv2.resize(image, (width, height), interpolation=how))


def _shrinks(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    return shape[0] >= size[0] and shape[1] >= size[1]


def _runs_or_mask(source: MaskSource, max_pixels: int) -> Runs | UInt8:
    """A mask in the form that costs least to read."""
    if isinstance(source, tuple):
        if not source:
            raise DataError("no mask: the tuple of files is empty")
        masks = [read_mask(one, max_pixels=max_pixels) for one in source]
        if len({mask.shape for mask in masks}) > 1:
            told = ", ".join(f"{name_of(one)} {mask.shape}" for one, mask in zip(source, masks, strict=True))
            raise DataError(f"masks of one image differ in size (height, width): {told}")
        joined: UInt8 = np.maximum.reduce(masks)
        return joined
    data = read_bytes(source, max_pixels)
    runs = read_runs(data, max_pixels=max_pixels)
    return runs if runs is not None else _unusual_mask(data, source, max_pixels)[1]


def _unusual_mask(data: bytes, source: Source, max_pixels: int) -> tuple[NDArray[Any], UInt8, int]:
    """The values of a mask file, the mask, and the number of pictures; all but GIFs of one picture of two values."""
    name = name_of(source)
    if is_npy(data):
        values = read_npy(data, name, max_pixels)
        return values, object_of(values, name), 1
    with open_picture(data, source, max_pixels) as picture:
        values = turn(mask_values(picture, name), orientation_of(picture))
        lossy = picture.format in LOSSY_FORMATS
        frames = _frames(picture)  # last of all: it goes through the file, away from the first picture
    return values, object_of(values, name, lossy=lossy), frames


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # Pillow goes through what follows the first picture, and may raise nearly anything there
        return 1


def _pillow_header(start: bytes, file: BinaryIO, source: Source, limit: int) -> tuple[int, int, int, int]:
    """The height and the width as they are stored, the orientation, and the bits of a value."""
    with open_header(file, source, limit) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # whose size is turned already in some versions of Pillow
            width, height = picture.tag_v2[IMAGEWIDTH], picture.tag_v2[IMAGELENGTH]
        if isinstance(picture, PngImageFile) and _png_tells_late(file):
            with suppress(Exception):  # a size is asked for: pixels that are damaged do not matter
                picture.load()
        return height, width, orientation_of(picture), bits_of(picture, start)


def _png_tells_late(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text behind its pixels, found by going from chunk to chunk."""
    place, behind = file.tell(), False
    file.seek(8)
    try:
        while len(head := file.read(8)) == 8:
            behind |= head[4:] == b"IDAT"
            if behind and head[4:] in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            file.seek(int.from_bytes(head[:4]) + 4, os.SEEK_CUR)
        return False
    finally:
        file.seek(place)


def _encode(pixels: UInt8, suffix: str, options: list[int], name: str | os.PathLike[str]) -> bytes:
    height, width = pixels.shape[:2]
    try:
        # OpenCV would write to stderr of a JPEG that is too large.
        fits = suffix not in {".jpg", ".jpeg"} or max(height, width) <= _LONGEST_JPEG
        done, buffer = cv2.imencode(suffix, pixels, options) if fits else (False, pixels)
    except cv2.error:
        done = False
    if not done:
        raise DataError(
            f"{name}: no file for {width} x {height} pixels ends in {suffix!r}; expected .png or .jpg (which holds "
            f"{_LONGEST_JPEG:,} pixels a side)"
        )
    return bytes(buffer)
