"""Cleans masks: removes small parts beside the object, fills small holes in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.errors import ConfigError

PARTS = 0.05
"""Parts smaller than this share of the largest one are removed.

Of 1,016 true masks 11 have parts besides the largest, none above 0.0003 of it: larger ones are errors of networks.
"""

HOLES = 0.0001
"""Holes smaller than this share of the largest part are filled.

True masks do have holes, between spokes and under mirrors, half of them below 0.0003: filling more would cost Dice.
"""


@dataclass(frozen=True)
class Cleaning:
    """How masks are cleaned.

    Attributes:
        parts: parts smaller than this share of the largest one are removed, in [0, 1]; 1 keeps only the largest.
        holes: holes smaller than this share of the largest part are filled; 0 fills none.

    Raises:
        ConfigError: a share is outside its range.
    """

    parts: float = PARTS
    holes: float = HOLES

    def __post_init__(self) -> None:
        for name, share in asdict(self).items():
            if not 0 <= share <= 1:
                raise ConfigError(f"cleaning: {name} = {share}; expected a share of the largest part, from 0 to 1")


def clean(mask: NDArray[np.uint8], *, parts: float = PARTS, holes: float = HOLES) -> NDArray[np.uint8]:
    """Keep the largest parts of a mask and fill its smallest holes.

    Pixels of the object that touch at a corner belong to one part; background is connected by edges only. Background
    that reaches the image's edge is not a hole. Parts are removed first, so that a part inside a hole does not keep it.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        parts: see :class:`Cleaning`.
        holes: see :class:`Cleaning`.

    Returns:
        uint8 (H, W) of 0 and 1; the mask itself, not a copy, where there is nothing to do.

    >>> clean(np.array([[1, 1, 1, 0, 1], [1, 0, 1, 0, 0], [1, 1, 1, 0, 0]], np.uint8), parts=0.2, holes=0.2)
    array([[1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0],
           [1, 1, 1, 0, 0]], dtype=uint8)
    """
    left, top, width, height = cv2.boundingRect(mask)
    if not width:
        return mask
    # A rim of one pixel, so that all background around the object is one piece that reaches the window's edge.
    window = np.s_[max(0, top - 1) : top + height + 1, max(0, left - 1) : left + width + 1]
    old = np.ascontiguousarray(mask[window])
    labels, areas, _ = _components(old, connectivity=8)
    largest = int(areas.max())
    new = _without(old, labels, areas < parts * largest)
    if holes:
        labels, areas, outside = _components(1 - new, connectivity=4)
        new = 1 - _without(1 - new, labels, (areas < holes * largest) & ~outside)
    if (new == old).all():
        return mask
    cleaned = mask.copy()
    cleaned[window] = new
    return cleaned


def follow(opacity: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bring opacity in line with a cleaned mask: clear where parts were taken away, opaque where holes were filled.

    The soft rim of a part is removed with it, and so is a faint patch without a pixel of the mask. Other edges stay as
    they are.

    Args:
        opacity: float32 (H, W) in [0, 1], above one half where the mask was before it was cleaned.
        mask: the cleaned one, uint8 (H, W) of 0 and 1.

    Returns:
        float32 (H, W), above one half exactly where ``mask`` is 1, if that differs from the old one by whole parts.
    """
    opaque = np.float32(1) - _connected_to_mask(opacity, mask)
    return np.float32(1) - _connected_to_mask(opaque, 1 - mask)


def _connected_to_mask(opacity: NDArray[np.float32], mask: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The opacity of patches that belong to the mask; a patch that also holds a removed part is cut halfway to it."""
    seen = (opacity > 0).view(np.uint8)
    count, labels = cv2.connectedComponents(seen, connectivity=8, ltype=cv2.CV_32S)
    belongs = np.zeros(count, bool)
    belongs[labels[mask > 0]] = True
    gone = (opacity > 0.5) & (mask == 0)
    cut = gone & belongs[labels] if gone.any() else gone
    if belongs[1:].all() and not cut.any():
        return opacity
    stays = belongs[labels] & (seen > 0)
    if cut.any():
        to_cut, to_mask = (cv2.distanceTransform(1 - place, cv2.DIST_L2, 5) for place in (cut.view(np.uint8), mask))
        stays &= (to_mask < to_cut) | (mask > 0)
    followed: NDArray[np.float32] = opacity * stays
    return followed


def _components(
    mask: NDArray[np.uint8], *, connectivity: int
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Labels (H, W), 0 outside; the area of each component; and whether it reaches the image's edge."""
    _, labels, numbers, _ = cv2.connectedComponentsWithStats(mask, connectivity=connectivity, ltype=cv2.CV_32S)
    left, top, width, height, areas = numbers[1:].T.astype(np.int64)
    edge = (left == 0) | (top == 0) | (left + width == mask.shape[1]) | (top + height == mask.shape[0])
    return labels, areas, edge


def _without(mask: NDArray[np.uint8], labels: NDArray[np.int32], goes: NDArray[np.bool_]) -> NDArray[np.uint8]:
    if not goes.any():
        return mask
    kept = np.concatenate([[False], ~goes])
    return kept[labels].view(np.uint8)
