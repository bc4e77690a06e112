"""Ctrl-C and SIGTERM: a training finishes its step and saves its state before it ends."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from carvana.utils.progress import Reporter

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """The training was asked to stop; its state is saved if it has a run.

    Attributes:
        exit_code: The exit code of the command: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, *, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Notes the first Ctrl-C or SIGTERM while the context is open; a second one acts as it would without the context.

    Args:
        reporter: Says at once that Ctrl-C was noted: the step may take long.

    Attributes:
        received: The number of the signal, or None.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.received: int | None = None
        self._reporter = reporter
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.received = None
        if threading.current_thread() is threading.main_thread():  # Python allows handlers in no other thread
            for number in _HANDLED:
                handler = signal.getsignal(number)
                # A shell that starts a program in the background has it ignore Ctrl-C; that is left as it is.
                if handler is not signal.SIG_IGN and handler is not None:
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.__exit__()
        if number == signal.SIGINT:  # SIGTERM comes from a program, which reads no answer
            with suppress(Exception):  # stderr is closed, or was being written to: the state is saved all the same
                self._reporter.info("Ctrl-C: the step is finished and the state saved; Ctrl-C again ends at once")
