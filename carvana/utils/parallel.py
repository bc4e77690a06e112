"""Ordered thread-pool map with bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from carvana.utils.devices import cpu_count

T = TypeVar("T")
R = TypeVar("R")

AHEAD_BYTES = 2**30
"""What the results in flight may take together, as far as it is known."""


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
