"""Training logs: the progress bar, a line and a record for each epoch, and the callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carvana.run import Run
from carvana.training.callbacks import Callback, notify
from carvana.training.duration import Duration
from carvana.training.state import Progress
from carvana.training.validation import Validation
from carvana.utils.progress import Reporter, describe_epoch


class TrainingLog:
    """Writes the logs of a run, moves the progress bar and calls the callbacks.

    Args:
        run: The run of ``metrics.jsonl`` and ``times.jsonl``; None writes neither.
        duration: The length of the training.
        callbacks: Called at the end of epochs and of the training.
        reporter: Shows the progress.
    """

    def __init__(self, run: Run | None, duration: Duration, callbacks: Sequence[Callback], reporter: Reporter) -> None:
        self._run = run
        self._duration = duration
        self._callbacks = callbacks
        self._reporter = reporter

    def begin(self, at: Progress) -> None:
        """The training begins, or resumes."""
        self._reporter.start(self._task, self._duration.length)
        self._reporter.advance(self._task, self._duration.done(at.epoch, at.batch))

    def batch(self, at: Progress) -> None:
        """A batch has ended."""
        best = {} if at.best_dice is None else {"best_dice": at.best_dice}
        shown = {"loss": at.loss / at.images} if at.images else {}
        values = {**shown, **best, **self._speed(at)}
        self._reporter.advance(self._task, self._duration.advance(), epoch=at.epoch + 1, **values)

    def train_numbers(self, at: Progress) -> dict[str, float]:
        """The numbers of the epoch that is ending."""
        return {"train_loss": at.loss / at.images, "lr": at.rate, **self._speed(at)}

    def epoch(self, at: Progress, numbers: dict[str, float], validation: Validation | None) -> None:
        """An epoch has ended: add it to both logs."""
        metrics: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step}
        metrics |= {name: numbers[name] for name in ("train_loss", "lr")}
        if validation is not None:
            metrics |= {"val_loss": validation.loss, "val_dice": validation.dice, "val_accuracy": validation.accuracy}
        speed = {name: numbers[name] for name in ("images_per_s", "data_wait")}
        times = {"epoch": at.epoch + 1, **speed, "seconds": at.seconds}
        at.metrics.append(metrics)
        at.times.append(times)
        if self._run is not None:
            self._run.add_epoch(metrics, times)
        notify(self._callbacks, "on_epoch_end", metrics | times)
        if hasattr(self._reporter, "epoch"):
            self._reporter.epoch(metrics | times)
        else:  # a reporter that was written for an earlier version
            self._reporter.info(describe_epoch(metrics | times))

    def end(self) -> None:
        """The training has ended, or failed."""
        self._reporter.finish(self._task)
        notify(self._callbacks, "on_fit_end")

    @property
    def _task(self) -> str:
        return f"training, in {self._duration.unit}"

    def _speed(self, at: Progress) -> dict[str, float]:
        elapsed = max(self._duration.seconds - at.began, 1e-9)
        return {"images_per_s": at.images / elapsed, "data_wait": at.waited / elapsed}
