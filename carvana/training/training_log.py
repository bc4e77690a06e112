"""What a training tells of itself: the bar while it runs, a line and a record for each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from carvana.run import Run
from carvana.training.callbacks import Callback, notify
from carvana.training.duration import Duration
from carvana.training.state import Progress
from carvana.training.validation import Validation
from carvana.utils.notebook import NotebookReporter
from carvana.utils.progress import Reporter


class TrainingLog:
    """Writes the logs of a run and tells listeners.

    Args:
        run: Where ``metrics.jsonl`` and ``times.jsonl`` are; None keeps none.
        budget: The training time.
        callbacks: Listeners.
        reporter: Where progress goes.
    """

    def __init__(self, run: Run | None, budget: Duration, callbacks: Sequence[Callback], reporter: Reporter) -> None:
        self._run = run
        self._budget = budget
        self._callbacks = callbacks
        self._reporter = reporter

    def begin(self, at: Progress) -> None:
        """The training begins, or goes on from a place."""
        self._reporter.start("training", self._budget.length)
        self._reporter.advance("training", self._budget.done(at.epoch, at.batch))

    def batch(self, at: Progress) -> None:
        """A batch is over."""
        best = {} if at.best_dice is None else {"best_dice": at.best_dice}
        shown = {"loss": at.loss / at.images} if at.images else {}
        values = {**shown, **best, **self._speed(at)}
        self._reporter.advance("training", self._budget.advance(), epoch=at.epoch + 1, **values)

    def train_numbers(self, at: Progress) -> dict[str, float]:
        """The numbers of the epoch that is ending."""
        return {"train_loss": at.loss / at.images, "lr": at.rate, **self._speed(at)}

    def epoch(self, at: Progress, numbers: dict[str, float], validation: Validation | None) -> None:
        """An epoch is over: add it to both logs."""
        metrics: dict[str, Any] = {"epoch": at.epoch + 1, "step": at.step}
        metrics |= {name: numbers[name] for name in ("train_loss", "lr")}
        words = [f"epoch {at.epoch + 1}", f"loss {numbers['train_loss']:.4f}"]
        if validation is not None:
            metrics |= {"val_loss": validation.loss, "val_dice": validation.dice, "val_accuracy": validation.accuracy}
            words += [f"val Dice {validation.dice:.5f}", f"accuracy {validation.accuracy:.5f}"]
        speed = {name: numbers[name] for name in ("images_per_s", "data_wait")}
        times = {"epoch": at.epoch + 1, **speed, "seconds": at.seconds}
        at.metrics.append(metrics)
        at.times.append(times)
        if self._run is not None:
            self._run.add_epoch(metrics, times)
        notify(self._callbacks, "on_epoch_end", metrics | times)
        words += [f"{speed['images_per_s']:.1f} images/s", f"{speed['data_wait']:.0%} waiting for data"]
        if isinstance(self._reporter, NotebookReporter):
            self._reporter.epoch(metrics | times)
        else:
            self._reporter.info(", ".join(words))

    def end(self) -> None:
        """The training is over, or failed."""
        self._reporter.finish("training")
        notify(self._callbacks, "on_fit_end")

    def _speed(self, at: Progress) -> dict[str, float]:
        elapsed = max(self._budget.seconds - at.began, 1e-9)
        return {"images_per_s": at.images / elapsed, "data_wait": at.waited / elapsed}
