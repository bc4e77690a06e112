"""Progress in a notebook: bars, messages and the table of epochs, in one output that is updated.

It needs only IPython, which every notebook has, and no widgets.
"""

from __future__ import annotations

import html
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from carvana.utils.progress import LogReporter, Reporter, describe

_EVERY = 0.2
"""Seconds between two updates of a moving bar."""

_MESSAGES = 8
"""How many of the latest messages are shown; warnings stay."""

_NOT_IN_TABLE = ("step", "lr", "data_wait", "seconds")


def default_reporter() -> Reporter:
    """The reporter where the caller names none: the notebook's in a notebook, else the log's."""
    return NotebookReporter() if in_notebook() else LogReporter()


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook; IPython in a terminal is not."""
    return getattr(_shell(), "kernel", None) is not None


def _shell() -> Any:
    return getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()


@dataclass(frozen=True)
class Bar:
    """A task: how many steps are done, of how many (None: unknown), and the numbers beside the bar."""

    task: str
    total: int | None
    done: int = 0
    numbers: str = ""
    finished: bool = False


class NotebookReporter(Reporter):
    """Shows everything in one output of the notebook's cell."""

    def __init__(self) -> None:
        self._bars: dict[str, Bar] = {}
        self._warnings: list[str] = []
        self._messages: deque[str] = deque(maxlen=_MESSAGES)
        self._epochs: list[Mapping[str, Any]] = []
        self._output: Any = None
        self._drawn = 0.0
        self._cell: object = None

    def _begin(self) -> None:
        """Start a new output in a new cell: a predictor may be made in one cell and used in another."""
        cell = getattr(_shell(), "execution_count", None)
        if cell != self._cell:
            self._cell, self._output = cell, None
            for shown in (self._bars, self._warnings, self._messages, self._epochs):
                shown.clear()

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
        self._bars[task] = Bar(task, total)
        self._draw()

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        """Move a bar."""
        bar = self._bars.get(task)
        if bar is not None:
            self._bars[task] = replace(bar, done=bar.done + steps, numbers=describe(values) or bar.numbers)
            if time.monotonic() - self._drawn >= _EVERY:
                self._draw()

    def finish(self, task: str, **values: float) -> None:
        """Keep the bar until another task begins."""
        if task in self._bars:
            self._bars[task] = replace(self._bars[task], finished=True)
            self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        parts = list(self._bars.values()), self._warnings, list(self._messages), self._epochs
        shown = {"text/html": as_html(*parts), "text/plain": as_text(*parts)}
        if self._output is None:
            self._output = display(shown, raw=True, display_id=True)
        else:
            self._output.update(shown, raw=True)
        self._drawn = time.monotonic()


def as_html(
    bars: Sequence[Bar], warnings: Sequence[str], messages: Sequence[str], epochs: Sequence[Mapping[str, Any]]
) -> str:
    """The output as HTML; names of files and the like are escaped.

    >>> as_html([Bar("reading <b>", 4, done=1)], [], [], [])
    '<div><div><progress value="1" max="4"></progress> reading &lt;b&gt; 1/4</div></div>'
    """
    lines = [f'<div style="color:#b35900">warning: {html.escape(line)}</div>' for line in warnings]
    lines += [f"<div>{html.escape(line)}</div>" for line in messages]
    header, *rows = _table(epochs)
    if rows:
        cells = ["".join(f"<td>{cell}</td>" for cell in row) for row in rows]
        names = "".join(f"<th>{name}</th>" for name in header)
        body = "".join(f"<tr>{row}</tr>" for row in cells)
        lines.append(f"<table><thead><tr>{names}</tr></thead><tbody>{body}</tbody></table>")
    for bar in bars:
        amount = f'value="{bar.done}" max="{bar.total}"' if bar.total else f'value="{int(bar.finished)}" max="1"'
        words = html.escape(_words(bar))
        lines.append(f"<div><progress {amount}></progress> {words}</div>")
    return f"<div>{''.join(lines)}</div>"


def as_text(
    bars: Sequence[Bar], warnings: Sequence[str], messages: Sequence[str], epochs: Sequence[Mapping[str, Any]]
) -> str:
    """The output as plain text, for viewers without HTML."""
    header, *rows = _table(epochs)
    table = ["  ".join(cell.rjust(len(name)) for cell, name in zip(row, header, strict=True)) for row in rows]
    return "\n".join(
        [*(f"warning: {line}" for line in warnings), *messages, *(["  ".join(header)] if rows else []), *table]
        + [_words(bar) for bar in bars]
    )


def _words(bar: Bar) -> str:
    amount = f"{bar.done}/{bar.total}" if bar.total else str(bar.done)
    return f"{bar.task} {amount} {bar.numbers}".rstrip()


def _table(epochs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """The rows of the table of epochs, its header first."""
    names = [name for name in (epochs[0] if epochs else ()) if name not in _NOT_IN_TABLE]
    header = ["images/s" if name == "images_per_s" else name.replace("_", " ") for name in names]
    return [header, *([_number(name, record.get(name)) for name in names] for record in epochs)]


def _number(name: str, value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    return f"{value:.1f}" if name == "images_per_s" else f"{value:.5f}"
