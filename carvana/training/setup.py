"""What a config asks for: plugins, data folder, split, network with its first weights, data sets, trainer."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from carvana.config import FitConfig, TrackerName
from carvana.data.augment import RGB_ALONE, check_keeps_coverage, make_augment
from carvana.data.cache import SampleCache, build_caches
from carvana.data.check.masks import check_sizes
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.write import VERSION, write_demo
from carvana.data.digest import cache_home
from carvana.data.measure import Measured, measure
from carvana.data.samples import Sample
from carvana.data.splits import Split, check_unchanged, make_split, tell_of_leak
from carvana.errors import ConfigError, DataError, ModelError, RunError, UnknownNameError, listed, plural
from carvana.evaluation.samples import check_contents, read_run_split
from carvana.image_spec import channel_names
from carvana.inference.inputs import refuse_equal_stems
from carvana.losses import loss_for, loss_names, make_loss
from carvana.models.build import build_network
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec, is_distribution
from carvana.registry import Catalog, registry
from carvana.run import Run
from carvana.task import NODATA
from carvana.training.callbacks import Callback
from carvana.training.checkpoint import has_state, read_state
from carvana.training.optim import check_encoder, check_encoder_rate
from carvana.training.trackers import Tracker, is_installed, tracker_names
from carvana.training.trainer import Trainer
from carvana.utils.devices import process_count, process_number, resolve_device, resolve_precision
from carvana.utils.files import lock
from carvana.utils.parallel import check_fork, check_main_guard
from carvana.utils.progress import Reporter, default_reporter

DEMO_CARS = 12

_OURS = "carvana", "script"
_TRAINED = "mean", "std", "init", "channels", "range", "dtype", "nodata", "pages"
"""What a model has learnt of its images, and where its weights came from."""

PLUGINS = "plugins"
"""The key of a run's record: the package of each name that a plugin adds."""


def check(config: FitConfig, *, device: str | None = "auto", reporter: Reporter | None = None) -> FitConfig:
    """Check all of a config that needs neither data nor network; returns it as :func:`in_full` does.

    None for ``device`` says that another machine trains.

    Raises:
        ConfigError, UnknownNameError: a name or a setting that cannot be used here, or a process that cannot train.
    """
    check_fork()
    if config.data.workers:
        check_main_guard()
    config = in_full(config, reporter=reporter)
    _check_loss(config)
    check_encoder_rate(config.train)
    augment = make_augment(config.data.augment)
    if config.data.target == "coverage":
        check_keeps_coverage(augment)
    if config.data.layout is not None:
        registry.layouts.entry(config.data.layout)
    if config.data.mode != "crop" and (config.data.whole or config.data.crops != "boundary") and reporter is not None:
        reporter.warn("data.whole and data.crops count with data.mode=crop alone")
    if device is not None:
        resolve_precision(config.train.precision, resolve_device(device))
    return config


def check_new(config: FitConfig) -> None:
    """Refuse what only earlier trainings may have, which still resume.

    Raises:
        ConfigError: no epoch would see images of ``data.size``, or the number 0 stands beside colours.
    """
    start, epochs = config.data.start_epochs, config.train.epochs
    if start and config.train.minutes is None and start >= epochs:
        raise ConfigError(
            f"train.epochs = {epochs} with data.start_epochs = {start}: no epoch would see images of data.size; name "
            "more epochs, or fewer of these (data.start_epochs=0 and data.start_size=null for none)"
        )
    task = config.task.task()
    if task.reads_colors and 0 in (*task.ignore, *(value for each in task.classes for value in each.value)):
        raise ConfigError("task: 0 stands beside colours, and is none; write black as '#000000'")


def in_full(config: FitConfig, *, reporter: Reporter | None = None) -> FitConfig:
    """The config with the task's classes, of which a file may have the names, and with the loss of its kind of task.

    Raises:
        ConfigError: that file is missing, or the loss is no sum of names.
    """
    task = config.task.in_full(config.data.root)
    if task:
        config = config.replace({"task": task})
    loss = loss_for(config.train.loss, config.task.task().kind)
    if loss == config.train.loss:
        return config
    if config.train.loss != "auto" and reporter is not None:
        reporter.info(f"train.loss = {config.train.loss}: for this task that is {loss}")
    return config.replace({"train.loss": loss})


def check_alone(what: str) -> None:
    """Refuse work that is done in one process where torchrun or accelerate launch started several.

    Raises:
        ConfigError: there are others.
    """
    if process_count() > 1:
        raise ConfigError(f"{what} in one process: start carvana without torchrun or accelerate launch")


def packages_of(config: FitConfig) -> dict[str, str]:
    """The package of each name that a plugin adds: ``{"segnet": "carvana-segnet"}``."""
    sources = {name: catalog.entry(name).source for catalog, name in _names(config)}
    return {name: source for name, source in sources.items() if source not in _OURS}


def packages_with_versions(config: FitConfig) -> dict[str, str]:
    """The version of the package of each loss and augmentation that a plugin adds."""
    found = {name: catalog.entry(name) for catalog, name in _names(config) if catalog is not registry.archs}
    return {name: f"{each.source} {each.version}" for name, each in found.items() if each.source not in _OURS}


def check_packages(run: Run, config: FitConfig) -> None:
    """Refuse a run whose names are not all registered here.

    Raises:
        RunError: a name is missing whose package the run records; or that record is damaged.
        UnknownNameError: a name is missing, and its package is not recorded.
    """
    needed = run.read_record().get(PLUGINS) or {}
    if not isinstance(needed, dict) or not all(isinstance(p, str) and is_distribution(p) for p in needed.values()):
        raise RunError(f"{run.record_path}: {PLUGINS} must be a table of names and their packages, got {needed!r:.60}")
    for catalog, name in _names(config):
        try:
            source = catalog.entry(name).source
        except UnknownNameError:
            if name not in needed:
                raise
            raise RunError(
                f"{run.path}: the {catalog.kind} '{name}' is not registered here; install the package that brings it,"
                f" if you trust it: pip install {needed[name]}"
            ) from None
        if source != needed.get(name, source):
            raise RunError(
                f"{run.path}: its {catalog.kind} '{name}' is that of the package {needed[name]}, which is not installed"
                f" here, and not that of {source}: pip install {needed[name]}"
            )


def build_model(
    config: FitConfig, *, init: str | os.PathLike[str] | None = None, reporter: Reporter | None = None
) -> Segmenter:
    """The network of a config, with its first weights, drawn by its seed or taken from ``init``, a run or a model."""
    torch.manual_seed(config.train.seed)
    model = create_model(
        config.arch,
        task=config.task.task(),
        channels=channel_names(config.data.channels),
        encoder_weights="none" if init is not None else config.model.encoder_weights,
        options=config.model.options,
        reporter=reporter,
    )
    for key in ("encoder_lr", "freeze_encoder"):
        if getattr(config.train, key):
            check_encoder(model, key)
    model = model.with_spec(pages=config.data.pages, nodata=tuple(config.data.nodata))
    if init is None:
        return model
    other = Segmenter.from_pretrained(init)
    if other.spec.arch != model.spec.arch:
        raise ModelError(f"--init {os.fspath(init)}: holds {other.spec.arch!r}, not {model.spec.arch!r}")
    if len(other.spec.channels) != len(model.spec.channels):
        raise ModelError(
            f"--init {os.fspath(init)}: takes {plural(len(other.spec.channels), 'channel')} "
            f"({listed(other.spec.channels, 8)}), and data.channels names {len(model.spec.channels)} "
            f"({listed(model.spec.channels, 8)}): begin with the encoder's weights, or name as many"
        )
    _compare_channels(other.spec.channels, model.spec.channels, init=os.fspath(init), reporter=reporter)
    try:
        model.load_state_dict(_state_for(model, other, init=os.fspath(init), reporter=reporter or default_reporter()))
    except RuntimeError as error:
        raise ModelError(
            f"--init {os.fspath(init)}: its weights were made with options {other.spec.options} and do not fit "
            f"{model.spec.options}; give the same with --set model.options"
        ) from error
    path = Path(init)
    name = path.parent.name if path.name == "model" else path.name
    # The weights keep the normalisation that they were trained with.
    spec = other.spec
    return model.with_spec(init=f"run:{name}", mean=spec.mean, std=spec.std, range=spec.range, dtype=spec.dtype)


def _compare_channels(theirs: Sequence[str], ours: Sequence[str], *, init: str, reporter: Reporter | None) -> None:
    """Refuse channels in another order, and tell of other names: weights and ranges are taken by place."""
    if tuple(theirs) == tuple(ours):
        return
    line = f"--init {init}: its channels are {listed(theirs, 8)}, and data.channels names {listed(ours, 8)}"
    if sorted(theirs) == sorted(ours):
        raise ModelError(f"{line}: its weights are for its own order; bring the bands of the files into that order")
    (reporter or default_reporter()).warn(f"{line}; the weights are taken in this order")


def _state_for(model: Segmenter, other: Segmenter, *, init: str, reporter: Reporter) -> dict[str, Tensor]:
    """The weights of another model: all of them for the same classes, else those of equal names in its last layer."""
    state, old, new = other.state_dict(), other.spec.task, model.spec.task
    if new is None or (old is None and other.spec.classes == model.spec.classes):
        return state
    names = [] if old is None else old.names
    if names == new.names:
        return state
    spec = other.spec  # the last layer is what grows with the number of classes
    larger, _ = build_network(
        spec.arch, classes=spec.classes + 1, channels=spec.channels, options=spec.options,
        known_sizes=(spec.stride, spec.min_size),
    )  # fmt: skip
    sizes = {f"network.{name}": value.shape for name, value in larger.module.state_dict().items()}
    places = [(index, names.index(name)) for index, name in enumerate(new.names) if name in names]
    for name, own in model.state_dict().items():
        grown = sizes.get(name, ()) if name in state else ()
        sides = [place for place, side in enumerate(grown) if side != state[name].shape[place]]
        if sides:  # that of the classes: the first one of a convolution, the second one of a transposed one
            taken = own.clone()
            for here, there in places:
                taken.select(sides[0], here).copy_(state[name].select(sides[0], there))
            state[name] = taken
    weights = {
        "taken": [name for name in new.names if name in names],
        "begin with random weights": [name for name in new.names if name not in names],
        "not taken": [name for name in names if name not in new.names],
    }
    reporter.info(f"--init {init}: " + "; ".join(f"{how}: {', '.join(some)}" for how, some in weights.items() if some))
    return state


def rebuild_model(run: Run, config: FitConfig, *, reporter: Reporter) -> Segmenter:
    """The network of a run that resumes; where the run has a state, the weights are loaded from that later.

    Raises:
        ModelError, RunError: it cannot be built.
    """
    if not has_state(run.state_path):
        return build_model(config, init=run.read_record().get("init_from"), reporter=reporter)
    model = build_model(config.replace({"model.encoder_weights": "none"}))
    spec = ModelSpec.from_json(read_state(run.state_path, tensors=False).origin["spec"])
    return model.with_spec(**{name: value for name, value in spec.to_json().items() if name in _TRAINED})


def measured(
    config: FitConfig, split: Split, *, known: ModelSpec | None = None, reporter: Reporter
) -> tuple[FitConfig, Split, Measured]:
    """What the images of a split are; the config, whose task ignores pixels without a value if there are such.

    Args:
        config: Says what the images are, as far as is known.
        split: The images.
        known: The record of earlier training, whose range of values counts unless the config names one.
        reporter: Receives what was found.

    Raises:
        DataError: the images are not what the config says, or cannot be read.
    """
    spec = config.data.image_spec()
    if known is not None and known.range and not spec.range:
        spec = replace(spec, range=known.range)
    train, val = (split.train, split.val) if split.train else (split.val, ())
    found = measure(train, val, spec, reporter=reporter)
    kept = known if spec.range != config.data.image_spec().range else None
    if kept is not None and (found.dtype == "uint8" or found.dtype != kept.dtype):
        what = "8 bits" if found.dtype == "uint8" else found.dtype
        raise DataError(
            f"{train[0].image}: images of {what}, and the network of --init takes values from "
            f"{spec.range[0][0]:g} to {spec.range[0][1]:g} as black and white: name the range of these images with "
            "data.range=[low, high]"
        )
    if found.spec.nodata is not None and NODATA not in config.task.ignore:
        config = config.replace({"task.ignore": [*config.task.ignore, NODATA]})
        reporter.info("pixels of images without a value count for nothing: task.ignore has nodata")
    return config, split.with_spec(found.spec), found


def with_images(
    config: FitConfig, model: Segmenter, split: Split, *, reporter: Reporter
) -> tuple[FitConfig, Segmenter, Split]:
    """The config, the model and the images of a training, once it is known what the images are.

    Weights that were trained before keep the range, mean and spread of their images.
    """
    config, split, found = measured(config, split, known=model.spec, reporter=reporter)
    _check_loss(config)  # images have shown whether pixels count for nothing
    changes: dict[str, Any] = {"range": found.spec.range, "dtype": found.dtype, "nodata": found.spec.nodata or ()}
    if found.mean and not model.spec.init.startswith("run:"):
        changes |= {"mean": found.mean, "std": found.std}
    if model.spec.task != config.task.task():
        changes["task"] = config.task.task()
    model = model.with_spec(**changes)
    return config, model, split.with_spec(model.spec.image_spec)


def with_data(config: FitConfig, *, reporter: Reporter) -> FitConfig:
    """The config with a data folder, its own or that of the demo cars, and with absolute paths."""
    if config.data.root is None:
        root = cache_home() / f"demo-v{VERSION}-{DEMO_CARS}-cars"
        found = (root / "demo.json").exists()  # written last
        reporter.info(f"no --data given: {'using' if found else 'drawing'} {DEMO_CARS} demo cars in {root}")
        with lock(root.with_suffix(".lock")):  # of several processes that train together, one draws
            write_demo(root, cars=DEMO_CARS, reporter=reporter)
    else:
        root = config.data.root
    changes = {"data.root": str(root.resolve())}
    if config.split.file is not None:
        changes["split.file"] = str(config.split.file.resolve())
    return config.replace(changes)


def new_split(config: FitConfig, *, reporter: Reporter) -> Split:
    """The training and validation images of a config with a data folder.

    Raises:
        ConfigError, DataError: one line about the first thing that is wrong.
    """
    split = make_split(config.data, config.split, config.task.task(), reporter=reporter)
    tell_of_leak(split, reporter)
    refuse_equal_stems([sample.image for sample in split.val], [sample.stem for sample in split.val])
    check_sizes(split.train + split.val)
    return split


def recall_images(run: Run, *, root: str | os.PathLike[str] | None = None, reporter: Reporter) -> Split:
    """The images of a run that resumes, which must be unchanged; ``root`` is where their folder has moved to.

    Raises:
        DataError: images are not there any more, or changed.
    """
    split = read_run_split(run, root=root, reporter=reporter)
    check_unchanged(run.split_path, split)
    data = run.read_config().data
    # Of cached images the digests are remembered: those that have not changed are not read again.
    cached = data.cache_gb > 0 and data.shown_size() is not None
    if root is None and cached and process_number() == 0 and run.read_digests():
        check_contents(run, split, reporter)
    check_sizes(split.train + split.val)
    return split


def make_trainer(
    config: FitConfig,
    model: Segmenter,
    split: Split,
    run: Run,
    *,
    device: str,
    callbacks: tuple[Callback, ...] = (),
    group: str = "",
    reporter: Reporter,
    resume: bool = False,
) -> Trainer:
    """The trainer, on cached data sets, with the callbacks of the environment beside the caller's."""
    train, val = datasets(config, split, reporter=reporter)
    first_step = None
    if resume and has_state(run.state_path):
        done = read_state(run.state_path, tensors=False).progress.metrics
        first_step = done[-1]["step"] + 1 if done else 0
    own = []
    if process_number() == 0:
        settings: dict[str, Any] = {"group": group, "first_step": first_step, "reporter": reporter}
        own = [Tracker(name, run, **settings) for name in _trackers(config, resume, reporter)]
    return Trainer(
        model, train=train, val=val, settings=config.train, out=run, resume=resume, device=device,
        workers=config.data.workers, callbacks=[*callbacks, *own], reporter=reporter,
    )  # fmt: skip


def _trackers(config: FitConfig, resume: bool, reporter: Reporter) -> list[TrackerName]:
    """The trackers of a training; one that resumes where a package is missing goes on without it."""
    log_to = config.train.log_to
    if resume and log_to != "auto":
        for name in [name for name in log_to if not is_installed(name)]:
            reporter.warn(f"{name} is not installed here: its curves end; pip install 'carvana[{name}]' continues them")
        log_to = [name for name in log_to if is_installed(name)]
    return tracker_names(log_to)


def datasets(
    config: FitConfig, split: Split, *, reporter: Reporter | None = None
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training images, augmented, and the validation images, as they are; both cached on disk."""
    data, seed, task = config.data, config.train.seed, config.task.task()

    def cached(parts: Sequence[Sequence[Sample]], size: tuple[int, int]) -> Sequence[SampleCache | None]:
        return build_caches(parts, size, target=data.target, task=task, limit_gb=data.cache_gb, reporter=reporter)

    if data.augment in RGB_ALONE and not split.train[0].spec.is_rgb and reporter is not None:
        reporter.info(f"augment {data.augment}: of these channels {RGB_ALONE[data.augment]}")
    parts = split.train, split.val
    shown = data.shown_size()
    caches = (None, None) if shown is None else cached(parts, shown)
    train = SegmentationDataset(
        split.train, data.size, task=task, mode=data.mode, scale=data.scale, crops=data.crops, whole=data.whole,
        target=data.target, augment=data.augment, seed=seed, cache=caches[0],
    )  # fmt: skip
    val = SegmentationDataset(
        split.val, data.size, task=task, mode=data.mode, scale=data.scale, target=data.target, seed=seed,
        cache=caches[1],
    )  # fmt: skip
    if data.start_size is not None:
        (cache,) = cached([split.train], data.start_size)
        start = SegmentationDataset(
            split.train, data.start_size, task=task, target=data.target, augment=data.augment, seed=seed, cache=cache
        )
        train.begin_with(start, epochs=data.start_epochs)
    return train, val


def _check_loss(config: FitConfig) -> None:
    weights, task = config.train.class_weights, config.task.task()
    make_loss(config.train.loss, task, class_weights=[1.0] * len(task.classes) if weights == "balanced" else weights)


def lasting_path(init: str | os.PathLike[str] | None) -> str | None:
    """A folder as an absolute path; what is not a folder here may be a repository of the hub."""
    if init is None:
        return None
    return str(Path(init).resolve()) if Path(init).exists() else os.fspath(init)


def _names(config: FitConfig) -> Iterator[tuple[Catalog, str]]:
    yield registry.archs, config.arch
    yield registry.augments, config.data.augment
    if config.data.layout is not None:
        yield registry.layouts, config.data.layout
    for name in loss_names(loss_for(config.train.loss, config.task.task().kind)):
        yield registry.losses, name
