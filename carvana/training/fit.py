"""From a recipe to a finished run: data, split, network, training, evaluation at full size, pictures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from carvana.archs.factory import create_model
from carvana.archs.segmenter import Segmenter
from carvana.config import FitConfig
from carvana.data.augment import make_augment
from carvana.data.cache import SampleCache
from carvana.data.cache_build import build_caches
from carvana.data.cache_home import cache_home
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.write import VERSION, write_demo
from carvana.data.pairs import check_sizes
from carvana.data.splits import Split, make_split, write_split
from carvana.devices import describe, resolve_device, resolve_precision
from carvana.errors import ModelError
from carvana.evaluation.report import evaluate_run
from carvana.losses import make_loss
from carvana.progress import LogReporter, Reporter
from carvana.run import Run
from carvana.training.callbacks import Callback, TensorBoard
from carvana.training.trainer import Trainer

DEMO_CARS = 12


def fit(
    config: FitConfig,
    *,
    out: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    device: str = "auto",
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Train by a recipe and leave a run folder.

    Args:
        config: The recipe.
        out: The run folder, which must not exist; by default ``runs/<architecture>`` with a free number.
        init: A run or model folder to take all weights from before training.
        device: auto, cpu, cuda or cuda:N.
        callbacks: Listeners of the training.
        reporter: Where progress goes.

    Raises:
        ConfigError, DataError, ModelError, RunError: one line that says what is wrong; each of them is a ValueError.

    Example:
        >>> run = fit(FitConfig(arch="unet-ref", data={"root": "photos"}))  # doctest: +SKIP
        >>> run.read_evaluation()["dice"]  # doctest: +SKIP
        0.985
    """
    began = time.time()
    reporter = reporter or LogReporter()
    run = Run.choose(out, arch=config.arch)
    check(config, device=device)
    torch.manual_seed(config.train.seed)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    split = make_split(config.data, config.split)
    _tell_leak(split, reporter)
    check_sizes([*split.train, *split.val])
    train, val = datasets(config, split, reporter=reporter)
    listeners = [*callbacks, *([TensorBoard(run.path / "tensorboard")] if TensorBoard.available() else [])]
    trainer = Trainer(
        model, train=train, val=val, settings=config.train, out=run, device=device,
        workers=config.data.workers, callbacks=listeners, reporter=reporter,
    )  # fmt: skip

    run.write_config(config)
    write_split(run.split_path, split)
    record = _record(trainer)
    run.write_record(record)
    reporter.info(f"training {config.arch} ({model.spec.init} weights) on {len(train)} photos, {len(val)} to validate")
    best = trainer.fit()
    trainer.close()
    record["fit_seconds"] = trainer.budget.seconds
    run.write_record(record)
    evaluate_run(run, best, split.val, device=device, precision=trainer.precision, reporter=reporter)
    run.write_record(record | {"seconds": time.time() - began})
    return run


def check(config: FitConfig, *, device: str = "auto") -> None:
    """Find the mistakes of a recipe that need no data and no network.

    Raises:
        ConfigError, UnknownNameError: a name or a setting that cannot be used here.
    """
    make_loss(config.train.loss)
    make_augment(config.data.augment)
    resolve_precision(config.train.precision, resolve_device(device))


def build_model(
    config: FitConfig, *, init: str | os.PathLike[str] | None = None, reporter: Reporter | None = None
) -> Segmenter:
    """The network of a recipe, with its first weights."""
    weights = "none" if init is not None else config.model.encoder_weights
    model = create_model(
        config.arch,
        classes=config.model.classes,
        encoder_weights=weights,
        options=config.model.options,
        reporter=reporter,
    )
    if init is None:
        return model
    return _with_weights(model, init)


def with_data(config: FitConfig, *, reporter: Reporter) -> FitConfig:
    """The recipe with a data folder, its own or that of the demo cars, and with paths that hold from anywhere."""
    if config.data.root is None:
        root = demo_folder()
        reporter.info(f"no --data given: drawing {DEMO_CARS} demo cars into {root} (kept for the next time)")
        write_demo(root, cars=DEMO_CARS, reporter=reporter)
    else:
        root = config.data.root
    changes = {"data.root": str(root.resolve())}
    if config.split.file is not None:
        changes["split.file"] = str(config.split.file.resolve())
    return config.replace(changes)


def demo_folder() -> Path:
    """Where the demo cars of this user are kept."""
    return cache_home() / f"demo-v{VERSION}-{DEMO_CARS}-cars"


def datasets(
    config: FitConfig, split: Split, *, reporter: Reporter | None = None
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training photos as the recipe augments them, the validation photos as they are; both cached on disk."""
    data = config.data
    parts = split.train, split.val
    caches: Sequence[SampleCache | None] = (None, None)
    if data.mode == "resize":  # what is cut out of a photo is of no one size
        caches = build_caches(parts, data.size, target=data.target, limit_gb=data.cache_gb, reporter=reporter)
    train, val = (
        SegmentationDataset(
            part, data.size, mode=data.mode, target=data.target, augment=augment, seed=config.train.seed, cache=cache
        )
        for part, cache, augment in zip(parts, caches, (data.augment, None), strict=True)
    )
    return train, val


def _with_weights(model: Segmenter, init: str | os.PathLike[str]) -> Segmenter:
    other = Segmenter.from_pretrained(init)
    if other.spec.arch != model.spec.arch:
        raise ModelError(f"--init {os.fspath(init)}: holds {other.spec.arch!r}, not {model.spec.arch!r}")
    try:
        model.load_state_dict(other.state_dict())
    except RuntimeError as error:
        raise ModelError(
            f"--init {os.fspath(init)}: its weights were made with options {other.spec.options} and do not fit "
            f"{model.spec.options}; give the same with --set model.options"
        ) from error
    path = Path(init)
    name = path.parent.name if path.name == "model" else path.name
    # What the weights were trained to see goes with them.
    return model.with_spec(init=f"run:{name}", mean=other.spec.mean, std=other.spec.std)


def _tell_leak(split: Split, reporter: Reporter) -> None:
    leaking = split.shared_groups()
    if leaking:
        reporter.warn(
            f"{len(leaking)} cars are on both sides of the split: validation reads too high; "
            "take split.by=group unless this is meant"
        )


def _record(trainer: Trainer) -> dict[str, Any]:
    from carvana import __version__

    return {
        "carvana": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": describe(trainer.device),
        "threads": torch.get_num_threads(),
        "precision": trainer.precision,
        "init": trainer.model.spec.init,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
    }
