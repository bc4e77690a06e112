"""From a photo to a full-size mask: networks, data, training, prediction and evaluation behind one interface.

Nothing heavy is imported before it is used: ``import carvana`` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from carvana import testing
    from carvana.archs.factory import create_model
    from carvana.archs.segmenter import Segmenter
    from carvana.archs.spec import ModelSpec
    from carvana.compare.comparison import compare
    from carvana.compare.leaderboard import Leaderboard
    from carvana.config import FitConfig, load_config
    from carvana.data.dataset import SegmentationDataset
    from carvana.data.samples import Sample, find_samples
    from carvana.data.splits import split_samples
    from carvana.errors import CarvanaError
    from carvana.evaluation.evaluate import evaluate
    from carvana.inference.ensemble import Ensemble
    from carvana.inference.predictor import Predictor
    from carvana.inference.tiled import tiled
    from carvana.run import Run
    from carvana.training.callbacks import Callback, TensorBoard, Trackio
    from carvana.training.find_lr import find_lr
    from carvana.training.fit import fit, resume
    from carvana.training.folds import fit_folds
    from carvana.training.trainer import Trainer

_HOMES = {
    "Callback": "carvana.training.callbacks",
    "CarvanaError": "carvana.errors",
    "Ensemble": "carvana.inference.ensemble",
    "FitConfig": "carvana.config",
    "Leaderboard": "carvana.compare.leaderboard",
    "ModelSpec": "carvana.archs.spec",
    "Predictor": "carvana.inference.predictor",
    "Run": "carvana.run",
    "Sample": "carvana.data.samples",
    "Segmenter": "carvana.archs.segmenter",
    "SegmentationDataset": "carvana.data.dataset",
    "TensorBoard": "carvana.training.callbacks",
    "Trackio": "carvana.training.callbacks",
    "Trainer": "carvana.training.trainer",
    "create_model": "carvana.archs.factory",
    "evaluate": "carvana.evaluation.evaluate",
    "find_samples": "carvana.data.samples",
    "fit": "carvana.training.fit",
    "fit_folds": "carvana.training.folds",
    "find_lr": "carvana.training.find_lr",
    "load_config": "carvana.config",
    "resume": "carvana.training.fit",
    "split_samples": "carvana.data.splits",
    "tiled": "carvana.inference.tiled",
}

__all__ = [
    "Callback",
    "CarvanaError",
    "Ensemble",
    "FitConfig",
    "Leaderboard",
    "ModelSpec",
    "Predictor",
    "Run",
    "Sample",
    "SegmentationDataset",
    "Segmenter",
    "TensorBoard",
    "Trackio",
    "Trainer",
    "compare",
    "create_model",
    "evaluate",
    "find_lr",
    "find_samples",
    "fit",
    "fit_folds",
    "load_config",
    "register_arch",
    "resume",
    "split_samples",
    "testing",
    "tiled",
]


def register_arch(name: str, target: Any, *, summary: str = "", replace: bool = False) -> None:
    """Add an architecture: a ``"module:factory"`` string, or the factory itself.

    Raises:
        CarvanaError: the name is taken and ``replace`` is not set.

    Example:
        >>> carvana.register_arch("mine", "my_package.net:build")  # doctest: +SKIP
    """
    from carvana.registry import registry

    registry.archs.register(name, target, summary=summary, replace=replace)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("testing", "data", "compare"):
        return importlib.import_module(f"carvana.{name}")
    raise AttributeError(f"module 'carvana' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
