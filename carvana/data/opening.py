"""Sources of pictures, a path or bytes, and how Pillow opens them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from PIL import Image

from carvana.data.pillow_limit import pillow_limit
from carvana.errors import DataError

Source = str | os.PathLike[str] | bytes

_ORIENTATION = 0x0112  # EXIF tag, see JEITA CP-3451


def read_bytes(source: Source) -> bytes:
    """All bytes of a source; a DataError if it cannot be read."""
    with stream(source) as file:
        return file.read()


@contextmanager
def stream(source: Source) -> Iterator[BinaryIO]:
    """A source as an open file; a DataError if it cannot be read."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        with open(source, "rb") as file:
            yield file
    except OSError as error:
        raise DataError(f"{source}: cannot be read: {error.strerror or error}") from error


def name_of(source: Source) -> str:
    """What a source is called in a message."""
    return f"{len(source)} bytes" if isinstance(source, bytes) else str(source)


def check_pixels(height: int, width: int, limit: int, source: Source) -> None:
    """Raise a DataError for a picture of more pixels than ``limit``."""
    if height * width > limit:
        raise _too_large(f"{width} x {height} pixels are", limit, source)


def open_header(file: BinaryIO, source: Source, limit: int) -> Image.Image:
    """A picture of which Pillow has read the header alone; a DataError if it is none, or holds too many pixels."""
    try:
        with pillow_limit(limit):
            picture = Image.open(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("it holds", limit, source) from error
    except Exception as error:  # as below
        raise DataError(f"{name_of(source)}: no image; expected JPEG, PNG, GIF, TIFF, WebP or BMP") from error
    check_pixels(picture.height, picture.width, limit, source)
    return picture


def open_picture(data: bytes, source: Source, limit: int) -> Image.Image:
    """A picture with its pixels; a DataError if it is damaged, none at all, or holds too many of them."""
    picture = open_header(io.BytesIO(data), source, limit)
    try:
        with pillow_limit(limit):
            picture.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(f"{name_of(source)}: damaged or cut ({error}); replace the file or leave it out") from error
    return picture


def orientation_of(picture: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 (upright) where EXIF is damaged or says something else."""
    try:
        # Not the method that PNG files have of their own: it decodes all pixels to see whether EXIF stands behind them.
        orientation = int(Image.Image.getexif(picture).get(_ORIENTATION, 1))
    except Exception:  # Pillow's parser raises nearly anything on damaged bytes, and the pixels are sound
        return 1
    return orientation if 1 <= orientation <= 8 else 1


def _too_large(what: str, limit: int, source: Source) -> DataError:
    return DataError(
        f"{name_of(source)}: {what} more than the limit of {limit:,} pixels "
        "(max_pixels; --max-pixels of carvana predict)"
    )
