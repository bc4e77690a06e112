"""``fit`` and ``resume``: train by a config, evaluate at full size, and leave a run."""

from __future__ import annotations

import os
import platform
from contextlib import closing
from typing import Any

import torch

from carvana.config import FitConfig
from carvana.data.check.masks import warn_about_labels, warn_about_masks
from carvana.data.digest import content_digests
from carvana.data.samples import warn_of_passed_over
from carvana.data.splits import Split, tell_of_copies, write_split
from carvana.errors import ConfigError, DataError, plural
from carvana.run import Run
from carvana.task import NODATA
from carvana.training.callbacks import Callback
from carvana.training.checkpoint import has_state
from carvana.training.setup import (
    PLUGINS,
    build_model,
    check,
    check_new,
    check_packages,
    in_full,
    lasting_path,
    make_trainer,
    new_split,
    packages_of,
    rebuild_model,
    recall_images,
    with_data,
    with_images,
)
from carvana.training.trackers import tracker_names
from carvana.training.trainer import Trainer
from carvana.utils import __version__
from carvana.utils.devices import describe, process_count, process_number
from carvana.utils.files import check_folder, digest
from carvana.utils.progress import Reporter, SilentReporter, default_reporter


def fit(
    config: FitConfig,
    *,
    out: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    device: str = "auto",
    callbacks: tuple[Callback, ...] = (),
    group: str = "",
    reporter: Reporter | None = None,
) -> Run:
    """Train by a config and leave a run folder.

    Called again with the same arguments after it was stopped or killed, it resumes; see :func:`resume`.

    Args:
        config: The config.
        out: The run folder, which must not exist, unless it holds an interrupted run of the same config; by default
            ``runs/<architecture>`` with a free number.
        init: A run or model folder to take all weights from before training.
        device: auto, cpu, cuda, cuda:N or mps.
        callbacks: Called during the training.
        group: Name under which trackers group runs; a leaderboard and folds take their folder's.
        reporter: Shows progress.

    Raises:
        ConfigError, DataError, ModelError, RunError: one line that says what is wrong; each of them is a ValueError.

    Example:
        >>> run = fit(FitConfig(arch="unet-ref", data={"root": "images"}))  # doctest: +SKIP
        >>> run.read_evaluation()["dice"]  # doctest: +SKIP
        0.985
    """
    first = process_number() == 0
    reporter = (reporter or default_reporter()) if first else SilentReporter()
    if out is not None and process_count() == 1 and _is_interrupted(Run(out), config, init, reporter):
        reporter.info(f"{out}: resuming it")
        Run(out).write_config(Run(out).read_config().with_neutral(config))
        return resume(out, device=device, callbacks=callbacks, reporter=reporter)
    run = Run.choose(out, arch=config.arch) if first else Run(out or "runs")
    if first:  # others may have no right to write there
        check_folder(run.path)
    config = check(config, device=device, reporter=reporter)
    check_new(config)
    tracker_names(config.train.log_to)
    model = build_model(config, init=init, reporter=reporter)  # first: its errors are quick to find
    config = with_data(config, reporter=reporter)
    split = new_split(config, reporter=reporter)
    config, model, split = with_images(config, model, split, reporter=reporter)
    digests = _look_at_images(config, split, reporter) if first else []  # before processes wait for another
    trainer = make_trainer(
        config, model, split, run, device=device, callbacks=callbacks, group=group, reporter=reporter
    )
    config = config.replace({"train.batch_size": trainer.batch_size})  # the number that "auto" came to
    with closing(trainer):  # also where the first files cannot be written: the program may try again
        if first:
            own: dict[str, Any] = {"group": group} if group else {}
            own |= {"init_from": lasting_path(init), "recipe": _config_digest(config), PLUGINS: packages_of(config)}
            run.write_record(_record(trainer) | own)
            write_split(run.split_path, split, digests=digests)
            run.write_config(config)  # last: a folder that holds it can be resumed
        return _train(trainer, config, reporter=reporter)


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
    """Resume an interrupted run, by its own config; the result is that of an uninterrupted run.

    On a CPU with the same number of threads, network and ``metrics.jsonl`` are the same byte for byte.

    Args:
        path: The run folder.
        root: Where the run's data folder is now, if it has moved; its files must be unchanged. The run's
            ``config.yaml`` keeps the old place.
        epochs: More epochs than the config has; from here on the learning rate follows the longer schedule.
        minutes: More minutes, for a run whose length is in minutes.
        device: auto, cpu, cuda, cuda:N or mps.
        callbacks: Called during the training.
        reporter: Shows progress.

    Raises:
        RunError: not a run, or its state cannot be read.
        ConfigError: fewer epochs than the run has had, or another number of processes.
        DataError: the run's images are missing; or changed, which is found where they are cached, or with ``root``.

    Example:
        >>> resume("runs/unet-ref", epochs=20)  # doctest: +SKIP
    """
    first = process_number() == 0
    reporter = (reporter or default_reporter()) if first else SilentReporter()
    run = Run.open(path)
    config = run.read_config()
    if run.read_record().get("recipe", _config_digest(config)) != _config_digest(config):
        raise ConfigError(
            f"{run.config_path}: was edited since the training began, but only more epochs can be asked for (--set "
            "train.epochs=N); undo the edit, or begin another training with --init"
        )
    longer = _longer(config, epochs=epochs, minutes=minutes)
    extended, config = longer != config, longer
    check_packages(run, config)
    config = check(config, device=device)
    split = recall_images(run, root=root, reporter=reporter)
    model = rebuild_model(run, config, reporter=reporter)
    if not has_state(run.state_path):  # what was measured is in its state
        config, model, split = with_images(config, model, split, reporter=reporter)
    split = split.with_spec(model.spec.image_spec)
    trainer = make_trainer(
        config, model, split, run,
        device=device, callbacks=callbacks, group=run.read_record().get("group", ""), reporter=reporter, resume=True,
    )  # fmt: skip
    with closing(trainer):
        if first and extended:
            run.write_config(config)
        if first and not trainer.progress.finished:  # the network changes from here on
            record = run.read_record()
            if record.pop("fit_seconds", None) is not None:
                run.write_record(record)
            run.evaluation_path.unlink(missing_ok=True)
        if trainer.progress.finished and run.is_done:
            reporter.info(f"{run.path}: its training and its evaluation are complete; more epochs can be asked for")
            return run
        return _train(trainer, config, reporter=reporter)


def _look_at_images(config: FitConfig, split: Split, reporter: Reporter) -> list[str]:
    """Warn of files and masks that look wrong; returns the digest of each image with its mask."""
    samples, data = split.train + split.val, config.data
    warn_of_passed_over(samples, reporter)
    task = config.task.task()
    masks = task.reads_masks and samples[0].categories is None
    try:
        if masks:
            warn_about_masks(samples, reporter, every=data.shown_size() is None or not data.cache_gb)
    except DataError as error:
        if error.kind != "not-binary" or task.is_unnamed:
            raise
        masks = False  # a class that is named without a value may be 1 in label files
    if not masks:
        warn_about_labels(split, task, reporter)
    digests = content_digests(samples, remember=data.cache_gb > 0, reporter=reporter)
    tell_of_copies(split, digests, reporter)
    return digests


def _train(trainer: Trainer, config: FitConfig, *, reporter: Reporter) -> Run:
    """Train to the end, evaluate, and record the time; only the first process evaluates."""
    run, init = trainer.run, trainer.model.spec.init
    weights = "random" if init.startswith("auto: random") else init  # why was said when it was built
    assert run is not None
    assert trainer.val_data is not None
    images = f"{len(trainer.train_data)} images, {len(trainer.val_data)} to validate"
    if trainer.task.kind != "binary":
        images += f", {plural(len(trainer.task.classes), 'class')}"
    reporter.info(f"training {config.arch} ({weights} weights) on {images}; run folder {run.path}")
    trainer.fit()
    trainer.close()  # the other processes have nothing left to do
    if trainer.main:
        run.write_record(run.read_record() | _record(trainer) | {"fit_seconds": trainer.duration.seconds})
        trainer.evaluate()  # last: a run that holds its evaluation is complete
    return run


def _is_interrupted(run: Run, config: FitConfig, init: str | os.PathLike[str] | None, reporter: Reporter) -> bool:
    """Whether a folder holds an unfinished run of the same config."""
    if not run.is_begun or run.is_done:
        return False
    kept = run.read_config()
    config = with_data(in_full(config), reporter=reporter)
    if NODATA in kept.task.ignore and NODATA not in config.task.ignore:  # as its images have shown
        config = config.replace({"task.ignore": [*config.task.ignore, NODATA]})
    config = config.with_neutral(kept)
    if config.train.batch_size == "auto":  # the run's config holds the number that it came to
        config = config.replace({"train.batch_size": kept.train.batch_size})
    same = config.model_dump(mode="json") == kept.model_dump(mode="json")
    return same and run.read_record().get("init_from") == lasting_path(init)


def _config_digest(config: FitConfig) -> str:
    """Digest of a config without its length and without what changes no result, such as where the images are."""
    values = config.digest_values()
    values["data"] |= {"root": None, "images": None, "masks": None, "workers": 0, "cache_gb": 0.0}
    values["train"] |= {"epochs": 1, "minutes": None}
    return digest(values)


def _longer(config: FitConfig, *, epochs: int | None, minutes: float | None) -> FitConfig:
    asked = {key: value for key, value in (("epochs", epochs), ("minutes", minutes)) if value is not None}
    longer = config.replace({f"train.{key}": value for key, value in asked.items()})
    counted = "epochs" if config.train.minutes is None else "minutes"
    for key in asked:
        had, wanted = getattr(config.train, counted), getattr(longer.train, key)
        if key != counted or wanted < had:
            raise ConfigError(
                f"--resume: train.{key} = {wanted:g}: the run has {had:g} {counted}; only more of these can be had"
            )
    return longer


def _record(trainer: Trainer) -> dict[str, Any]:
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
