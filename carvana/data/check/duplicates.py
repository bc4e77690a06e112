"""Finds copies of an image under another name: resaved, resized, brightened or mirrored.

Two images of one studio from one angle differ in little but the object. What distinguishes them is where brightness
changes: each image is shrunk to 64 x 64 grey pixels, and the differences between neighbours are correlated
with another image's. Brightness and contrast cancel out; the size in pixels does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

SIDE = 64
"""Pixels of a thumbnail's side."""

SIMILAR = 0.95
"""Correlation from which on two images count as the same.

Among 1,016 real images two of different groups reach 0.904. Of 60 of them, saved as JPEG of quality 10 to 60, halved,
resized by 3%, brightened, darkened to 0.7, put through a gamma of 1.4 or made grey, none falls below 0.981. An image
that is cropped by more than a percent counts as another one.
"""

COARSE = 16
"""Side of the smaller pictures by which all images are compared with all."""

_PER_IMAGE = 4  # the most similar ones at that side, which are then compared at full thumbnail size
_BLOCK = 1024
_LEAST_DETAIL = 1.0  # grey levels between neighbours, root mean square: less is a blank image


@dataclass(frozen=True)
class NearDuplicate:
    """Two images that are nearly the same.

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
    """What :func:`find_near_duplicates` compares of an image (H, W, 3): uint8 (64, 64), grey."""
    small = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_AREA)  # also where one side grows
    grey: NDArray[np.uint8] = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    return grey


def coarse(picture: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """What all images are compared by, uint16 (16, 16): sums of 4 x 4 pixels of a thumbnail; all 0 for a blank one."""
    if np.diff(picture.astype(np.float32), axis=1).std() < _LEAST_DETAIL:
        return np.zeros((COARSE, COARSE), np.uint16)
    step = SIDE // COARSE
    sums: NDArray[np.uint16] = picture.reshape(COARSE, step, COARSE, step).sum(axis=(1, 3), dtype=np.uint16)
    return sums


def find_near_duplicates(
    pictures: NDArray[np.uint16], groups: Iterable[str], *, look: Callable[[int], NDArray[np.uint8] | None]
) -> list[NearDuplicate]:
    """Find images that are the same as one of another group, though not bit by bit.

    All are compared with all at the smaller side, which takes a second for 5,000 images, and a few minutes for
    100,000; memory grows only with the number of pairs found.

    Args:
        pictures: uint16 (N, 16, 16), as :func:`coarse` gives them.
        groups: N names of groups. Images of one group are not compared: a split keeps them together.
        look: gives the thumbnail of the image at a place; None if its file was removed meanwhile.

    Returns:
        for each image that is like an earlier one of another group, the two, and of several the most similar.
    """
    numbers: dict[str, int] = {}
    numbered = np.array([numbers.setdefault(group, len(numbers)) for group in groups], np.int64)
    found: dict[int, NearDuplicate] = {}
    for first, second, mirrored in _candidates(pictures, numbered):
        one, other = look(second), look(first)
        if one is None or other is None:
            continue
        similarity = _similarity(one, other, mirrored=mirrored)
        best = found.get(second)
        if similarity >= SIMILAR and (best is None or similarity > best.similarity):
            found[second] = NearDuplicate(first, second, similarity, mirrored)
    return [found[second] for second in sorted(found)]


def _candidates(pictures: NDArray[np.uint16], groups: NDArray[np.int64]) -> Iterator[tuple[int, int, bool]]:
    """Pairs that are similar at the smaller side: the earlier image, the later one, and whether it is mirrored."""
    detailed = np.flatnonzero(pictures.any(axis=(1, 2)))
    for start in range(0, len(detailed), _BLOCK):
        rows = detailed[start : start + _BLOCK]
        later = pictures[rows].astype(np.float32)
        ways = (False, _changes(later)), (True, _changes(later[:, :, ::-1]))
        alike: dict[tuple[bool, int], list[tuple[float, int]]] = {}
        for begin in range(0, start + 1, _BLOCK):
            columns = detailed[begin : begin + _BLOCK]
            earlier = _changes(pictures[columns].astype(np.float32)).T
            comparable = (columns < rows[:, None]) & (groups[rows, None] != groups[columns])
            for mirrored, changes in ways:
                similarity = np.where(comparable, changes @ earlier, -1)
                for place in np.flatnonzero(similarity.max(axis=1) >= SIMILAR).tolist():
                    best = np.argsort(similarity[place])[-_PER_IMAGE:]
                    found = [(float(similarity[place, each]), int(columns[each])) for each in best]
                    kept = alike.get((mirrored, int(rows[place])), [])
                    alike[mirrored, int(rows[place])] = sorted([*kept, *found], reverse=True)[:_PER_IMAGE]
        for (mirrored, row), nearest in sorted(alike.items()):
            yield from ((column, row, mirrored) for similarity, column in nearest if similarity >= SIMILAR)


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
