"""Training logs: callbacks, those for TensorBoard and trackio, the progress bar, and a record for each epoch."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from carvana.errors import ConfigError, cause
from carvana.run import Run
from carvana.utils.progress import Reporter, describe_epoch

if TYPE_CHECKING:  # they import torch, which these logs do without
    from carvana.training.checkpoint import Progress
    from carvana.training.optim import Duration
    from carvana.training.validation import Validation

TRACKIO_PROJECT = "TRACKIO_PROJECT"
"""Environment variable: ``fit`` logs to this project of trackio, as Hugging Face's trainers do."""


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


def default_callbacks(run: Run, *, first_step: int | None = None) -> list[Callback]:
    """The callbacks of ``carvana fit``: TensorBoard if it is installed, trackio if ``TRACKIO_PROJECT`` is set.

    Args:
        run: The run.
        first_step: See ``TensorBoard``; for a resumed training.

    Raises:
        ConfigError: trackio is asked for but not installed.
    """
    callbacks: list[Callback] = []
    if TensorBoard.available():
        callbacks.append(TensorBoard(run.path / "tensorboard", first_step=first_step))
    project = os.environ.get(TRACKIO_PROJECT)
    if project:
        callbacks.append(Trackio(project, name=run.path.resolve().name, first_step=first_step))
    return callbacks


class _Curves(Callback):
    """Writes numbers by step into a log, which is opened for the first ones, and again for those after the end.

    A log that cannot be written does not end the training: a warning is printed, and later numbers are left out.

    Args:
        place: The log's name in that warning.
        first_step: The first step of a resumed training.
    """

    package: ClassVar[str]

    def __init__(self, place: object, first_step: int | None) -> None:
        self._place = place
        self._first_step = first_step
        self._step = first_step or 0
        self._lost = False

    @classmethod
    def available(cls) -> bool:
        """Whether the package that writes is installed."""
        return importlib.util.find_spec(cls.package) is not None

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Write the epoch's numbers."""
        self._step = record["step"]
        self._try(lambda: self._write(_numbers(record), self._step))

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Write the numbers at full size, at the last step of the training, and close the log."""
        classes = numbers.get("per_class", ())
        each = {f"iou/{one['name']}": one["iou"] for one in classes} if len(classes) > 1 else {}
        named = {f"evaluation/{name}": value for name, value in _numbers({**numbers, **each}).items()}
        self._try(lambda: self._write(named, self._step))
        self._try(self._close)

    def on_fit_end(self) -> None:
        """Close the log."""
        self._try(self._close)

    def _try(self, act: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            act()
        except OSError as error:
            self._lost = True
            words = "%s: the curves cannot be written there: %s; the training continues without them"
            logging.getLogger("carvana").warning(words, self._place, cause(error))

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        raise NotImplementedError

    def _close(self) -> None:
        raise NotImplementedError


class TensorBoard(_Curves):
    """Writes every number of every epoch, and of the evaluation at full size, as a TensorBoard scalar.

    Of several classes the IoU of each is ``evaluation/iou/NAME``.

    Args:
        folder: Where the event files go.
        first_step: The first step of a resumed training: TensorBoard hides what was written before for this step and
            later ones.

    >>> carvana.fit(config, callbacks=(carvana.TensorBoard("logs"),))  # doctest: +SKIP
    """

    package: ClassVar = "tensorboard"
    _count: ClassVar = itertools.count()

    def __init__(self, folder: str | os.PathLike[str], *, first_step: int | None = None) -> None:
        super().__init__(folder, first_step)
        self._folder = Path(folder)
        self._records: Any = None

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        # Not SummaryWriter: it writes in a thread, whose errors are printed as tracebacks.
        if self._records is None:
            self._open()
        self._add(step=step, summary={"value": [{"tag": name, "simple_value": numbers[name]} for name in numbers]})
        self._records.flush()

    def _open(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads files in the order of their names; the count orders those of one second and process.
        process, count = f"{socket.gethostname()}.{os.getpid()}", f"{next(self._count):06}"
        name = f"events.out.tfevents.{int(time.time()):010}.{process}.{count}"
        self._records = RecordWriter(open(self._folder / name, "xb"))  # noqa: SIM115 - open until the training ends
        self._add(file_version="brain.Event:2")
        if self._first_step is not None:
            self._add(step=self._first_step, session_log={"status": 1})  # START: hides later steps of earlier files
            self._first_step = None  # a second START would hide this training's own steps

    def _add(self, **event: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]

        self._records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def _close(self) -> None:
        records, self._records = self._records, None
        if records is not None:
            records.close()


class Trackio(_Curves):
    """Writes the same numbers with trackio: to a local file, unless trackio's own variables name a server.

    Args:
        project: The project that ``trackio show --project`` opens.
        name: The name of the run; by default trackio makes one up.
        config: Settings to keep with the run.
        first_step: The first step of a resumed training, which is added to the last run of that name.

    Raises:
        ConfigError: trackio is not installed.

    Example:
        >>> trainer = Trainer(model, train=data, callbacks=[Trackio("cars", name="first")])  # doctest: +SKIP
    """

    package: ClassVar = "trackio"

    def __init__(
        self,
        project: str,
        name: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        first_step: int | None = None,
    ) -> None:
        super().__init__(f"trackio's project {project!r}", first_step)
        if not self.available():
            raise ConfigError(
                f"trackio is not installed, so project {project!r} cannot be logged: pip install 'carvana[trackio]'"
                f" (or unset {TRACKIO_PROJECT}, if that asked for it)"
            )
        self._project = project
        self._name = name
        self._config = dict(config or {})
        self._run: Any = None

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        if self._run is None:
            import trackio

            resume = "never" if self._first_step is None else "allow"
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                self._run = trackio.init(
                    self._project, name=self._name, config=self._config, resume=resume, embed=False
                )
            self._name, self._first_step = self._run.name, step  # to go on with it after its end
        self._run.log(dict(numbers), step=step)

    def _close(self) -> None:
        if self._run is not None:
            import trackio

            with contextlib.redirect_stdout(sys.stderr):
                trackio.finish()
        self._run = None


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


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in record.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
