"""Training logs: callbacks, the progress bar, and a record for each epoch."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from carvana.run import Run
from carvana.utils.progress import Reporter, describe_epoch

if TYPE_CHECKING:  # they import torch, which these logs do without
    from carvana.training.checkpoint import Progress
    from carvana.training.optim import Duration
    from carvana.training.validation import Validation


class Callback:
    """A callback: override what you need. :class:`carvana.Trainer` and ``carvana.fit`` call it in the main process.

    >>> class Printer(Callback):
    ...     def on_epoch_end(self, record):
    ...         print(record["epoch"], record["val_dice"])
    >>> notify([Printer()], "on_epoch_end", {"epoch": 1, "step": 100, "val_dice": 0.98})
    1 0.98
    """

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """An epoch has ended; ``record`` is its line of metrics.jsonl and of times.jsonl."""

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Images were evaluated at full size; ``numbers`` is the content of evaluation.json."""

    def on_fit_end(self) -> None:
        """The training has ended, also by an error."""


def notify(callbacks: Iterable[object], event: str, *values: Any) -> None:
    """Call the method ``event`` of each callback that has it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(*values)


class TrainingLog:
    """Writes the logs of a run, moves the progress bar and calls the callbacks.

    Args:
        run: The run of ``metrics.jsonl`` and ``times.jsonl``; None writes neither.
        duration: The length of the training.
        callbacks: Called at the end of epochs and of the training.
        reporter: Shows the progress.
        metric: Of the validation: "dice" or "miou".
    """

    def __init__(
        self,
        run: Run | None,
        duration: Duration,
        callbacks: Sequence[Callback],
        reporter: Reporter,
        *,
        metric: str = "dice",
    ) -> None:
        self._metric = metric
        self._run = run
        self._duration = duration
        self._callbacks = callbacks
        self._reporter = reporter
        self._shown = 0
        self._task = f"training, in {duration.unit}"

    def begin(self, at: Progress) -> None:
        """The training begins, or resumes."""
        self._reporter.start(self._task, self._duration.length)
        self._shown = 0
        self._advance(at)

    def batch(self, at: Progress) -> None:
        """A batch has ended."""
        values: dict[str, float] = {"loss": at.loss / at.images} if at.images else {}
        if at.best_score is not None:
            values[f"best_{self._metric}"] = at.best_score
        self._advance(at, epoch=at.epoch + 1, **values, **self._speed(at))

    def train_numbers(self, at: Progress) -> dict[str, float]:
        """The numbers of the epoch that is ending."""
        return {"train_loss": at.loss / at.images, "lr": at.rate, **self._speed(at)}

    def epoch(self, at: Progress, numbers: dict[str, float], validation: Validation | None) -> None:
        """An epoch has ended: add it to both logs."""
        number = at.epoch + 1
        metrics = {"epoch": number, "step": at.step, "train_loss": numbers["train_loss"], "lr": numbers["lr"]}
        if validation is not None:
            metrics |= {"val_loss": validation.loss, "val_score": validation.score}
            metrics |= {f"val_{self._metric}": validation.score, "val_accuracy": validation.accuracy}
        speed = {name: numbers[name] for name in ("images_per_s", "data_wait")}
        times = {"epoch": number, **speed, "seconds": at.seconds}
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

    def _advance(self, at: Progress, **values: float) -> None:
        done = self._duration.done(at.epoch, at.batch)
        self._reporter.advance(self._task, done - self._shown, **values)
        self._shown = done

    def _speed(self, at: Progress) -> dict[str, float]:
        elapsed = max(self._duration.seconds - at.began, 1e-9)
        return {"images_per_s": at.images / elapsed, "data_wait": at.waited / elapsed}


def numbers_of(record: Mapping[str, Any]) -> dict[str, float]:
    """What of a record is a number."""
    return {
        name: value for name, value in record.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }


def __getattr__(name: str) -> Any:
    if name in ("TensorBoard", "Trackio"):  # where they were in earlier versions
        return getattr(importlib.import_module("carvana.training.trackers"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
