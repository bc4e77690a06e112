"""The live display of a comparison: a line for each network with its status, learning curve and time left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from carvana.cli.display import LiveReporter, make_reporter
from carvana.leaderboard.executor import FITTING, MEASURING, ComparisonProgress
from carvana.leaderboard.records import Row
from carvana.leaderboard.report.columns import minutes

_SPARKS = "▁▂▃▄▅▆▇█"
_CURVE = 12
"""Epochs that a curve shows, the last ones."""


def make_progress() -> ComparisonProgress:
    """The progress display for what stderr is connected to: live in a terminal, lines elsewhere."""
    reporter = make_reporter()
    return LiveComparisonProgress(reporter) if isinstance(reporter, LiveReporter) else ComparisonProgress(reporter)


def sparkline(values: Sequence[float]) -> str:
    """A curve of block characters: errors on a log scale, so that late epochs still show what they gain.

    Args:
        values: Dice of each epoch, below 1.

    >>> sparkline([0.9, 0.97, 0.99, 0.995])
    '▁▄▆█'
    """
    heights = [-math.log10(max(1 - value, 1e-6)) for value in values[-_CURVE:]]
    if not heights:
        return ""
    low, span = min(heights), max(heights) - min(heights)
    return "".join(
        _SPARKS[round((height - low) / span * (len(_SPARKS) - 1))] if span else _SPARKS[0] for height in heights
    )


_AROUND = 30.0
"""Seconds that a fit takes in addition to training: starting, reading, evaluating."""


@dataclass
class _Line:
    """The line of one network."""

    name: str
    status: str = "waiting"
    stage: str | None = None
    dice: str = ""
    curve: list[float] = field(default_factory=list)
    task: str = ""
    done: int = 0
    total: int | None = None
    began: float = 0.0
    before: int = 0

    @property
    def left(self) -> float | None:
        """Seconds until the current task is done; None while it is unknown."""
        moved = self.done - self.before
        if not self.total or moved <= 0:
            return None
        return (time.monotonic() - self.began) / moved * max(0, self.total - self.done)


class LiveComparisonProgress(ComparisonProgress):
    """A live table on stderr, with warnings above it."""

    def __init__(self, reporter: LiveReporter) -> None:
        super().__init__(reporter)
        self._console = reporter.console
        self._lines: dict[str, _Line] = {}
        self._live: Live | None = None
        self._minutes: float | None = None
        self._devices = 1
        self._waiting = 0  # fits that have not begun
        self._took: list[float] = []
        self._fits_began: dict[str, float] = {}

    def begin(self, rows: Sequence[Row], *, fits: int, minutes: float | None, devices: int) -> None:
        """Show all networks."""
        self._lines = {row.name: _Line(row.name) for row in rows}
        self._minutes, self._waiting, self._devices = minutes, fits, devices
        for row in rows:
            self._note(row)
        self._live = Live(get_renderable=self.render, console=self._console, refresh_per_second=4, transient=True)
        self._live.start()

    def stage(self, name: str, stage: str, seed: int | None = None) -> None:
        """Show the stage that a network's process has begun."""
        line = self._lines[name]
        line.stage = stage
        line.status = stage if seed is None else f"{stage}, seed {seed}"
        line.task, line.total = "", None
        if stage == FITTING:
            line.curve = []
            self._waiting -= 1
            self._fits_began[name] = time.monotonic()

    def event(self, name: str, kind: str, *values: Any, **numbers: float) -> None:
        """Extend its curve, move its bar, or print a warning; everything else is in the table."""
        line = self._lines[name]
        if kind in ("epoch", "earlier epoch"):
            if values[0].get("val_dice") is not None:
                line.curve.append(values[0]["val_dice"])
        elif kind == "warn":
            self.reporter.warn(f"{name}: {values[0]}")
        elif kind == "start":
            line.task, line.total, line.done, line.before = values[0], values[1], 0, 0
            line.began = time.monotonic()
        elif kind == "advance" and values[0] == line.task:
            if line.done == 0 and time.monotonic() - line.began < 1 and values[1] > 1:
                line.before = values[1]  # a resumed training begins in the middle
            line.done += values[1]

    def row(self, row: Row) -> None:
        """Show its result."""
        if row.name in self._fits_began:
            self._took.append(time.monotonic() - self._fits_began.pop(row.name))
        self._note(row)

    def close(self) -> None:
        """Remove the table."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def render(self) -> RenderableType:
        """The table as it is now."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=False)
        for line in self._lines.values():
            table.add_row(Text(line.name, style="bold"), *_cells(line))
        return Group(table, Text(""), Text(self._summary(), style="dim"))

    def _note(self, row: Row) -> None:
        line = self._lines[row.name]
        line.stage, line.status = None, row.status
        if row.dice is not None:
            line.status = "measured" if row.latency_ms is not None else "evaluated"
            line.dice = f"{row.dice:.5f}"
            curve = row.refits[0].curve if row.refits else ()
            line.curve = [epoch["val_dice"] for epoch in curve if "val_dice" in epoch]

    def _summary(self) -> str:
        left = self._seconds_left()
        done = sum(bool(line.dice) or line.status.startswith("failed") for line in self._lines.values())
        words = f"{done} of {len(self._lines)} networks"
        return words if left is None else f"{words}, about {minutes(left)} left for fits"

    def _seconds_left(self) -> float | None:
        """Seconds that the fits will still take, from finished fits, the budget, and the one under way."""
        working = [line for line in self._lines.values() if line.stage == FITTING]
        if self._took:
            typical: float | None = sum(self._took) / len(self._took)
        else:
            typical = None if self._minutes is None else 60 * self._minutes + _AROUND
        lasting = [line.left if line.task.startswith("training") else typical for line in working]
        lasting += [typical] * self._waiting
        if not lasting or None in lasting:
            return None
        return sum(seconds for seconds in lasting if seconds is not None) / self._devices


def _cells(line: _Line) -> list[Any]:
    curve = Text(f"{sparkline(line.curve)} {line.curve[-1]:.4f}" if line.curve else "", style="cyan")
    if line.status.startswith("failed"):
        return [Text(line.status, style="red"), "", ""]
    if line.stage is None:
        style = "green" if line.dice else "dim"
        return [Text(f"Dice {line.dice}" if line.dice else line.status, style=style), curve, ""]
    if line.stage == MEASURING or not line.total:
        return [Text(line.status if not line.task else f"{line.status}: {line.task}", style="yellow"), curve, ""]
    left = line.left
    bar = ProgressBar(total=line.total, completed=line.done, width=20)
    task = line.task.partition(",")[0]  # without the unit
    words = f"{task} {line.done / line.total:.0%}" + ("" if left is None else f", {minutes(left)} left")
    return [bar, curve, Text(words, style="yellow")]
