from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from carvana.utils.parallel import threaded


def test_results_come_in_order_whoever_finishes_first() -> None:
    delays = np.random.default_rng(0).random(40) * 0.01

    def work(number: int) -> int:
        time.sleep(delays[number])
        return number

    assert list(threaded(work, range(40), workers=4)) == list(range(40))


def test_work_is_done_in_several_threads_at_once() -> None:
    barrier = threading.Barrier(3, timeout=10)  # passes only if three wait at the same time
    assert len(list(threaded(lambda _: barrier.wait(), range(6), workers=3))) == 6


def test_reading_never_runs_far_ahead() -> None:
    pulled = 0

    def source() -> Iterator[int]:
        nonlocal pulled
        for number in range(200):
            pulled = number + 1
            yield number

    for done, _ in enumerate(threaded(lambda number: number, source(), workers=2, ahead=2), start=1):
        assert pulled - done <= 4


def test_an_error_comes_out_at_its_turn() -> None:
    results = threaded(lambda number: 12 // (3 - number), range(9), workers=2)
    assert list(itertools.islice(results, 3)) == [4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_what_was_pulled_is_finished_when_the_source_fails() -> None:
    finished = []

    def source() -> Iterator[int]:
        yield from range(3)
        raise KeyboardInterrupt

    def work(number: int) -> None:
        time.sleep(0.02)
        finished.append(number)

    with pytest.raises(KeyboardInterrupt):
        list(threaded(work, source(), workers=1, finish=True))
    assert finished == [0, 1, 2]


def test_stopping_early_drops_what_waits() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        time.sleep(0.01)
        return number

    results = threaded(work, range(1000), workers=2, ahead=2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    time.sleep(0.05)
    assert len(started) < 10
    assert threading.active_count() < 20


@pytest.mark.parametrize("finish", [False, True])
def test_items_that_wait_behind_a_failure_are_dropped_unless_they_are_to_be_finished(finish: bool) -> None:
    done: list[int] = []
    failed = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            failed.wait(5)
            raise ValueError("first")
        failed.set()
        time.sleep(0.02)
        done.append(item)

    with pytest.raises(ValueError, match="first"):
        list(threaded(work, range(1000), workers=2, finish=finish))
    assert (len(done) >= 32) if finish else (len(done) < 10)
