"""JPEG by libjpeg-turbo: headers, and pixels at full or at reduced size."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from carvana.data.opening import Source, check_scans, name_of, orientation_of
from carvana.data.pixels import turn
from carvana.errors import DataError

UInt8 = NDArray[np.uint8]

START = 1 << 16
"""Bytes of a file that hold the header of nearly every JPEG."""


def is_jpeg(data: bytes) -> bool:
    """Whether a file that begins so is a JPEG."""
    return data[:2] == b"\xff\xd8"


def jpeg_header(data: bytes, source: Source) -> tuple[int, int, str, str]:
    """Height and width as they are stored, colour space and its subsampling; a DataError if the header is damaged."""
    try:
        return simplejpeg.decode_jpeg_header(data)  # type: ignore[no-any-return]
    except ValueError as error:
        raise DataError(
            f"{name_of(source)}: damaged or cut JPEG ({error}); replace the file or leave it out"
        ) from error


def jpeg_size(start: bytes, file: BinaryIO, source: Source) -> tuple[int, int, int]:
    """The height, the width and the orientation; the rest of the file is read only if its start does not tell."""
    try:
        header = jpeg_header(start, source)
    except DataError:
        start += file.read()
        header = jpeg_header(start, source)
    return header[0], header[1], _orientation(start)


def read_jpeg(data: bytes, source: Source, at_least: tuple[int, int] | None) -> UInt8:
    """An upright RGB photo, not below ``at_least``; about twice as fast as by OpenCV (docs/benchmarks.md)."""
    check_scans(data, source)
    orientation = _orientation(data)
    height, width = at_least or (0, 0)
    if orientation >= 5:
        height, width = width, height
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError as error:
        raise DataError(
            f"{name_of(source)}: damaged or cut JPEG ({error}); replace the file or leave it out"
        ) from error
    return turn(image, orientation)


def _orientation(data: bytes) -> int:
    # Both segments that may tell stand before the pixels and hold at most 64 KB each; most files have neither.
    if data.find(b"Exif\x00\x00", 0, 2 * START) < 0 and data.find(b"tiff:Orientation", 0, 2 * START) < 0:
        return 1
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return orientation_of(picture)
    except Exception:  # libjpeg-turbo has read the header: what Pillow finds wrong with it does not matter
        return 1
