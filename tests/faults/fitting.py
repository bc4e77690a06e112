"""Small fits whose numbers are looked at, and whether what they leave is sound."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch

import carvana
from carvana.config import FitConfig
from carvana.errors import CarvanaError
from carvana.run import Run
from carvana.training.checkpoint import read_state
from carvana.utils.progress import SilentReporter

SETTINGS: dict[str, Any] = {
    "model": {"options": {"width": 4}, "encoder_weights": "none"},
    "data": {"size": [32, 48], "workers": 0},
    "split": {"val": 1},
    "train": {"epochs": 3, "batch_size": 4, "lr": 1e-2, "precision": "fp32"},
}
"""On the tiny groups: 16 images to train on, 4 batches an epoch."""


def recipe(data: Path, **changes: Any) -> FitConfig:
    """SETTINGS on a data folder; ``train__epochs=1`` changes a key."""
    dotted = {key.replace("__", "."): value for key, value in changes.items()}
    return FitConfig(**SETTINGS).replace({"data.root": str(data), **dotted})


def words(config: FitConfig, out: Path) -> list[object]:
    """The same for the command line."""
    values = config.model_dump(mode="json")
    kept = ["model.options", "data.root", "data.size", "data.workers", "split.val"]
    kept += [f"train.{key}" for key in ("epochs", "batch_size", "lr", "precision", "loss", "ema", "clip")]
    pairs = [(key, values[key.split(".")[0]][key.split(".")[1]]) for key in kept]
    told = [f"--set={key}={'null' if value is None else value}" for key, value in pairs]
    return ["fit", "--arch", config.arch, "--out", out, "--device", "cpu", *told]


def fit(config: FitConfig, out: Path) -> Run:
    return carvana.fit(config, out=out, device="cpu", reporter=SilentReporter())


def fit_or_fail(config: FitConfig, out: Path, error: type[CarvanaError]) -> str:
    """The message of a fit that fails; nothing of one that does not."""
    try:
        fit(config, out)
    except error as failure:
        return str(failure)
    return ""


def model_bytes(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "model").iterdir())}


def check_sound(run: Run) -> dict[str, Any]:
    """A finished run whose numbers are all finite, or null; returns its evaluation."""

    def refuse(word: str) -> None:
        raise AssertionError(word)

    for line in run.metrics_path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)
    evaluation: dict[str, Any] = json.loads(run.evaluation_path.read_text(), parse_constant=refuse)
    model = carvana.Segmenter.from_pretrained(run.path)
    assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    return evaluation


def check_good_state(run: Run) -> None:
    """What is written of a training that failed is sound: the state, if there is one, and the best network."""
    if (run.state_path / "state.json").exists():
        assert all(bool(torch.isfinite(value).all()) for value in read_state(run.state_path).tensors.values())
    if run.model_path.exists():
        model = carvana.Segmenter.from_pretrained(run.path)
        assert all(bool(torch.isfinite(value).all()) for value in model.state_dict().values())
    for line in run.metrics_path.read_text().splitlines() if run.metrics_path.exists() else ():
        assert math.isfinite(json.loads(line)["train_loss"])
