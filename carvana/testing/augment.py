"""The contract that every augmentation passes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply, check_keeps_coverage, make_augment
from carvana.registry import registry

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
    entry = registry.augments.entry(name)
    try:
        augment = make_augment(name)
    except TypeError as error:
        raise AssertionError(f"the augmentation '{name}' (from {entry.source}) must be a factory: {error}") from error
    if augment is None:  # "none", and whatever means the same
        return
    try:
        check_keeps_coverage(augment)
    except ValueError as error:
        raise AssertionError(f"the augmentation '{name}': {error}") from None
    mask = _ellipse(size)
    image = np.repeat((10 + 150 * mask).astype(np.uint8)[..., None], 3, axis=2)
    try:
        likeness = [_likeness(name, augment, image, mask, draw) for draw in range(_DRAWS)]
        # Strong noise, inversion and new backgrounds hide the object in some draws, and not in most.
        _expect(name, float(np.median(likeness)) > 0.3, "photo and mask are not moved alike")
        _check_coverage(name, augment, image)
    except AssertionError:
        raise
    except Exception as error:  # whatever it raises
        raise AssertionError(f"the augmentation '{name}': {type(error).__name__}: {error}") from error


def _check_coverage(name: str, augment: Augment, image: NDArray[np.uint8]) -> None:
    """Half of each pixel covered, everywhere: that is what must come back, but for a border of zeros."""
    size = image.shape[:2]
    for draw in range(_DRAWS):
        _, whole = apply(augment, image.copy(), np.ones(size, np.float32), (0, 0, draw))
        _, half = apply(augment, image.copy(), np.full(size, 0.5, np.float32), (0, 0, draw))
        inside = whole > 0.999
        _expect(name, bool(inside.any()), "of a mask that covers all, nothing stays")
        off = float(np.abs(half - 0.5)[inside].max())
        _expect(name, off < 0.02, "a coverage of one half everywhere does not stay so")


def _likeness(name: str, augment: Augment, image: NDArray[np.uint8], mask: NDArray[np.float32], draw: int) -> float:
    """How much the photo, which is its mask, still looks like it, 0 to 1; 1 where the object has left the picture."""
    result = augment(image=image.copy(), mask=mask.copy())
    complete = isinstance(result, Mapping) and {"image", "mask"} <= result.keys()
    _expect(name, complete, f"it must return a mapping with image and mask, got {type(result).__name__}")
    photo, coverage = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    for what, array, like in (("image", photo, image), ("mask", coverage, mask)):
        same = array.shape == like.shape and array.dtype == like.dtype
        _expect(name, same, f"its {what} is {array.dtype} {array.shape}, and was {like.dtype} {like.shape}")
    again = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    same = np.array_equal(photo, again[0]) and np.array_equal(coverage, again[1])
    _expect(name, same, "the same seed gives another photo: draw from albumentations, random or numpy.random alone")
    bright = photo.mean(axis=2)
    if coverage.std() < 0.05 or bright.std() < 1:
        return 1.0
    return abs(float(np.corrcoef(bright.ravel(), coverage.ravel())[0, 1]))


def _ellipse(size: tuple[int, int]) -> NDArray[np.float32]:
    """A mask to one side, so that no turned photo is like it, with shares along its boundary."""
    rows, columns = np.mgrid[0 : 8 * size[0], 0 : 8 * size[1]] / (8 * np.array(size).reshape(2, 1, 1))
    inside = ((rows - 0.3) / 0.15) ** 2 + ((columns - 0.3) / 0.15) ** 2 < 1
    shares: NDArray[np.float64] = inside.reshape(size[0], 8, size[1], 8).mean((1, 3))
    return shares.astype(np.float32)


def _expect(name: str, holds: bool, otherwise: str) -> None:
    if not holds:
        raise AssertionError(f"the augmentation '{name}': {otherwise}")
