"""JPEG by libjpeg-turbo: headers, and pixels at full or at reduced size (ITU-T T.81, annex B, has the markers)."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

import simplejpeg
from PIL import Image

from carvana.data.io.convert import UInt8, orientation_of, turn
from carvana.errors import DataError

START = 1 << 16
"""Bytes of a file that hold the header of nearly every JPEG."""

MOST_SCANS = 100
"""Usual files have at most 10 scans; a hostile one of a megabyte has enough to decode for hours."""

_SCAN, _END, _EXIF_OR_XMP = 0xDA, 0xD9, 0xE1
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_MARKER = re.compile(rb"\xff+[^\x00\xff]")
_IN_PIXELS = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that ends compressed pixels


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
    if not any(kind == _SCAN for kind, _, _ in segments(start)):  # size or EXIF may follow later
        start += file.read()
    header = jpeg_header(start) or jpeg_header(start := without_junk(start))  # as it will be read
    return None if header is None else (header[0], header[1], _orientation(start))


def read_jpeg(data: bytes, space: str, name: str, at_least: tuple[int, int] | None) -> UInt8 | None:
    """An upright RGB image, not below ``at_least``; about twice as fast as by OpenCV (docs/benchmarks.md).

    None if the decoder fails for another reason than missing data: Pillow may read it, or give a better message. None
    for CMYK, too, which Pillow converts; but Pillow fills it with grey if it is cut short and its end is there.

    Args:
        data: The file.
        space: The colour space that its header names.
        name: What messages begin with.
        at_least: The (height, width) that is needed.

    Raises:
        DataError: the file is cut short, or would take the decoder very long.
    """
    check_scans(data, name)
    orientation = _orientation(data)
    height, width = at_least or (0, 0)
    if orientation >= 5:
        height, width = width, height
    is_cmyk = space == "CMYK"
    try:
        image = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB", min_height=height, min_width=width)
    except MemoryError:
        raise
    except Exception as error:  # it raises more than it documents, and its warnings too
        if "premature end" in str(error).lower():  # which Pillow would fill with grey
            raise DataError(f"{name}: damaged or cut JPEG ({error}); replace the file or leave it out") from error
        return None
    return None if is_cmyk else turn(image, orientation)


def check_scans(data: bytes, name: str) -> None:
    """Raise a DataError for a JPEG that would take its decoder very long; ``name`` begins the message."""
    scans = count_scans(data)
    if scans > MOST_SCANS:
        raise DataError(
            f"{name}: a JPEG of {scans:,} scans, which take very long; expected {MOST_SCANS} at the most; replace the "
            "file or leave it out"
        )


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments before the first compressed pixels, the header of the first scan last.

    Bytes between segments are skipped, as decoders do.

    Args:
        data: A JPEG file, or its beginning.

    Yields:
        The marker's second byte, and where the segment's content begins and ends in the file.
    """
    place = 2
    while (found := _MARKER.search(data, place)) is not None and found.end() + 2 <= len(data):
        kind, place = data[found.end() - 1], found.end()
        if kind == _END:
            return
        if kind not in _ALONE:
            end = place + int.from_bytes(data[place : place + 2])
            yield kind, place + 2, end
            if kind == _SCAN:
                return
            place = max(end, place)


def without_junk(data: bytes) -> bytes:
    """The file without bytes between its first segments, whose warning would hide that of an early end."""
    found = list(segments(data))
    if not found or found[-1][0] != _SCAN:
        return data
    return b"".join([data[:2], *(data[begin - 4 : end] for _, begin, end in found), data[found[-1][2] :]])


def count_scans(data: bytes) -> int:
    """The number of scans of the picture in a JPEG file; what follows its end, such as a video, does not count."""
    components, place = 0, len(data)
    for kind, begin, end in segments(data):
        if kind in (0xC0, 0xC1) and begin + 5 < len(data):  # not progressive
            components = data[begin + 5]
        elif kind == _SCAN and begin < len(data):
            if data[begin] == components:  # the only scan: to search for more is a hundred times slower
                return 1
            place = end
    scans = int(place < len(data))
    while (found := _IN_PIXELS.search(data, place)) is not None:
        kind = data[found.end() - 1]
        if kind == _END:
            break
        scans += kind == _SCAN
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2])
    return scans


def _orientation(data: bytes) -> int:
    if not any(kind == _EXIF_OR_XMP for kind, _, _ in segments(data)):
        return 1  # as in most files
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return orientation_of(picture)
    except Exception:  # libjpeg-turbo has read the header, so that errors of Pillow do not matter
        return 1
