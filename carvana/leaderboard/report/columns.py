"""The columns of a leaderboard: one list of headings, formats and meanings for text, Markdown, HTML and terminals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from carvana.errors import shortened
from carvana.leaderboard.records import LeaderboardData, Row
from carvana.utils.progress import METRICS

MISSING = "–"  # noqa: RUF001 (an en dash is meant)
"""The text for a value that is not known."""


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in ids and tests, and the field of a row that it shows.
        heading: the text above it.
        meaning: one sentence for a tooltip or a legend.
        format: a known value as text.
        sort_by: the value to sort by, None where it is not known; by default the field ``key``.
        text: a row as text, where the value alone is not enough.
        numeric: whether it is aligned on the right.
        more_is_better: whether its largest value is the best one.
        brief: whether it belongs to tables with little room.
        under: the column below whose cells the page shows it in small letters: it is long and rarely sorted by.
    """

    key: str
    heading: str
    meaning: str
    format: Callable[[Any], str] = str
    sort_by: Callable[[Row], float | str | None] | None = None
    text: Callable[[Row], str] | None = None
    numeric: bool = True
    more_is_better: bool = False
    brief: bool = False
    under: str = ""

    @property
    def of_class(self) -> bool:
        """Whether it is that of a class, whose name may hold any sign."""
        return self.key.startswith("class ")

    def value(self, row: Row) -> float | str | None:
        """The value of a row to sort by; None where it is not known."""
        found: float | str | None = self.sort_by(row) if self.sort_by else getattr(row, self.key)
        return found

    def cell(self, row: Row) -> str:
        """The cell of a row; a dash where its value is not known."""
        value = self.value(row)
        return MISSING if value is None else self.text(row) if self.text else self.format(value)


def columns(board: LeaderboardData, *, brief: bool = False) -> tuple[Column, ...]:
    """The columns that have a value in this board (the spread, for example, needs several seeds).

    Args:
        board: The leaderboard; the classes that its header names have a column each, behind the score.
        brief: Only those that fit a terminal.
    """
    metric = METRICS[board.task.metric]
    listed: list[Column] = []
    for column in COLUMNS:
        listed.append(
            replace(
                column,
                heading=column.heading.format(metric=metric),
                meaning=column.meaning.format(metric=metric, scored=f"{board.header.scored}."),
            )
        )
        if column.key == "score_ci95":
            listed += map(_of_class, board.header.columns)
    return tuple(
        column
        for column in listed
        if (column.brief or not brief)
        and (column.key in _ALWAYS or any(column.value(row) is not None for row in board.rows))
    )


def _of_class(name: str) -> Column:
    """The column of a class."""
    return Column(
        f"class {name}", shortened(name, 20), f"The score of the class {name}, over all images.", "{:.4f}".format,
        sort_by=lambda row: row.score_of(name), more_is_better=True, brief=True,
    )  # fmt: skip


def minutes(seconds: float) -> str:
    """A duration as minutes and seconds.

    Example:
        >>> minutes(482)
        '8:02'
    """
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02d}"


def interval(bounds: tuple[float, float] | None, *, scale: float = 1.0, digits: int = 5) -> str:
    """Both ends of an interval.

    Example:
        >>> interval((0.98732, 0.98868))
        '0.98732 .. 0.98868'
    """
    if bounds is None:
        return MISSING
    low, high = (f"{scale * bound:.{digits}f}" for bound in bounds)
    return f"{low} .. {high}"


def short(value: float) -> str:
    """A number to three digits, for costs that lie orders of magnitude apart.

    Example:
        >>> short(0.0414), short(4.14159), short(41.4159), short(4141.59)
        ('0.041', '4.14', '41.4', '4,142')
    """
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:,.{digits}f}"


def millions(count: int) -> str:
    """A number of parameters.

    Example:
        >>> millions(34_527_041), millions(7_852)
        ('34.5 M', '0.008 M')
    """
    return f"{count / 1e6:.{1 if count >= 1e6 else 2 if count >= 1e5 else 3}f} M"


def _rank(row: Row) -> str:
    return f"= {row.rank}" if row.tied_with_best and row.rank != 1 else f"{row.rank}"


def _size(row: Row) -> str:
    return row.size if isinstance(row.size, str) else "x".join(map(str, row.size or ()))


def _pixels(row: Row) -> float | None:
    if row.size is None:
        return None
    return 1e18 if isinstance(row.size, str) else row.size[0] * row.size[1]


_five_digits = "{:.5f}".format
_ALWAYS = frozenset({"rank", "name", "score"})

COLUMNS = (
    Column("rank", "#", "Rank by {metric}; = marks networks that are tied with the best.", text=_rank, brief=True),
    Column(
        "name", "network", "The name as it was given.", lambda name: " ".join(name.split()), numeric=False, brief=True
    ),
    Column(
        "arch", "architecture", "The architecture, if the name is another one.",
        sort_by=lambda row: row.arch if row.arch not in ("", row.name) else None, numeric=False, under="name",
    ),
    Column("init", "init", "The kind of first weights.", numeric=False, under="name"),
    Column("score", "{metric}", "The {scored}", _five_digits, more_is_better=True, brief=True),
    Column(
        "score_ci95", "95% interval", "Of the {metric}, by bootstrap over groups.",
        sort_by=lambda row: row.score_ci95[0] if row.score_ci95 else None, text=lambda row: interval(row.score_ci95),
        more_is_better=True, brief=True, under="score",
    ),
    Column(
        "score_spread", "spread", "The largest {metric} minus the smallest of trainings with different seeds.",
        _five_digits, brief=True,
    ),
    Column(
        "error", "error x 1e4", "(1 - Dice) x 10,000: the unit in which good networks differ.", "{:.1f}".format,
        brief=True,
    ),
    Column(
        "boundary_dice", "boundary", "Mean Dice of the pixels within 7 pixels of the true boundary.", _five_digits,
        more_is_better=True,
    ),
    Column(
        "score_worst", "worst 1%", "Mean {metric} of the worst hundredth of the images, at least one.", _five_digits,
        more_is_better=True, brief=True,
    ),
    Column("params", "params", "Trainable parameters, in millions.", millions, brief=True),
    Column("gflops", "GFLOP", "Billions of floating-point operations for a full image.", short),
    Column(
        "latency_ms", "ms", "Prediction of one image, from the array of pixels to the mask, with nothing else running.",
        short, brief=True,
    ),
    Column(
        "images_per_s", "images/s", "Prediction of many images in batches, with nothing else running.", short,
        more_is_better=True,
    ),
    Column("peak_memory_mb", "MB", "Peak memory of prediction; on a CPU of the whole process.", "{:,.0f}".format),
    Column(
        "fit_seconds", "fit, min", "Training time in minutes:seconds, the mean of the trainings.", minutes, brief=True
    ),
    Column(
        "threshold", "threshold", "The best one on these images; of networks fitted here also that of the model.",
        "{:.3f}".format,
    ),
    Column(
        "size", "size", "Height x width at which the network sees an image.",
        sort_by=_pixels, text=_size, more_is_better=True, brief=True,
    ),
    Column(
        "ceiling", "ceiling", "The Dice that a perfect network would reach at that training size on these images.",
        _five_digits, more_is_better=True,
    ),
)  # fmt: skip
"""All columns, in their order."""
