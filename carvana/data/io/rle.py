"""Masks as the competition's text: runs of foreground, ``begin length begin length ...``, row after row, from pixel 1.

The empty mask is the empty text. The numbers alone say where each run is, so a text fits any picture that is large
enough and has the same width.
"""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray

from carvana.errors import DataError

UInt8 = NDArray[np.uint8]

Problem = Literal["not numbers", "an odd count", "no length", "outside", "overlapping", "unsorted"]
"""The kinds of errors of a text."""

_ALLOWED = b"0123456789 "


class RleError(DataError):
    """A text that is not a mask.

    Attributes:
        problem: the kind of error.
    """

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem: Problem = problem


def encode(mask: UInt8 | NDArray[np.bool_]) -> str:
    """The text of a mask, (H, W) of 0 and 1.

    Raises:
        DataError: it is another kind of array.

    >>> encode(np.array([[0, 1, 1, 1], [1, 1, 0, 1]], np.uint8))
    '2 5 8 1'
    """
    mask = cast("UInt8", np.asarray(mask))
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise DataError(
            f"an array of {mask.dtype} {mask.shape} is not a mask; expected uint8 (height, width) of 0 and 1"
        )
    flat = mask.view(np.uint8).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    if flat[:1].any():
        changes = np.concatenate([[0], changes])
    values = flat.take(changes)  # between two changes all is equal, so there are no other values
    if (values != np.arange(1, len(values) + 1) & 1).any():
        raise DataError(f"the mask holds {int(flat.max())}; expected 0 for background and 1 for the object")
    if len(changes) % 2:
        changes = np.append(changes, flat.size)
    numbers = changes + 1
    numbers[1::2] -= numbers[::2]
    return " ".join(map(str, numbers.tolist()))


def decode(text: str, size: tuple[int, int]) -> UInt8:
    """The mask of a text: uint8 (H, W) of 0 and 1.

    Args:
        text: runs that rise and do not overlap; two may touch.
        size: (height, width) of the picture.

    Raises:
        RleError: a DataError with the kind of error.

    >>> decode("2 5 8 1", (2, 4))
    array([[0, 1, 1, 1],
           [1, 1, 0, 1]], dtype=uint8)
    """
    height, width = size
    places = runs_of(text, size).ravel()
    values = (np.arange(len(places) + 1) & 1).astype(np.uint8)
    return np.repeat(values, np.diff(places, prepend=0, append=height * width)).reshape(size)


def runs_of(text: str | bytes, size: tuple[int, int]) -> NDArray[np.int64]:
    """The runs of a text: (N, 2), each the place of its first pixel, counted from 0, and of the first one after it.

    Args:
        text: as for :func:`decode`.
        size: (height, width) of the picture.

    Raises:
        RleError: as there.

    >>> runs_of("2 5 8 1", (2, 4)).tolist()
    [[1, 6], [7, 8]]
    """
    words = (text.encode("utf-8", "replace") if isinstance(text, str) else text).strip()
    if strange := words.translate(None, _ALLOWED):
        shown = strange.decode("utf-8", "replace")[:20]
        raise RleError("not numbers", f"{shown!r} is not part of a number; expected numbers with spaces between them")
    # Numbers beyond 64 bits come out as the largest of them, which is outside any picture.
    numbers = np.fromstring(words, np.int64, sep=" ") if words else np.zeros(0, np.int64)
    if len(numbers) % 2:
        raise RleError("an odd count", f"{len(numbers)} numbers; expected pairs of a run's first pixel and its length")
    begins, lengths = numbers[::2], numbers[1::2]
    _check_each(begins, lengths, size)
    ends = begins + lengths
    _check_together(begins, ends)
    return np.stack([begins, ends], axis=1) - 1


def _check_each(begins: NDArray[np.int64], lengths: NDArray[np.int64], size: tuple[int, int]) -> None:
    pixels = size[0] * size[1]
    if not lengths.all():
        run = int(np.argmin(lengths))
        raise RleError("no length", f"the run at {begins[run]} has the length 0; expected one pixel at least")
    # Compared without the sum, which might be too large for 64 bits.
    outside = (begins < 1) | (begins > pixels) | (lengths > pixels + 1 - begins)
    if outside.any():
        run = int(np.argmax(outside))
        raise RleError(
            "outside",
            f"the run {begins[run]} {lengths[run]} leaves the picture of {size[1]} x {size[0]} pixels; expected 1 to "
            f"{pixels}",
        )


def _check_together(begins: NDArray[np.int64], ends: NDArray[np.int64]) -> None:
    early = begins[1:] < ends[:-1]
    if early.any():
        run = int(np.argmax(early))
        unsorted = begins[run + 1] < begins[run]
        raise RleError(
            "unsorted" if unsorted else "overlapping",
            f"the run at {begins[run + 1]} {'comes behind' if unsorted else 'overlaps'} the one at {begins[run]}; "
            "expected runs that rise and keep apart",
        )
