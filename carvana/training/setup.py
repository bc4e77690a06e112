"""What a recipe asks for, made: its data, its network with the first weights, its data sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from carvana.config import FitConfig
from carvana.data.augment import make_augment
from carvana.data.cache import SampleCache
from carvana.data.cache_build import build_caches
from carvana.data.cache_home import cache_home
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.write import VERSION, write_demo
from carvana.data.samples import Sample
from carvana.data.splits import Split
from carvana.errors import ConfigError, ModelError
from carvana.losses import make_loss
from carvana.models.create import create_model
from carvana.models.segmenter import Segmenter
from carvana.utils.devices import process_count, resolve_device, resolve_precision
from carvana.utils.files import lock
from carvana.utils.processes import check_fork, check_main_guard
from carvana.utils.progress import Reporter

DEMO_CARS = 12


def check(config: FitConfig, *, device: str = "auto") -> None:
    """Find the mistakes of a recipe that need no data and no network.

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
    """The training images as the recipe augments them, the validation images as they are; both cached on disk."""
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
    if mode == "resize":  # what is cut out of an image is of no one size
        caches = build_caches(parts, size, target=data.target, limit_gb=data.cache_gb, reporter=reporter)
    return [
        SegmentationDataset(
            part, size, mode=mode, whole=whole, target=data.target, augment=augment, seed=config.train.seed, cache=cache
        )
        for part, cache, augment, whole in zip(parts, caches, augments, (data.whole, 0.0), strict=False)
    ]


def lasting_path(init: str | os.PathLike[str] | None) -> str | None:
    """A folder as it is found from anywhere; what is no folder here may be a repository of the hub."""
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
    # What the weights were trained to see goes with them.
    return model.with_spec(init=f"run:{name}", mean=other.spec.mean, std=other.spec.std)
