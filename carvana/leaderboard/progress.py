"""Progress of a comparison: sent by each worker process, shown by the process that started them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from carvana.leaderboard.records import Row
from carvana.utils.progress import Reporter

FITTING, EVALUATING, MEASURING = "fitting", "evaluating", "measuring"

_INTERVAL = 0.25
"""Seconds between two messages about the progress of a task."""


class WorkerReporter(Reporter):
    """A Reporter that sends everything to another process, as tuples of a kind and its values.

    Args:
        send: Sends one such tuple.
    """

    def __init__(self, send: Callable[[tuple[Any, ...]], None]) -> None:
        self._send = send
        self._steps: dict[str, int] = {}
        self._sent_at = 0.0

    def send(self, kind: str, *values: Any) -> None:
        """Send a message."""
        self._send((kind, *values))

    def info(self, message: str) -> None:
        """Send a line."""
        self.send("info", message)

    def warn(self, message: str) -> None:
        """Send a warning."""
        self.send("warn", message)

    def start(self, task: str, total: int | None) -> None:
        """Send that a task begins."""
        self._steps[task] = 0
        self.send("start", task, total)

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Send the steps of a task, a few times a second."""
        self._steps[task] = self._steps.get(task, 0) + steps
        if time.monotonic() - self._sent_at >= _INTERVAL:
            self._sent_at = time.monotonic()
            self.send("advance", task, self._steps[task], values)
            self._steps[task] = 0

    def finish(self, task: str, **values: float) -> None:
        """Send that a task is done."""
        self.send("finish", task, values)


class ComparisonProgress:
    """Shows a comparison's progress as lines of a Reporter; the command's live display overrides its methods.

    Args:
        reporter: Where the lines go.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def begin(self, rows: Sequence[Row], *, fits: int, minutes: float | None, devices: int) -> None:
        """A comparison begins.

        Args:
            rows: The networks as they stand.
            fits: How many fits are missing.
            minutes: The training time of one, if the config gives it in minutes.
            devices: How many fits run at a time.
        """

    def stage(self, name: str, stage: str, seed: int | None = None) -> None:
        """A network's fit, evaluation or measurement begins."""
        self.reporter.info(f"{name}: {stage}" + ("" if seed is None else f", seed {seed}"))

    def epoch(self, name: str, record: Mapping[str, Any]) -> None:
        """An epoch of a network's fit is over: its lines of metrics.jsonl and times.jsonl."""

    def progress(self, name: str, kind: str, values: Sequence[Any]) -> None:
        """A call of a network's :class:`WorkerReporter`: ``start``, ``advance`` or ``finish``."""
        task = f"{name}: {values[0]}"
        if kind == "start":
            self.reporter.start(task, values[1])
        elif kind == "advance":
            self.reporter.advance(task, values[1], **values[2])
        else:
            self.reporter.finish(task, **values[1])

    def message(self, name: str, kind: str, message: str) -> None:
        """A line about a network: ``info`` or ``warn``."""
        (self.reporter.warn if kind == "warn" else self.reporter.info)(f"{name}: {message}")

    def row(self, row: Row) -> None:
        """A network's row has changed."""
        if row.failed:
            self.reporter.warn(f"{row.name} {row.status}")
        elif row.dice is not None and row.latency_ms is None:
            interval = "" if row.dice_ci95 is None else f" ({row.dice_ci95[0]:.5f} .. {row.dice_ci95[1]:.5f})"
            self.reporter.info(f"{row.name}: Dice {row.dice:.5f}{interval}")

    def close(self) -> None:
        """The comparison is over, or interrupted."""
