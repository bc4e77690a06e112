from __future__ import annotations

from collections.abc import Iterator

import pytest

from carvana.utils.progress import LogReporter, track


class Calls(LogReporter):
    """A reporter that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[object, ...]] = []

    def start(self, task: str, total: int | None) -> None:
        self.told.append(("start", task, total))

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.told.append(("advance", task))

    def finish(self, task: str, **values: float) -> None:
        self.told.append(("finish", task))


def test_each_item_is_a_step_once_it_is_dealt_with() -> None:
    calls = Calls()
    seen = [(item, len(calls.told)) for item in track("ab", calls, "work")]
    assert seen == [("a", 1), ("b", 2)]
    assert calls.told == [("start", "work", 2), ("advance", "work"), ("advance", "work"), ("finish", "work")]


def test_a_task_that_fails_is_finished_all_the_same() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyboardInterrupt

    calls = Calls()
    with pytest.raises(KeyboardInterrupt):
        list(track(broken(), calls, "work"))
    assert calls.told == [("start", "work", None), ("advance", "work"), ("finish", "work")]


def test_a_task_that_is_left_is_finished() -> None:
    calls = Calls()
    steps = track(range(3), calls, "work")
    next(steps)
    steps.close()
    assert calls.told == [("start", "work", 3), ("finish", "work")]
