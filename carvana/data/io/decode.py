"""Opens files, bytes and open files of images with Pillow, and of arrays with NumPy, within limits of size."""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile

from carvana.data.io.convert import check_pages
from carvana.data.io.jpeg import check_scans
from carvana.errors import DataError, ImageTooLargeError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO
"""A path, the bytes of a file, or an open file."""

MAX_PIXELS = 300_000_000
"""Images with more pixels are refused unless the caller allows more: a small file can claim any size."""

_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
"""The formats that Pillow may use, whatever the name of the file. It has 40 more, one of which runs Ghostscript."""

JPEG_FORMATS = "JPEG", "MPO"
"""What Pillow calls a JPEG: one picture, or several in a file, as some phones write."""

_LONGEST_NAME = 4096  # characters of a path, on most systems

_BYTES_A_PIXEL, _BYTES_BESIDE = 8, 2**24  # four channels of 16 bits, not compressed; colour profiles and the like

TIFF_STARTS = b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"
"""The first four bytes of a TIFF: of either order of bytes, and of either size of file."""

ZIP = b"PK\3\4"
"""How an .npz begins."""

logging.getLogger("PIL.TiffImagePlugin").addHandler(logging.NullHandler())  # what it cannot read becomes a DataError

_REFUSED = "not an image; expected JPEG, PNG, GIF, TIFF, WebP or BMP"
_TIFF_REFUSED = (
    "a TIFF that Pillow cannot read: damaged, or neither grey, RGB nor RGBA of 8 or 16 bits; the packages of pip "
    "install 'carvana[tiff]' read other bands and bits"
)


class UnknownTiffError(DataError):
    """A TIFF that Pillow does not know; tifffile may."""


def read_bytes(source: Source, limit: int) -> bytes:
    """All bytes of a source; a DataError as for :func:`stream`."""
    with stream(source, limit) as file:
        return file.read()


@contextmanager
def stream(source: Source, limit: int) -> Iterator[BinaryIO]:
    """A source as an open file; a DataError if it cannot be read, or takes more bytes than ``limit`` pixels can."""
    if not isinstance(source, str | os.PathLike):
        data = _bytes_of(source)
        _check_bytes(len(data), source, limit)
        yield io.BytesIO(data)
        return
    try:
        check_regular(source)
        with open(source, "rb") as file:
            _check_bytes(os.fstat(file.fileno()).st_size, source, limit)
            yield file
    except OSError as error:
        raise DataError(f"{name_of(source)}: cannot be read: {error.strerror or error}") from error


def check_regular(source: str | os.PathLike[str]) -> None:
    """Refuse a pipe, a socket or a device, from which reading may never end, or never begin.

    Raises:
        DataError: it is one of these, or no file can have such a name.
        OSError: there is no such file.
    """
    try:
        mode = os.stat(source).st_mode  # noqa: PTH116 - a str will do
    except ValueError as error:  # a zero byte, or half of a character
        raise DataError(f"{name_of(source)!r}: no file has such a name") from error
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # opening a folder gives its own error
        raise DataError(f"{source}: is a pipe or a device; expected an image file")


def name_of(source: Source) -> str:
    """The name of a source in messages."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source)} bytes"
    if isinstance(source, str | os.PathLike):
        name = str(source)
        return name if len(name) <= _LONGEST_NAME else f"{name[:60]}...{name[-60:]}"
    return str(getattr(source, "name", "an open file"))


def heif_is_installed() -> bool:
    """Whether pillow-heif is there, which reads the images of iPhones."""
    return find_spec("pillow_heif") is not None


@cache
def formats() -> tuple[str, ...]:
    """What Pillow calls the formats that are read; HEIF where pillow-heif is installed."""
    if not heif_is_installed():
        return _FORMATS
    import pillow_heif

    pillow_heif.register_heif_opener()
    return (*_FORMATS, "HEIF")


def check_pixels(height: int, width: int, limit: int, source: Source) -> None:
    """Raise a DataError for a picture of more pixels than ``limit``."""
    if height * width > limit:
        raise too_large(f"{width} x {height} pixels are", limit, source)


def too_large(what: str, limit: int, source: Source) -> DataError:
    """The error about an image that is too large: ``what`` it has, and the limit."""
    return ImageTooLargeError(
        f"{name_of(source)}: {what} more than the limit of {limit:,} pixels (max_pixels, --max-pixels)"
    )


def open_header(file: BinaryIO, source: Source, limit: int, *, one_page: bool = True) -> Image.Image:
    """A picture of which only the header is read.

    Raises:
        DataError: it is not an image, has too many pixels, or is one of many pages of a TIFF, unless these are known.
    """
    try:
        with _pillow_limit(limit):
            picture = Image.open(file, formats=formats())
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large("it holds", limit, source) from error
    except UnidentifiedImageError as error:
        file.seek(0)
        is_tiff = file.read(4) in TIFF_STARTS
        if is_tiff:
            raise UnknownTiffError(f"{name_of(source)}: {_TIFF_REFUSED}") from error
        raise DataError(f"{name_of(source)}: {_REFUSED}") from error
    except Exception as error:  # as below
        raise DataError(
            f"{name_of(source)}: cannot be read ({_why(error)}); replace the file or leave it out"
        ) from error
    check_pixels(picture.height, picture.width, limit, source)
    if one_page and isinstance(picture, TiffImageFile):
        check_pages(picture, name_of(source))
    return picture


def open_picture(data: bytes, source: Source, limit: int) -> Image.Image:
    """A picture with its pixels; a DataError if it is damaged, not an image, or has too many of them."""
    picture = open_header(io.BytesIO(data), source, limit)
    if picture.format in JPEG_FORMATS:
        check_scans(data, name_of(source))
    try:
        with _pillow_limit(limit):
            picture.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise DataError(
            f"{name_of(source)}: damaged or cut ({_why(error)}); replace the file or leave it out"
        ) from error
    return picture


def is_npy(data: bytes) -> bool:
    """Whether these first bytes are those of a NumPy array file."""
    return data[:6] == np.lib.format.MAGIC_PREFIX


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and the type of an array in NumPy's format; raises nearly anything on damaged bytes."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def npy_size(start: bytes, name: str) -> tuple[int, int]:
    """The (height, width) of a mask in NumPy's format, from the first bytes of its file.

    Raises:
        DataError: it is not one value a pixel.
    """
    try:
        shape, kind = npy_header(io.BytesIO(start))
    except Exception as error:
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
    values = values.reshape(size)
    return values.view(np.uint8) if values.dtype == np.bool_ else values


_limits: list[int] = []  # of the threads that read
_limits_lock = threading.Lock()
_pillows_own: tuple[int | None, int] = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK


@contextmanager
def _pillow_limit(limit: int) -> Iterator[None]:
    """Let Pillow, which refuses 179 million pixels and warns from 89 on, read what our own limit allows.

    Its limit is one variable of the process. It is raised while any thread reads, to the largest limit among those
    threads, and then put back. It is never removed: some formats allocate the picture before its size can be checked.

    Meanwhile a text in a PNG may have 64 MiB, where Pillow stops at 1: cameras and editors keep whole histories there.
    """
    global _pillows_own
    with _limits_lock:
        if not _limits:
            _pillows_own = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
            PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
        _limits.append(limit)
        Image.MAX_IMAGE_PIXELS = max(_limits)
    try:
        yield
    finally:
        with _limits_lock:
            _limits.remove(limit)
            if _limits:
                Image.MAX_IMAGE_PIXELS = max(_limits)
            else:
                Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = _pillows_own


def _why(error: Exception) -> str:
    """The message of a decoder, in one line."""
    return " ".join(str(error).split())


def _bytes_of(source: object) -> bytes:
    """The bytes of a bytes-like object, or those that an open file has left."""
    if isinstance(source, bytes | bytearray | memoryview):
        return bytes(source)
    try:
        data = "" if isinstance(source, io.TextIOBase) else source.read()  # type: ignore[attr-defined]
    except (AttributeError, io.UnsupportedOperation):
        raise DataError(
            f"{type(source).__name__} is not an image; expected a path, bytes, a file that is open to be read, a PIL"
            " image, an array or a tensor"
        ) from None
    except ValueError as error:  # it is closed
        raise DataError(f"{name_of(source)}: cannot be read ({error})") from error  # type: ignore[arg-type]
    if not isinstance(data, bytes):
        raise DataError(f"{name_of(source)}: open as text; open an image file with mode 'rb'")  # type: ignore[arg-type]
    return data


def _check_bytes(size: int, source: Source, limit: int) -> None:
    most = _BYTES_A_PIXEL * limit + _BYTES_BESIDE
    if size > most:
        raise ImageTooLargeError(
            f"{name_of(source)}: {size:,} bytes are more than a picture of {limit:,} pixels takes (max_pixels, "
            "--max-pixels)"
        )
