"""Processes that read images ahead for a training: their number, start and end, and the error if one is killed."""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import cv2

from carvana.errors import CarvanaError, ConfigError
from carvana.utils.devices import cpu_count, processes_here
from carvana.utils.parallel import MAIN_GUARD, check_main_guard, end_with_parent, start_method

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

STEP_SECONDS = 30
"""The time a reader goes on after SIGTERM, for the current step."""

AHEAD_BYTES = 512 * 2**20
"""The largest size of all images that readers keep ready, in shared memory."""

_MOST_AHEAD = 4

_LONGEST_ADDRESS = 107
"""Bytes of the path of a Unix socket (unix(7))."""


class ReaderKilledError(CarvanaError):
    """A reading process ended before its time.

    Args:
        advice: what to do about it.
    """

    def __init__(self, advice: str) -> None:
        again = f", or since it ran a script again whose code is not under `{MAIN_GUARD}`"
        super().__init__(
            "a reading process was killed, or could not start, for lack of memory or of space in /dev/shm"
            f"{'' if start_method() == 'fork' else again}: {advice}"
        )


@contextmanager
def explain_killed_readers(advice: str) -> Iterator[None]:
    """Turn an error that says that a reading process is gone, or cannot start, into a ReaderKilledError."""
    try:
        yield
    except Exception as error:
        sending = isinstance(error, ConnectionError | EOFError)  # it died while it was sending images
        # /dev/shm has no space even for the locks of readers.
        no_room = isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None
        if not (sending or no_room or tells_of_killed_reader(error)):
            raise
        raise ReaderKilledError(advice) from error


def tells_of_killed_reader(error: BaseException) -> bool:
    """Whether torch says with an error, or with one that caused it, that a reading process was killed.

    Torch raises it in the main thread at any place, for example within a network, whose errors then have it as cause.
    """
    cause: BaseException | None = error
    while cause is not None and not (isinstance(cause, RuntimeError) and "DataLoader worker (pid" in str(cause)):
        cause = cause.__cause__
    return cause is not None


def reader_count() -> int:
    """One reader a core, at most 8, shared among the processes that were started together on this machine."""
    return max(1, min(8, cpu_count() // processes_here()))


def read_ahead(item_bytes: int, workers: int) -> int:
    """Items that each reader keeps ready: four, or fewer where all of them would take more than ``AHEAD_BYTES``.

    >>> read_ahead(10_000_000, workers=2), read_ahead(200_000_000, workers=2), read_ahead(2_000_000_000, workers=2)
    (4, 1, 1)
    """
    return max(1, min(_MOST_AHEAD, AHEAD_BYTES // (item_bytes * workers)))


def check_readers_can_begin() -> None:
    """Check that readers can work, before any is started.

    On Linux, images are passed on through a socket whose path is ``<folder>/pymp-........./listener-........``. An
    error there is an exception in a thread of the reader, which is not reported: the process would wait for ever.

    Raises:
        ConfigError: the caller's script would run again in each reader, or the temporary folder's path is too long.
    """
    check_main_guard()
    if sys.platform != "linux":  # elsewhere images are passed by name
        return
    folder = tempfile.gettempdir()
    excess = len(os.fsencode(folder)) + len("/pymp-12345678/listener-12345678") - _LONGEST_ADDRESS
    if excess > 0:
        raise ConfigError(
            f"TMPDIR = {folder}: {excess} bytes too long for the sockets of reading processes; set TMPDIR to a shorter"
            " folder, such as /tmp, or the number of workers to 0"
        )


def begin_reader(_: int) -> None:
    """The ``worker_init_fn`` of a loader, called first in each reader."""
    # There are several readers already: more threads would only compete.
    cv2.setNumThreads(0)
    # Ctrl-C and a cluster's SIGTERM reach readers as well, but the training finishes its step and still needs them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":  # Windows has neither signal
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STEP_SECONDS))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # torch does not notice a parent that was killed before its own check began.
    threading.Thread(target=end_with_parent, daemon=True).start()


def end_readers(loader: DataLoader[Any] | None) -> None:
    """End the reading processes of a loader; it starts new ones if it is used again.

    Otherwise torch ends them when nothing refers to them any more, and the traceback of an error still does.
    """
    if loader is not None and loader._iterator is not None:
        if loader.num_workers:
            with suppress(RuntimeError):  # torch reports a killed reader once more; the others end
                loader._iterator._shutdown_workers()  # type: ignore[attr-defined]
        loader._iterator = None
