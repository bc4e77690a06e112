"""From a recipe to a finished run: data, split, network, training, evaluation at full size, pictures."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from carvana.config import FitConfig
from carvana.data.check.odd_masks import warn_about_masks
from carvana.data.check.sizes import check_sizes
from carvana.data.digest import content_digests
from carvana.data.samples import warn_of_passed_over
from carvana.data.splits import Split, check_unchanged, make_split, tell_of_leak, write_split
from carvana.errors import ConfigError
from carvana.evaluation.samples import read_run_split
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.training.callbacks import Callback, default_callbacks
from carvana.training.plugin_requirements import KEY as PLUGINS
from carvana.training.plugin_requirements import check_packages, packages_of
from carvana.training.setup import build_model, check, datasets, lasting_path, with_data
from carvana.training.state import has_state, peek_state
from carvana.training.trainer import Trainer
from carvana.utils.devices import describe, process_count, process_number
from carvana.utils.files import digest
from carvana.utils.notebook import default_reporter
from carvana.utils.progress import Reporter, SilentReporter

_LATER = {"start_size": None, "start_epochs": 0, "whole": 0.0, "mask_suffix": None}
"""Keys of ``data`` that runs from before they were there go on without, and what stands for their absence."""


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

    Called again with the same arguments after it was stopped or killed, it goes on; see :func:`resume`.

    Args:
        config: The recipe.
        out: The run folder, which must not exist, unless it is one of this recipe that was interrupted; by default
            ``runs/<architecture>`` with a free number.
        init: A run or model folder to take all weights from before training.
        device: auto, cpu, cuda, cuda:N or mps.
        callbacks: Listeners of the training.
        reporter: Where progress goes.

    Raises:
        ConfigError, DataError, ModelError, RunError: one line that says what is wrong; each of them is a ValueError.

    Example:
        >>> run = fit(FitConfig(arch="unet-ref", data={"root": "images"}))  # doctest: +SKIP
        >>> run.read_evaluation()["dice"]  # doctest: +SKIP
        0.985
    """
    began = time.time()
    first = process_number() == 0
    reporter = (reporter or default_reporter()) if first else SilentReporter()
    if out is not None and process_count() == 1 and _is_interrupted(Run(out), config, init, reporter):
        reporter.info(f"{out}: going on with it")
        return resume(out, device=device, callbacks=callbacks, reporter=reporter)
    run = Run.choose(out, arch=config.arch) if first else Run(out or "runs")
    check(config, device=device)
    torch.manual_seed(config.train.seed)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    split = make_split(config.data, config.split)
    tell_of_leak(split, reporter)
    check_sizes(split.train + split.val)
    digests: list[str] = []
    if first:
        uncached = config.data.mode == "crop" or not config.data.cache_gb
        warn_of_passed_over(split.train, reporter)
        warn_about_masks(split.train + split.val, reporter, every=uncached)
        digests = content_digests(
            split.train + split.val, reporter=reporter
        )  # now, while no process waits for this one
    trainer = make_trainer(config, split, model, run, device=device, callbacks=callbacks, reporter=reporter)
    config = config.replace({"train.batch_size": trainer.batch_size})  # "auto" has become a number, which stays
    if first:
        own = {"init_from": lasting_path(init), "recipe": _recipe_digest(config), PLUGINS: packages_of(config)}
        with _closed_if_it_fails(trainer):
            run.write_record(_record(trainer) | own)
            write_split(run.split_path, split, digests=digests)
            run.write_config(config)  # the last: what holds it can be resumed
    return _train(trainer, config, began=began, reporter=reporter)


def resume(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
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
        root: Where the run's data folder lies now, if it has moved; the files in it must be those that it was begun
            with. The run's ``config.yaml`` goes on to name the old place.
        epochs: More epochs than the recipe has; the learning rate then follows the longer schedule from here on.
        minutes: More minutes, for a run whose budget they are.
        device: auto, cpu, cuda, cuda:N or mps.
        callbacks: Listeners.
        reporter: Where progress goes.

    Raises:
        RunError: no run, or its state cannot be read.
        ConfigError: not more epochs than the run has had, or another number of processes.
        DataError: the run's images are not there any more, or others.

    Example:
        >>> resume("runs/unet-ref", epochs=20)  # doctest: +SKIP
    """
    began = time.time()
    first = process_number() == 0
    reporter = (reporter or default_reporter()) if first else SilentReporter()
    run = Run.open(path)
    config = run.read_config()
    if run.read_record().get("recipe", _recipe_digest(config)) != _recipe_digest(config):
        raise ConfigError(
            f"{run.config_path}: was edited since the training began, and only more epochs can be asked for (--set "
            "train.epochs=N); undo it, or begin another training with --init"
        )
    longer = _longer(config, epochs=epochs, minutes=minutes)
    extended, config = longer != config, longer
    check_packages(run, config)
    check(config, device=device)
    split = read_run_split(run, root=root, reporter=reporter)
    check_unchanged(run.split_path, split)
    check_sizes(split.train + split.val)
    torch.manual_seed(config.train.seed)
    model = _model_of(run, config, reporter=reporter)
    trainer = make_trainer(
        config, split, model, run, device=device, callbacks=callbacks, reporter=reporter, resume=True
    )
    if first and extended:
        with _closed_if_it_fails(trainer):
            run.write_config(config)
    if first and not trainer.progress.finished:
        run.evaluation_path.unlink(missing_ok=True)  # it is about a network that will not be the last
    if trainer.progress.finished and run.is_evaluated:
        reporter.info(f"{run.path}: its training and its evaluation are complete; more epochs can be asked for")
        trainer.close()
        return run
    return _train(trainer, config, began=began, reporter=reporter)


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
    first_step = None
    if resume and has_state(run.state_path):
        done = peek_state(run.state_path)[0].metrics
        first_step = done[-1]["step"] + 1 if done else 0
    listeners = [*callbacks, *(default_callbacks(run, first_step=first_step) if process_number() == 0 else [])]
    return Trainer(
        model, train=train, val=val, settings=config.train, out=run, resume=resume, device=device,
        workers=config.data.workers, callbacks=listeners, reporter=reporter,
    )  # fmt: skip


def _train(trainer: Trainer, config: FitConfig, *, began: float, reporter: Reporter) -> Run:
    """Train to the end, evaluate, and keep the times; other processes than the first are done after the training."""
    run, weights = trainer.run, trainer.model.spec.init
    assert run is not None
    assert trainer.val_data is not None
    images = f"{len(trainer.train_data)} images, {len(trainer.val_data)} to validate"
    reporter.info(f"training {config.arch} ({weights} weights) on {images}")
    try:
        trainer.fit()
    finally:
        trainer.close()
    if trainer.main:
        record = run.read_record()
        seconds = {"fit_seconds": trainer.budget.seconds, "seconds": record.get("seconds", 0.0) + time.time() - began}
        run.write_record(record | _record(trainer) | seconds)
        trainer.evaluate()  # the last: a run that holds its evaluation lacks nothing
    return run


@contextmanager
def _closed_if_it_fails(trainer: Trainer) -> Iterator[None]:
    """Let go of the run where its first files cannot be written: the program may go on, and try again."""
    try:
        yield
    except BaseException:
        trainer.close()
        raise


def _is_interrupted(run: Run, config: FitConfig, init: str | os.PathLike[str] | None, reporter: Reporter) -> bool:
    """Whether a folder holds an unfinished run of this very recipe."""
    if not run.config_path.is_file() or run.is_evaluated:
        return False
    kept = run.read_config()
    if config.train.batch_size == "auto":  # a number was found for it
        config = config.replace({"train.batch_size": kept.train.batch_size})
    config = with_data(config, reporter=reporter)
    length = "epochs", "minutes"
    return (
        _recipe_digest(config) == run.read_record().get("recipe")
        and run.read_record().get("init_from") == lasting_path(init)
        and all(getattr(config.train, key) == getattr(kept.train, key) for key in length)
        and all(getattr(config.data, key) == getattr(kept.data, key) for key in ("root", "images", "masks"))
    )


def _recipe_digest(config: FitConfig) -> str:
    """What a recipe is known by: all of it but its length, and what changes nothing, such as where the images lie."""
    places = {"data.root": None, "data.images": None, "data.masks": None}
    neutral = {"train.epochs": 1, "train.minutes": None, "data.workers": 0, "data.cache_gb": 0}
    values = config.replace(places | neutral).model_dump(mode="json")
    for key, usual in _LATER.items():
        if values["data"][key] == usual:
            del values["data"][key]
    return digest(values)


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
    spec = ModelSpec.from_json(peek_state(run.state_path)[1]["spec"])
    return model.with_spec(init=spec.init, mean=spec.mean, std=spec.std)


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
