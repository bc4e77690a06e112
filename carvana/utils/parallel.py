"""Work beside the main thread: an ordered thread-pool map, processes that read images, and checks around processes."""

from __future__ import annotations

import errno
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from carvana.errors import CarvanaError, ConfigError
from carvana.utils.devices import cpu_count, processes_here

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

T = TypeVar("T")
R = TypeVar("R")

AHEAD_BYTES = 2**30
"""What the results in flight may take together, as far as it is known."""

STEP_SECONDS = 30
"""The time a reader goes on after SIGTERM, for the current step."""

SHARED_BYTES = 512 * 2**20
"""The largest size of all images that readers keep ready, in shared memory."""

_MOST_AHEAD = 4

_LONGEST_ADDRESS = 107
"""Bytes of the path of a Unix socket (unix(7))."""

MAIN_GUARD = 'if __name__ == "__main__":'

_network_ran_in: int | None = None
"""The id of the process that has run a network with several threads: this one, or one that it was forked from."""


def threaded(
    function: Callable[[T], R],
    items: Iterable[T],
    *,
    workers: int | None = None,
    ahead: int = 16,
    bytes_of: Callable[[R], int] | None = None,
    finish: bool = False,
) -> Iterator[R]:
    """Apply ``function`` in threads; the results come in order, and items are pulled as they are needed.

    An exception is raised at its item's turn. Items that wait are then dropped, as they are after Ctrl-C or when the
    caller stops early.

    Args:
        function: called in other threads.
        items: pulled in the caller's thread.
        workers: threads; None for one per core.
        ahead: items in flight for each thread, which keep all of them busy while the first one takes its time.
        bytes_of: the size of a result; fewer are in flight where the largest so far, times their number, would exceed
            ``AHEAD_BYTES``.
        finish: after an exception or Ctrl-C, all items that were pulled before are finished first: for writing.

    >>> list(threaded(str.upper, "abc", workers=2))
    ['A', 'B', 'C']
    """
    workers = workers or cpu_count()
    most = ahead * workers if bytes_of is None else 1  # until the size of the first result is known
    largest = 1

    def measured(result: R) -> R:
        nonlocal most, largest
        if bytes_of is not None:
            largest = max(largest, bytes_of(result))
            most = max(1, min(ahead * workers, AHEAD_BYTES // largest))
        return result

    # ThreadPoolExecutor.map would pull all items at once, at a kilobyte each.
    pool = ThreadPoolExecutor(workers, thread_name_prefix="carvana")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            while len(pending) > most:
                yield measured(pending.popleft().result())
        while pending:
            yield measured(pending.popleft().result())
    except BaseException as error:
        pool.shutdown(cancel_futures=not finish or isinstance(error, GeneratorExit))
        raise
    finally:
        pool.shutdown()


def start_method() -> str:
    """The start method of multiprocessing, fork, spawn or forkserver; reading it does not fix it."""
    return multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]


def check_main_guard() -> None:
    """Refuse to start processes where each of them would run the caller's script again, and with it this call.

    Processes that are not forked import the main script first (spawn, and forkserver, the default of Python 3.14).

    Raises:
        ConfigError: the script has no ``if __name__ == "__main__":``, or this process is such a second run of it.
    """
    runs_again = getattr(multiprocessing.current_process(), "_inheriting", False)  # this child imports that script now
    if start_method() != "fork" and (runs_again or _lacks_guard()):
        raise ConfigError(
            f"{getattr(sys.modules['__main__'], '__file__', 'the script')}: reading processes run this script again "
            f"from its first line (multiprocessing's start method is {start_method()!r}); put its code under "
            f"`{MAIN_GUARD}`, or take 0 workers"
        )


def _lacks_guard() -> bool:
    """Whether child processes would run a main script that holds no guard.

    Where a guard is in the script, but not around the call, the child process finds out.
    """
    prepared = get_preparation_data("")
    name = prepared.get("init_main_from_path") or prepared.get("init_main_from_name", "__main__")
    if name.rpartition(".")[2] == "__main__":
        return False  # a package that is run as such (python -m), or a notebook
    try:
        script = Path(str(sys.modules["__main__"].__file__)).read_text(encoding="utf-8")
    except (AttributeError, OSError, ValueError):
        return False
    return re.search("__main__|parent_process", script) is None


def check_fork() -> None:
    """Refuse to run a network in a fork of a process that has run one with several threads: it would hang.

    A fork has one thread only, and OpenMP waits for those that the parent had. With one thread it does not wait, which
    is why torch's readers may be forked.

    Raises:
        ConfigError: this is such a process.
    """
    import torch

    if _network_ran_in not in (None, os.getpid()) and torch.get_num_threads() > 1:
        raise ConfigError(
            "this process is a fork of one that ran a network before, and a network would hang in it: start it by "
            'multiprocessing.get_context("spawn"), run no network before the fork (make the predictor in the new '
            "process), or call torch.set_num_threads(1) first in it"
        )


def network_runs() -> None:
    """Call this before a network runs; raises as :func:`check_fork` does."""
    global _network_ran_in
    import torch

    check_fork()
    if torch.get_num_threads() > 1:
        _network_ran_in = os.getpid()


def end_with_parent() -> None:
    """Run this in a thread of a worker: it ends the worker when its parent has ended.

    A worker waits on a pipe that it holds open itself, so it would outlive a killed parent.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


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


_OF_READERS = "DataLoader worker (pid", "unable to allocate shared memory"


def tells_of_killed_reader(error: BaseException) -> bool:
    """Whether torch says with an error, or with one that caused it, that a reader was killed, or lacks shared memory.

    Torch raises it in the main thread at any place, for example within a network, whose errors then have it as cause.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and any(text in str(cause) for text in _OF_READERS):
            return True
        cause = cause.__cause__
    return False


def reader_count() -> int:
    """One reader a core, at most 8, shared among the processes that were started together on this machine."""
    return max(1, min(8, cpu_count() // processes_here()))


def read_ahead(item_bytes: int, workers: int) -> int:
    """Items that each reader keeps ready: four, or fewer where all of them would take more than ``SHARED_BYTES``.

    >>> read_ahead(10_000_000, workers=2), read_ahead(200_000_000, workers=2), read_ahead(2_000_000_000, workers=2)
    (4, 1, 1)
    """
    return max(1, min(_MOST_AHEAD, SHARED_BYTES // (item_bytes * workers)))


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
    import cv2

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
