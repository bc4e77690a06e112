"""Work spread over processes that end with the one that started them: by Ctrl-C, by an error, or when it is killed."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import types
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from typing import TypeVar

import cv2

from carvana.utils.parallel import end_with_parent

T = TypeVar("T")

_stopped: Event | None = None  # in a worker: set once nothing more is wanted


def run_chunks(
    function: Callable[[T], object], chunks: Sequence[Sequence[T]], *, workers: int
) -> Generator[int, None, None]:
    """Call ``function`` on every item and yield how many are done, again and again.

    One worker is this process itself. Otherwise a chunk's items stay together in one process, in their order. Where
    the caller stops early or anything fails, each process ends with the item it is at, and none is left behind.

    Args:
        function: a function of a module, which other processes can import.
        chunks: the items.
        workers: how many processes at most.
    """
    workers = min(workers, len(chunks))
    if workers <= 1:
        for chunk in chunks:
            for item in chunk:
                function(item)
                yield 1
        return
    # A process forked from one that has run torch or OpenCV threads may hang: start afresh.
    context = multiprocessing.get_context("spawn")
    stopped = context.Event()
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(stopped,))
    try:
        with _without_ctrl_c(), _without_main():
            jobs = [pool.submit(_run, function, chunk) for chunk in chunks]
        for job in as_completed(jobs):
            yield job.result()
    finally:
        stopped.set()  # the pool has handed out more chunks than it can cancel
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Hold Ctrl-C back from this thread, and from the processes that it starts meanwhile for as long as they live.

    The terminal sends it to them as well, and they would die of it with a traceback each, also while they start.
    """
    if sys.platform == "win32":  # no signal masks there: Ctrl-C while processes start prints their tracebacks
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep processes that are started meanwhile from running the caller's script again, as multiprocessing has them do.

    They need nothing of it; a script without ``if __name__ == "__main__"`` would start its work anew in each of them.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _begin(stopped: Event) -> None:
    global _stopped
    _stopped = stopped
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()


def _run(function: Callable[[T], object], chunk: Sequence[T]) -> int:
    for done, item in enumerate(chunk):
        if _stopped is not None and _stopped.is_set():
            return done
        function(item)
    return len(chunk)
