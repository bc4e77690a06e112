"""Progress on stderr: live bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from carvana.cli import verbosity
from carvana.errors import printable
from carvana.utils.devices import process_number
from carvana.utils.progress import Reporter, SilentReporter, describe

_LOG = logging.getLogger("carvana")  # shown with --verbose

PLAIN_EVERY = 30.0
"""Seconds between two plain lines about one task."""


def make_reporter() -> Reporter:
    """The reporter for the verbosity and for stderr; of several processes only the first shows bars."""
    if verbosity.chosen() == verbosity.QUIET:
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


class QuietReporter(SilentReporter):
    """Prints only warnings."""

    def warn(self, message: str) -> None:
        """Print a line that begins with "warning:"."""
        print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


class PlainReporter(Reporter):
    """Plain lines for log files: messages at once, progress every :data:`PLAIN_EVERY` seconds."""

    def __init__(self) -> None:
        self._done: dict[str, int] = {}
        self._total: dict[str, int | None] = {}
        self._printed_at: dict[str, float] = {}

    def info(self, message: str) -> None:
        """Print a line."""
        print(printable(message), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        """Print a line that begins with "warning:"."""
        self.info(f"warning: {message}")

    def start(self, task: str, total: int | None) -> None:
        """Start counting."""
        _LOG.debug("%s: begins%s", task, f", {total} steps" if total else "")
        self._done[task], self._total[task], self._printed_at[task] = 0, total, time.monotonic()

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Count, and print when it is time."""
        if task not in self._done:
            return
        self._done[task] += steps
        if time.monotonic() - self._printed_at[task] >= PLAIN_EVERY:
            self._printed_at[task] = time.monotonic()
            total = self._total[task]
            share = f"{self._done[task]}/{total}" if total else str(self._done[task])
            self.info(f"{task}: {share} {describe(values)}".rstrip())

    def finish(self, task: str, **values: float) -> None:
        """Stop counting."""
        _LOG.debug("%s: ends", task)
        self._done.pop(task, None)


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=console,
        transient=True,
    )
