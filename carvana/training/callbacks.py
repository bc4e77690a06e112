"""Who listens to a training: the methods that are called, and the listeners for TensorBoard and trackio."""

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
"""The environment variable that asks ``fit`` for trackio and names the project, as in Hugging Face's own trainers."""


class Callback:
    """A listener: override what you need. :class:`carvana.Trainer` and ``carvana.fit`` call it on the main process.

    >>> class Printer(Callback):
    ...     def on_epoch_end(self, record):
    ...         print(record["epoch"], record["val_dice"])
    >>> notify([Printer()], "on_epoch_end", {"epoch": 1, "step": 100, "val_dice": 0.98})
    1 0.98
    """

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """An epoch is over; ``record`` is its line of metrics.jsonl and the epoch's times."""

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Images were evaluated at full size; ``numbers`` is what stands in evaluation.json."""

    def on_fit_end(self) -> None:
        """The training is over, also when it failed."""


def notify(callbacks: Iterable[object], event: str, *values: Any) -> None:
    """Call the method ``event`` of each listener. One that is no ``Callback`` need not have it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is not None:
            method(*values)


def default_callbacks(run: Run, *, first_step: int | None = None) -> list[Callback]:
    """The listeners of ``carvana fit``: TensorBoard if it is installed, trackio if ``TRACKIO_PROJECT`` is set.

    Args:
        run: The run that they listen to.
        first_step: See ``TensorBoard``; for a training that is continued.

    Raises:
        ConfigError: trackio is asked for and not installed.
    """
    callbacks: list[Callback] = []
    if TensorBoard.available():
        callbacks.append(TensorBoard(run.path / "tensorboard", first_step=first_step))
    project = os.environ.get(TRACKIO_PROJECT)
    if project:
        callbacks.append(Trackio(project, name=run.path.resolve().name, first_step=first_step))
    return callbacks


class _Curves(Callback, ABC):
    """Numbers by step, into a log that is opened at the first of them and again for those behind the end.

    A log that cannot be written ends no training: a warning tells, and the rest is left out.
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
        """Write the numbers at full size, at the last step that was heard of."""
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
            words = "%s: the curves cannot be written there: %s; the training goes on without them"
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
        first_step: The first step that a continued training reports: what was written of it and of later ones before
            is not shown any more.

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
        # Not SummaryWriter: it writes in a thread of its own, whose errors are printed as tracebacks.
        if self._records is None:
            self._open()
        self._add(step=step, summary={"value": [{"tag": name, "simple_value": numbers[name]} for name in numbers]})
        self._records.flush()

    def _open(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

        self._folder.mkdir(parents=True, exist_ok=True)
        # Files are read in the order of their names: of one second and process in that of the count, the tenth last.
        process, count = f"{socket.gethostname()}.{os.getpid()}", f"{next(self._count):06}"
        name = f"events.out.tfevents.{int(time.time()):010}.{process}.{count}"
        self._records = RecordWriter(open(self._folder / name, "xb"))  # noqa: SIM115 - open until the training ends
        self._add(file_version="brain.Event:2")
        if self._first_step is not None:
            self._add(step=self._first_step, session_log={"status": 1})  # START: later steps of before are void
            self._first_step = None  # opened once more, it would take away what this training wrote

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
    """Writes the same numbers with trackio: into a file of this machine, unless trackio's own variables name a server.

    Args:
        project: The project that ``trackio show --project`` opens.
        name: What to call the run; by default trackio makes a name up.
        config: Settings to keep with the run.
        first_step: The first step that a continued training reports: it adds to the last run of that name.

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
    """Send what trackio prints to stderr: stdout is for results."""
    return contextlib.redirect_stdout(sys.stderr)


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value for name, value in record.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
