"""Callbacks of a training: the interface, and those for TensorBoard and trackio."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from carvana.errors import ConfigError, cause
from carvana.run import Run

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


class _Curves(Callback, ABC):
    """Writes numbers by step into a log, which is opened for the first ones, and again for those after the end.

    A log that cannot be written does not end the training: a warning is printed, and later numbers are left out.
    """

    def __init__(self, first_step: int | None) -> None:
        self._step = first_step or 0
        self._ended = False
        self._lost = False

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Write the epoch's numbers."""
        self._step, self._ended = record["step"], False
        self._try(lambda: self._write(_numbers(record), self._step))

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Write the numbers at full size, at the last step of the training."""
        named = {f"evaluation/{name}": value for name, value in _numbers(numbers).items()}
        self._try(lambda: self._write(named, self._step))
        if self._ended:
            self._try(self._close)

    def on_fit_end(self) -> None:
        """Close the log."""
        self._ended = True
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

    @property
    @abstractmethod
    def _place(self) -> str: ...

    @abstractmethod
    def _write(self, numbers: Mapping[str, float], step: int) -> None: ...

    @abstractmethod
    def _close(self) -> None: ...


class TensorBoard(_Curves):
    """Writes every number of every epoch, and of the evaluation at full size, as a TensorBoard scalar.

    Args:
        folder: Where the event files go.
        first_step: The first step of a resumed training: TensorBoard hides what was written before for this step and
            later ones.

    >>> carvana.fit(config, callbacks=(carvana.TensorBoard("logs"),))  # doctest: +SKIP
    """

    _count: ClassVar = itertools.count()

    def __init__(self, folder: str | os.PathLike[str], *, first_step: int | None = None) -> None:
        super().__init__(first_step)
        self._folder = Path(folder)
        self._first_step = first_step
        self._records: Any = None

    @staticmethod
    def available() -> bool:
        """Whether the package tensorboard is installed."""
        return importlib.util.find_spec("tensorboard") is not None

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

    @property
    def _place(self) -> str:
        return str(self._folder)


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

    def __init__(
        self,
        project: str,
        name: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        first_step: int | None = None,
    ) -> None:
        super().__init__(first_step)
        if not self.available():
            raise ConfigError(
                f"trackio is not installed, so project {project!r} cannot be logged: pip install 'carvana[trackio]'"
                f" (or unset {TRACKIO_PROJECT}, if that asked for it)"
            )
        self._project = project
        self._name = name
        self._config = dict(config or {})
        self._resume = "never" if first_step is None else "allow"
        self._run: Any = None

    @staticmethod
    def available() -> bool:
        """Whether the package trackio is installed."""
        return importlib.util.find_spec("trackio") is not None

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        if self._run is None:
            import trackio

            with _aside():
                self._run = trackio.init(
                    self._project, name=self._name, config=self._config, resume=self._resume, embed=False
                )
            self._name, self._resume = self._run.name, "allow"
        self._run.log(dict(numbers), step=step)

    def _close(self) -> None:
        if self._run is not None:
            import trackio

            with _aside():
                trackio.finish()
        self._run = None

    @property
    def _place(self) -> str:
        return f"trackio's project {self._project!r}"


def _aside() -> contextlib.AbstractContextManager[Any]:
    """Redirect what trackio prints to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in record.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
