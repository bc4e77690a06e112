"""Processes that end with the one that started them."""

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
