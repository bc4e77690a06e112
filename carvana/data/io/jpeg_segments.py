"""The segments of a JPEG file, and the number of its scans (ITU-T T.81, annex B)."""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_SCANS = 100
"""Usual files have at most 10 scans; a hostile one of a megabyte has enough to decode for hours."""

_SCAN, _END = 0xDA, 0xD9
_ALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a segment
_IN_PIXELS = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")  # a marker that ends compressed pixels


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments before the first compressed pixels, the header of the first scan last.

    Bytes between segments are skipped, as decoders do.

    Args:
        data: A JPEG file, or its beginning.

    Yields:
        The marker's second byte, and where the segment's content begins and ends in the file.
    """
    place = 2
    while (place := data.find(b"\xff", place)) >= 0 and place + 4 <= len(data):
        kind = data[place + 1]
        if kind in (0x00, 0xFF):  # not a marker, or one that begins a byte later
            place += 1
        elif kind in _ALONE:
            place += 2
        elif kind == _END:
            return
        else:
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
            yield kind, place + 4, end
            if kind == _SCAN:
                return
            place = max(end, place + 2)


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
