"""JPEG by libjpeg-turbo: headers, and pixels at full or at reduced size."""

from __future__ import annotations

import io
from typing import BinaryIO

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from carvana.data.io.convert import orientation_of, turn
from carvana.data.io.decode import Source, check_scans, name_of
from carvana.data.io.jpeg_segments import segments
from carvana.errors import DataError

UInt8 = NDArray[np.uint8]

START = 1 << 16
"""Bytes of a file that hold the header of nearly every JPEG."""


def is_jpeg(data: bytes) -> bool:
    """Whether a file that begins so is a JPEG."""
    return data[:2] == b"\xff\xd8"


def jpeg_header(data: bytes) -> tuple[int, int, str, str] | None:
    """Height and width as they are stored, colour space and its subsampling.

    None if libjpeg-turbo's interface refuses it: the header is damaged, or its subsampling has no name there, which
    Pillow reads.
    """
    try:
        return simplejpeg.decode_jpeg_header(data)  # type: ignore[no-any-return]
    except (ValueError, KeyError):
        return None


def jpeg_size(start: bytes, file: BinaryIO) -> tuple[int, int, int] | None:
    """The height, the width and the orientation; the rest of the file is read only if its start is not enough.

    None as for :func:`jpeg_header`.
    """
    header = jpeg_header(start)
    if header is None or not any(kind == 0xDA for kind, _, _ in segments(start)):  # EXIF may follow later
        start += file.read()
        header = jpeg_header(start)
    return None if header is None else (header[0], header[1], _orientation(start))


def read_jpeg(data: bytes, source: Source, at_least: tuple[int, int] | None) -> UInt8 | None:
    """An upright RGB image, not below ``at_least``; about twice as fast as by OpenCV (docs/benchmarks.md).

    None if the decoder fails for another reason than missing data: Pillow may read it, or give a better message.

    Raises:
        DataError: the file is cut short, or would take the decoder very long.
    """
    check_scans(data, source)
    orientation = _orientation(data)
    height, width = at_least or (0, 0)
    if orientation >= 5:
        height, width = width, height
    image = _decode(data, "RGB", source, height, width)
    return None if image is None else turn(image, orientation)


def check_complete(data: bytes, source: Source) -> None:
    """Raise a DataError for a JPEG in CMYK that is cut short: Pillow would fill it with grey if its end is there."""
    check_scans(data, source)
    _decode(data, "CMYK", source)


def _decode(data: bytes, colors: str, source: Source, min_height: int = 0, min_width: int = 0) -> UInt8 | None:
    """The pixels as they are stored; None if the decoder's first warning is not that the data end early."""
    try:
        return simplejpeg.decode_jpeg(data, colors, min_height=min_height, min_width=min_width)  # type: ignore[no-any-return]
    except MemoryError:
        raise
    except Exception as error:  # it raises more than it documents
        if "premature end" in str(error).lower():  # which Pillow would fill with grey
            raise DataError(
                f"{name_of(source)}: damaged or cut JPEG ({error}); replace the file or leave it out"
            ) from error
        return None


def _orientation(data: bytes) -> int:
    if not any(kind == 0xE1 and _may_have_orientation(data[begin:end]) for kind, begin, end in segments(data)):
        return 1  # as in most files
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return orientation_of(picture)
    except Exception:  # libjpeg-turbo has read the header, so that errors of Pillow do not matter
        return 1


def _may_have_orientation(segment: bytes) -> bool:
    return segment.startswith(b"Exif\x00\x00") or b"tiff:Orientation" in segment
