"""Reading and writing of image files: the one place of the package that opens them.

A photo is a uint8 array (H, W, 3), RGB, upright; a mask is a uint8 array (H, W) of 0 and 1. Whatever bytes stand on
disk (JPEG, PNG, GIF, TIFF, WebP, BMP; grey, palette, alpha, CMYK, 16 bit, turned by EXIF), that is what comes out.
All of it may be called from many threads at once.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from carvana.data.pillow_limit import pillow_limit
from carvana.data.pixels import mask_values, object_of, to_rgb, turn
from carvana.errors import DataError
from carvana.files import atomic_path, write_bytes

Source = str | os.PathLike[str] | bytes
UInt8 = NDArray[np.uint8]

MAX_PIXELS = 300_000_000
"""Photos with more pixels than this are refused unless the caller allows more: a small file can claim any size."""

SUFFIXES = frozenset(
    ".avif .bmp .gif .jfif .jp2 .jpeg .jpg .pbm .pgm .png .pnm .ppm .tga .tif .tiff .webp".split()  # noqa: SIM905
)
"""What a folder is searched for, in lower case."""

_ORIENTATION = 0x0112  # EXIF tag, see JEITA CP-3451
_START = 1 << 16  # bytes of a file that hold the header of nearly every JPEG


def read_image(source: Source, *, at_least: tuple[int, int] | None = None, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read a photo.

    Args:
        source: A path, or the bytes of an image file.
        at_least: (height, width). Where the file allows it (JPEG), decode at an eighth, a quarter, ... of the size,
            but never below this one. It is faster by up to 8 times and changes the pixels a little, so it is for
            training, where the photo is shrunk anyway.
        max_pixels: Refuse photos that hold more pixels.

    Returns:
        uint8 (H, W, 3), RGB, turned upright as EXIF says. Transparent pixels show white.

    Raises:
        DataError: the file is missing, damaged, too large or no image.
    """
    data = _bytes(source)
    if _is_jpeg(data):
        height, width, space, _ = _jpeg_header(data, source)
        _check_pixels(height, width, max_pixels, source)
        if space != "CMYK":
            return _read_jpeg(data, source, at_least)
    with _open(data, source, max_pixels) as picture:
        return turn(to_rgb(picture), _orientation(picture))


def read_mask(source: Source, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read a mask: uint8 (H, W), 1 where the object is.

    Black is background. Files of 0/1, of 0/255, bilevel and palette files are all understood: where no value exceeds
    1, 1 is the object, else everything of more than half brightness (the brightest channel counts).

    Raises:
        DataError: the file is missing, damaged, too large or no image, or its values tell no object from background:
            none exceeds 1, yet none is bright either, as in files of 0/100 or of numbers of classes.
    """
    data = _bytes(source)
    with _open(data, source, max_pixels) as picture:
        values = turn(mask_values(picture), _orientation(picture))
    return object_of(values, _name(source))


def image_size(source: Source, *, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """The (height, width) of an upright image file, from its header alone: a file of any size takes a fraction of a ms.

    Raises:
        DataError: the file is missing, no image, or holds more than ``max_pixels``.
    """
    with _stream(source) as file:
        start = file.read(_START)
        if _is_jpeg(start):
            height, width, orientation = _jpeg_size(start, file, source)
        else:
            height, width, orientation = _pillow_size(file, source, max_pixels)
    _check_pixels(height, width, max_pixels, source)
    return (width, height) if orientation >= 5 else (height, width)


def write_image(path: str | os.PathLike[str], pixels: UInt8, *, quality: int = 92) -> None:
    """Write uint8 pixels, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, atomically; the suffix names the format.

    Raises:
        DataError: no format goes by this suffix, or it cannot hold so many rows or columns.
    """
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    jpeg = Path(path).suffix.lower() in {".jpg", ".jpeg"}
    _write(path, pixels, [cv2.IMWRITE_JPEG_QUALITY, quality] if jpeg else [])


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a mask (H, W), nonzero where the object is, as a 1-bit PNG (black and white), atomically."""
    white = (mask != 0).view(np.uint8) * np.uint8(255)
    _write(path, white, [cv2.IMWRITE_PNG_BILEVEL, 1], suffix=".png")


def write_palette_mask(path: str | os.PathLike[str], mask: UInt8) -> None:
    """Write a mask of 0/1 (H, W) as the competition's are: a GIF of indices 0 and 1, shown black and white."""
    picture = Image.fromarray(mask)
    picture.putpalette([0, 0, 0, 255, 255, 255])
    with atomic_path(path) as temporary:
        picture.save(temporary, format="GIF", optimize=False)


def shrink_mask(mask: UInt8, size: tuple[int, int], *, target: str = "coverage") -> UInt8:
    """Bring a mask of 0/1 to a training size, as uint8 (h, w) in 0..255: 255 times the share that the object covers.

    Args:
        mask: uint8 (H, W) of 0/1.
        size: (height, width).
        target: "coverage" averages over the area of each new pixel; "nearest" takes the old pixel at the corner of
            each new one, as OpenCV's INTER_NEAREST does and the seed's notebook did: 0 or 255 alone, and half a pixel
            beside its place, which caps what any network can reach (docs/explanation.md).
    """
    height, width = size
    if mask.shape == (height, width):
        return mask * np.uint8(255)
    if target == "nearest":
        nearest: UInt8 = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        return nearest * np.uint8(255)
    return resize_image(mask * np.uint8(255), size)


def resize_image(image: UInt8, size: tuple[int, int]) -> UInt8:
    """Bring an image (H, W) or (H, W, C) to ``size`` (height, width): by area where it shrinks, else bilinear."""
    height, width = size
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] >= height and image.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: UInt8 = cv2.resize(image, (width, height), interpolation=how)
    return resized


def _bytes(source: Source) -> bytes:
    with _stream(source) as file:
        return file.read()


@contextmanager
def _stream(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        with open(source, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error


def _name(source: Source) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def _check_pixels(height: int, width: int, limit: int, source: Source) -> None:
    if height * width > limit:
        raise _too_large(f"{width} x {height} pixels are", limit, source)


def _too_large(what: str, limit: int, source: Source) -> DataError:
    return DataError(
        f"{_name(source)}: {what} more than the limit of {limit:,} pixels (max_pixels; --max-pixels of carvana predict)"
    )


def _is_jpeg(data: bytes) -> bool:
    return data[:2] == b"\xff\xd8"


def _jpeg_header(data: bytes, source: Source) -> tuple[int, int, str, str]:
    try:
        return simplejpeg.decode_jpeg_header(data)  # type: ignore[no-any-return]
    except ValueError as error:
        raise DataError(f"{_name(source)}: damaged or cut JPEG ({error}); replace the file or leave it out") from error


def _jpeg_size(start: bytes, file: BinaryIO, source: Source) -> tuple[int, int, int]:
    """The height, the width and the orientation; the rest of the file is read only if its start does not tell."""
    try:
        header = _jpeg_header(start, source)
    except DataError:
        start += file.read()
        header = _jpeg_header(start, source)
    return header[0], header[1], _jpeg_orientation(start)


def _read_jpeg(data: bytes, source: Source, at_least: tuple[int, int] | None) -> UInt8:
    """Decode by libjpeg-turbo without a copy, about twice as fast as OpenCV's reader (docs/benchmarks.md)."""
    orientation = _jpeg_orientation(data)
    height, width = at_least or (0, 0)
    if orientation >= 5:
        height, width = width, height
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError as error:
        raise DataError(f"{_name(source)}: damaged or cut JPEG ({error}); replace the file or leave it out") from error
    return turn(image, orientation)


def _jpeg_orientation(data: bytes) -> int:
    # Both segments that may tell stand before the pixels and hold at most 64 KB each; most files have neither.
    if data.find(b"Exif\x00\x00", 0, 2 * _START) < 0 and data.find(b"tiff:Orientation", 0, 2 * _START) < 0:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return _orientation(picture)
    except Exception:  # libjpeg-turbo has read the header: what Pillow finds wrong with it does not matter
        return 1


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is damaged or says something else."""
    try:
        # Not the method that PNG files have of their own: it decodes all pixels to see whether EXIF stands behind them.
        orientation = int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes, and the pixels are sound
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _header(file: BinaryIO, source: Source, limit: int) -> Image.Image:
    try:
        with pillow_limit(limit):
            picture = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("it holds", limit, source) from error
    except Exception as error:  # as below
        raise DataError(f"{_name(source)}: no image; expected JPEG, PNG, GIF, TIFF, WebP or BMP") from error
    _check_pixels(picture.height, picture.width, limit, source)
    return picture


def _open(data: bytes, source: Source, limit: int) -> Image.Image:
    picture = _header(io.BytesIO(data), source, limit)
    try:
        with pillow_limit(limit):
            picture.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"{_name(source)}: damaged or cut ({error}); replace the file or leave it out") from error
    return picture


def _pillow_size(file: BinaryIO, source: Source, limit: int) -> tuple[int, int, int]:
    """The height and the width as they are stored, and the orientation."""
    with _header(file, source, limit) as picture:
        width, height = picture.size
        if isinstance(picture, TiffImageFile):  # whose size is turned already in some versions of Pillow
            width, height = picture.tag_v2[IMAGEWIDTH], picture.tag_v2[IMAGELENGTH]
        if isinstance(picture, PngImageFile) and _png_tells_late(file):
            with suppress(Exception):  # a size is asked for: pixels that are damaged do not matter
                picture.load()
        return height, width, _orientation(picture)


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


def _write(path: str | os.PathLike[str], pixels: UInt8, options: list[int], *, suffix: str | None = None) -> None:
    suffix = suffix or Path(path).suffix.lower()
    try:
        done, buffer = cv2.imencode(suffix, pixels, options)
    except cv2.error:
        done = False
    if not done:
        height, width = pixels.shape[:2]
        raise DataError(f"{path}: no file for {width} x {height} pixels ends in {suffix!r}; expected .png or .jpg")
    write_bytes(path, bytes(buffer))
