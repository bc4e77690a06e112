"""Outlines of masks against pycocotools, OpenCV, and the rule of pixels' centres."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from carvana.data.io.polygons import Outline, area_of, fill, outlines


def random_mask(seed: int) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    size = (int(rng.integers(1, 70)), int(rng.integers(1, 90)))
    if seed % 3 == 0:  # noise: parts that touch at corners, holes in holes
        return (rng.random(size) < rng.random()).astype(np.uint8)
    smooth = cv2.GaussianBlur(rng.random(size).astype(np.float32), (0, 0), float(rng.uniform(0.6, 5)))
    return (smooth > 0.5).astype(np.uint8)


def filled(found: list[Outline], size: tuple[int, ...]) -> NDArray[np.uint8]:
    mask = np.zeros(size, np.uint8)
    for each in found:
        box, inside = fill([each.ring.astype(np.float32)], (size[0], size[1]))
        assert not (mask[box] & inside).any()  # parts share no pixel
        mask[box] |= inside
    return mask


def car(size: tuple[int, int] = (640, 960)) -> NDArray[np.uint8]:
    """A large smooth object with a hole in it."""
    rows, columns = np.mgrid[: size[0], : size[1]] / size[0]
    body = (np.abs(columns - 0.75) / 0.6) ** 2.5 + (np.abs(rows - 0.5) / 0.3) ** 3 < 1
    window = np.hypot((columns - 0.7) / 2, rows - 0.45) < 0.08
    return (body & ~window).astype(np.uint8)


@pytest.mark.parametrize("block", range(2))
def test_the_mask_comes_back_pixel_by_pixel(block: int) -> None:
    for seed in range(50 * block, 50 * block + 50):
        mask = random_mask(seed)
        assert (filled(outlines(mask), mask.shape) == mask).all(), seed


def test_there_is_an_outline_for_each_connected_part_with_its_area_and_box() -> None:
    for seed in range(60):
        mask = random_mask(seed)
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=4)
        found = sorted((each.area, *each.box) for each in outlines(mask))
        assert found == sorted((int(row[4]), *map(int, row[:4])) for row in stats[1:])


@pytest.mark.parametrize("make", [car, lambda: random_mask(31), lambda: np.pad(car((300, 450)), 7, mode="edge")])
def test_pycocotools_reads_outlines_with_holes_as_the_mask(make: object) -> None:
    mask = make()  # type: ignore[operator]
    rings = [each.ring.ravel().tolist() for each in outlines(mask)]
    found = coco_masks.decode(coco_masks.merge(coco_masks.frPyObjects(rings, *mask.shape)))
    iou = (found & mask).sum() / (found | mask).sum()
    assert iou >= (0.999 if mask.size > 10_000 else 0.97)  # it rounds corners to a fifth of a pixel


def test_outlines_are_near_the_boundary_and_have_few_points() -> None:
    mask = car((240, 360))
    (only,) = outlines(mask)
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    assert len(only.ring) < sum(map(len, contours)) / 5
    assert np.array_equal(only.ring * 2, np.round(only.ring * 2))
    grown = cv2.resize(mask, None, fx=8, fy=8, interpolation=cv2.INTER_NEAREST)
    fine, inside = fill([only.ring.astype(np.float32) * 8], grown.shape)  # type: ignore[arg-type]
    drawn = np.zeros_like(grown)
    drawn[fine] = inside
    apart = cv2.distanceTransform(grown, cv2.DIST_L2, 5) + cv2.distanceTransform(1 - grown, cv2.DIST_L2, 5)
    assert apart[drawn != grown].max() <= 0.5 * 8 + 1  # half a pixel, in eighths
    assert abs(area_of(only.ring) - mask.sum()) < 0.001 * mask.sum()


def test_rectangles_keep_their_corners_and_holes_are_wound_the_other_way() -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[5:25, 4:36] = 1
    assert outlines(mask)[0].ring.tolist() == [[4, 5], [36, 5], [36, 25], [4, 25]]
    mask[10:20, 10:30] = 0
    (only,) = outlines(mask)
    assert area_of(only.ring) == only.area == 640 - 200
    assert len(only.ring) == 4 + 4 + 2


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((5, 5), np.uint8)) == []
    assert [each.area for each in outlines(np.ones((1, 1), np.uint8))] == [1]
