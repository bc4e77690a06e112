"""How long work tells what it does, without knowing who listens.

Library code takes a Reporter and calls it; the terminal display lives in ``carvana.cli``, that of notebooks in
``carvana.utils.notebook``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")


class Reporter(Protocol):
    """What a listener must understand. All methods may be called from one thread only."""

    def info(self, message: str) -> None:
        """Something worth a line."""

    def warn(self, message: str) -> None:
        """Something that the user should know and may want to mend."""

    def start(self, task: str, total: int | None) -> None:
        """A task of ``total`` steps begins (None: nobody knows how many)."""

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """``steps`` more are done; ``values`` are the numbers to show beside the bar."""

    def finish(self, task: str, **values: float) -> None:
        """The task is over, done or given up; ``values`` are its last numbers."""


class LogReporter:
    """The default for library users outside of notebooks: messages go to the ``carvana`` logger, progress to nobody."""

    def __init__(self) -> None:
        self._log = logging.getLogger("carvana")

    def info(self, message: str) -> None:
        """Log it."""
        self._log.info(message)

    def warn(self, message: str) -> None:
        """Log it as a warning."""
        self._log.warning(message)

    def start(self, task: str, total: int | None) -> None:
        """Log it for those who debug."""
        self._log.debug("%s: %s steps", task, total)

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Nothing: a line for each step would drown the rest."""

    def finish(self, task: str, **values: float) -> None:
        """Log it for those who debug."""
        self._log.debug("%s: done %s", task, values)


class SilentReporter:
    """Tells nobody: for the other processes of a training, whose first one speaks for all."""

    def info(self, message: str) -> None:
        """Nothing."""

    def warn(self, message: str) -> None:
        """Nothing."""

    def start(self, task: str, total: int | None) -> None:
        """Nothing."""

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Nothing."""

    def finish(self, task: str, **values: float) -> None:
        """Nothing."""


def track(items: Iterable[T], reporter: Reporter, task: str, total: int | None = None) -> Iterator[T]:
    """Iterate over ``items`` and report each one as a step of ``task``, which is finished however the loop ends."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    reporter.start(task, total)
    try:
        for item in items:
            yield item
            reporter.advance(task)
    finally:
        reporter.finish(task)


def describe(values: dict[str, float]) -> str:
    """The numbers beside a bar, in words.

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
