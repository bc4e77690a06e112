"""From a recipe to a finished run: data, split, network, training, evaluation at full size, pictures."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import Any

import torch

from carvana.archs.factory import create_model
from carvana.archs.segmenter import Segmenter
from carvana.config import FitConfig
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo import write_demo
from carvana.data.samples import find_samples
from carvana.data.splits import Split, read_split, split_samples, write_split
from carvana.devices import describe, resolve_device
from carvana.errors import ConfigError, ModelError
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
    make_loss(config.train.loss)  # a misspelt name should not cost the reading of all masks
    torch.manual_seed(config.train.seed)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    split = make_split(config, reporter=reporter)
    train, val = datasets(config, split)

    run = Run.create(out, arch=config.arch)
    run.write_config(config)
    write_split(run.split_path, split)
    record = _record(model, device)
    run.write_record(record)
    reporter.info(f"training {config.arch} ({model.spec.init} weights) on {len(train)} photos, {len(val)} to validate")

    listeners = [*callbacks, *([TensorBoard(run.path / "tensorboard")] if TensorBoard.available() else [])]
    trainer = Trainer(
        model, train=train, val=val, settings=config.train, out=run, device=device,
        workers=config.data.workers, callbacks=listeners, reporter=reporter,
    )  # fmt: skip
    best = trainer.fit()
    record |= {"precision": trainer.precision, "fit_seconds": trainer.seconds}
    if trainer.accelerator.is_main_process:
        evaluate_run(run, best, split.val, device=device, precision=trainer.precision, reporter=reporter)
        run.write_record(record | {"seconds": time.time() - began})
    return run


def build_model(
    config: FitConfig, *, init: str | os.PathLike[str] | None = None, reporter: Reporter | None = None
) -> Segmenter:
    """The network of a recipe, with its first weights."""
    weights = "none" if init is not None else config.model.encoder_weights
    model = create_model(
        config.arch, classes=config.model.classes, encoder_weights=weights, options=config.model.options
    )
    if init is None:
        if reporter is not None and model.spec.init.startswith("auto: random"):
            reporter.warn(f"{config.arch}: {model.spec.init.removeprefix('auto: ')}")
        return model
    other = Segmenter.from_pretrained(init)
    if (other.spec.arch, other.spec.options) != (model.spec.arch, model.spec.options):
        raise ModelError(
            f"--init {os.fspath(init)}: holds {other.spec.arch!r} with options {other.spec.options}, "
            f"not {model.spec.arch!r} with {model.spec.options}; the architecture must be the same"
        )
    model.load_state_dict(other.state_dict())
    return model.with_spec(init=f"run:{Path(init).name}")


def with_data(config: FitConfig, *, reporter: Reporter) -> FitConfig:
    """The recipe with a data folder: its own, or that of the demo cars, which are drawn if need be."""
    if config.data.root is not None:
        return config
    root = demo_folder()
    reporter.info(f"no --data given: drawing {DEMO_CARS} demo cars into {root} (kept for the next time)")
    write_demo(root, cars=DEMO_CARS, reporter=reporter)
    return config.replace({"data.root": str(root)})


def demo_folder() -> Path:
    """Where the demo cars of this user are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "carvana" / f"demo-{DEMO_CARS}-cars"


def make_split(config: FitConfig, *, reporter: Reporter) -> Split:
    """Find the photos of a recipe and divide them as it says."""
    data, split = config.data, config.split
    if data.root is None:
        raise ConfigError("data.root: no data folder is named")
    samples = find_samples(data.root, images=data.images, masks=data.masks, group=data.group)
    if split.file is not None and split.file.is_dir():
        found = Split(tuple(samples), tuple(find_samples(split.file, group=data.group)))
    elif split.file is not None:
        found = read_split(split.file, samples)
    else:
        found = split_samples(samples, by=split.by, val=split.val, seed=split.seed)
    leaking = found.shared_groups()
    if leaking:
        reporter.warn(
            f"{len(leaking)} cars are on both sides of the split: validation reads too high; "
            "take split.by=group unless this is meant"
        )
    return found


def datasets(config: FitConfig, split: Split) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training photos as the recipe augments them, the validation photos as they are."""
    data = config.data
    train = SegmentationDataset(
        split.train, data.size, mode=data.mode, target=data.target, augment=data.augment, seed=config.train.seed
    )
    val = SegmentationDataset(split.val, data.size, mode=data.mode, target=data.target, seed=config.train.seed)
    return train, val


def _record(model: Segmenter, device: str) -> dict[str, Any]:
    from carvana import __version__

    return {
        "carvana": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": describe(resolve_device(device)),
        "threads": torch.get_num_threads(),
        "init": model.spec.init,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
