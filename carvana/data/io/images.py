"""Reading and writing of images: uint8 arrays (H, W, 3), RGB, upright.

Every file that is read becomes such an array: JPEG, PNG, GIF, TIFF, WebP, BMP; grey, palette, alpha, CMYK, 16 bit,
turned by EXIF. Only the modules of this folder open image files. All functions may be called from many threads at once.
"""

from __future__ import annotations

import builtins
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from carvana.data.io.arrays import read_array, scaled
from carvana.data.io.convert import check_dropped_bits, orientation_of, pixels_in_memory, to_rgb, turn
from carvana.data.io.decode import MAX_PIXELS as MAX_PIXELS
from carvana.data.io.decode import (
    Source,
    check_pixels,
    heif_is_installed,
    is_npy,
    name_of,
    npy_size,
    open_header,
    open_picture,
    read_bytes,
    stream,
)
from carvana.data.io.jpeg import START, is_jpeg, jpeg_header, jpeg_size, read_jpeg, without_junk
from carvana.errors import ConfigError, DataError
from carvana.utils.files import write_bytes

if TYPE_CHECKING:
    import torch

UInt8 = NDArray[np.uint8]
Pixel = TypeVar("Pixel", np.uint8, np.float32)

_LONGEST_JPEG = 65_500  # pixels of a side, by libjpeg's own limit

_SUFFIXES_OF_HEIF = frozenset((".heic", ".heif") if heif_is_installed() else ())

SUFFIXES = _SUFFIXES_OF_HEIF | frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""The suffixes of images, in lower case; HEIC as well where pillow-heif is installed."""


ImageSource: TypeAlias = "Source | Image.Image | NDArray[np.uint8] | torch.Tensor"
"""What :func:`read_image` reads."""


def read_image(
    source: ImageSource,
    *,
    at_least: tuple[int, int] | None = None,
    range: tuple[float, float] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Read an image.

    Args:
        source: A path, the bytes of an image file, or one that is open; or an image in memory: a PIL image, a uint8
            array (H, W), (H, W, 3) RGB or (H, W, 4) RGBA, or a uint8 tensor (3, H, W) RGB.
        at_least: (height, width). Where the file allows it (JPEG), decode at an eighth, a quarter, ... of the size,
            but never below this one. It is faster by up to 8 times and changes the pixels a little, so it is for
            training, where the image is shrunk anyway.
        range: (low, high): the values that become 0 and 255, for images of more than 8 bits, signed or floating
            values, also in arrays; what lies outside is cut off, and NaN is 0. None takes whole values for what they
            are, and refuses images that would be nearly of one brightness then.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8 (H, W, 3), RGB, turned upright as EXIF says. Transparent pixels show white.

    Raises:
        DataError: the file is missing, damaged, too large or not an image; its values need a range; or, with one, it
            has neither one band nor three: :func:`carvana.read_array` gives all of them.
        ConfigError: the range is not two numbers, the lower one first.

    Example:
        >>> read_image("car.jpg").shape  # doctest: +SKIP
        (1280, 1918, 3)
    """
    if range is not None:
        return _in_range(source, range, max_pixels)
    pixels = pixels_in_memory(source)
    if pixels is not None:
        check_pixels(pixels.shape[0], pixels.shape[1], max_pixels, "the image")
        return pixels
    source = cast("Source", source)
    data, name = read_bytes(source, max_pixels), name_of(source)
    if is_jpeg(data) and (header := jpeg_header(data) or jpeg_header(data := without_junk(data))):
        height, width, space, _ = header
        check_pixels(height, width, max_pixels, source)
        image = read_jpeg(data, space, name, at_least)
        if image is not None:
            return image
    with open_picture(data, source, max_pixels) as picture:
        check_dropped_bits(picture, data, name)
        return turn(to_rgb(picture, name), orientation_of(picture))


def _in_range(source: ImageSource, limits: tuple[float, float], max_pixels: int) -> UInt8:
    if len(limits) != 2 or not all(map(math.isfinite, limits)) or limits[0] >= limits[1]:
        raise ConfigError(f"range {limits}: expected two numbers, the lower one first")
    if isinstance(source, np.ndarray):
        values: NDArray[Any] = source
    elif (pixels := pixels_in_memory(source)) is not None:
        values = pixels
    else:
        values = read_array(cast("Source", source), max_pixels=max_pixels)
    bands = values.shape[2] if values.ndim == 3 else 1
    if values.ndim not in (2, 3) or bands not in (1, 3):
        raise DataError(
            f"{_named(source)}: {bands} bands are no RGB; expected one or three (read_array gives all of them)"
        )
    pixels = scaled(values.reshape(*values.shape[:2], bands), *limits)
    return np.repeat(pixels, 3, axis=2) if bands == 1 else pixels


def read_pixels(
    source: ImageSource,
    *,
    channels: int = 3,
    ranges: Sequence[tuple[float, float]] = (),
    max_pixels: int = MAX_PIXELS,
) -> UInt8:
    """Read an image as a network takes it.

    Args:
        source: as for :func:`read_image`, or an array (H, W, channels), or (H, W) of one channel, of any type.
        channels: values of a pixel. Three without ranges is what :func:`read_image` gives, one its brightness.
        ranges: for each channel the values that become 0 and 255; none where images have 8 bits.
        max_pixels: Refuse images that hold more pixels.

    Returns:
        uint8 (H, W, channels).

    Raises:
        DataError: the file cannot be read, or has another number of channels, or more bits and no range.
    """
    if not ranges and channels in (1, 3):
        image = read_image(source, max_pixels=max_pixels)
        return image if channels == 3 else cast("UInt8", cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[..., None]
    if isinstance(source, np.ndarray):
        values: NDArray[Any] = source
    elif (pixels := pixels_in_memory(source)) is not None:
        values = pixels
    else:
        values = read_array(cast("Source", source), max_pixels=max_pixels)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] != channels:
        has = values.shape[2] if values.ndim == 3 else values.ndim
        raise DataError(f"{_named(source)}: has {has} channels, and the network takes {channels}")
    check_pixels(values.shape[0], values.shape[1], max_pixels, _named(source))
    if ranges:
        return np.stack([scaled(values[..., each], *ranges[each]) for each in builtins.range(channels)], axis=2)
    if values.dtype != np.uint8:
        lowest, highest = np.nanmin(values).item(), np.nanmax(values).item()
        raise DataError(
            f"{_named(source)}: values of {values.dtype}, the lowest {lowest:,.6g}, the highest {highest:,.6g}; the "
            "network takes 8 bits: name their range in its spec, as model.with_spec(range=[(low, high), ...])",
            kind="range",
        )
    return np.ascontiguousarray(values)


def _named(source: object) -> str:
    return "the image" if isinstance(source, np.ndarray | Image.Image) else name_of(cast("Source", source))


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
        size: (height, width), upright.
        orientation: EXIF's, 1 to 8; 1 is upright.
    """

    size: tuple[int, int]
    orientation: int = 1


def image_header(source: Source, *, max_pixels: int = MAX_PIXELS) -> ImageHeader:
    """Read the header of an image file, or of a mask in ``.npy``, which takes a fraction of a ms for any size.

    Raises:
        DataError: the file is missing, not an image, or holds more than ``max_pixels``.
    """
    with stream(source, max_pixels) as file:
        start = file.read(START)
        if is_npy(start):
            return ImageHeader(npy_size(start, name_of(source)))
        found = jpeg_size(start, file) if is_jpeg(start) else None
        height, width, orientation = found or _pillow_header(file, source, max_pixels)
    check_pixels(height, width, max_pixels, source)
    return ImageHeader((width, height) if orientation >= 5 else (height, width), orientation)


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) of an upright image file, from its header alone.

    Raises:
        DataError: as for :func:`image_header`.
    """
    return image_header(source, max_pixels=max_pixels).size


def pixel_count(source: Source, *, max_pixels: int = MAX_PIXELS) -> int:
    """The number of pixels of an image file, from the beginning of its header: never decodes it.

    Raises:
        DataError: as for :func:`image_header`.
    """
    with stream(source, max_pixels) as file:
        start = file.read(START)
        if is_jpeg(start) and (found := jpeg_size(start, file)):
            height, width, _ = found
        else:
            file.seek(0)
            with open_header(file, source, max_pixels) as picture:
                width, height = picture.size
    check_pixels(height, width, max_pixels, source)
    return height * width


def write_image(path: str | os.PathLike[str], pixels: UInt8, *, quality: int = 92) -> None:
    """Write uint8 pixels, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, atomically; the suffix decides the format.

    Raises:
        DataError: no format has this suffix, or the format cannot hold so many rows or columns.
    """
    write_bytes(path, encode_image(pixels, Path(path).suffix.lower(), quality=quality, name=path))


def encode_image(
    pixels: UInt8, suffix: str, *, quality: int = 92, bilevel: bool = False, name: str | os.PathLike[str] = "picture"
) -> bytes:
    """The bytes of an image file of such pixels; ``name`` begins the message of an error.

    Args:
        pixels: As for :func:`write_image`.
        suffix: In lower case.
        quality: Of a JPEG.
        bilevel: Store one bit a pixel, in a PNG.
        name: What the message of an error begins with.

    Raises:
        DataError: as for :func:`write_image`.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    height, width = pixels.shape[:2]
    jpeg = suffix in {".jpg", ".jpeg"}
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else [cv2.IMWRITE_PNG_BILEVEL, 1] if bilevel else []
    try:
        # For a JPEG that is too large, OpenCV would write a message to stderr.
        fits = not jpeg or max(height, width) <= _LONGEST_JPEG
        done, buffer = cv2.imencode(suffix, pixels, options) if fits else (False, pixels)
    except cv2.error:
        done = False
    if not done:
        raise DataError(
            f"{name}: {width} x {height} pixels cannot be written as {suffix!r}; expected .png or .jpg (at most "
            f"{_LONGEST_JPEG:,} pixels a side)"
        )
    return bytes(buffer)


def resize_image(image: NDArray[Pixel], size: tuple[int, int]) -> NDArray[Pixel]:
    """Bring an image, or a map, (H, W) or (H, W, C) to (height, width): by area where it shrinks, else bilinearly."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    if image.ndim == 3 and image.shape[2] > 4:  # by area OpenCV takes four at most
        parts = [resize_image(image[..., first : first + 4], size) for first in builtins.range(0, image.shape[2], 4)]
        return np.concatenate([part.reshape(height, width, -1) for part in parts], axis=2)
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cast("NDArray[Pixel]", cv2.resize(image, (width, height), interpolation=how))


def _pillow_header(file: BinaryIO, source: Source, limit: int) -> tuple[int, int, int]:
    """The height and the width as they are stored, and the orientation."""
    with open_header(file, source, limit) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # some versions of Pillow turn its size already
            width, height = picture.tag_v2[IMAGEWIDTH], picture.tag_v2[IMAGELENGTH]
        if isinstance(picture, PngImageFile) and _png_has_late_exif(file):
            with suppress(Exception):  # only the size is needed: damaged pixels do not matter
                picture.load()
        return height, width, orientation_of(picture)


def _png_has_late_exif(file: BinaryIO) -> bool:
    """Whether a PNG has EXIF or text behind its pixels."""
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
