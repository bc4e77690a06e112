"""Masks in GIF files, the competition's format, straight to runs: about eight times as fast as decoding all pixels.

GIF compresses by LZW (Welch 1984, https://doi.org/10.1109/MC.1984.1659158; the layout is that of the GIF89a
specification, https://www.w3.org/Graphics/GIF/spec-gif89a.txt). A code stands for a string of pixels: one that an
earlier code stood for, and one pixel more. Nothing here goes from code to code, since

- the width of a code depends on its place behind the last clear code alone, so all are unpacked at once;
- codes and their *parents* (the codes whose strings they continue) form trees, so the lengths of all strings are the
  depths in those trees, found by pointer doubling (Hillis & Steele 1986, https://doi.org/10.1145/7902.7903);
- of a mask of two values only the changes count, and a code's changes are those of its ancestors that end on one.

All other files, and damaged ones, are left to Pillow and its messages.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.runs import Int64, Runs

MOST_CHANGES = 1 << 15
"""Masks with more changes than this (an outline has some 3,000) are noise, and faster as pixels."""

_TABLE = 4096  # codes that a table holds, and that are unpacked at a time
_MOST_PARTS = 16  # clear codes and full tables: with many of them, one by one is faster
_TIMING = b"\x21\xf9\x04"  # an extension that may declare transparency
_COLOUR_PROFILE = b"\x21\xff\x0bICCRGBG1012"  # one that some of the competition's masks have, without effect


def read_runs(data: bytes, *, max_pixels: int) -> Runs | None:
    """The mask that a GIF file holds: 1 where the pixels have the index 1.

    Args:
        data: A file.
        max_pixels: Files of more pixels are left alone.

    Returns:
        None unless the file is plain and whole: one picture that fills the screen, indices 0 and 1, a palette whose
        first colour is black and whose second is bright, no transparency, not interlaced.
    """
    try:
        found = _picture(data)
    except (IndexError, struct.error):  # the file ends where more was to come
        return None
    if found is None:
        return None
    (height, width), bits, stream = found
    if not 0 < height * width <= max_pixels:
        return None
    unpacked = _unpacked(stream, bits)
    changes = None if unpacked is None else _changes(*unpacked, bits, height * width)
    return None if changes is None else Runs((height, width), changes)


def _picture(data: bytes) -> tuple[tuple[int, int], int, bytes] | None:
    """(height, width), the bits of an index and the compressed indices."""
    if data[:6] not in (b"GIF87a", b"GIF89a"):
        return None
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    if not flags & 0x80 or any(data[13:16]) or max(data[16:19], default=0) < 128:
        return None
    place = 13 + 3 * (2 << (flags & 7))
    while data[place] == 0x21:
        opaque = data.startswith(_TIMING, place) and not data[place + 3] & 1
        if not opaque and not data.startswith(_COLOUR_PROFILE, place):
            return None
        _, place = _blocks(data, place + 2)
    kind, left, top, columns, rows, flags, bits = struct.unpack_from("<BHHHHBB", data, place)
    if (kind, left, top, columns, rows, flags & 0xC0) != (0x2C, 0, 0, width, height, 0) or not 2 <= bits <= 8:
        return None
    stream, place = _blocks(data, place + 11)
    return ((height, width), bits, stream) if data[place] == 0x3B else None


def _blocks(data: bytes, place: int) -> tuple[bytes, int]:
    """The contents of the blocks that begin at ``place``, and the place behind them."""
    blocks = []
    while size := data[place]:
        blocks.append(data[place + 1 : place + 1 + size])
        place += 1 + size
    return b"".join(blocks), place + 1


@lru_cache
def _layout(bits: int) -> tuple[Int64, Int64]:
    """Where the codes behind a clear code begin, in bits, (4097,), and the bits that each has set at most, (4096,)."""
    entries = (1 << bits) + 2 + np.maximum(np.arange(_TABLE) - 1, 0)  # in the table when the code is read
    return _widths_layout(np.minimum(np.frexp(entries)[1], 12).astype(np.int64))


@lru_cache
def _full_layout() -> tuple[Int64, Int64]:
    """The same for the codes that follow on a full table."""
    return _widths_layout(np.full(_TABLE, 12, np.int64))


def _widths_layout(widths: Int64) -> tuple[Int64, Int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)]), (1 << widths) - 1


def _unpacked(stream: bytes, bits: int) -> tuple[Int64, Int64] | None:
    """All codes but clear and end, and for each the index of the first one behind the clear code before it."""
    if not 2 <= len(stream) <= _MOST_PARTS * _TABLE * 12 // 8:  # more than all parts take: memory is not spent on it
        return None
    octets = np.frombuffer(stream + b"\0\0", np.uint8).astype(np.int64)
    windows = octets[:-2] | octets[1:-1] << 8 | octets[2:] << 16  # the three bytes in which a code lies
    clear, at, length = 1 << bits, bits + 1, 8 * len(stream)
    if windows[0] & ((2 << bits) - 1) != clear:
        return None
    parts: list[Int64] = []
    first, firsts, count = 0, [], 0
    starts, most = _layout(bits)
    for _ in range(_MOST_PARTS):
        whole = int(np.searchsorted(starts, length - at, "right")) - 1
        places = starts[:whole] + at
        codes = windows.take(places >> 3) >> (places & 7) & most[:whole]
        stops = np.flatnonzero(codes >> 1 == clear >> 1)  # clear, or end, which is one more
        if not stops.size and whole < _TABLE:
            return None
        stop = int(stops[0]) if stops.size else _TABLE
        parts.append(codes[:stop])
        firsts.append(np.full(stop, first))
        count += stop
        if not stops.size:
            at += int(starts[-1])
            starts, most = _full_layout()
        elif codes[stop] == clear:
            at += int(starts[stop + 1])
            starts, most = _layout(bits)
            first = count
        else:
            return np.concatenate(parts), np.concatenate(firsts)
    return None


def _changes(codes: Int64, firsts: Int64, bits: int, pixels: int) -> Int64 | None:
    """The places where the pixels of the codes change; None unless they are ``pixels`` valid ones of 0 and 1."""
    own = np.arange(len(codes))
    plain = codes < 1 << bits  # stands for one pixel, of its own value
    parents = np.where(plain, own, codes - ((1 << bits) + 2) + firsts)
    if not len(codes) or (codes > 1)[plain].any() or not (plain | (parents < own)).all():
        return None
    lengths, roots = _depths(parents, plain)
    ends = np.cumsum(lengths)
    if ends[-1] != pixels:
        return None
    begins = codes.take(roots)  # each string's first pixel
    # Its last one is the first of the string that followed when its parent was read for the first time.
    lasts = np.where(plain, codes, begins.take(parents + 1, mode="clip"))
    changing = lasts != lasts.take(parents)  # strings that end on a change
    return _places_of_changes(begins, lasts, ends - lengths, lengths, parents, changing)


def _depths(parents: Int64, plain: NDArray[np.bool_]) -> tuple[Int64, Int64]:
    """The length of each code's string, and the ancestor that it begins with."""
    further, ancestors = (~plain).astype(np.int64), parents
    while (steps := further.take(ancestors)).any():
        further += steps
        ancestors = ancestors.take(ancestors)
    return further + 1, ancestors


def _places_of_changes(
    begins: Int64, lasts: Int64, starts: Int64, lengths: Int64, parents: Int64, changing: NDArray[np.bool_]
) -> Int64 | None:
    """The places of all changes, in order; None if there are too many."""
    between = begins != np.concatenate([np.zeros(1, np.int64), lasts[:-1]])
    found = [starts[between]]
    own = np.arange(len(parents))
    nearest = np.where(changing | (parents == own), own, parents)  # ancestor, or the code itself, that ends on a change
    while ((ancestors := nearest.take(nearest)) != nearest).any():
        nearest = ancestors
    strings, total = own, 0
    ancestors = nearest
    while True:
        kept = np.flatnonzero(changing.take(ancestors))
        if not kept.size:
            return np.sort(np.concatenate(found))
        strings, ancestors = strings[kept], ancestors[kept]
        total += len(kept)
        if total > MOST_CHANGES:
            return None
        found.append(starts[strings] + lengths[ancestors] - 1)
        ancestors = nearest.take(parents.take(ancestors))
