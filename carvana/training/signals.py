"""Ctrl-C and SIGTERM ask a training to stop after its step; they do not tear it out of one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

_HANDLED = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """The training was asked to stop; its state is saved if it has a run.

    Attributes:
        exit_code: What a command ends with: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, *, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class StopSignals:
    """Notes the first Ctrl-C or SIGTERM while the context is open; the second one acts as it always does.

    Attributes:
        received: The number of the signal, or None.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self.received = None
        if threading.current_thread() is threading.main_thread():  # others are not allowed to listen
            for number in _HANDLED:
                handler = signal.getsignal(number)
                # One who started us deaf to Ctrl-C, as a shell does in the background, wants it so.
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
