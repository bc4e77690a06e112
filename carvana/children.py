"""Processes beside this one: how they end with it, and how torch tells that one of them was killed."""

from __future__ import annotations

import multiprocessing
import os


def end_with_parent() -> None:
    """To be run in a thread of a worker, which it ends when the process that started it is gone.

    A worker waits for work on a pipe that it holds open itself, so it would outlive a parent that is killed.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def tells_of_killed_reader(error: BaseException) -> bool:
    """Whether this is how torch tells, wherever the main thread is at that moment, that a reader was killed."""
    return isinstance(error, RuntimeError) and "DataLoader worker" in str(error)
