"""How long a training lasts, in epochs or in minutes, and how far it has come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from carvana.config import TrainConfig
from carvana.training.optim import rate_factor


class Duration:
    """Counts steps and training time; time between :meth:`start` and :meth:`stop` alone is counted.

    Args:
        settings: ``minutes``, or else ``epochs``; and the schedule of the learning rate.
        batches: Batches of an epoch.
        clock: Seconds.

    Attributes:
        step: Steps of the optimizer so far.
        seen: Training seconds as of the last batch, the same number in all processes: what decides is read from here.
    """

    def __init__(self, settings: TrainConfig, batches: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.step = 0
        self.seen = 0.0
        self._settings = settings
        self._batches = batches
        self._clock = clock
        self._before = 0.0
        self._started: float | None = None
        self._told = 0

    def ends_with(self, epochs: int) -> bool:
        """Whether the training is over when so many epochs are."""
        return self.spent if self._settings.minutes is not None else epochs >= self._settings.epochs

    def resume(self, *, step: int, seconds: float) -> None:
        """Go on from an earlier process's count."""
        self.step, self._before, self.seen = step, seconds, seconds
        self._told = int(seconds)

    def start(self) -> None:
        """Let the clock run."""
        self._started = self._clock()

    def stop(self) -> None:
        """Stop the clock."""
        self._before, self._started = self.seconds, None

    @property
    def seconds(self) -> float:
        """The training time so far."""
        return self._before + (0.0 if self._started is None else self._clock() - self._started)

    @property
    def spent(self) -> bool:
        """Whether the minutes are over."""
        return self._settings.minutes is not None and self.seen >= 60 * self._settings.minutes

    @property
    def rate_factor(self) -> float:
        """The next step's learning rate, as a share of the highest."""
        if self._settings.minutes is not None:
            progress = self.seen / (60 * self._settings.minutes)
        else:
            steps = math.ceil(self._batches / self._settings.accumulate) * self._settings.epochs
            # From one step's share to nearly one: a step at rate zero would be a step for nothing.
            progress = (self.step + 1) / (steps + 1)
        return rate_factor(progress, warmup=self._settings.warmup, schedule=self._settings.schedule)

    @property
    def length(self) -> int:
        """The length of a progress bar: batches, or seconds."""
        minutes = self._settings.minutes
        return self._batches * self._settings.epochs if minutes is None else math.ceil(60 * minutes)

    def done(self, epoch: int, batch: int) -> int:
        """What such a bar shows at a place that a training goes on from."""
        return epoch * self._batches + batch if self._settings.minutes is None else self._told

    def advance(self) -> int:
        """By how much the bar moves after a batch."""
        if self._settings.minutes is None:
            return 1
        told, self._told = self._told, int(self.seen)
        return self._told - told
