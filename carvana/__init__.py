"""From an image to a full-size mask: networks, data, training, prediction and evaluation behind one interface.

Nothing heavy is imported before it is used: ``import carvana`` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from carvana.utils import deprecated
from carvana.utils.version import __version__ as __version__

if TYPE_CHECKING:
    from carvana import testing
    from carvana.config import FitConfig, load_config
    from carvana.data.check.report import check_data
    from carvana.data.dataset import EpochSampler, SegmentationDataset
    from carvana.data.demo.write import write_demo
    from carvana.data.io.images import read_image
    from carvana.data.io.masks import read_mask, write_mask
    from carvana.data.samples import Sample, find_samples
    from carvana.data.splits import split_samples
    from carvana.errors import CarvanaError
    from carvana.evaluation.evaluate import evaluate
    from carvana.inference.engines.export import export_onnx
    from carvana.inference.ensemble import Ensemble
    from carvana.inference.predictor import Predictor
    from carvana.inference.refiner import Refiner
    from carvana.inference.submission.write import write_submission
    from carvana.inference.tiling.tiled import tiled
    from carvana.leaderboard.board import Leaderboard
    from carvana.leaderboard.compare import compare
    from carvana.models.create import create_model
    from carvana.models.encoders import Encoder, create_encoder
    from carvana.models.segmenter import Segmenter
    from carvana.models.spec import ModelSpec, Network
    from carvana.plugins import register_arch, register_augment, register_layout, register_loss
    from carvana.run import Run
    from carvana.training.callbacks import Callback, TensorBoard, Trackio
    from carvana.training.cross_validation import fit_folds
    from carvana.training.find_lr import find_lr
    from carvana.training.fit import fit, resume
    from carvana.training.trainer import Trainer

deprecated.modules(
    {
        "carvana.compare": "carvana.leaderboard",
        "carvana.compare.entries": "carvana.leaderboard.entries",
        "carvana.compare.records": "carvana.leaderboard.records",
        "carvana.compare.statistics": "carvana.evaluation.statistics",
        "carvana.data.cache_build": "carvana.data.cache",
        "carvana.data.rle": "carvana.data.io.rle",
        "carvana.inference.photos": "carvana.inference.inputs",
        "carvana.thresholds": "carvana.evaluation.thresholds",
        "carvana.training.stopping": "carvana.training.signals",
    }
)

_HOMES = {
    "Callback": "carvana.training.callbacks",
    "CarvanaError": "carvana.errors",
    "Encoder": "carvana.models.encoders",
    "EpochSampler": "carvana.data.dataset",
    "Ensemble": "carvana.inference.ensemble",
    "FitConfig": "carvana.config",
    "Leaderboard": "carvana.leaderboard.board",
    "ModelSpec": "carvana.models.spec",
    "Network": "carvana.models.spec",
    "Predictor": "carvana.inference.predictor",
    "Refiner": "carvana.inference.refiner",
    "Run": "carvana.run",
    "Sample": "carvana.data.samples",
    "SegmentationDataset": "carvana.data.dataset",
    "Segmenter": "carvana.models.segmenter",
    "TensorBoard": "carvana.training.callbacks",
    "Trackio": "carvana.training.callbacks",
    "Trainer": "carvana.training.trainer",
    "check_data": "carvana.data.check.report",
    "compare": "carvana.leaderboard.compare",
    "create_encoder": "carvana.models.encoders",
    "create_model": "carvana.models.create",
    "evaluate": "carvana.evaluation.evaluate",
    "export_onnx": "carvana.inference.engines.export",
    "find_lr": "carvana.training.find_lr",
    "find_samples": "carvana.data.samples",
    "fit": "carvana.training.fit",
    "fit_folds": "carvana.training.cross_validation",
    "load_config": "carvana.config",
    "read_image": "carvana.data.io.images",
    "read_mask": "carvana.data.io.masks",
    "register_arch": "carvana.plugins",
    "register_augment": "carvana.plugins",
    "register_layout": "carvana.plugins",
    "register_loss": "carvana.plugins",
    "resume": "carvana.training.fit",
    "split_samples": "carvana.data.splits",
    "tiled": "carvana.inference.tiling.tiled",
    "write_demo": "carvana.data.demo.write",
    "write_mask": "carvana.data.io.masks",
    "write_submission": "carvana.inference.submission.write",
}

__all__ = [
    "Callback",
    "CarvanaError",
    "Encoder",
    "Ensemble",
    "EpochSampler",
    "FitConfig",
    "Leaderboard",
    "ModelSpec",
    "Network",
    "Predictor",
    "Refiner",
    "Run",
    "Sample",
    "SegmentationDataset",
    "Segmenter",
    "TensorBoard",
    "Trackio",
    "Trainer",
    "check_data",
    "compare",
    "create_encoder",
    "create_model",
    "evaluate",
    "export_onnx",
    "find_lr",
    "find_samples",
    "fit",
    "fit_folds",
    "load_config",
    "read_image",
    "read_mask",
    "register_arch",
    "register_augment",
    "register_layout",
    "register_loss",
    "resume",
    "split_samples",
    "testing",
    "tiled",
    "write_demo",
    "write_mask",
    "write_submission",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in ("testing", "data"):
        return importlib.import_module(f"carvana.{name}")
    raise AttributeError(f"module 'carvana' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
