"""Masks as text of competitions: runs of foreground, ``begin length begin length ...``, counted from pixel 1.

Pixels are numbered row after row, or column after column, as many competitions want it. The empty mask is the empty
text. The numbers alone say where each run is, so a text fits any picture that is large enough and has the same width,
or height.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, cast, get_args

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.class_values import run_lengths
from carvana.errors import ConfigError, DataError

UInt8 = NDArray[np.uint8]

Order = Literal["row", "column"]
"""How pixels are numbered: row after row, or column after column."""

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


def check_order(order: str) -> None:
    """Refuse what is not an order of pixels.

    Raises:
        ConfigError: it is not.
    """
    if order not in get_args(Order):
        raise ConfigError(f"the order {order!r} is not known; expected row or column")


def encode(mask: UInt8 | NDArray[np.bool_], *, order: Order = "row") -> str:
    """The text of a mask, (H, W) of 0 and 1.

    Raises:
        DataError: it is another kind of array.

    >>> mask = np.array([[0, 1, 1, 1], [1, 1, 0, 1]], np.uint8)
    >>> encode(mask), encode(mask, order="column")
    ('2 5 8 1', '2 4 7 2')
    """
    mask = cast("UInt8", np.asarray(mask))
    if mask.ndim != 2 or mask.dtype not in (np.uint8, np.bool_):
        raise DataError(
            f"an array of {mask.dtype} {mask.shape} is not a mask; expected uint8 (height, width) of 0 and 1"
        )
    flat = _in_order(mask.view(np.uint8), order)
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
    return _text(numbers)


def encode_labels(labels: NDArray[Any], count: int, *, order: Order = "row") -> list[str]:
    """The texts of all classes of a label map, in one pass over its pixels.

    Args:
        labels: (H, W), uint8 or uint16: the index of the class of each pixel.
        count: the number of classes.
        order: as for :func:`encode`.

    Returns:
        For each class what :func:`encode` makes of ``labels == index``.

    >>> encode_labels(np.array([[0, 2, 2], [2, 0, 0]], np.uint8), 3)
    ['1 1 5 2', '', '2 3']
    """
    flat = _in_order(labels, order)
    lengths = run_lengths(flat)
    begins = np.cumsum(lengths) - lengths
    values = flat[begins]
    by_class = np.argsort(values, kind="stable")
    runs = np.stack([begins + 1, lengths], axis=1)[by_class]
    borders = np.searchsorted(values[by_class], np.arange(count + 1))
    return [_text(runs[first:end].ravel()) for first, end in itertools.pairwise(borders)]


def decode(text: str, size: tuple[int, int], *, order: Order = "row") -> UInt8:
    """The mask of a text: uint8 (H, W) of 0 and 1.

    Args:
        text: runs that rise and do not overlap; two may touch.
        size: (height, width) of the picture.
        order: as for :func:`encode`.

    Raises:
        RleError: a DataError with the kind of error.

    >>> decode("2 5 8 1", (2, 4))
    array([[0, 1, 1, 1],
           [1, 1, 0, 1]], dtype=uint8)
    """
    height, width = size
    places = runs_of(text, size).ravel()
    values = (np.arange(len(places) + 1) & 1).astype(np.uint8)
    flat = np.repeat(values, np.diff(places, prepend=0, append=height * width))
    return _in_order(flat.reshape(size if order == "row" else (width, height)), order).reshape(size)


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


def _in_order(pixels: NDArray[Any], order: Order) -> NDArray[Any]:
    """The pixels (H, W) as (H * W) in the order of their numbers."""
    check_order(order)
    if order == "column" and pixels.size:
        pixels = cv2.transpose(pixels)  # by blocks, where a copy by NumPy jumps from row to row
    return pixels.ravel()


def _text(numbers: NDArray[np.int64]) -> str:
    return " ".join(map(str, numbers.tolist()))


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
