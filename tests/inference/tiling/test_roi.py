from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carvana.inference.tiling.roi import CELL, RoiTiles, cells_of, cover_cells, mirrored


def taken(windows: RoiTiles) -> np.ndarray:
    """How many windows each pixel of the picture is taken from."""
    count = np.zeros(windows.size, int)
    for rows, columns in windows.places:
        count[rows.taken, columns.taken] += 1
    return count


def pixels_of(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.kron(cells, np.ones((CELL, CELL), bool))[: size[0], : size[1]]


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)), seed=st.integers(0, 2**32 - 1), density=st.floats(0, 1),
    side=st.integers(1, 200), halo=st.integers(0, 40),
    stride=st.sampled_from([1, 8, 16, 32]), min_size=st.sampled_from([1, 32, 48]), grid=st.sampled_from([1, 8, 32]),
)  # fmt: skip
def test_each_unsure_pixel_is_taken_once_and_seen_with_its_halo(
    size: tuple[int, int],
    seed: int,
    density: float,
    side: int,
    halo: int,
    stride: int,
    min_size: int,
    grid: int,
) -> None:
    cells = np.random.default_rng(seed).random(cells_of(size)) < density**3
    found = cover_cells(cells, size, side=side, halo=halo, stride=stride, min_size=min_size, grid=grid)
    count = taken(found)
    assert count.max(initial=0) <= 1
    assert (count[pixels_of(cells, size)] == 1).all()
    padded = [-(-max(side, min_size) // stride) * stride for side in size]
    for place in found.places:
        for span, whole, length in zip(place, padded, found.tile, strict=True):
            assert span.start % grid == 0 or span.stop == whole
            assert length % stride == 0
            assert span.length == length >= min(min_size, whole)
            assert span.start >= 0
            assert span.stop <= whole
            assert span.start == 0 or span.start + halo <= span.first
            assert span.stop == whole or span.last + halo <= span.stop


def test_nothing_unsure_needs_no_window() -> None:
    found = cover_cells(np.zeros((10, 10), bool), (80, 80), side=32, halo=8)
    assert (len(found.places), found.cost) == (0, 0.0)


def test_a_ring_costs_less_than_the_same_tiles_in_a_grid() -> None:
    rows, columns = np.mgrid[:160, :240]
    far = np.hypot((rows - 80) / 60, (columns - 120) / 95)
    cells = (far > 0.97) & (far < 1.03)
    found = cover_cells(cells, (1280, 1918), side=160, halo=16, stride=32)
    inner = 128 // CELL
    blocks = cells[: 160 // inner * inner].reshape(-1, inner, 240 // inner, inner).any(axis=(1, 3))
    assert len(found.places) * math.prod(found.tile) < blocks.sum() * 160**2
    assert found.cost == len(found.places) * math.prod(found.tile) / (1280 * 1918)


@pytest.mark.parametrize("grid", [8, 32])
def test_what_is_unsure_lies_in_the_middle_of_its_window(grid: int) -> None:
    cells = np.zeros((100, 100), bool)
    cells[40:46, 50:58] = True
    cells[98, 3] = True
    found = cover_cells(cells, (800, 800), side=160, halo=8, stride=32, grid=grid)
    middle, corner = sorted(found.places, key=lambda place: place[0].start)
    for span, low, high in zip(middle, (320, 400), (368, 464), strict=True):
        assert (span.first, span.last) == (low, high)
        assert abs((low - span.start) - (span.stop - high)) <= grid
    assert [(span.start, span.first, span.last) for span in corner] == [(640, 784, 792), (0, 24, 32)]


def test_a_side_that_could_take_nothing_is_enlarged() -> None:
    cells = np.zeros((32, 32), bool)
    cells[20, 20] = True
    assert cover_cells(cells, (256, 256), side=8, halo=30, stride=16).tile == (64, 64)


@pytest.mark.parametrize("width", [24, 23, 17])
def test_mirrored_cells_hold_the_mirrored_pixels(width: int) -> None:
    for column in range(3):
        cells = np.zeros((1, 3), bool)
        cells[0, column] = True
        pixels = pixels_of(cells, (8, width))[:, ::-1]
        assert pixels_of(mirrored(cells, width), (8, width))[pixels].all()
