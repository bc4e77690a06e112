"""The charts: quality against cost, and learning curves; each for wide, medium and narrow screens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from carvana.leaderboard.records import Row, SeedRun
from carvana.leaderboard.report.columns import interval, millions, minutes, short
from carvana.leaderboard.report.markup import Markup, Series, element, joined, marker
from carvana.leaderboard.report.svg import (
    AxisScale,
    Box,
    axes,
    figure,
    padded,
    place_labels,
    polyline,
    spread,
    text,
    text_width,
)

_LINE = 15.0  # pixels from one line of text to the next
_LEAST_ERROR = 1e-6  # so that a perfect mask can be drawn on a log scale


@dataclass(frozen=True)
class ChartLayout:
    """The size of a chart in pixels; a narrow one shows ranks in place of names."""

    name: str
    width: float
    height: float
    named: bool

    @property
    def left(self) -> float:
        """The plot's edge."""
        return 52.0

    @property
    def bottom(self) -> float:
        """The plot's edge."""
        return self.height - 50

    def label(self, series: Series) -> str:
        """The text beside a mark."""
        return series.name if self.named else series.number


LAYOUTS = (
    ChartLayout("wide", 1136, 440, named=True),
    ChartLayout("medium", 690, 420, named=True),
    ChartLayout("narrow", 330, 330, named=False),
)
_TOP = 40.0


@dataclass(frozen=True)
class CostAxis:
    """A kind of cost, as the horizontal axis of a chart.

    Attributes:
        key: the field of a row.
        heading: its name in the switch.
        axis: the title of the axis.
        format: a value as text.
        tick: a value as text at the axis.
        unit: the unit of the axis, in the unit of the row.
    """

    key: str
    heading: str
    axis: str
    format: Callable[[float], str]
    tick: Callable[[float], str]
    unit: float = 1.0

    def of(self, row: Row) -> float | None:
        """The cost of a network; None where it is unknown, or 0, which a log scale cannot show."""
        value = getattr(row, self.key)
        return value / self.unit if value else None


COST_AXES = (
    CostAxis("latency_ms", "ms", "ms for one image", lambda v: f"{short(v)} ms", lambda v: f"{v:,.6g}"),
    CostAxis("gflops", "GFLOP", "GFLOP for a full image", lambda v: f"{short(v)} GFLOP", lambda v: f"{v:,.6g}"),
    CostAxis("params", "params", "parameters", lambda v: millions(round(v)), lambda v: f"{v / 1e6:,.4g} M"),
    CostAxis(
        "fit_seconds", "fit", "minutes of training", lambda v: f"{minutes(60 * v)} min", lambda v: f"{v:,.4g}", 60
    ),
)


def quality_against_cost(series: Iterable[Series], cost: CostAxis) -> Markup | None:
    """Error against a cost, both on log scales, with intervals and the Pareto front; None where no cost is known.

    Filled marks are on the front; another network beats hollow ones in both.
    """
    known = [(each, cost.of(each.row), error_of(each.row.dice)) for each in series]
    points = [(each, spent, error) for each, spent, error in known if spent is not None and error is not None]
    if not points:
        return None
    front = set(pareto_front([(spent, error) for _, spent, error in points]))
    names = ", ".join(
        f"{each.name} ({cost.format(spent)}, Dice {each.row.dice:.5f})"
        for index, (each, spent, _) in sorted(enumerate(points), key=lambda point: point[1][1])
        if index in front
    )
    title = f"Error against {cost.axis}"
    description = f"On the Pareto front, from the cheapest on: {names}."
    return joined(
        figure(
            layout.width,
            layout.height,
            _cost_chart(points, front, cost, layout),
            title=title,
            description=description,
            class_=layout.name,
        )
        for layout in LAYOUTS
    )


def learning_curves(series: Iterable[Series]) -> Markup | None:
    """Validation Dice at the training size over minutes of training; None where no run has a curve."""
    known = [each for each in series if any(curve_points(refit) for refit in each.row.refits)]
    if not known:
        return None
    last = ", ".join(
        f"{each.name} {curve_points(refit)[-1][1]:.5f}"
        for each in known
        for refit in each.row.refits[:1]
        if curve_points(refit)
    )
    return joined(
        figure(
            layout.width,
            layout.height,
            _curve_chart(known, layout),
            title="Learning curves",
            description=f"Dice on the validation images at the training size after the last epoch: {last}.",
            class_=layout.name,
        )
        for layout in LAYOUTS
    )


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other point beats: none is at most as high in both coordinates and lower in one.

    Args:
        points: pairs of a cost and an error; the less of either, the better.

    Returns:
        indices into ``points``, from the cheapest on. Equal points are all on the front, or none is.

    Example:
        >>> pareto_front([(10, 0.2), (20, 0.1), (30, 0.15)])
        [0, 1]
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=points.__getitem__):
        # All points before it cost at most as much, so only a smaller error than the last one's is on the front.
        if not front or points[index][1] < points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return front


def error_of(dice: float | None) -> float | None:
    """1 - Dice, above 0."""
    return None if dice is None else max(1 - dice, _LEAST_ERROR)


def curve_points(refit: SeedRun) -> list[tuple[float, float]]:
    """(minutes, Dice) after each epoch that was validated."""
    return [
        (record["seconds"] / 60, record["val_dice"])
        for record in refit.curve
        if _finite(record, "seconds") and _finite(record, "val_dice")
    ]


def _finite(record: Mapping[str, float], key: str) -> bool:
    value = record.get(key)
    return value is not None and math.isfinite(value)


def _cost_chart(
    points: Sequence[tuple[Series, float, float]], front: set[int], cost: CostAxis, layout: ChartLayout
) -> Markup:
    ends = [error for _, _, error in points]
    for each, _, _ in points:
        ends += [error for bound in each.row.dice_ci95 or () if (error := error_of(bound)) is not None]
    x = AxisScale(*padded([spent for _, spent, _ in points], log=True), layout.left, layout.width - 12, log=True)
    y = _error_scale(ends, layout)
    marks, obstacles = [], []
    for index, (each, spent, error) in enumerate(points):
        at = (x(spent), y(error))
        title = f"{each.name}: {cost.format(spent)}, Dice {each.row.dice:.5f} ({interval(each.row.dice_ci95)})"
        parts = []
        if each.row.dice_ci95:
            low, high = (y(error_of(bound) or 0) for bound in each.row.dice_ci95)
            parts.append(element("line", x1=at[0], x2=at[0], y1=low, y2=high, class_="whisker"))
            obstacles.append(Box(at[0] - 2, min(low, high), at[0] + 2, max(low, high)))
        parts.append(marker(*at, each.index, title=title, class_="" if index in front else "beaten"))
        obstacles.append(Box(at[0] - 8, at[1] - 8, at[0] + 8, at[1] + 8))
        marks.append(element("g", *parts, class_=each.class_))
    steps = _staircase(
        [(x(points[index][1]), y(points[index][2])) for index in sorted(front, key=lambda p: points[p][1])], x
    )
    obstacles += [Box(min(a, c) - 1, min(b, d) - 1, max(a, c) + 1, max(b, d) + 1) for (a, b), (c, d) in pairwise(steps)]
    scales = axes(
        x,
        y,
        x_title=cost.axis,
        y_title="error x 1e4, better upwards",
        x_format=cost.tick,
        y_format=lambda error: f"{1e4 * error:,.4g}",
        x_ticks=6 if layout.named else 4,
    )
    labels = _labels([(each, x(spent), y(error)) for each, spent, error in points], obstacles, x, y, layout)
    return joined([scales, polyline(steps, class_="front"), *marks, labels])


def _error_scale(errors: Sequence[float], layout: ChartLayout) -> AxisScale:
    """A log scale with small errors at the top."""
    low, high = padded(errors, log=True, share=0.06)
    return AxisScale(high, low, layout.bottom, _TOP, log=True)


def _staircase(front: Sequence[tuple[float, float]], x: AxisScale) -> list[tuple[float, float]]:
    """The smallest error for each cost, as a line: level from one network of the front to the next, then up."""
    steps: list[tuple[float, float]] = []
    for point in front:
        if steps:
            steps.append((point[0], steps[-1][1]))
        steps.append(point)
    return [*steps, (x.stop, steps[-1][1])]


def _labels(
    points: Sequence[tuple[Series, float, float]],
    obstacles: Sequence[Box],
    x: AxisScale,
    y: AxisScale,
    layout: ChartLayout,
) -> Markup:
    sizes = [(text_width(layout.label(each)), _LINE) for each, _, _ in points]
    inside = Box(x.start, y.stop - 6, x.stop + 8, y.start)
    boxes = place_labels([(left, top) for _, left, top in points], sizes, inside=inside, obstacles=obstacles)
    parts = []
    for (each, left, top), box in zip(points, boxes, strict=True):
        middle = (box.top + box.bottom) / 2
        beside = box.left if box.left > left else box.right if box.right < left else (box.left + box.right) / 2
        if abs(middle - top) > _LINE:
            parts.append(element("line", x1=left, y1=top, x2=beside, y2=middle, class_=f"leader {each.class_}"))
        anchor, at = (
            ("start", box.left) if box.left > left else ("end", box.right) if box.right < left else ("middle", beside)
        )
        parts.append(text(at, box.bottom - 4, layout.label(each), anchor=anchor))
    return joined(parts)


def _curve_chart(series: Sequence[Series], layout: ChartLayout) -> Markup:
    curves = [(each, refit, curve_points(refit)) for each in series for refit in each.row.refits]
    curves = [curve for curve in curves if curve[2]]
    room = max(text_width(layout.label(each)) for each in series) + 30
    x = AxisScale(0, max(at for *_, points in curves for at, _ in points) * 1.01 or 1, layout.left, layout.width - room)
    y = _error_scale([error_of(dice) or 0 for *_, points in curves for _, dice in points], layout)
    lines: list[Markup] = []
    ends: dict[str, tuple[Series, tuple[float, float]]] = {}
    for each, refit, points in curves:
        path = [(x(at), y(error_of(dice) or 0)) for at, dice in points]
        seed = f", seed {refit.seed}" if refit.seed is not None and len(each.row.refits) > 1 else ""
        title = f"{each.name}{seed}: {points[-1][1]:.5f} after {minutes(60 * points[-1][0])} min"
        more = " again" if each.name in ends else ""
        parts = [polyline(path, class_=f"curve{more}", title=title)]
        if len(path) <= 40 and not more:
            parts += [element("circle", cx=left, cy=top, r=2.2, class_="dot") for left, top in path]
        lines.append(element("g", *parts, class_=each.class_))
        ends.setdefault(each.name, (each, path[-1]))
    scales = axes(
        x,
        y,
        x_title="minutes of training",
        y_title="validation Dice at the training size",
        x_format=lambda value: f"{value:,.4g}",
        y_format=lambda error: f"{1 - error:.6g}",
        x_ticks=6 if layout.named else 4,
    )
    return joined([scales, *lines, _end_labels(list(ends.values()), x, y, layout)])


def _end_labels(
    ends: Sequence[tuple[Series, tuple[float, float]]], x: AxisScale, y: AxisScale, layout: ChartLayout
) -> Markup:
    heights = spread([top for _, (_, top) in ends], _LINE, y.stop - 4, y.start)
    parts = []
    for (each, (left, top)), height in zip(ends, heights, strict=True):
        parts.append(
            polyline([(left, top), (x.stop + 4, height), (x.stop + 10, height)], class_=f"leader {each.class_}")
        )
        parts.append(element("g", marker(x.stop + 15, height, each.index, radius=3.6), class_=each.class_))
        parts.append(text(x.stop + 24, height + 4, layout.label(each)))
    return joined(parts)
