"""Builds what a config asks for: data folder, split, network with its first weights, data sets, trainer."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from carvana.config import FitConfig
from carvana.data.augment import make_augment
from carvana.data.cache import SampleCache, build_caches
from carvana.data.check.masks import check_sizes
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.write import VERSION, write_demo
from carvana.data.digest import cache_home
from carvana.data.samples import Sample
from carvana.data.splits import Split, check_unchanged, make_split, tell_of_leak
from carvana.errors import ConfigError, ModelError
from carvana.evaluation.samples import read_run_split
from carvana.losses import make_loss
from carvana.models.create import create_model
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.training.callbacks import Callback, default_callbacks
from carvana.training.state import has_state, peek_state
from carvana.training.trainer import Trainer
from carvana.utils.devices import process_count, process_number, resolve_device, resolve_precision
from carvana.utils.files import lock
from carvana.utils.processes import check_fork, check_main_guard
from carvana.utils.progress import Reporter

DEMO_CARS = 12


@dataclass(frozen=True)
class Setup:
    """What a config asks for.

    Attributes:
        config: The config, with a data folder and absolute paths.
        model: The network, with its first weights.
        split: The training and the validation images.
    """

    config: FitConfig
    model: Segmenter
    split: Split


def check(config: FitConfig, *, device: str = "auto") -> None:
    """Check all of a config that needs neither data nor network.

    Raises:
        ConfigError, UnknownNameError: a name or a setting that cannot be used here, or a process that cannot train.
    """
    check_fork()
    if config.data.workers:
        check_main_guard()
    make_loss(config.train.loss)
    make_augment(config.data.augment)
    resolve_precision(config.train.precision, resolve_device(device))


def check_alone(what: str) -> None:
    """Refuse work that is done in one process where torchrun or accelerate launch started several.

    Raises:
        ConfigError: there are others.
    """
    if process_count() > 1:
        raise ConfigError(f"{what} in one process: start carvana without torchrun or accelerate launch")


def new_setup(config: FitConfig, *, init: str | os.PathLike[str] | None = None, reporter: Reporter) -> Setup:
    """Build what a new training needs.

    The network comes first, since an error in its name or options is quick to find, and drawing the demo cars is slow.

    Raises:
        ConfigError, DataError, ModelError: one line about the first thing that is wrong.
    """
    torch.manual_seed(config.train.seed)
    model = build_model(config, init=init, reporter=reporter)
    config = with_data(config, reporter=reporter)
    split = make_split(config.data, config.split)
    tell_of_leak(split, reporter)
    check_sizes(split.train + split.val)
    return Setup(config, model, split)


def run_setup(run: Run, config: FitConfig, *, root: str | os.PathLike[str] | None = None, reporter: Reporter) -> Setup:
    """Build what a run needs to resume: its own images, which must be unchanged, and its network.

    Args:
        run: The run. Where it has a state, weights are loaded from that later, and none are built here.
        config: Its config.
        root: Where its data folder is now, if it has moved.
        reporter: Shows progress and warnings.

    Raises:
        DataError: the images are not there any more, or changed.
        ModelError, RunError: the network cannot be built.
    """
    split = read_run_split(run, root=root, reporter=reporter)
    check_unchanged(run.split_path, split)
    check_sizes(split.train + split.val)
    torch.manual_seed(config.train.seed)
    if not has_state(run.state_path):
        return Setup(config, build_model(config, init=run.read_record().get("init_from"), reporter=reporter), split)
    model = build_model(config.replace({"model.encoder_weights": "none"}))
    spec = ModelSpec.from_json(peek_state(run.state_path)[1]["spec"])
    return Setup(config, model.with_spec(init=spec.init, mean=spec.mean, std=spec.std), split)


def make_trainer(
    setup: Setup,
    run: Run,
    *,
    device: str,
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter,
    resume: bool = False,
) -> Trainer:
    """The trainer, on cached data sets, with the callbacks of the config beside the caller's."""
    config = setup.config
    train, val = datasets(config, setup.split, reporter=reporter)
    first_step = None
    if resume and has_state(run.state_path):
        done = peek_state(run.state_path)[0].metrics
        first_step = done[-1]["step"] + 1 if done else 0
    own = default_callbacks(run, first_step=first_step) if process_number() == 0 else []
    return Trainer(
        setup.model, train=train, val=val, settings=config.train, out=run, resume=resume, device=device,
        workers=config.data.workers, callbacks=[*callbacks, *own], reporter=reporter,
    )  # fmt: skip


def build_model(
    config: FitConfig, *, init: str | os.PathLike[str] | None = None, reporter: Reporter | None = None
) -> Segmenter:
    """The network of a config, with its first weights."""
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
    """The config with a data folder, its own or that of the demo cars, and with absolute paths."""
    if config.data.root is None:
        root = demo_folder()
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


def demo_folder() -> Path:
    """The folder of this user's demo cars."""
    return cache_home() / f"demo-v{VERSION}-{DEMO_CARS}-cars"


def datasets(
    config: FitConfig, split: Split, *, reporter: Reporter | None = None
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """The training images, augmented, and the validation images, as they are; both cached on disk."""
    data = config.data
    augments: tuple[str | None, ...] = data.augment, None
    train, val = _datasets(config, (split.train, split.val), data.size, data.mode, augments, reporter)
    if data.start_size is None:
        return train, val
    (start,) = _datasets(config, (split.train,), data.start_size, "resize", augments[:1], reporter)
    train.begin_with(start, epochs=data.start_epochs)
    return train, val


def _datasets(
    config: FitConfig,
    parts: Sequence[Sequence[Sample]],
    size: tuple[int, int],
    mode: Literal["resize", "crop"],
    augments: Sequence[str | None],
    reporter: Reporter | None,
) -> list[SegmentationDataset]:
    data = config.data
    caches: Sequence[SampleCache | None] = [None] * len(parts)
    if mode == "resize":  # crops are cut anew in each epoch
        caches = build_caches(parts, size, target=data.target, limit_gb=data.cache_gb, reporter=reporter)
    return [
        SegmentationDataset(
            part, size, mode=mode, whole=whole, target=data.target, augment=augment, seed=config.train.seed, cache=cache
        )
        for part, cache, augment, whole in zip(parts, caches, augments, (data.whole, 0.0), strict=False)
    ]


def lasting_path(init: str | os.PathLike[str] | None) -> str | None:
    """A folder as an absolute path; what is not a folder here may be a repository of the hub."""
    if init is None:
        return None
    return str(Path(init).resolve()) if Path(init).exists() else os.fspath(init)


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
    # The weights keep the normalisation that they were trained with.
    return model.with_spec(init=f"run:{name}", mean=other.spec.mean, std=other.spec.std)
