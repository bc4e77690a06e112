"""The live display of a comparison: a line for each network with its status, learning curve and time left."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from carvana.cli.display import LiveReporter, make_reporter
from carvana.leaderboard.executor import FITTING, ComparisonProgress
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


class LiveComparisonProgress(ComparisonProgress):
    """Live lines on stderr, with warnings above them."""

    def __init__(self, reporter: LiveReporter) -> None:
        super().__init__(reporter)
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            TextColumn("{task.fields[status]}"),
            TextColumn("[cyan]{task.fields[curve]}"),
            BarColumn(20),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=reporter.console,
            get_time=time.monotonic,
        )
        self._live = Live(get_renderable=self.render, console=reporter.console, refresh_per_second=4, transient=True)
        self._lines: dict[str, TaskID] = {}
        self._now: dict[str, tuple[str, str]] = {}  # the stage and the task of each network
        self._curves: dict[str, list[float]] = {}
        self._done: set[str] = set()
        self._minutes: float | None = None
        self._devices = 1
        self._waiting = 0  # fits that have not begun
        self._began: dict[str, float] = {}  # those under way
        self._took: list[float] = []  # those that are over

    def begin(self, rows: Sequence[Row], *, fits: int, minutes: float | None, devices: int) -> None:
        """Show all networks."""
        self._minutes, self._waiting, self._devices = minutes, fits, devices
        for row in rows:
            self._lines[row.name] = self._progress.add_task(escape(row.name), status="", curve="")
            self._note(row)
        self._live.start()

    def stage(self, name: str, stage: str, seed: int | None = None) -> None:
        """Show the stage that a network's process has begun."""
        words = stage if seed is None else f"{stage}, seed {seed}"
        self._now[name] = words, ""
        self._begin(name, f"[yellow]{words}")
        if stage == FITTING:
            self._draw(name, [])
            self._waiting -= 1
            self._began[name] = time.monotonic()

    def event(self, name: str, kind: str, *values: Any, **numbers: float) -> None:
        """Extend its curve, move its bar, or print a warning; everything else is in the table."""
        stage, task = self._now[name]
        if kind in ("epoch", "earlier epoch"):
            if values[0].get("val_dice") is not None:
                self._draw(name, [*self._curves[name], values[0]["val_dice"]])
        elif kind == "warn":
            self.reporter.warn(f"{name}: {values[0]}")
        elif kind == "start":
            self._now[name] = stage, values[0]
            words = escape(values[0].partition(",")[0])  # without the unit
            self._begin(name, f"[yellow]{stage}: {words}", total=values[1] or 1)
        elif kind == "advance" and values[0] == task:
            self._progress.advance(self._lines[name], values[1])

    def row(self, row: Row) -> None:
        """Show its result."""
        if row.name in self._began:
            self._took.append(time.monotonic() - self._began.pop(row.name))
        self._note(row)

    def close(self) -> None:
        """Remove the lines."""
        self._live.stop()

    def render(self) -> RenderableType:
        """The lines as they are now."""
        left = self._seconds_left()
        words = "" if left is None else f", about {minutes(left)} left for fits"
        return Group(self._progress, "", Text(f"{len(self._done)} of {len(self._lines)} networks{words}", style="dim"))

    def _note(self, row: Row) -> None:
        if row.ok or row.failed:
            self._done.add(row.name)
        words = f"[green]Dice {row.dice:.5f}" if row.ok else f"[{'red' if row.failed else 'dim'}]{escape(row.status)}"
        self._begin(row.name, words, done=int(row.ok))
        curve = row.refits[0].curve if row.refits else ()
        self._draw(row.name, [epoch["val_dice"] for epoch in curve if "val_dice" in epoch])

    def _begin(self, name: str, words: str, *, total: int = 1, done: int = 0) -> None:
        """Let a line say something else, with a bar of so many steps."""
        self._progress.reset(self._lines[name], total=total, completed=done)
        self._progress.update(self._lines[name], status=words)

    def _draw(self, name: str, curve: list[float]) -> None:
        self._curves[name] = curve
        self._progress.update(self._lines[name], curve=f"{sparkline(curve)} {curve[-1]:.4f}" if curve else "")

    def _seconds_left(self) -> float | None:
        """Seconds that the fits will still take, if each takes as long as those that are over, or as is planned."""
        if self._took:
            typical = sum(self._took) / len(self._took)
        elif self._minutes is not None:
            typical = 60 * self._minutes + _AROUND
        else:
            return None
        under_way = [max(0.0, typical - (time.monotonic() - began)) for began in self._began.values()]
        fits = self._waiting + len(under_way)
        return (sum(under_way) + self._waiting * typical) / self._devices if fits else None
