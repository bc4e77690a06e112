from __future__ import annotations

from itertools import pairwise

import pytest

from carvana.config import TrainConfig
from carvana.training.duration import Duration


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_epochs_are_counted_in_steps() -> None:
    duration = Duration(TrainConfig(epochs=3, accumulate=2, warmup=0.0), 5)
    assert [duration.ends_with(epochs) for epochs in range(5)] == [False, False, False, True, True]
    assert duration.length == 15
    rates = []
    for step in range(9):  # three steps an epoch, the last of one batch
        duration.step = step
        rates.append(duration.rate_factor)
        assert duration.advance() == 1
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert 0 < rates[-1] < 0.1
    assert not duration.spent


def test_minutes_count_training_time_alone() -> None:
    clock = Clock()
    duration = Duration(TrainConfig(minutes=1.0, schedule="cosine", warmup=0.0), 5, clock=clock)
    assert duration.length == 60
    duration.start()
    clock.now += 30
    duration.seen = duration.seconds
    assert duration.rate_factor == pytest.approx(0.5)
    assert duration.advance() == 30
    duration.stop()
    clock.now += 1000  # a validation
    assert duration.seconds == 30
    assert not duration.spent
    duration.start()
    clock.now += 29.5
    duration.seen = duration.seconds
    assert duration.advance() == 29
    clock.now += 0.5
    duration.seen = duration.seconds
    assert duration.spent
    assert duration.ends_with(1)
    assert duration.seconds == 60
