"""The contract that every augmentation passes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply, check_keeps_coverage, make_augment

_DRAWS = 8


def check_augment(name: str, *, size: tuple[int, int] = (48, 72)) -> None:
    """Check that an augmentation keeps photos, masks and coverage together.

    Photo and mask come back of their size and type, moved alike; shares stay shares; and the same seed gives the same,
    whatever was drawn in between.

    Args:
        name: An augmentation of the registry; register your own first.
        size: Height and width in pixels of the photos that it is tried on.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_augment("seed")
    """
    augment = make_augment(name)
    if augment is None:  # "none", and whatever means the same
        return
    try:
        check_keeps_coverage(augment)
    except ValueError as error:
        raise AssertionError(f"the augmentation '{name}': {error}") from None
    mask = _ellipse(size)
    image = np.repeat((40 + 180 * mask).astype(np.uint8)[..., None], 3, axis=2)
    for draw in range(_DRAWS):
        _check_draw(name, augment, image, mask, draw)
    # Half of each pixel covered, everywhere: whatever moves, that is what must come back.
    _, half = apply(augment, image.copy(), np.full(size, 0.5, np.float32), (0, 0, 0))
    _expect(name, float(np.abs(half - 0.5).max()) < 0.02, "a coverage of one half everywhere does not stay so")


def _check_draw(name: str, augment: Augment, image: NDArray[np.uint8], mask: NDArray[np.float32], draw: int) -> None:
    given = image.copy(), mask.copy()
    result = augment(image=given[0], mask=given[1])
    complete = isinstance(result, Mapping) and {"image", "mask"} <= result.keys()
    _expect(name, complete, f"it must return a mapping with image and mask, got {type(result).__name__}")
    photo, coverage = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    for what, array, like in (("image", photo, image), ("mask", coverage, mask)):
        same = array.shape == like.shape and array.dtype == like.dtype
        _expect(name, same, f"its {what} is {array.dtype} {array.shape}, and was {like.dtype} {like.shape}")
    again = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    same = np.array_equal(photo, again[0]) and np.array_equal(coverage, again[1])
    _expect(name, same, "the same seed gives another photo: draw from albumentations, random or numpy.random alone")
    if coverage.std() > 0.05:  # else the object has left the picture
        bright = photo.mean(axis=2)
        together = float(np.corrcoef(bright.ravel(), coverage.ravel())[0, 1])
        _expect(name, abs(together) > 0.8, "photo and mask are not moved alike")


def _ellipse(size: tuple[int, int]) -> NDArray[np.float32]:
    """A mask that looks the same from no side, with shares along its boundary."""
    rows, columns = np.mgrid[0 : 8 * size[0], 0 : 8 * size[1]] / (8 * np.array(size).reshape(2, 1, 1))
    inside = ((rows - 0.4) / 0.25) ** 2 + ((columns - 0.35) / 0.2) ** 2 < 1
    shares: NDArray[np.float64] = inside.reshape(size[0], 8, size[1], 8).mean((1, 3))
    return shares.astype(np.float32)


def _expect(name: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"the augmentation '{name}': {otherwise}")
