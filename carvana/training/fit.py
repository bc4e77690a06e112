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
from carvana.archs.spec import ModelSpec
from carvana.config import FitConfig
from carvana.data.augment import make_augment
from carvana.data.cache import SampleCache
from carvana.data.cache_build import build_caches
from carvana.data.cache_home import cache_home
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.write import VERSION, write_demo
from carvana.data.pairs import check_sizes
from carvana.data.splits import Split, check_unchanged, make_split, recall_split, write_split
from carvana.devices import describe, process_number, resolve_device, resolve_precision
from carvana.errors import ConfigError, ModelError
from carvana.evaluation.report import evaluate_run
from carvana.files import lock
from carvana.losses import make_loss
from carvana.progress import LogReporter, Reporter, SilentReporter
from carvana.run import Run
from carvana.training.callbacks import Callback, TensorBoard
from carvana.training.state import has_state, read_origin
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
    first = process_number() == 0
    reporter = (reporter or LogReporter()) if first else SilentReporter()
    run = Run.choose(out, arch=config.arch) if first else Run(out or "runs")
    check(config, device=device)
    torch.manual_seed(config.train.seed)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    split = make_split(config.data, config.split)
    _tell_leak(split, reporter)
    check_sizes([*split.train, *split.val])
    trainer = make_trainer(config, split, model, run, device=device, callbacks=callbacks, reporter=reporter)
    config = config.replace({"train.batch_size": trainer.batch_size})  # "auto" has become a number, which stays
    if first:
        run.write_record(_record(trainer) | {"init_from": None if init is None else str(Path(init).absolute())})
        write_split(run.split_path, split)
        run.write_config(config)  # the last: what holds it can be resumed
    return _train(trainer, config, split, began=began, device=device, reporter=reporter)


def resume(
    path: str | os.PathLike[str],
    *,
    epochs: int | None = None,
    minutes: float | None = None,
    device: str = "auto",
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter | None = None,
) -> Run:
    """Go on with a run that was interrupted, by its own recipe; it ends as if it had never been.

    On a CPU, with the same number of threads, the network is the same byte for byte, and so is ``metrics.jsonl``.

    Args:
        path: The run folder.
        epochs: More epochs than the recipe has; the learning rate then follows the longer schedule from here on.
        minutes: More minutes, for a run whose budget they are.
        device: auto, cpu, cuda or cuda:N.
        callbacks: Listeners.
        reporter: Where progress goes.

    Raises:
        RunError: no run, or its state cannot be read.
        ConfigError: not more epochs than the run has had, or another number of processes.
        DataError: the run's photos are not there any more.

    Example:
        >>> resume("runs/unet-ref", epochs=20)  # doctest: +SKIP
    """
    began = time.time()
    first = process_number() == 0
    reporter = (reporter or LogReporter()) if first else SilentReporter()
    run = Run.open(path)
    config = _longer(run.read_config(), epochs=epochs, minutes=minutes)
    check(config, device=device)
    split = recall_split(config.data, config.split, run.split_path)
    check_unchanged(run.split_path, split)
    check_sizes([*split.train, *split.val])
    torch.manual_seed(config.train.seed)
    model = _model_of(run, config, reporter=reporter)
    trainer = make_trainer(
        config, split, model, run, device=device, callbacks=callbacks, reporter=reporter, resume=True
    )
    if first:
        run.write_config(config)
    if trainer.progress.finished and run.evaluation_path.exists():
        reporter.info(f"{run.path}: its training and its evaluation are complete; more epochs can be asked for")
        trainer.close()
        return run
    return _train(trainer, config, split, began=began, device=device, reporter=reporter)


def make_trainer(
    config: FitConfig,
    split: Split,
    model: Segmenter,
    run: Run,
    *,
    device: str,
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter,
    resume: bool = False,
) -> Trainer:
    """The trainer of a recipe."""
    train, val = datasets(config, split, reporter=reporter)
    return Trainer(
        model, train=train, val=val, settings=config.train, out=run, resume=resume, device=device,
        workers=config.data.workers, callbacks=[*callbacks, *_listeners(run)], reporter=reporter,
    )  # fmt: skip


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
        with lock(root.with_suffix(".lock")):  # one of the processes that train together draws for all
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


def _train(trainer: Trainer, config: FitConfig, split: Split, *, began: float, device: str, reporter: Reporter) -> Run:
    """Train to the end, evaluate, and keep the times; other processes than the first are done after the training."""
    run = trainer.run
    assert run is not None
    weights = trainer.model.spec.init
    reporter.info(f"training {config.arch} ({weights} weights) on {len(split.train)} photos, {len(split.val)} validate")
    best = trainer.fit()
    trainer.close()
    if trainer.main:
        record = run.read_record() | _record(trainer) | {"fit_seconds": trainer.budget.seconds}
        run.write_record(record)
        evaluate_run(run, best, split.val, device=device, precision=trainer.precision, reporter=reporter)
        run.write_record(record | {"seconds": record.get("seconds", 0.0) + time.time() - began})
    return run


def _listeners(run: Run) -> list[Callback]:
    return [TensorBoard(run.path / "tensorboard")] if TensorBoard.available() else []


def _longer(config: FitConfig, *, epochs: int | None, minutes: float | None) -> FitConfig:
    asked = {key: value for key, value in (("epochs", epochs), ("minutes", minutes)) if value is not None}
    longer = config.replace({f"train.{key}": value for key, value in asked.items()})
    for key in asked:
        had, wanted = getattr(config.train, key), getattr(longer.train, key)
        if had is None or wanted < had:
            raise ConfigError(
                f"--resume: train.{key} = {wanted:g} is not more than the run's {had}; "
                "more epochs (or minutes, where they are the run's budget) can be asked for"
            )
    return longer


def _model_of(run: Run, config: FitConfig, *, reporter: Reporter) -> Segmenter:
    """The network that a run trains; its weights come from the state, unless none was saved yet."""
    if not has_state(run.state_path):
        return build_model(config, init=run.read_record().get("init_from"), reporter=reporter)
    model = build_model(config.replace({"model.encoder_weights": "none"}))
    spec = ModelSpec.from_json(read_origin(run.state_path)["spec"])
    return model.with_spec(init=spec.init, mean=spec.mean, std=spec.std)


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
