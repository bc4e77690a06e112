"""Progress and messages: library code calls a Reporter, which shows them.

The display of the terminal is in ``carvana.cli``, that of notebooks in ``carvana.utils.notebook``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Reporter(Protocol):
    """Shows messages and progress. All methods are called from one thread.

    A reporter may subclass this and define only what it shows; the other methods do nothing.
    """

    def info(self, message: str) -> None:
        """Show a line."""
        return

    def warn(self, message: str) -> None:
        """Show a line about something that the user may want to change."""
        return

    def start(self, task: str, total: int | None) -> None:
        """A task of ``total`` steps begins (None: unknown)."""
        return

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """``steps`` more are done; ``values`` are the numbers to show beside the bar."""
        return

    def finish(self, task: str, **values: float) -> None:
        """The task has ended, done or given up; ``values`` are its last numbers."""
        return

    def epoch(self, record: Mapping[str, Any]) -> None:
        """An epoch of a training has ended; ``record`` is its line of ``metrics.jsonl`` and of ``times.jsonl``."""
        self.info(describe_epoch(record))


class LogReporter(Reporter):
    """The default outside of notebooks: messages go to the logger ``carvana``, progress is not shown."""

    def __init__(self) -> None:
        self._log = logging.getLogger("carvana")

    def info(self, message: str) -> None:
        """Log it."""
        self._log.info(message)

    def warn(self, message: str) -> None:
        """Log it as a warning."""
        self._log.warning(message)

    def start(self, task: str, total: int | None) -> None:
        """Log it at level DEBUG."""
        self._log.debug("%s: %s steps", task, total)

    def finish(self, task: str, **values: float) -> None:
        """Log it at level DEBUG."""
        self._log.debug("%s: done %s", task, values)


class SilentReporter(Reporter):
    """Shows nothing: for all processes of a training but the first."""


def track(items: Iterable[T], reporter: Reporter, task: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` and report each as a step of ``task``; the task is finished however the loop ends."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    reporter.start(task, total)
    try:
        for item in items:
            yield item
            reporter.advance(task)
    finally:
        reporter.finish(task)


def describe_epoch(record: Mapping[str, Any]) -> str:
    """The line about an epoch.

    >>> describe_epoch({"epoch": 1, "train_loss": 0.64, "images_per_s": 2.5, "data_wait": 0.02})
    'epoch 1, loss 0.6400, 2.5 images/s, 2% waiting for data'
    """
    words = [f"epoch {record['epoch']}", f"loss {record['train_loss']:.4f}"]
    if "val_dice" in record:
        words += [f"val Dice {record['val_dice']:.5f}", f"accuracy {record['val_accuracy']:.5f}"]
    words += [_describe(name, record[name]) for name in ("images_per_s", "data_wait")]
    return ", ".join(words)


def describe(values: dict[str, float]) -> str:
    """The numbers beside a bar.

    >>> describe({"epoch": 2, "loss": 0.12345, "images_per_s": 3.61, "data_wait": 0.021})
    'epoch 2 · loss 0.1235 · 3.6 images/s · 2% waiting for data'
    """
    return " · ".join(_describe(name, value) for name, value in values.items())


def _describe(name: str, value: float) -> str:
    if name == "images_per_s":
        return f"{value:.1f} images/s"
    if name == "data_wait":
        return f"{value:.0%} waiting for data"
    label = name.replace("_", " ")
    return f"{label} {value}" if isinstance(value, int) else f"{label} {value:.4f}"
