"""Polygons against the rule that defines them: the centres of pixels, one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from carvana.data.io.polygons import Shape, fill, ring_of


def by_centres(ring: NDArray[Any], size: tuple[int, int]) -> NDArray[np.uint8]:
    """1 where a ray to the left of a pixel's centre crosses the ring an odd number of times."""
    rows, columns = np.mgrid[: size[0], : size[1]] + 0.5
    crossings = np.zeros(size, int)
    points = ring.astype(np.float64)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if y0 != y1:
            crossed = (y0 <= rows) != (y1 <= rows)
            crossings += crossed & (x0 + (rows - y0) * (x1 - x0) / (y1 - y0) <= columns)
    return (crossings & 1).astype(np.uint8)


def filled(rings: list[NDArray[Any]], size: tuple[int, int]) -> NDArray[np.uint8]:
    box, covered = fill(rings, size)
    mask = np.zeros(size, np.uint8)
    mask[box] = covered
    return mask


@pytest.mark.parametrize("seed", range(20))
def test_a_pixel_is_inside_if_its_centre_is(seed: int) -> None:
    rng = np.random.default_rng(seed)  # rings that cross themselves, partly outside of the image
    ring = rng.uniform(-10, 60, (int(rng.integers(3, 20)), 2)).astype(np.float32)
    if seed % 2:
        ring = np.round(ring * 2) / 2  # corners on centres and on edges of pixels
    assert (filled([ring], (40, 50)) == by_centres(ring, (40, 50))).all()


def test_a_square_has_its_own_area_and_neighbours_share_no_pixel() -> None:
    left, right = (np.array([[x, 5], [x + 10, 5], [x + 10, 15], [x, 15]], np.float32) for x in (3, 13))
    masks = filled([left], (20, 30)), filled([right], (20, 30))
    assert [int(mask.sum()) for mask in masks] == [100, 100]
    assert not (masks[0] & masks[1]).any()


def test_several_rings_are_joined_and_what_is_outside_of_the_image_has_no_pixels() -> None:
    outer, inner = (np.array([[a, a], [b, a], [b, b], [a, b]], np.float32) for a, b in ((2, 12), (5, 8)))
    assert filled([outer, inner], (16, 16)).sum() == 100
    box, covered = fill([outer + 100], (16, 16))
    assert covered.size == 0
    assert np.zeros((16, 16))[box].size == 0


def test_runs_go_down_the_columns() -> None:
    mask = (np.random.default_rng(0).random((6, 9)) < 0.4).astype(np.uint8)
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=0))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).astype(np.int32)
    box, found = Shape("cell", runs=counts.tobytes()).mask((6, 9))
    assert (found == mask).all()
    assert box == (slice(0, 6), slice(0, 9))


def test_shapes_compare_by_their_contents() -> None:
    square = [[0, 0], [4, 0], [4, 4]]
    assert Shape("a", (ring_of(square),)) == Shape("a", (ring_of([0, 0, 4, 0, 4, 4]),))
    assert len({Shape("a", (ring_of(square),)), Shape("b", (ring_of(square),))}) == 2
