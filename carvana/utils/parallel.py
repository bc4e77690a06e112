"""The same for very many items, by several threads, in the memory of a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from carvana.utils.devices import cpu_count

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 64  # items a thread: work for all of them while the first one takes its time


def threaded(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None) -> Iterator[R]:
    """Apply ``function`` in threads; the results come in order, and items are pulled as they are needed.

    ``ThreadPoolExecutor.map`` would begin by handing over all items, at a kilobyte each.

    Args:
        function: called in other threads.
        items: pulled in the caller's thread.
        workers: threads; None for one per core.

    >>> list(threaded(str.upper, "abc", workers=2))
    ['A', 'B', 'C']
    """
    workers = workers or cpu_count()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="carvana")
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > _AHEAD * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
