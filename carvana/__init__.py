"""From an image to a full-size mask: networks, data, training, prediction and evaluation behind one interface.

Nothing heavy is imported before it is used: ``import carvana`` costs milliseconds.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from carvana.utils import __version__ as __version__
from carvana.utils import deprecated

if TYPE_CHECKING:
    from carvana import testing as testing
    from carvana.config import FitConfig as FitConfig
    from carvana.config import load_config as load_config
    from carvana.data.check.report import check_data as check_data
    from carvana.data.dataset import EpochSampler as EpochSampler
    from carvana.data.dataset import SegmentationDataset as SegmentationDataset
    from carvana.data.demo.write import write_demo as write_demo
    from carvana.data.io.arrays import read_array as read_array
    from carvana.data.io.images import read_image as read_image
    from carvana.data.io.masks import read_mask as read_mask
    from carvana.data.io.masks import write_mask as write_mask
    from carvana.data.samples import Sample as Sample
    from carvana.data.samples import find_samples as find_samples
    from carvana.data.splits import split_samples as split_samples
    from carvana.errors import CarvanaError as CarvanaError
    from carvana.evaluation.evaluate import evaluate as evaluate
    from carvana.image_spec import ImageSpec as ImageSpec
    from carvana.inference.engines.export import export_onnx as export_onnx
    from carvana.inference.engines.export import export_openvino as export_openvino
    from carvana.inference.ensemble import Ensemble as Ensemble
    from carvana.inference.predictor import Predictor as Predictor
    from carvana.inference.refiner import Refiner as Refiner
    from carvana.inference.submission.write import write_submission as write_submission
    from carvana.inference.tiling.tiled import tiled as tiled
    from carvana.leaderboard.board import Leaderboard as Leaderboard
    from carvana.leaderboard.compare import compare as compare
    from carvana.models.encoders import Encoder as Encoder
    from carvana.models.encoders import create_encoder as create_encoder
    from carvana.models.segmenter import Segmenter as Segmenter
    from carvana.models.segmenter import create_model as create_model
    from carvana.models.spec import ModelSpec as ModelSpec
    from carvana.models.spec import Network as Network
    from carvana.plugins import register_arch as register_arch
    from carvana.plugins import register_augment as register_augment
    from carvana.plugins import register_layout as register_layout
    from carvana.plugins import register_loss as register_loss
    from carvana.run import Run as Run
    from carvana.task import Task as Task
    from carvana.training.callbacks import Callback as Callback
    from carvana.training.cross_validation import fit_folds as fit_folds
    from carvana.training.find_lr import find_lr as find_lr
    from carvana.training.fit import fit as fit
    from carvana.training.fit import resume as resume
    from carvana.training.trackers import Tracker as Tracker
    from carvana.training.trainer import Trainer as Trainer

deprecated.modules(
    {
        "carvana.compare.entries": "carvana.leaderboard.entries",
        "carvana.compare.records": "carvana.leaderboard.records",
        "carvana.compare.statistics": "carvana.evaluation.statistics",
        "carvana.data.cache_build": "carvana.data.cache",
        "carvana.data.rle": "carvana.data.io.rle",
        "carvana.inference.levels": "carvana.inference.prediction",
        "carvana.inference.photos": "carvana.inference.inputs",
        "carvana.inference.precision": "carvana.inference.predictor",
        "carvana.thresholds": "carvana.evaluation.thresholds",
        "carvana.training.stopping": "carvana.training.signals",
    }
)

_HOMES = {
    "carvana.config": ("FitConfig", "load_config"),
    "carvana.data.check.report": ("check_data",),
    "carvana.data.dataset": ("EpochSampler", "SegmentationDataset"),
    "carvana.data.demo.write": ("write_demo",),
    "carvana.data.io.arrays": ("read_array",),
    "carvana.data.io.images": ("read_image",),
    "carvana.data.io.masks": ("read_mask", "write_mask"),
    "carvana.data.samples": ("Sample", "find_samples"),
    "carvana.data.splits": ("split_samples",),
    "carvana.errors": ("CarvanaError",),
    "carvana.evaluation.evaluate": ("evaluate",),
    "carvana.image_spec": ("ImageSpec",),
    "carvana.inference.engines.export": ("export_onnx", "export_openvino"),
    "carvana.inference.ensemble": ("Ensemble",),
    "carvana.inference.predictor": ("Predictor",),
    "carvana.inference.refiner": ("Refiner",),
    "carvana.inference.submission.write": ("write_submission",),
    "carvana.inference.tiling.tiled": ("tiled",),
    "carvana.leaderboard.board": ("Leaderboard",),
    "carvana.leaderboard.compare": ("compare",),
    "carvana.models.encoders": ("Encoder", "create_encoder"),
    "carvana.models.segmenter": ("Segmenter", "create_model"),
    "carvana.models.spec": ("ModelSpec", "Network"),
    "carvana.plugins": ("register_arch", "register_augment", "register_layout", "register_loss"),
    "carvana.run": ("Run",),
    "carvana.task": ("Task",),
    "carvana.training.callbacks": ("Callback",),
    "carvana.training.cross_validation": ("fit_folds",),
    "carvana.training.find_lr": ("find_lr",),
    "carvana.training.fit": ("fit", "resume"),
    "carvana.training.trackers": ("Tracker",),
    "carvana.training.trainer": ("Trainer",),
}
"""The modules that public names are imported from when they are first used."""

_MODULES = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted([*_MODULES, "testing"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    if name in ("TensorBoard", "Trackio"):
        return getattr(importlib.import_module("carvana.training.trackers"), name)
    if name in ("testing", "data"):
        return importlib.import_module(f"carvana.{name}")
    raise AttributeError(f"module 'carvana' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
