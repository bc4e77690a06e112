"""Masks at a training size, against the definition of coverage and against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from carvana.data.io.images import resize_image
from carvana.data.io.masks import share_of, shrink_mask


def blobs(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask with outlines as objects have them, some of which run over the edges."""
    field = cv2.resize(rng.random((max(2, height // 9), max(2, width // 9))), (width, height))
    return (field > rng.choice([0.3, 0.5, 0.7])).astype(np.uint8)


def masks(rng: np.random.Generator) -> list[np.ndarray]:
    shapes = [(1, 1), (1, 9), (9, 1), (7, 5), (40, 61), (53, 37)]
    made = [blobs(rng, *shape) for shape in shapes] + [rng.integers(0, 2, shape, np.uint8) for shape in shapes]
    for shape in shapes:
        made += [np.zeros(shape, np.uint8), np.ones(shape, np.uint8)]
        made.append((np.indices(shape).sum(axis=0) % 2).astype(np.uint8))
    stripes = np.zeros((6, 8), np.uint8)
    stripes[1:3] = stripes[4, 5:] = stripes[5, :3] = (
        1  # whole rows, and a run from one row's end to the next one's start
    )
    return [*made, stripes]


def overlaps(old: int, new: int) -> np.ndarray:
    """By how much each of ``old`` pixels (columns) lies in each of ``new`` ones (rows), which are ``old`` long each."""
    return np.array(
        [[max(0, min((i + 1) * new, (j + 1) * old) - max(i * new, j * old)) for i in range(old)] for j in range(new)]
    )


def assert_exact(found: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> None:
    """By definition: 255 times the share of each new pixel that is covered, and no more than rounding beside it."""
    assert (found.dtype, found.shape) == (np.uint8, size)
    areas = overlaps(mask.shape[0], size[0]) @ mask.astype(int) @ overlaps(mask.shape[1], size[1]).T
    assert (np.abs(2 * found.astype(int) * mask.size - 2 * 255 * areas) <= mask.size).all(), (mask.shape, size)


def test_coverage_is_exact_and_rounded_once(rng: np.random.Generator) -> None:
    for mask in masks(rng):
        height, width = mask.shape
        part = max(1, height // 3), max(1, width * 2 // 5)
        for size in {(1, 1), (height, width), (max(1, height // 2), width), (height, 1), part}:
            assert_exact(shrink_mask(mask, size), mask, size)


def test_coverage_is_exact_at_any_size(rng: np.random.Generator) -> None:
    for _ in range(200):
        height, width = rng.integers(1, 90, 2).tolist()
        mask = blobs(rng, height, width)
        size = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        assert_exact(shrink_mask(mask, size), mask, size)


@pytest.mark.parametrize("size", [(128, 128), (512, 768), (960, 640), (1024, 1024)])
def test_coverage_of_a_photos_mask_is_opencvs_area_average(rng: np.random.Generator, size: tuple[int, int]) -> None:
    mask = cv2.resize(blobs(rng, 64, 96), (1918, 1280))
    theirs = cv2.resize(mask * np.uint8(255), size[::-1], interpolation=cv2.INTER_AREA)
    assert np.abs(shrink_mask(mask, size).astype(int) - theirs).max() <= 1


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return (cv2.resize(rng.random((6, 8)), (161, 119)) > 0.5).astype(np.uint8)


def test_the_share_of_a_mask_is_that_of_its_pixels(mask: np.ndarray) -> None:
    assert share_of(mask) == mask.mean()


def test_nearest_targets_are_hard(mask: np.ndarray) -> None:
    assert set(np.unique(shrink_mask(mask, (37, 41), target="nearest"))) == {0, 255}
    assert len(np.unique(shrink_mask(mask, (37, 41)))) > 2


def test_one_side_is_averaged_where_only_it_shrinks(rng: np.random.Generator) -> None:
    mask = rng.integers(0, 2, (6, 80), np.uint8)
    for found in (shrink_mask(mask, (12, 20)), resize_image(mask * np.uint8(255), (12, 20))):
        wide = cv2.resize(shrink_mask(mask, (6, 20)), (20, 12), interpolation=cv2.INTER_LINEAR)
        assert np.abs(found.astype(int) - wide).max() <= 1
