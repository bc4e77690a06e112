from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carvana.errors import ConfigError
from carvana.inference.tiling.grid import TileGrid, blend_weights, cheapest_plan, plan_tiles, plan_whole

Stride = st.sampled_from([1, 2, 8, 16, 32])
Side = st.integers(1, 900)
Tile = st.integers(1, 300)


def check(plan: TileGrid, stride: int) -> None:
    """What holds for every plan, whoever made it."""
    assert all(padded - side in range(stride) for padded, side in zip(plan.padded, plan.size, strict=True))
    seen, taken = np.zeros(plan.padded, np.int64), np.zeros(plan.padded, np.int64)
    for rows, columns in plan.places:
        for span, padded in ((rows, plan.padded[0]), (columns, plan.padded[1])):
            assert 0 <= span.start <= span.first < span.last <= span.stop <= padded
            assert span.start % stride == span.stop % stride == 0
        assert (rows.length, columns.length) == plan.tile
        seen[rows.seen, columns.seen] += 1
        taken[rows.taken, columns.taken] += 1
    assert seen.min() >= 1
    if plan.join == "exact":
        assert (taken == 1).all()


@settings(deadline=None, max_examples=150)
@given(Side, Side, Tile, Tile, st.floats(0, 0.9), Stride)
def test_blended_tiles_cover_every_pixel_on_the_grid_with_weights_that_sum_to_one(
    height: int, width: int, tall: int, wide: int, overlap: float, stride: int
) -> None:
    plan = plan_tiles((height, width), tile=(tall, wide), overlap=overlap, stride=stride)
    if len(plan) > 400:
        return
    check(plan, stride)
    total = np.zeros(plan.padded)
    for rows, columns in plan.places:
        weights = blend_weights(plan.tile, *plan.neighbours(rows, columns))
        assert weights.min() > 0
        total[rows.seen, columns.seen] += weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


@settings(deadline=None, max_examples=150)
@given(Side, Side, Tile, st.integers(0, 120), Stride)
def test_exact_tiles_see_their_halo_around_all_that_is_taken(
    height: int, width: int, extra: int, halo: int, stride: int
) -> None:
    tile = 2 * (-(-halo // stride) * stride) + stride + extra
    plan = plan_tiles((height, width), tile=tile, halo=halo, stride=stride)
    if len(plan) > 400:
        return
    check(plan, stride)
    assert max(plan.tile) < tile + stride
    for pair in plan.places:
        for span, padded in zip(pair, plan.padded, strict=True):
            assert span.start == 0 or span.first - span.start >= halo
            assert span.stop == padded or span.stop - span.last >= halo


@settings(deadline=None, max_examples=150)
@given(Side, Side, st.integers(1, 90_000), st.integers(0, 130), Stride, st.sampled_from(["blend", "exact"]))
def test_the_cheapest_plan_is_sound_and_none_of_equal_tiles_is_cheaper(
    height: int, width: int, most: int, margin: int, stride: int, join: str
) -> None:
    plan = cheapest_plan((height, width), most_pixels=most, margin=margin, join=join, stride=stride)  # type: ignore[arg-type]
    aligned = -(-margin // stride) * stride
    padded = [-(-side // stride) * stride for side in (height, width)]
    best = math.inf
    for tall in range(stride, padded[0] + 1, stride):
        for wide in range(stride, padded[1] + 1, stride):
            if tall * wide > most or (tall < padded[0] and tall <= aligned) or (wide < padded[1] and wide <= aligned):
                continue
            rows = 1 if tall == padded[0] else math.ceil((padded[0] - aligned) / (tall - aligned))
            columns = 1 if wide == padded[1] else math.ceil((padded[1] - aligned) / (wide - aligned))
            if max(rows, columns) < 200:
                best = min(best, rows * columns * tall * wide)
    if plan is None:
        assert best == math.inf
        return
    assert math.prod(plan.tile) <= most
    assert len(plan) * math.prod(plan.tile) <= best
    if len(plan) < 400:
        check(plan, stride)


def test_the_grid_of_a_photo_is_that_of_the_usual_sliding_window() -> None:
    plan = plan_tiles((1280, 1280), tile=512, overlap=0.25, stride=32)
    assert [span.start for span in plan.rows] == [span.start for span in plan.columns] == [0, 384, 768]


def test_tiles_are_spread_evenly() -> None:
    starts = [span.start for span in plan_tiles((1280, 1918), tile=512, overlap=0.25, stride=32).columns]
    assert starts == [0, 352, 704, 1056, 1408]


def test_strips_of_full_height_are_taken_where_they_cost_less_than_squares() -> None:
    strips = cheapest_plan((1280, 1918), most_pixels=1_400_000, margin=128, join="blend", stride=32)
    assert strips is not None
    assert strips.tile == (1280, 1024)
    assert strips.cost == pytest.approx(1.07, abs=0.01)
    squares = cheapest_plan((1280, 1918), most_pixels=300_000, margin=128, join="blend", stride=32)
    assert squares is not None
    assert squares.tile[0] < 1280
    narrow = cheapest_plan((1280, 1918), most_pixels=10**7, margin=1088, join="exact", stride=32, least_tiles=2)
    assert narrow is not None
    assert (len(narrow), narrow.cost) == (2, pytest.approx(1.57, abs=0.01))


def test_exact_tiles_are_no_larger_than_so_many_of_them_need_to_be() -> None:
    plan = plan_tiles((1280, 1918), tile=1024, halo=112, stride=16)
    assert (len(plan.rows), len(plan.columns)) == (2, 3)
    assert plan.tile == (752, 800)  # two cover 1280 where they have 224 in common, three 1920
    assert plan.cost == pytest.approx(1.47, abs=0.01)
    assert all(one.stop - other.start >= 224 for one, other in pairwise(plan.columns))
    assert plan_tiles((1000, 512), tile=512, overlap=0.25, stride=8).tile == (512, 512)  # blended, more is better


def test_a_small_picture_is_one_tile() -> None:
    plan = plan_tiles((100, 70), tile=512, overlap=0.5, stride=32)
    assert (plan.tile, len(plan), plan.padded) == ((128, 96), 1, (128, 96))
    assert plan_whole((100, 70)).tile == (100, 70)


def test_weights_are_those_of_the_gaussian() -> None:
    """Against the definition, written out: each tile's gaussian, not below a thousandth, over the sum of all."""
    plan = plan_tiles((40, 56), tile=(16, 24), overlap=0.5, stride=4)

    def bell(side: int) -> np.ndarray:
        return np.exp(-((np.arange(side) - (side - 1) / 2) ** 2) / (2 * (side / 8) ** 2))

    bump = np.maximum(bell(16)[:, None] * bell(24)[None], 1e-3)
    total = np.zeros(plan.padded)
    for rows, columns in plan.places:
        total[rows.seen, columns.seen] += bump
    for rows, columns in plan.places:
        expected = bump / total[rows.seen, columns.seen]
        np.testing.assert_allclose(blend_weights(plan.tile, *plan.neighbours(rows, columns)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile": 0}, "tile 0 .*such as 512"),
        ({"tile": (4, 5, 6)}, "expected pixels"),
        ({"tile": 64, "overlap": 0.95}, r"overlap 0\.95 .*0 to 0\.9"),
        ({"tile": 64, "overlap": -0.1}, r"overlap -0\.1"),
        ({"tile": 64, "overlap": 0.25, "halo": 8}, "exact join.*leave overlap out"),
        ({"tile": 64, "halo": 32, "stride": 16}, "tile 64: too small .*at least 80"),
    ],
)
def test_what_cannot_be_planned_is_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        plan_tiles((300, 400), **settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)


def test_where_no_tile_is_both_small_enough_and_larger_than_its_margins_there_is_no_plan() -> None:
    assert cheapest_plan((1280, 1918), most_pixels=200 * 200, margin=256, join="exact", stride=16) is None
    assert cheapest_plan((90, 90), most_pixels=10**6, margin=128, join="blend", stride=16, least_tiles=2) is None
