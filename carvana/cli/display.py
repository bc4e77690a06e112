"""Progress on stderr: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from carvana.cli.options import verbosity
from carvana.errors import printable
from carvana.utils.devices import process_number
from carvana.utils.progress import Reporter, describe

_LOG = logging.getLogger("carvana")  # shown with --verbose

PLAIN_EVERY = 30.0
"""Seconds between two plain lines about one task."""


def make_reporter() -> Reporter:
    """The reporter for the verbosity and for stderr; of several processes only the first shows bars."""
    if "quiet" in verbosity:
        return QuietReporter()
    return LiveReporter() if sys.stderr.isatty() and process_number() == 0 else PlainReporter()


class LiveReporter(Reporter):
    """Live bars with numbers beside them and messages above them."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._tasks: dict[str, TaskID] = {}
        self._progress: Progress | None = None

    def info(self, message: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable(message), markup=False)

    def warn(self, message: str) -> None:
        """Print a line that stands out."""
        self.console.print(f"warning: {printable(message)}", style="yellow", markup=False)

    def start(self, task: str, total: int | None) -> None:
        """Show a bar."""
        _LOG.debug("%s: begins%s", task, f", {total} steps" if total else "")
        if self._progress is None:
            self._progress = _bars(self.console)
            self._progress.start()
        self._tasks[task] = self._progress.add_task(task, total=total, numbers="")

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Move a bar."""
        if self._progress is not None and task in self._tasks:
            bar = self._tasks[task]
            self._progress.advance(bar, steps)
            if values:
                self._progress.update(bar, numbers=describe(values))

    def finish(self, task: str, **values: float) -> None:
        """Remove a bar; with the last one the display ends."""
        _LOG.debug("%s: ends", task)
        if self._progress is None or task not in self._tasks:
            return
        self._progress.remove_task(self._tasks.pop(task))
        if not self._tasks:
            self._progress.stop()
            self._progress = None


class QuietReporter(Reporter):
    """Prints only warnings."""

    def warn(self, message: str) -> None:
        """Print a line that begins with "warning:"."""
        print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


@dataclass
class _Task:
    total: int | None
    done: int = 0
    printed_at: float = field(default_factory=time.monotonic)


class PlainReporter(QuietReporter):
    """Plain lines for log files: messages at once, progress every :data:`PLAIN_EVERY` seconds."""

    def __init__(self) -> None:
        self._tasks: dict[str, _Task] = {}

    def info(self, message: str) -> None:
        """Print a line."""
        print(printable(message), file=sys.stderr, flush=True)

    def start(self, task: str, total: int | None) -> None:
        """Start counting."""
        _LOG.debug("%s: begins%s", task, f", {total} steps" if total else "")
        self._tasks[task] = _Task(total)

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Count, and print when it is time."""
        if (counted := self._tasks.get(task)) is None:
            return
        counted.done += steps
        if time.monotonic() - counted.printed_at >= PLAIN_EVERY:
            counted.printed_at = time.monotonic()
            share = f"{counted.done}/{counted.total}" if counted.total else str(counted.done)
            self.info(f"{task}: {share} {describe(values)}".rstrip())

    def finish(self, task: str, **values: float) -> None:
        """Stop counting."""
        _LOG.debug("%s: ends", task)
        self._tasks.pop(task, None)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=console,
        transient=True,
    )
