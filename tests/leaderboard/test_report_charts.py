from __future__ import annotations

import re

import numpy as np
import pytest
from boards import make_board
from hypothesis import given
from hypothesis import strategies as st

from carvana.leaderboard.report.charts import COST_AXES, LAYOUTS, all_series, pareto_front, quality_against_cost
from carvana.leaderboard.report.html import to_html
from carvana.leaderboard.report.svg import AxisScale, Box, place_labels, spread


def overlap(a: Box, b: Box) -> float:
    """The area that both cover."""
    width, height = min(a.right, b.right) - max(a.left, b.left), min(a.bottom, b.bottom) - max(a.top, b.top)
    return max(width, 0) * max(height, 0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_the_front_holds_what_no_point_beats(points: list[tuple[int, int]]) -> None:
    def beaten(place: int) -> bool:
        cost, error = points[place]
        return any(a <= cost and b <= error and (a, b) != (cost, error) for a, b in points)

    assert sorted(pareto_front(points)) == [place for place in range(len(points)) if not beaten(place)]


def test_a_chart_fills_the_marks_on_the_front_alone() -> None:
    board = make_board()
    series = all_series(board)
    front = pareto_front([(row.latency_ms or 0, row.error or 0) for row in board.ranked])
    figure = quality_against_cost(series.values(), COST_AXES[0])
    assert figure is not None
    assert len(figure.charts) == len(LAYOUTS)
    for chart in figure.charts:
        assert {mark.series.index for mark in chart.marks if not mark.beaten} == set(front)
    assert re.findall(r"([\w/+-]+) \(\d", figure.description) == [board.ranked[place].name for place in front]
    page = to_html(board)
    assert f"<desc>{figure.description}</desc>" in page
    assert page.count("mark beaten") == len(COST_AXES) * len(LAYOUTS) * len(board.ranked) - sum(
        len(LAYOUTS) * len(pareto_front([(axis.of(row) or 0, row.error or 0) for row in board.ranked]))
        for axis in COST_AXES
    )


@given(st.lists(st.floats(0, 300), min_size=1, max_size=12))
def test_labels_of_a_column_keep_their_order_and_distance(wanted: list[float]) -> None:
    found = spread(wanted, 15, 0, 300)
    ordered = sorted(range(len(wanted)), key=wanted.__getitem__)
    gaps = np.diff([found[place] for place in ordered])
    assert (gaps >= 15 - 1e-9).all()
    assert min(found) >= -1e-9
    assert max(found) <= 300 + 1e-9


@pytest.mark.parametrize("seed", range(5))
def test_labels_of_points_do_not_cover_each_other(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = [(float(x), float(y)) for x, y in rng.uniform((60, 60), (800, 380), (12, 2))]
    inside = Box(0, 0, 860, 440)
    boxes = place_labels(points, [(140.0, 15.0)] * 12, inside=inside)
    area = 140.0 * 15.0
    assert all(overlap(a, b) < 0.1 * area for place, a in enumerate(boxes) for b in boxes[:place])
    assert all(overlap(box, inside) > 0.99 * area for box in boxes)


@given(st.floats(1e-3, 1e3), st.floats(1.05, 1e4), st.booleans())
def test_an_axis_has_some_round_ticks_inside_its_range(low: float, ratio: float, log: bool) -> None:
    scale = AxisScale(low, low * ratio, 0, 100, log=log)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)
    places = [scale(tick) for tick in ticks]
    assert places == sorted(places)
