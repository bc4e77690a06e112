"""Reading and writing of image files: the one place of the package that opens them.

A photo is a uint8 array (H, W, 3), RGB, upright; a mask is a uint8 array (H, W) of 0 and 1. Whatever bytes stand on
disk (JPEG, PNG, GIF, TIFF, WebP, BMP; grey, palette, alpha, CMYK, 16 bit, turned by EXIF), that is what comes out.
"""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, ImageOps

from carvana.errors import DataError
from carvana.files import write_bytes

Source = str | os.PathLike[str] | bytes
UInt8 = NDArray[np.uint8]

MAX_PIXELS = 300_000_000
"""Photos with more pixels than this are refused unless the caller allows more: a small file can claim any size."""

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".gif", ".tif", ".tiff", ".webp", ".bmp", ".ppm"})
"""What a folder is searched for, in lower case."""

_ORIENTATION = 0x0112  # EXIF tag, see JEITA CP-3451


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
    if data[:2] == b"\xff\xd8":
        height, width, space, _ = _jpeg_header(data, source)
        _check_pixels(height, width, max_pixels, source)
        if space != "CMYK":
            return _read_jpeg(data, source, at_least)
    with _open(data, source, max_pixels) as picture:
        return _to_rgb(_upright(picture))


def read_mask(source: Source, *, max_pixels: int = MAX_PIXELS) -> UInt8:
    """Read a mask: uint8 (H, W), 1 where the object is.

    Black is background. Files of 0/1, of 0/255, bilevel and palette files are all understood: where no value exceeds
    1, 1 is the object, else everything of at least half brightness (the brightest channel counts).

    Raises:
        DataError: the file is missing, damaged, too large or no image.
    """
    data = _bytes(source)
    with _open(data, source, max_pixels) as picture:
        values = _mask_values(_upright(picture))
    if values.max(initial=0) <= 1:
        return values
    return (values > 127).view(np.uint8)


def image_size(source: Source) -> tuple[int, int]:
    """The (height, width) of an upright image file, from its header alone."""
    with _header(_bytes(source), source, MAX_PIXELS) as picture:
        width, height = picture.size
        turned = picture.getexif().get(_ORIENTATION, 1) >= 5
    return (width, height) if turned else (height, width)


def write_image(path: str | os.PathLike[str], pixels: UInt8, *, quality: int = 92) -> None:
    """Write uint8 pixels, (H, W) grey, (H, W, 3) RGB or (H, W, 4) RGBA, atomically; the suffix names the format."""
    suffix = Path(path).suffix.lower()
    if pixels.ndim == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA)
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix in {".jpg", ".jpeg"} else []
    write_bytes(path, _encode(suffix, pixels, options))


def write_mask(path: str | os.PathLike[str], mask: NDArray[np.uint8] | NDArray[np.bool_]) -> None:
    """Write a mask (H, W), nonzero where the object is, as a 1-bit PNG (black and white), atomically."""
    white = (mask != 0).view(np.uint8) * np.uint8(255)
    write_bytes(path, _encode(".png", white, [cv2.IMWRITE_PNG_BILEVEL, 1]))


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
    if isinstance(source, bytes):
        return source
    try:
        return Path(source).read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error


def _name(source: Source) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def _check_pixels(height: int, width: int, limit: int, source: Source) -> None:
    if height * width > limit:
        raise DataError(
            f"{_name(source)}: {width} x {height} pixels are more than the limit of {limit:,}; "
            "allow more with --max-pixels if the photo is meant"
        )


def _jpeg_header(data: bytes, source: Source) -> tuple[int, int, str, str]:
    try:
        return simplejpeg.decode_jpeg_header(data)  # type: ignore[no-any-return]
    except ValueError as error:
        raise DataError(f"{_name(source)}: damaged or cut JPEG ({error}); replace the file or leave it out") from error


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
    return _turn(image, orientation)


def _jpeg_orientation(data: bytes) -> int:
    if data.find(b"Exif\x00\x00", 0, 1 << 16) < 0:
        return 1
    with Image.open(io.BytesIO(data)) as picture:
        return int(picture.getexif().get(_ORIENTATION, 1))


def _turn(image: UInt8, orientation: int) -> UInt8:
    """Undo an EXIF orientation (1 to 8, the same turns as Pillow's exif_transpose)."""
    turned = {
        2: lambda: image[:, ::-1],
        3: lambda: image[::-1, ::-1],
        4: lambda: image[::-1],
        5: lambda: image.transpose(1, 0, 2),
        6: lambda: image[::-1].transpose(1, 0, 2),
        7: lambda: image[::-1, ::-1].transpose(1, 0, 2),
        8: lambda: image[:, ::-1].transpose(1, 0, 2),
    }.get(orientation, lambda: image)()
    return np.ascontiguousarray(turned)


def _header(data: bytes, source: Source, limit: int) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns from 89 million pixels on; our own limit, checked below, is the one that counts.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise DataError(f"{_name(source)}: {error}") from error
    except (OSError, ValueError, SyntaxError) as error:
        raise DataError(f"{_name(source)}: no image; expected JPEG, PNG, GIF, TIFF, WebP or BMP") from error
    _check_pixels(picture.height, picture.width, limit, source)
    return picture


def _open(data: bytes, source: Source, limit: int) -> Image.Image:
    picture = _header(data, source, limit)
    try:
        picture.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"{_name(source)}: damaged or cut ({error}); replace the file or leave it out") from error
    return picture


def _upright(picture: Image.Image) -> Image.Image:
    if picture.getexif().get(_ORIENTATION, 1) == 1:
        return picture
    return ImageOps.exif_transpose(picture)


def _to_rgb(picture: Image.Image) -> UInt8:
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        grey = _eight_bit(np.asarray(picture))
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.array(picture.convert("RGB"))


def _mask_values(picture: Image.Image) -> UInt8:
    if picture.mode == "P":
        return _palette_values(picture)
    if picture.mode == "1":
        return np.asarray(picture).view(np.uint8)
    if picture.mode == "L":
        return np.array(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture)
        return values.astype(np.uint8) if values.max(initial=0) <= 1 else _eight_bit(values)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, "black")
        picture = Image.alpha_composite(black, picture)
    brightest: UInt8 = np.asarray(picture.convert("RGB")).max(axis=2)
    return brightest


def _palette_values(picture: Image.Image) -> UInt8:
    """Indices looked up in the palette's brightest channel; the bare indices where the palette tells nothing apart."""
    indices = np.array(picture)
    palette = np.zeros(768, np.uint8)
    colours = picture.getpalette() or []
    palette[: len(colours)] = colours
    brightness = palette.reshape(256, 3).max(axis=1)
    if len(np.unique(brightness[: indices.max(initial=0) + 1])) == 1:
        return indices
    if brightness[0] == 0 and brightness[1] > 127 and indices.max(initial=0) <= 1:
        return indices  # Carvana's own files: no look-up needed
    values: UInt8 = cv2.LUT(indices, brightness)
    return values


def _eight_bit(values: NDArray[np.generic]) -> UInt8:
    """16-bit values (0..65535) to 8 bits; what stays under 256 already is kept."""
    wide = np.clip(values, 0, 65535)
    if wide.max(initial=0) > 255:
        wide = wide / 257
    return np.asarray(wide + 0.5).astype(np.uint8)


def _encode(suffix: str, pixels: NDArray[np.uint8], options: list[int]) -> bytes:
    done, buffer = cv2.imencode(suffix, pixels, options)
    if not done:
        raise DataError(f"{suffix}: no format that images can be written in; expected .png or .jpg")
    return bytes(buffer)
