"""The charts: quality against cost, and learning curves; each for wide, medium and narrow screens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from carvana.errors import shortened
from carvana.leaderboard.records import LeaderboardData, Row, SeedRun
from carvana.leaderboard.report.columns import interval, millions, minutes, short
from carvana.leaderboard.report.svg import AxisScale, Box, Point, padded, place_labels, spread, text_width
from carvana.utils.progress import METRICS

_LINE = 15.0  # pixels from one line of text to the next
_LEFT, _TOP, _BELOW = 52.0, 40.0, 50.0  # pixels between the plot and the edges of the chart
_LEAST_ERROR = 1e-6  # so that a perfect mask can be drawn on a log scale
_SMALL_ERROR = 0.03  # below it axes show the error, above it the score
_CLASSES = 4  # that have charts of their own
MANY = 20
"""Of more networks charts show ranks in place of names, and the curves of the best ones alone."""


@dataclass(frozen=True)
class Series:
    """One network in charts.

    Attributes:
        row: its numbers.
        index: from 0, in the order of the rows; its mark's shape and colour follow from it.
    """

    row: Row
    index: int

    @property
    def name(self) -> str:
        """The network's name."""
        return self.row.name

    @property
    def number(self) -> str:
        """Its rank, for where there is no room for its name."""
        return str(self.row.rank if self.row.rank is not None else self.index + 1)


def all_series(board: LeaderboardData) -> Mapping[str, Series]:
    """The networks that were evaluated, by name, best first."""
    return {row.name: Series(row, index) for index, row in enumerate(board.ranked)}


@dataclass(frozen=True)
class ChartLayout:
    """The size of a chart in pixels; a narrow one shows ranks in place of names."""

    name: str
    width: float
    height: float
    named: bool
    x_ticks: int

    def label(self, series: Series) -> str:
        """The text beside a mark."""
        return series.name if self.named else series.number


LAYOUTS = (
    ChartLayout("wide", 1136, 440, named=True, x_ticks=6),
    ChartLayout("medium", 690, 420, named=True, x_ticks=6),
    ChartLayout("narrow", 330, 330, named=False, x_ticks=4),
)


@dataclass(frozen=True)
class Line:
    """A line through points; its kind is its class in page.css."""

    points: Sequence[Point]
    kind: str
    series: Series | None = None
    title: str = ""
    dotted: bool = False


@dataclass(frozen=True)
class Mark:
    """A network's mark; a hollow one is beaten in quality and in cost."""

    at: Point
    series: Series
    title: str = ""
    radius: float = 5.5
    beaten: bool = False


@dataclass(frozen=True)
class Label:
    """A text whose start, middle or end is at a point."""

    at: Point
    text: str
    anchor: str = "start"


@dataclass(frozen=True)
class Chart:
    """What is drawn in one layout, in this order."""

    layout: ChartLayout
    x: AxisScale
    y: AxisScale
    lines: Sequence[Line]
    marks: Sequence[Mark]
    labels: Sequence[Label]


@dataclass(frozen=True)
class Figure:
    """The same chart in all layouts, with a title and a description for screen readers."""

    title: str
    description: str
    charts: Sequence[Chart]


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
    tick: Callable[[float], str] = "{:,.6g}".format
    unit: float = 1.0

    def of(self, row: Row) -> float | None:
        """The cost of a network; None where it is unknown, or 0, which a log scale cannot show."""
        value = getattr(row, self.key)
        return value / self.unit if value else None


COST_AXES = (
    CostAxis("latency_ms", "ms", "ms for one image", lambda v: f"{short(v)} ms"),
    CostAxis("gflops", "GFLOP", "GFLOP for a full image", lambda v: f"{short(v)} GFLOP"),
    CostAxis("params", "params", "parameters", lambda v: millions(round(v)), lambda v: f"{v / 1e6:,.4g} M"),
    CostAxis("fit_seconds", "fit", "minutes of training", lambda v: f"{minutes(60 * v)} min", "{:,.4g}".format, 60),
)


@dataclass(frozen=True)
class Quality:
    """A score, as the vertical axis of a chart.

    Attributes:
        of_class: the class whose score it is; "" for the one that networks are ranked by.
        metric: its name.
    """

    of_class: str
    metric: str

    @property
    def heading(self) -> str:
        """Its name in the switch."""
        return shortened(self.of_class) or self.metric

    def of(self, row: Row) -> float | None:
        """The score of a network."""
        return row.score_of(self.of_class) if self.of_class else row.score

    def interval(self, row: Row) -> tuple[float, float] | None:
        """Its interval, which classes have none of."""
        return None if self.of_class else row.score_ci95


SCORE = Quality("", METRICS["dice"])


def qualities(board: LeaderboardData) -> list[Quality]:
    """The score, and those of single classes: of the columns, else of those in which networks differ most."""
    metric = METRICS[board.task.metric]
    names = board.header.columns
    if not names and len(board.ranked) > 1 and len(board.task.classes) > 1:
        spreads = {}
        for name in board.task.names:
            scores = [score for row in board.ranked if (score := row.score_of(name)) is not None]
            spreads[name] = max(scores) - min(scores) if scores else 0.0
        names = tuple(sorted(spreads, key=lambda name: -spreads[name]))
    known = [name for name in names if any(row.score_of(name) is not None for row in board.ranked)]
    return [Quality("", metric), *(Quality(name, "IoU" if metric == "mIoU" else metric) for name in known[:_CLASSES])]


def quality_against_cost(series: Iterable[Series], cost: CostAxis, quality: Quality = SCORE) -> Figure | None:
    """Error against a cost, both on log scales, with intervals and the Pareto front; None where no cost is known.

    Filled marks are on the front; another network beats hollow ones in both.
    """
    points = [
        (each, spent, score)
        for each in series
        if (spent := cost.of(each.row)) is not None and (score := quality.of(each.row)) is not None
    ]
    if not points:
        return None
    front = pareto_front([(spent, error_of(score)) for _, spent, score in points])
    names = ", ".join(
        f"{each.name} ({cost.format(spent)}, {quality.metric} {score:.5f})"
        for each, spent, score in map(points.__getitem__, front)
    )
    of = f" of {quality.of_class}" if quality.of_class else ""
    return Figure(
        f"Error{of} against {cost.axis}",
        f"On the Pareto front, from the cheapest on: {names}.",
        [
            _cost_chart(points, front, cost, quality, replace(layout, named=layout.named and len(points) <= MANY))
            for layout in LAYOUTS
        ],
    )


def learning_curves(series: Iterable[Series], metric: str = "Dice") -> Figure | None:
    """The validation score at the training size over minutes of training; None where no run has a curve."""
    series = list(series)[:MANY]
    curves = [(each, refit, points) for each in series for refit in each.row.refits if (points := curve_points(refit))]
    if not curves:
        return None
    last = {each.name: points[-1][1] for each, _, points in reversed(curves)}  # of several seeds the first one
    words = ", ".join(f"{name} {score:.5f}" for name, score in reversed(last.items()))
    return Figure(
        "Learning curves",
        f"{metric} on the validation images at the training size after the last epoch: {words}.",
        [_curve_chart(curves, metric, layout) for layout in LAYOUTS],
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


def error_of(score: float) -> float:
    """1 - score, above 0."""
    return max(1 - score, _LEAST_ERROR)


def curve_points(refit: SeedRun) -> list[tuple[float, float]]:
    """(minutes, score) after each epoch that was validated; runs of earlier versions have ``val_dice`` alone."""
    numbers = [(record.get("seconds"), record.get("val_score", record.get("val_dice"))) for record in refit.curve]
    return [
        (seconds / 60, score)
        for seconds, score in numbers
        if seconds is not None and score is not None and math.isfinite(seconds + score)
    ]


def _error_axis(errors: Sequence[float], layout: ChartLayout, title: str, tick: Callable[[float], str]) -> AxisScale:
    """A log scale with small errors at the top."""
    low, high = padded(errors, share=0.06)
    return AxisScale(min(high, 1.0), low, layout.height - _BELOW, _TOP, log=True, title=title, tick=tick)


def _cost_chart(
    points: Sequence[tuple[Series, float, float]],
    front: Sequence[int],
    cost: CostAxis,
    quality: Quality,
    layout: ChartLayout,
) -> Chart:
    ends = [error_of(bound) for each, _, score in points for bound in (score, *(quality.interval(each.row) or ()))]
    if min(ends) < _SMALL_ERROR:
        y = _error_axis(ends, layout, "error x 1e4, better upwards", lambda error: f"{1e4 * error:,.4g}")
    else:
        y = _error_axis(ends, layout, quality.heading, lambda error: f"{1 - error:.4g}")
    low, high = padded([spent for _, spent, _ in points])
    x = AxisScale(low, high, _LEFT, layout.width - 12, True, cost.axis, cost.tick, layout.x_ticks)
    lines, marks = [], []
    for index, (each, spent, score) in enumerate(points):
        at = x(spent), y(error_of(score))
        bounds = quality.interval(each.row)
        title = f"{each.name}: {cost.format(spent)}, {quality.metric} {score:.5f}"
        title += f" ({interval(bounds)})" if bounds else ""
        marks.append(Mark(at, each, title, beaten=index not in front))
        if bounds:
            lines.append(Line([(at[0], y(error_of(bound))) for bound in bounds], "whisker", each))
    lines.append(Line(_staircase([marks[index].at for index in front], x), "front"))
    labels, leaders = _labels(marks, lines, Box(x.start, y.stop - 6, x.stop + 8, y.start), layout)
    return Chart(layout, x, y, [*lines, *leaders], marks, labels)


def _staircase(front: Sequence[Point], x: AxisScale) -> list[Point]:
    """The smallest error for each cost, as a line: level from one network of the front to the next, then up."""
    steps: list[Point] = []
    for point in front:
        if steps:
            steps.append((point[0], steps[-1][1]))
        steps.append(point)
    return [*steps, (x.stop, steps[-1][1])]


def _labels(
    marks: Sequence[Mark], lines: Sequence[Line], inside: Box, layout: ChartLayout
) -> tuple[list[Label], list[Line]]:
    """The text of each mark, where it covers nothing, and lines to those that are far from their mark."""
    obstacles = [Box(x - 8, y - 8, x + 8, y + 8) for x, y in (mark.at for mark in marks)]
    for line in lines:
        for (a, b), (c, d) in pairwise(line.points):
            obstacles.append(Box(min(a, c) - 2, min(b, d) - 2, max(a, c) + 2, max(b, d) + 2))
    sizes = [(text_width(layout.label(mark.series)), _LINE) for mark in marks]
    boxes = place_labels([mark.at for mark in marks], sizes, inside=inside, obstacles=obstacles)
    labels, leaders = [], []
    for mark, box in zip(marks, boxes, strict=True):
        (x, y), middle = mark.at, (box.top + box.bottom) / 2
        if box.left > x:
            anchor, beside = "start", box.left
        elif box.right < x:
            anchor, beside = "end", box.right
        else:
            anchor, beside = "middle", (box.left + box.right) / 2
        labels.append(Label((beside, box.bottom - 4), layout.label(mark.series), anchor))
        if abs(middle - y) > _LINE:
            leaders.append(Line([(x, y), (beside, middle)], "leader", mark.series))
    return labels, leaders


def _curve_chart(curves: Sequence[tuple[Series, SeedRun, list[Point]]], metric: str, layout: ChartLayout) -> Chart:
    title = f"validation {metric} at the training size"
    errors = [error_of(score) for *_, points in curves for _, score in points]
    y = _error_axis(errors, layout, title, lambda error: f"{1 - error:.6g}")
    longest = max(at for *_, points in curves for at, _ in points) * 1.01 or 1
    room = max(text_width(layout.label(each)) for each, *_ in curves) + 30
    x = AxisScale(0, longest, _LEFT, layout.width - room, title="minutes of training", count=layout.x_ticks)
    lines = []
    ends: dict[str, Mark] = {}
    for each, refit, points in curves:
        path = [(x(at), y(error_of(score))) for at, score in points]
        seed = f", seed {refit.seed}" if refit.seed is not None and len(each.row.refits) > 1 else ""
        title = f"{each.name}{seed}: {points[-1][1]:.5f} after {minutes(60 * points[-1][0])} min"
        first = each.name not in ends
        lines.append(Line(path, "curve" if first else "curve again", each, title, dotted=first and len(path) <= 40))
        ends.setdefault(each.name, Mark(path[-1], each, radius=3.6))
    marks, labels = [], []
    heights = spread([end.at[1] for end in ends.values()], _LINE, y.stop - 4, y.start)
    for end, height in zip(ends.values(), heights, strict=True):
        lines.append(Line([end.at, (x.stop + 4, height), (x.stop + 10, height)], "leader", end.series))
        marks.append(Mark((x.stop + 15, height), end.series, radius=end.radius))
        labels.append(Label((x.stop + 24, height + 4), layout.label(end.series)))
    return Chart(layout, x, y, lines, marks, labels)
