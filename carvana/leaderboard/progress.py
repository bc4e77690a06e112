"""Who watches a comparison: a Reporter that is also told which network does what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from carvana.leaderboard.records import Row
from carvana.utils.progress import Reporter

FITTING, JUDGING, MEASURING = "fitting", "evaluating", "measuring"


class ComparisonProgress:
    """Tells a Reporter in lines. The command's live display overrides what it shows otherwise.

    Args:
        reporter: Where the lines go.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def begin(self, rows: Sequence[Row], *, fits: int, minutes: float | None, devices: int) -> None:
        """A comparison begins.

        Args:
            rows: What is known of each network.
            fits: How many trainings are still to do.
            minutes: The budget of one, if it is told in minutes.
            devices: How many are done at a time.
        """

    def stage(self, name: str, stage: str, seed: int | None = None) -> None:
        """A network is fitted, evaluated or measured from now on."""
        self.reporter.info(f"{name}: {stage}" + ("" if seed is None else f", seed {seed}"))

    def epoch(self, name: str, record: Mapping[str, Any]) -> None:
        """A network's fit has had an epoch; its line of metrics.jsonl and times."""

    def progress(self, name: str, kind: str, values: Sequence[Any]) -> None:
        """A task within a network's process moves: ``start``, ``advance`` or ``finish``, as a Reporter is told."""
        task = f"{name}: {values[0]}"
        if kind == "start":
            self.reporter.start(task, values[1])
        elif kind == "advance":
            self.reporter.advance(task, values[1], **values[2])
        else:
            self.reporter.finish(task, **values[1])

    def message(self, name: str, kind: str, message: str) -> None:
        """A network's process has something to say: ``info`` or ``warn``."""
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
