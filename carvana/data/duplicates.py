"""Photos that are another photo over again: resaved, resized, brightened or mirrored, under another name.

Two photos of one studio from one angle have nearly everything in common but the car. What tells them apart is where
brightness changes: each photo is shrunk to 64 x 64 grey pixels, and the differences between neighbours are correlated
with another photo's. Brightness and contrast cancel out; the size in pixels does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Pixels of a thumbnail's side."""

SIMILAR = 0.95
"""Correlation from which two photos are the same.

Among 1,016 real photos two of different cars reach 0.904. Of 60 of them, saved as JPEG of quality 10 to 60, halved,
resized by 3%, brightened, darkened to 0.7, put through a gamma of 1.4 or made grey, none falls below 0.981. A photo
that is cropped by more than a percent is another one by this measure.
"""

_COARSE = 16  # side at which all are compared with all
_PER_PHOTO = 4  # most similar ones at that side that are then looked at closely
_BLOCK = 1024
_LEAST_DETAIL = 1.0  # grey levels between neighbours, root mean square: less is no picture


@dataclass(frozen=True)
class Twins:
    """Two photos that are alike.

    Attributes:
        first: the index of the earlier one.
        second: the index of the later one.
        similarity: the correlation, up to 1.
        mirrored: whether one is the other's mirror image.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool


def thumbnail(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What :func:`find_twins` compares of a photo (H, W, 3): uint8 (64, 64), grey."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    grey: NDArray[np.uint8] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return grey


def find_twins(thumbnails: NDArray[np.uint8], groups: Sequence[str]) -> list[Twins]:
    """Find photos that are the same as one of another group, though not bit by bit.

    All are compared with all, coarsely, which takes a second for 5,000 photos; memory grows with their number alone.

    Args:
        thumbnails: uint8 (N, 64, 64), as :func:`thumbnail` gives them.
        groups: N names of cars. Photos of one car are not compared: they stand on one side of a split.

    Returns:
        for each photo that is like an earlier one of another car, the two, and of several the most similar.
    """
    if len(thumbnails) < 2:
        return []
    _, numbers = np.unique(np.asarray(groups), return_inverse=True)
    detail = _detail(thumbnails)
    found: dict[int, Twins] = {}
    for twins in _compared(thumbnails, numbers, detail):
        best = found.get(twins.second)
        if best is None or twins.similarity > best.similarity:
            found[twins.second] = twins
    return [found[second] for second in sorted(found)]


def _compared(thumbnails: NDArray[np.uint8], groups: NDArray[np.int64], detail: NDArray[np.bool_]) -> Iterator[Twins]:
    count = len(thumbnails)
    plain = _changes(_shrunk(thumbnails))
    for mirrored in (False, True):
        others = _changes(_shrunk(thumbnails)[:, :, ::-1]) if mirrored else plain
        for start in range(0, count, _BLOCK):
            stop = min(start + _BLOCK, count)
            alike = others[start:stop] @ plain[:stop].T
            rows, columns = np.arange(start, stop)[:, None], np.arange(stop)
            comparable = (columns < rows) & (groups[rows] != groups[columns]) & detail[rows] & detail[columns]
            alike[~comparable] = -1
            for row in np.flatnonzero(alike.max(axis=1) >= SIMILAR):
                nearest = np.argsort(alike[row])[::-1][:_PER_PHOTO]
                for column in nearest[alike[row, nearest] >= SIMILAR]:
                    similarity = _similarity(thumbnails[start + row], thumbnails[column], mirrored=mirrored)
                    if similarity >= SIMILAR:
                        yield Twins(int(column), int(start + row), similarity, mirrored)


def _similarity(one: NDArray[np.uint8], other: NDArray[np.uint8], *, mirrored: bool) -> float:
    pair = np.stack([one[:, ::-1] if mirrored else one, other]).astype(np.float32)
    first, second = _changes(pair)
    return float(first @ second)


def _changes(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The differences between neighbours of pictures (N, s, s), of mean 0 and length 1: (N, 2 (s - 1)^2)."""
    across, down = np.diff(grey, axis=2)[:, :-1], np.diff(grey, axis=1)[:, :, :-1]
    changes = np.stack([across, down], axis=1).reshape(len(grey), -1)
    changes -= changes.mean(axis=1, keepdims=True)
    changes /= np.maximum(np.linalg.norm(changes, axis=1, keepdims=True), 1e-6)
    return changes


def _shrunk(thumbnails: NDArray[np.uint8]) -> NDArray[np.float32]:
    step = SIDE // _COARSE
    blocks = thumbnails.reshape(len(thumbnails), _COARSE, step, _COARSE, step)
    shrunk: NDArray[np.float32] = blocks.mean(axis=(2, 4), dtype=np.float32)
    return shrunk


def _detail(thumbnails: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which pictures show anything at all."""
    return np.array([np.diff(t.astype(np.float32), axis=1).std() >= _LEAST_DETAIL for t in thumbnails])
