"""Progress and messages: library code calls a Reporter, which shows them: in a log, in a notebook, or not at all.

The display of the terminal is in ``carvana.cli``.
"""

from __future__ import annotations

import html
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_EVERY = 0.2
"""Seconds between two updates of a moving bar in a notebook."""

_MESSAGES = 8
"""How many of the latest messages a notebook shows; warnings stay."""

METRICS = {"dice": "Dice", "miou": "mIoU"}
"""How the metrics of tasks are written."""

_NOT_IN_TABLE = ("step", "lr", "data_wait", "seconds")


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

    def info(self, message: str) -> None:
        """Log it."""
        logging.getLogger("carvana").info(message)

    def warn(self, message: str) -> None:
        """Log it as a warning."""
        logging.getLogger("carvana").warning(message)


class SilentReporter(Reporter):
    """Shows nothing: for all processes of a training but the first."""


def default_reporter() -> Reporter:
    """The reporter where the caller names none: the notebook's in a notebook, else the log's."""
    in_notebook = getattr(_shell(), "kernel", None) is not None  # IPython in a terminal is not
    return NotebookReporter() if in_notebook else LogReporter()


def _shell() -> Any:
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


@dataclass
class _Bar:
    total: int | None
    done: int = 0
    numbers: str = ""
    finished: bool = False


class NotebookReporter(Reporter):
    """Shows bars, messages and a table of epochs in one output of the notebook's cell, which is updated.

    It needs only IPython, which every notebook has, and no widgets.
    """

    def __init__(self) -> None:
        self._bars: dict[str, _Bar] = {}
        self._warnings: list[str] = []
        self._messages: deque[str] = deque(maxlen=_MESSAGES)
        self._epochs: list[Mapping[str, Any]] = []
        self._output: Any = None
        self._drawn = 0.0
        self._cell: object = None

    def info(self, message: str) -> None:
        """Show a line."""
        self._begin()
        self._messages.append(message)
        self._draw()

    def warn(self, message: str) -> None:
        """Show a line that stands out and is never removed."""
        self._begin()
        self._warnings.append(message)
        self._draw()

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Add an epoch to the table: what is in its line of ``metrics.jsonl`` and ``times.jsonl``."""
        self._epochs.append(record)
        self._draw()

    def start(self, task: str, total: int | None) -> None:
        """Show a bar."""
        self._begin()
        self._bars = {name: bar for name, bar in self._bars.items() if not bar.finished}
        self._bars[task] = _Bar(total)
        self._draw()

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Move a bar."""
        if (bar := self._bars.get(task)) is not None:
            bar.done, bar.numbers = bar.done + steps, describe(values) or bar.numbers
            if time.monotonic() - self._drawn >= _EVERY:
                self._draw()

    def finish(self, task: str, **values: float) -> None:
        """Keep the bar until another task begins."""
        if task in self._bars:
            self._bars[task].finished = True
            self._draw()

    def shown(self) -> dict[str, str]:
        """The output as HTML, in which names of files and the like are escaped, and as plain text."""
        warnings = [f"warning: {line}" for line in self._warnings]
        lines = [f'<div style="color:#b35900">{html.escape(line)}</div>' for line in warnings]
        lines += [f"<div>{html.escape(line)}</div>" for line in self._messages]
        lines += _table(self._epochs)
        words = []
        for task, bar in self._bars.items():
            words.append(f"{task} {bar.done}{f'/{bar.total}' if bar.total else ''} {bar.numbers}".rstrip())
            amount = f'value="{bar.done}" max="{bar.total}"' if bar.total else f'value="{int(bar.finished)}" max="1"'
            lines.append(f"<div><progress {amount}></progress> {html.escape(words[-1])}</div>")
        text = [*warnings, *self._messages, *map(describe_epoch, self._epochs), *words]
        return {"text/html": f"<div>{''.join(lines)}</div>", "text/plain": "\n".join(text)}

    def _begin(self) -> None:
        """Start a new output in a new cell: a predictor may be made in one cell and used in another."""
        cell = getattr(_shell(), "execution_count", None)
        if cell != self._cell:
            self._cell, self._output = cell, None
            for shown in (self._bars, self._warnings, self._messages, self._epochs):
                shown.clear()

    def _draw(self) -> None:
        from IPython.display import display

        if self._output is None:
            self._output = display(self.shown(), raw=True, display_id=True)
        else:
            self._output.update(self.shown(), raw=True)
        self._drawn = time.monotonic()


def _table(epochs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The table of epochs as HTML; nothing without epochs."""
    if not epochs:
        return []
    names = [name for name in epochs[0] if name not in _NOT_IN_TABLE]
    heads = "".join(f"<th>{_label(name.replace('_per_', '/'))}</th>" for name in names)
    rows = ["".join(f"<td>{_number(name, record.get(name))}</td>" for name in names) for record in epochs]
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return [f"<table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"]


def _number(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.1f}" if name == "images_per_s" else f"{value:.5f}"


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
    for metric, name in METRICS.items():
        if f"val_{metric}" in record:
            words += [f"val {name} {record[f'val_{metric}']:.5f}", f"accuracy {record['val_accuracy']:.5f}"]
    words += [_describe(name, record[name]) for name in ("images_per_s", "data_wait")]
    return ", ".join(words)


def describe(values: dict[str, float]) -> str:
    """The numbers beside a bar.

    >>> describe({"epoch": 2, "loss": 0.12345, "best_miou": 0.5, "images_per_s": 3.61, "data_wait": 0.021})
    'epoch 2 · loss 0.1235 · best mIoU 0.5000 · 3.6 images/s · 2% waiting for data'
    """
    return " · ".join(_describe(name, value) for name, value in values.items())


def _describe(name: str, value: float) -> str:
    if name == "images_per_s":
        return f"{value:.1f} images/s"
    if name == "data_wait":
        return f"{value:.0%} waiting for data"
    label = _label(name)
    return f"{label} {value}" if isinstance(value, int) else f"{label} {value:.4f}"


def _label(name: str) -> str:
    return " ".join(METRICS.get(word, word) for word in name.split("_"))
