"""What a network's process does: fit it, judge it, or measure what it costs. Results are files, written when done."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carvana.archs.segmenter import Segmenter
from carvana.config import FitConfig
from carvana.data.images import read_image
from carvana.data.samples import Sample
from carvana.evaluation.cost import count_parameters, describe_machine, measure_cost
from carvana.evaluation.evaluate import evaluate
from carvana.files import lock, write_json
from carvana.inference.predictor import Predictor
from carvana.run import Run
from carvana.training.callbacks import Callback
from carvana.training.fit import fit, resume

if TYPE_CHECKING:
    from carvana.compare.worker import Channel


def fit_network(*, channel: Channel, device: str, config: FitConfig, run: Run) -> None:
    """Fit a network into a run folder and evaluate it; go on where an earlier process was stopped."""
    if run.path.exists():
        with lock(run.state_path / ".lock"):  # one whose parent was killed may still be ending
            pass
    callbacks = (_Told(channel),)
    if run.config_path.is_file():
        for record in run.read_epochs():
            channel.say("epoch", record)
        resume(run.path, device=device, callbacks=callbacks, reporter=channel)
        return
    if run.path.exists():  # stopped before the first step: its recipe is what is written last
        shutil.rmtree(run.path)
    fit(config, out=run.path, device=device, callbacks=callbacks, reporter=channel)


def judge_run(*, channel: Channel, device: str, run: Run, result: Run, samples: Sequence[Sample]) -> None:
    """Evaluate a finished run on the comparison's photos."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    evaluation = evaluate(predictor, samples, masks_dir=result.masks_path, reporter=channel)
    result.write_evaluation(evaluation.to_json())


def measure(*, channel: Channel, device: str, run: Run, photo: Path, out: Path, key: Mapping[str, Any]) -> None:
    """Measure what predicting costs, at the scale that the network was trained at."""
    predictor = Predictor.from_pretrained(run.path, device=device)
    cost = measure_cost(predictor, read_image(photo), seconds=2.0)
    model = predictor.model
    trainable = count_parameters(model) if isinstance(model, Segmenter) else None
    write_json(out, {**key, "params": trainable, "machine": describe_machine(predictor), **cost.to_json()})


class _Told(Callback):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Pass the epoch's numbers on."""
        self._channel.say("epoch", dict(record))
