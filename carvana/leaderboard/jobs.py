"""The jobs of worker processes: fit, evaluate or measure a network. Results are files, written at the end."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from carvana.config import FitConfig
from carvana.data.io.images import read_image
from carvana.data.samples import Sample
from carvana.errors import RunError
from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost
from carvana.evaluation.evaluate import evaluate
from carvana.inference.predictor import Predictor
from carvana.leaderboard.progress import WorkerReporter
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.training.callbacks import Callback
from carvana.training.fit import fit, resume
from carvana.training.state import has_state, read_state
from carvana.utils.files import lock, write_json

_PATIENCE = 15.0
"""Seconds to wait until a run is unlocked: a worker whose parent was killed may still be ending."""

_NEUTRAL = ("root", "images", "masks", "workers", "cache_gb")
"""Keys of data that may change before a fit is resumed: where images lie and how they are read."""


def fit_network(*, reporter: WorkerReporter, device: str, config: FitConfig, run: Run) -> None:
    """Fit a network into a run folder and evaluate it; resume what an earlier process was stopped in."""
    _wait_until_unlocked(run)
    callbacks = (_EpochSender(reporter),)
    if run.config_path.is_file() and not _can_resume(run):
        reporter.warn(f"the state of {run.path} cannot be read; the folder is renamed, and the fit starts again")
        _set_aside(run)
    if run.config_path.is_file():
        for record in run.read_epochs():
            reporter.send("epoch", record)
        now = {f"data.{key}": getattr(config.data, key) for key in _NEUTRAL}
        run.write_config(run.read_config().replace(now))
        if "fit_seconds" not in run.read_record():  # an interrupted fit that was evaluated by hand
            run.evaluation_path.unlink(missing_ok=True)
        resume(run.path, device=device, callbacks=callbacks, reporter=reporter)
        return
    fit(config, out=run.path, device=device, callbacks=callbacks, reporter=reporter)


def evaluate_finished(
    *, reporter: WorkerReporter, device: str, run: Run, result: Run, samples: Sequence[Sample]
) -> None:
    """Evaluate a finished run on the validation images of the comparison."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    evaluation = evaluate(predictor, samples, masks_dir=result.masks_path, reporter=reporter)
    result.write_evaluation(evaluation.to_json())


def measure(*, reporter: WorkerReporter, device: str, run: Run, image: Path, out: Path, key: Mapping[str, Any]) -> None:
    """Measure the cost of prediction at the scale that the network was trained at."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    cost = measure_cost(predictor, read_image(image), seconds=2.0)
    model = predictor.model
    trainable = count_parameters(model) if isinstance(model, Segmenter) else None
    write_json(out, {**key, "params": trainable, "machine": describe_machine(predictor), **cost.to_json()})


class _EpochSender(Callback):
    def __init__(self, reporter: WorkerReporter) -> None:
        self._reporter = reporter

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Send the numbers of the epoch."""
        self._reporter.send("epoch", dict(record))


def _wait_until_unlocked(run: Run) -> None:
    until = time.monotonic() + _PATIENCE
    while run.lock_path.exists():
        try:
            with lock(run.lock_path, wait=False):
                return
        except BlockingIOError:
            if time.monotonic() > until:
                return  # the fit then reports who holds the lock
            time.sleep(0.1)


def _can_resume(run: Run) -> bool:
    if not has_state(run.state_path):
        return not run.metrics_path.exists()
    try:
        read_state(run.state_path)
    except RunError:
        return False
    return True


def _set_aside(run: Run) -> None:
    names = (run.path.with_name(f"{run.path.name}-damaged-{number}") for number in itertools.count(1))
    run.path.rename(next(name for name in names if not name.exists()))
