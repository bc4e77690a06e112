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
    budget = Duration(TrainConfig(epochs=3, accumulate=2, warmup=0.0), 5)
    assert [budget.ends_with(epochs) for epochs in range(5)] == [False, False, False, True, True]
    assert budget.length == 15
    rates = []
    for step in range(9):  # three steps an epoch, the last of one batch
        budget.step = step
        rates.append(budget.rate_factor)
        assert budget.advance() == 1
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert 0 < rates[-1] < 0.1
    assert not budget.spent


def test_minutes_count_training_time_alone() -> None:
    clock = Clock()
    budget = Duration(TrainConfig(minutes=1.0, schedule="cosine", warmup=0.0), 5, clock=clock)
    assert budget.length == 60
    budget.start()
    clock.now += 30
    budget.seen = budget.seconds
    assert budget.rate_factor == pytest.approx(0.5)
    assert budget.advance() == 30
    budget.stop()
    clock.now += 1000  # a validation
    assert budget.seconds == 30
    assert not budget.spent
    budget.start()
    clock.now += 29.5
    budget.seen = budget.seconds
    assert budget.advance() == 29
    clock.now += 0.5
    budget.seen = budget.seconds
    assert budget.spent
    assert budget.ends_with(1)
    assert budget.seconds == 60
