"""Sends numbers, pictures, config and model card of a training to the trackers of ``train.log_to``."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from carvana.config import TrackerName
from carvana.data.io.images import read_image
from carvana.errors import ConfigError, cause
from carvana.models.model_card import CARD
from carvana.run import Run
from carvana.training.callbacks import Callback, numbers_of
from carvana.utils import deprecated
from carvana.utils.progress import Reporter

PROJECTS = {"wandb": "WANDB_PROJECT", "mlflow": "MLFLOW_EXPERIMENT_NAME", "trackio": "TRACKIO_PROJECT"}
"""The environment variable of each tracker that names the project, as its own documentation has it."""

PROJECT = "carvana"
"""The project where no variable names one."""

_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_INIT_TIMEOUT": "30", "WANDB_LOGIN_TIMEOUT": "30", "WANDB_FINISH_TIMEOUT": "60",
}  # fmt: skip
"""Variables, and what they are during a call unless they are set: without a network a tracker is given up soon."""


class Tracker(Callback):
    """A callback that sends every number of every epoch, and of the evaluation at full size, to a tracker.

    Of several classes the IoU of each is ``evaluation/iou/NAME``. A run's config is sent at its beginning, its pictures
    and its model card at its end. A run that is resumed continues its curves: no point is shown twice. Where the
    tracker fails, as without a network, a warning is given once, and the training goes on without it. One tracker may
    follow several trainings, one after the other: the second one's name and folder end in "-2".

    Args:
        tracker: tensorboard, wandb, mlflow or trackio; each is a package to be installed.
        run: The run, which gives the name, the config, the pictures and the card.
        name: The name that the tracker shows; by default the run's, to which trackio adds six characters.
        config: Settings to keep with it; by default the run's.
        folder: Where TensorBoard's files go; by default ``tensorboard`` in the run.
        project: The project; by default that of the tracker's own environment variable, or "carvana".
        group: Runs of one group are shown together; "" for none.
        first_step: The first step of a resumed training.
        reporter: Receives the warning if the tracker fails; by default it is logged.

    Raises:
        ConfigError: the package is not installed.

    >>> carvana.fit(config, callbacks=(carvana.Tracker("tensorboard", folder="logs"),))  # doctest: +SKIP
    """

    def __init__(
        self,
        tracker: TrackerName,
        run: Run | None = None,
        *,
        name: str | None = None,
        config: Mapping[str, Any] | None = None,
        folder: str | os.PathLike[str] | None = None,
        project: str | None = None,
        group: str = "",
        first_step: int | None = None,
        reporter: Reporter | None = None,
    ) -> None:
        _checked([tracker])
        self._warn = logging.getLogger("carvana").warning if reporter is None else reporter.warn
        self.tracker = tracker
        self._run = run
        self._names = _numbered(name or (run.path.resolve().name if run else ""))
        self._name = next(self._names) or None
        self._config = config
        self._folders = map(Path, _numbered(str(folder or (run.path if run else Path()) / "tensorboard")))
        self._folder = next(self._folders)
        self._project = project or os.environ.get(PROJECTS.get(tracker, "")) or PROJECT
        self._group = group
        self._first_step = first_step
        self._step = max(0, (first_step or 0) - 1)  # that of the last epoch, if no other follows
        self._sent = -1  # the last epoch's step that the tracker has
        self._known = -1  # the last step that it has: W&B keeps an evaluation as steps of its own
        self._described = False  # whether it has the config
        self._id: str | None = None  # by which the tracker finds this run again
        self._open: Any = None  # Accelerate's tracker
        self._lost = False
        self._has_ended = False

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Send the epoch's numbers."""
        if self._has_ended and record.get("epoch") == 1:
            self._begin_another()
        self._step = record["step"]
        self._try(lambda: self._log(numbers_of(record)))

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        """Send the numbers at full size, the pictures and the card, and end the tracker's run."""
        classes = numbers.get("per_class", ())
        each = {f"iou/{one['name']}": one["iou"] for one in classes} if len(classes) > 1 else {}
        named = {f"evaluation/{name}": value for name, value in numbers_of({**numbers, **each}).items()}
        self._try(lambda: self._log(named, again=True))
        self._try(self._log_files)
        self.on_fit_end()

    def on_fit_end(self) -> None:
        """End the tracker's run, so that nothing waits to be sent."""
        self._has_ended = True
        self._try(self._finish)

    def _begin_another(self) -> None:
        """Follow another training, as the next fold, with a run of its own: the second is "NAME-2"."""
        self._folder = next(self._folders)
        self._name = self._name and next(self._names)
        self._id, self._sent, self._known = None, -1, -1
        self._has_ended = self._described = self._lost = False

    def _try(self, act: Callable[[], None]) -> None:
        if self._lost:
            return
        try:
            with _patience(), contextlib.redirect_stdout(sys.stderr):  # stdout is for results
                act()
        except Exception as error:
            self._lost = True
            what = cause(error) if isinstance(error, OSError) else " ".join(str(error).split()) or type(error).__name__
            self._warn(
                f"{self._place}: the curves cannot be written there: {what}; the training continues without them"
            )
            with contextlib.suppress(Exception), _patience(), contextlib.redirect_stdout(sys.stderr):
                self._finish()  # MLflow holds one run open in a process: the next training has its own

    @property
    def _place(self) -> str:
        return str(self._folder) if self.tracker == "tensorboard" else f"{self.tracker}, project {self._project!r}"

    def _log(self, numbers: Mapping[str, float], *, again: bool = False) -> None:
        """Send numbers, unless the tracker has its step already; ``again`` sends others of the last step."""
        if self._open is None:
            self._start()
        if self._step > self._sent or again:
            if self.tracker == "mlflow":  # takes no other characters, only names that are paths, and no long ones
                numbers = {_as_path(re.sub(r"[^\w\-. /:]", "_", name)): value for name, value in numbers.items()}
            # W&B refuses a step that it has, also for other numbers.
            step = max(self._step, self._known + 1) if self.tracker == "wandb" else self._step
            self._open.log(dict(numbers), step=step)
            self._sent, self._known = max(self._sent, self._step), max(self._known, step)
            self._remember()

    def _start(self) -> None:
        """Begin the tracker's run, or go on with the one that the run's record names."""
        from accelerate import PartialState, tracking

        PartialState()  # which Accelerate's trackers ask whether this is the main process
        kept = self._record().get(self.tracker, {}) if self._first_step is not None else {}
        self._id = self._id or kept.get("id")
        self._sent, self._known = max(self._sent, kept.get("step", -1)), max(self._known, kept.get("last", -1))
        known = self._id is not None
        shown: dict[str, Any] = {"name": self._name, "group": self._group or None}
        if self.tracker == "tensorboard":
            _hush_writers()
            where = self._folder.parent
            known = bool(self._first_step) and any(self._folder.glob("*tfevents*"))
            found: Any = tracking.TensorBoardTracker(self._folder.name, where, purge_step=self._first_step)
        elif self.tracker == "wandb":
            place = {"dir": self._run.path} if self._run else {}
            self._id = self._id or uuid.uuid4().hex
            found = tracking.WandBTracker(
                self._project, **shown, **place, id=self._id, resume="allow", reinit="create_new"
            )
        elif self.tracker == "trackio":
            # Of several runs of a name the newest is resumed, so the name is one of its own.
            self._id = self._id or (f"{self._name}-{uuid.uuid4().hex[:6]}" if self._run else self._name)
            again = "allow" if known or self._first_step is not None else "never"
            found = tracking.TrackioTracker(self._project, **{**shown, "name": self._id}, resume=again, embed=False)
        else:
            if self._id or self._group:  # for which Accelerate and MLflow would take the variable
                os.environ.pop("MLFLOW_RUN_ID", None)
            found = tracking.MLflowTracker(self._project, run_name=self._name, run_id=self._id)
            found.experiment_name = self._project  # for which Accelerate takes the variable first
        try:
            found.start()
        except Exception:
            if self.tracker != "mlflow":
                raise
            found.start()  # another process has made the experiment at the same moment
        self._open = found
        if self.tracker != "tensorboard":
            self._id = self._id or str(found.tracker.name if self.tracker == "trackio" else found.tracker.info.run_id)
            self._known = self._last_step() if known else -1
            self._sent = min(self._sent, self._known) if self.tracker == "wandb" else self._known
            self._remember()
        if not (known or self._described):
            self._log_config()
            if self.tracker == "mlflow" and self._group:
                import mlflow

                mlflow.set_tag("group", self._group)
        self._described = True
        self._first_step = None  # a second START would hide this training's own steps

    def _last_step(self) -> int:
        """The last step that the tracker has of a run that is resumed: a killed process may not have sent its last."""
        run = self._open.tracker
        if self.tracker == "wandb":
            return self._known if run.offline else int(run.step) - 1  # offline it does not know
        if self.tracker == "trackio":
            return int(getattr(run, "_next_step", 0)) - 1
        from mlflow import MlflowClient

        return max((one.step for one in MlflowClient().get_metric_history(run.info.run_id, "step")), default=-1)

    def _record(self) -> dict[str, Any]:
        found = self._run.read_record().get("trackers", {}) if self._run else {}
        return found if isinstance(found, dict) else {}

    def _remember(self) -> None:
        """Keep in the run's record by what the tracker finds it again, and the last steps that it was sent."""
        if self._run is not None and self._id is not None:
            mine = {self.tracker: {"id": self._id, "step": self._sent, "last": self._known}}
            self._run.write_record(self._run.read_record() | {"trackers": self._record() | mine})

    def _log_config(self) -> None:
        values = self._config
        if values is None and self._run is not None and self._run.config_path.is_file():
            values = self._run.read_config().model_dump(mode="json")
        if values is None:
            return
        if self.tracker == "tensorboard":  # its own table of settings would be another run
            self._open.log({"config": f"```yaml\n{yaml.safe_dump(values, sort_keys=False)}```"}, step=0)
            return
        parts = {key: part if isinstance(part, Mapping) else {"": part} for key, part in values.items()}
        flat = {f"{key}.{name}".rstrip("."): value for key, part in parts.items() for name, value in part.items()}
        if self.tracker == "wandb":  # Accelerate writes to the run that the process has open, which may be another
            self._open.tracker.config.update(flat, allow_val_change=True)
        else:
            self._open.store_init_configuration(flat)

    def _log_files(self) -> None:
        """Send the run's pictures and its card."""
        if self._run is None:
            return
        paths = sorted(self._run.pictures_path.glob("*.png"))
        card = self._run.model_path / CARD
        if self.tracker == "mlflow":
            for path in paths:
                self._open.log_artifact(str(path), "pictures")
            self._open.log_artifact(str(card))
            return
        text = card.read_text(encoding="utf-8")
        if self.tracker == "trackio":
            import trackio

            shown = {f"pictures/{path.stem}": trackio.Image(path) for path in paths}
            self._open.log({**shown, "card": trackio.Markdown(text)}, step=self._step)
            return
        pixels = {f"pictures/{path.stem}": read_image(path)[None] for path in paths}
        if self.tracker == "tensorboard":
            self._open.log_images(pixels, step=self._step, dataformats="NHWC")
            self._open.log({"card": text}, step=self._step)
        else:
            import wandb

            self._known += 1
            self._open.log({name: wandb.Image(one[0]) for name, one in pixels.items()}, step=self._known)
            self._remember()
            self._open.tracker.notes = text

    def _finish(self) -> None:
        found, self._open = self._open, None
        if found is not None:
            found.finish()


def is_installed(name: TrackerName) -> bool:
    """Whether the package of a tracker is installed; a folder of this name is none."""
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None


def tracker_names(log_to: Sequence[TrackerName] | Literal["auto"]) -> list[TrackerName]:
    """The trackers of ``train.log_to``.

    Args:
        log_to: Their names; "auto": TensorBoard if it is installed, and trackio if ``TRACKIO_PROJECT`` is set.

    Raises:
        ConfigError: one of them is not installed.
    """
    if log_to == "auto":
        found: list[TrackerName] = ["tensorboard"] if is_installed("tensorboard") else []
        return [*found, *_checked(["trackio"])] if os.environ.get(PROJECTS["trackio"]) else found
    return _checked(log_to)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _as_path(name: str) -> str:
    return re.sub("/+", "/", name).strip("/")[:250]


def _checked(names: Sequence[TrackerName]) -> list[TrackerName]:
    for name in names:
        if name not in get_args(TrackerName):
            raise ConfigError(f"tracker {name!r}: expected {', '.join(get_args(TrackerName))}")
        if not is_installed(name):
            asked = PROJECTS.get(name, "")
            raise ConfigError(
                f"{name} is not installed, so it cannot be logged to: pip install 'carvana[{name}]', or leave it out "
                f"of train.log_to{f' (and unset {asked})' if os.environ.get(asked) else ''}"
            )
    return list(names)


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """The variables of :data:`_PATIENCE` that are not set, for a while."""
    own = {name: value for name, value in _PATIENCE.items() if name not in os.environ}
    os.environ.update(own)
    try:
        yield
    finally:
        for name in own:
            os.environ.pop(name, None)


def _hush_writers() -> None:
    """Let TensorBoard's thread end without a traceback: its next call raises the error that ended it."""
    if not _usual:
        _usual.append(threading.excepthook)
        threading.excepthook = _quiet


_usual: list[Callable[[threading.ExceptHookArgs], Any]] = []


def _quiet(args: threading.ExceptHookArgs) -> None:
    if type(args.thread).__name__ != "_AsyncWriterThread":
        _usual[-1](args)


def TensorBoard(folder: str | os.PathLike[str], *, first_step: int | None = None) -> Tracker:  # noqa: N802
    """The old name of ``Tracker("tensorboard", folder=folder)``."""
    deprecated.warn("carvana.TensorBoard(folder)", 'carvana.Tracker("tensorboard", folder=folder)')
    return Tracker("tensorboard", folder=folder, first_step=first_step)


def Trackio(  # noqa: N802
    project: str, name: str | None = None, *, config: Mapping[str, Any] | None = None, first_step: int | None = None
) -> Tracker:
    """The old name of ``Tracker("trackio", project=project)``."""
    deprecated.warn("carvana.Trackio(project)", 'carvana.Tracker("trackio", project=project)')
    return Tracker("trackio", project=project, name=name, config=config, first_step=first_step)
