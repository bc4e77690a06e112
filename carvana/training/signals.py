"""What ends a training early: Ctrl-C and SIGTERM, after which its state is saved, and errors, each in one line."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Self

import torch

from carvana.data.dataset import SegmentationDataset
from carvana.errors import CarvanaError, ModelError, listed
from carvana.utils.devices import is_out_of_memory
from carvana.utils.parallel import ReaderKilledError, tells_of_killed_reader
from carvana.utils.progress import Reporter

FEWER_READERS = "take fewer with data.workers, or smaller train.batch_size; --resume goes on"
"""The advice where readers are killed."""

_HANDLED = (signal.SIGINT, signal.SIGTERM)

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout", "Timed out")


class TrainingInterrupted(KeyboardInterrupt):
    """The training was asked to stop; its state is saved if it has a run.

    Attributes:
        exit_code: The exit code of the command: 130 after Ctrl-C, 143 after SIGTERM.
    """

    def __init__(self, message: str, *, signal_number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class LostProcessError(CarvanaError):
    """Another process of the same training has ended or cannot be reached."""


class NonFiniteLossError(CarvanaError):
    """The loss is infinite or not a number; the run keeps the last good state and the best network."""


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


def some_names(data: SegmentationDataset, places: Sequence[int]) -> str:
    """The names of the first of some images."""
    return listed(data.samples[place].name for place in places)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors about memory, the compiler, readers or other processes into one line; others pass unchanged."""
    try:
        yield
    except (RuntimeError, ModelError) as error:
        translated = _translated(error)
        if translated is None:
            raise
        raise translated from error


def _translated(error: RuntimeError | ModelError) -> CarvanaError | None:
    if is_out_of_memory(error):
        return CarvanaError(
            "out of memory in a training step: lower train.batch_size (train.accumulate makes up for it), or data.size"
        )
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return CarvanaError(f"train.compile: the network cannot be compiled here ({reason}); set it to false")
    if tells_of_killed_reader(error):
        return ReaderKilledError(FEWER_READERS)
    if _is_lost_process(error):
        return LostProcessError(
            "another process of this training died or cannot be reached: see what it printed, then continue with "
            f"--resume ({reason})"
        )
    return None


def _is_lost_process(error: Exception) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _LOST)
