"""The duration of a training, in epochs or in minutes, and how much of it is done."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from carvana.config import TrainConfig
from carvana.training.optim import rate_factor


class Duration:
    """Counts steps and training time, which is the time between :meth:`start` and :meth:`stop`.

    Args:
        settings: ``minutes``, or else ``epochs``; and the schedule of the learning rate.
        batches: Batches of an epoch.
        clock: A clock in seconds.

    Attributes:
        step: Steps of the optimizer so far.
        seen: Training seconds as of the last batch, equal in all processes: they decide by it when to end.
    """

    def __init__(self, settings: TrainConfig, batches: int, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.step = 0
        self.seen = 0.0
        self._settings = settings
        self._batches = batches
        self._clock = clock
        self._before = 0.0
        self._started: float | None = None
        self._shown = 0

    def ends_with(self, epochs: int) -> bool:
        """Whether the training ends after this many epochs."""
        return self.spent if self._settings.minutes is not None else epochs >= self._settings.epochs

    def resume(self, *, step: int, seconds: float) -> None:
        """Continue the count of an earlier process."""
        self.step, self._before, self.seen = step, seconds, seconds
        self._shown = int(seconds)

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
        """The learning rate of the next step, as a share of the highest."""
        if self._settings.minutes is not None:
            progress = self.seen / (60 * self._settings.minutes)
        else:
            steps = math.ceil(self._batches / self._settings.accumulate) * self._settings.epochs
            # Neither 0 nor 1: a step at learning rate zero would have no effect.
            progress = (self.step + 1) / (steps + 1)
        return rate_factor(progress, warmup=self._settings.warmup, schedule=self._settings.schedule)

    @property
    def length(self) -> int:
        """The length of the progress bar, in :attr:`unit`."""
        minutes = self._settings.minutes
        return self._batches * self._settings.epochs if minutes is None else math.ceil(60 * minutes)

    @property
    def unit(self) -> str:
        """What the progress bar counts."""
        return "batches" if self._settings.minutes is None else "seconds"

    def done(self, epoch: int, batch: int) -> int:
        """How much of the bar is done where a training resumes."""
        return epoch * self._batches + batch if self._settings.minutes is None else self._shown

    def advance(self) -> int:
        """By how much the bar moves after a batch; not beyond its length, which the last batch may exceed."""
        if self._settings.minutes is None:
            return 1
        before, self._shown = self._shown, min(int(self.seen), self.length)
        return self._shown - before
