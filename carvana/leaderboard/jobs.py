"""What a network's process does: fit it, judge it, or measure what it costs. Results are files, written when done."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carvana.config import FitConfig
from carvana.data.io.images import read_image
from carvana.data.samples import Sample
from carvana.errors import RunError
from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost
from carvana.evaluation.evaluate import evaluate
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.training.callbacks import Callback
from carvana.training.fit import fit, resume
from carvana.training.state import has_state, read_state
from carvana.utils.files import lock, write_json

if TYPE_CHECKING:
    from carvana.leaderboard.worker import Channel

_PATIENCE = 15.0
"""Seconds to wait for another process to leave a run: one whose parent was killed may still be ending."""

_NEUTRAL = ("root", "images", "masks", "workers", "cache_gb")
"""Keys of data that may differ when a fit goes on: where images lie and how they are read."""


def fit_network(*, channel: Channel, device: str, config: FitConfig, run: Run) -> None:
    """Fit a network into a run folder and evaluate it; go on where an earlier process was stopped."""
    _wait_for(run)
    callbacks = (_Told(channel),)
    if run.config_path.is_file() and not _can_go_on(run):
        channel.warn(f"the state of {run.path} cannot be read: it is put aside, and the fit begins anew")
        _put_aside(run)
    if run.config_path.is_file():
        for record in run.read_epochs():
            channel.say("epoch", record)
        now = {f"data.{key}": getattr(config.data, key) for key in _NEUTRAL}
        run.write_config(run.read_config().replace(now))
        if "fit_seconds" not in run.read_record():  # what was evaluated is no finished network
            run.evaluation_path.unlink(missing_ok=True)
        resume(run.path, device=device, callbacks=callbacks, reporter=channel)
        return
    fit(config, out=run.path, device=device, callbacks=callbacks, reporter=channel)


def judge_run(*, channel: Channel, device: str, run: Run, result: Run, samples: Sequence[Sample]) -> None:
    """Evaluate a finished run on the comparison's images."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    evaluation = evaluate(predictor, samples, masks_dir=result.masks_path, reporter=channel)
    result.write_evaluation(evaluation.to_json())


def measure(*, channel: Channel, device: str, run: Run, image: Path, out: Path, key: Mapping[str, Any]) -> None:
    """Measure what predicting costs, at the scale that the network was trained at."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    cost = measure_cost(predictor, read_image(image), seconds=2.0)
    model = predictor.model
    trainable = count_parameters(model) if isinstance(model, Segmenter) else None
    write_json(out, {**key, "params": trainable, "machine": describe_machine(predictor), **cost.to_json()})


class _Told(Callback):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Pass the epoch's numbers on."""
        self._channel.say("epoch", dict(record))


def _wait_for(run: Run) -> None:
    until = time.monotonic() + _PATIENCE
    while run.lock_path.exists():
        try:
            with lock(run.lock_path, wait=False):
                return
        except BlockingIOError:
            if time.monotonic() > until:
                return  # the fit itself says who is there
            time.sleep(0.1)


def _can_go_on(run: Run) -> bool:
    if not has_state(run.state_path):
        return not run.metrics_path.exists()
    try:
        read_state(run.state_path)
    except RunError:
        return False
    return True


def _put_aside(run: Run) -> None:
    places = (run.path.with_name(f"{run.path.name}-damaged-{number}") for number in itertools.count(1))
    run.path.rename(next(place for place in places if not place.exists()))
