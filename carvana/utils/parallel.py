"""Work beside the main thread: an ordered thread-pool map with bounded memory, and checks around child processes."""

from __future__ import annotations

import multiprocessing
import os
import re
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.spawn import get_preparation_data
from pathlib import Path
from typing import TypeVar

from carvana.errors import ConfigError
from carvana.utils.devices import cpu_count

T = TypeVar("T")
R = TypeVar("R")

AHEAD_BYTES = 2**30
"""What the results in flight may take together, as far as it is known."""

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
    if start_method() != "fork" and (_imports_main() or _lacks_guard()):
        raise ConfigError(
            f"{getattr(sys.modules['__main__'], '__file__', 'the script')}: reading processes run this script again "
            f"from its first line (multiprocessing's start method is {start_method()!r}); put its code under "
            f"`{MAIN_GUARD}`, or take 0 workers"
        )


def _imports_main() -> bool:
    """Whether this process is a child that is importing its parent's script at the moment."""
    return getattr(multiprocessing.current_process(), "_inheriting", False)


def _lacks_guard() -> bool:
    """Whether child processes would run a main script that holds no guard.

    Where a guard is in the script, but not around the call, the child process finds out (:func:`_imports_main`).
    """
    prepared = get_preparation_data("")
    name = prepared.get("init_main_from_path") or prepared.get("init_main_from_name", "__main__")
    if name.rpartition(".")[2] == "__main__":
        return False  # a package that is run as such (python -m), or a notebook
    try:
        script = Path(str(sys.modules["__main__"].__file__)).read_text(encoding="utf-8")
    except (OSError, ValueError):
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
