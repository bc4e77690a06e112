"""Finds the images to evaluate a run on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from carvana.config import FitConfig
from carvana.data.digest import content_digests
from carvana.data.names import ROBOFLOW
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import Split, recall_split, samples_to_test
from carvana.errors import ConfigError, DataError
from carvana.folds import Folds
from carvana.image_spec import ImageSpec
from carvana.inference.engines.exported import is_exported
from carvana.run import Run
from carvana.utils.files import expanded
from carvana.utils.progress import Reporter, default_reporter

Subset = Literal["val", "train", "all", "test"]


def choose_samples(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] | None = None,
    split: Subset | None = None,
    root: str | os.PathLike[str] | None = None,
    spec: ImageSpec = ImageSpec(),  # noqa: B008 - it is frozen
    reporter: Reporter | None = None,
) -> list[Sample]:
    """The images to evaluate a run, or a model folder, on.

    Args:
        run: A run; a model folder serves if ``data`` is given, folds if ``split`` is test.
        data: Another data folder, all of which is taken; of the run's own, what ``split`` names.
        split: Part of the run's own images: val (the default), train, all (both), or the test part of its data folder.
        root: Where the run's own data folder lies now, if it has moved; not with ``data``.
        spec: What the network takes the images of ``data`` for.
        reporter: Receives a warning if the run was trained on groups of ``data``, or of the test part.

    Raises:
        ConfigError: ``root`` with ``data``; or an exported file without.
        DataError: images are missing, this part has none, or ``root`` holds other images.
        RunError: ``run`` is not a run, and ``data`` is not given.
    """
    reporter = reporter or default_reporter()
    if data is not None and root is not None:
        raise ConfigError(
            f"--root {os.fspath(root)} with --data {os.fspath(data)}: --root is the run's own data folder, which has "
            "moved, and --data is other data; leave one of them out"
        )
    if data is not None and not _is_own(run, data):
        if split not in (None, "all"):
            raise DataError(f"--split {split}: {data} is not the run's data folder and has no such part; leave it out")
        return choose_for_all([run], data=data, spec=spec, reporter=reporter)
    if data is not None and split is None:
        reporter.info(
            f"{os.fspath(data)} is the run's own data folder: its validation part is taken; --split all for all of it"
        )
    if is_exported(run):
        raise ConfigError(
            f"{os.fspath(run)}: an exported file has no images of its own: name labelled ones with --data"
        )
    runs = Folds(run).finished_runs() if split == "test" and Folds(run).exists else [Run.open(run)]
    found = read_run_split(runs[0], root=root, reporter=reporter)
    if split == "test":
        return _test_part(runs, root=root, reporter=reporter)
    parts = {"val": found.val, "train": found.train, "all": found.train + found.val}
    return list(parts[split or "val"])


def choose_for_all(
    runs: Sequence[str | os.PathLike[str]],
    *,
    data: str | os.PathLike[str],
    spec: ImageSpec = ImageSpec(),  # noqa: B008 - it is frozen
    reporter: Reporter | None = None,
) -> list[Sample]:
    """All images of a data folder, to evaluate several networks on together.

    Args:
        runs: Runs or model folders; the first one says how to read the group in a name.
        data: The data folder.
        spec: What the networks take the images for.
        reporter: Receives a warning if one of the runs was trained on groups of ``data``.

    Raises:
        DataError: the images are missing.
    """
    samples = find_samples(data, spec=spec, **_reading(runs[0], expanded(data)))
    warn_of_known_groups(runs, samples, reporter or default_reporter())
    return samples


def read_run_split(run: Run, *, root: str | os.PathLike[str] | None = None, reporter: Reporter | None = None) -> Split:
    """The images of a run, split as it did.

    Args:
        run: The run.
        root: Where its data folder lies now, if it has moved; all files in it are compared with the run's digests.
        reporter: Receives a warning if the run has no digests.

    Raises:
        DataError: images are missing or have changed.
    """
    config = run.read_config()
    config = with_data_root(config, root, name=run.path)
    split = recall_split(config.data, config.split, run.split_path)
    if config.split.file is not None and config.split.file.is_dir() and run.split_path.is_file():
        split = Split(_those_of(run, "train", split.train), _those_of(run, "val", split.val))
    if root is not None:
        check_contents(run, split, reporter or default_reporter())
    return split


def check_contents(run: Run, split: Split, reporter: Reporter) -> None:
    """Refuse images or masks whose bytes have changed since the run began.

    Raises:
        DataError: some have; the first of them is named.
    """
    kept = run.read_digests()
    if not kept:
        reporter.warn(
            f"{run.path}: an earlier carvana, which kept no digests, began this run: the names of the images were "
            "compared, their content was not"
        )
        return
    samples = split.train + split.val
    before = [kept.get(("train", sample.name), "") for sample in split.train]
    before += [kept.get(("val", sample.name), "") for sample in split.val]
    now = content_digests(samples, reporter=reporter)
    differing = [sample for sample, old, new in zip(samples, before, now, strict=True) if old != new]
    if differing:
        first = min(differing, key=lambda sample: sample.name)
        raise DataError(
            f"{first.image}: this image or its mask {next(iter(first.masks), '')} has changed since {run.path} was "
            f"begun ({len(differing)} of {len(samples)} images have): name its own data folder, unchanged, with --root;"
            f" take other images with evaluate --data, or with a new fit and --init {run.path}"
        )


def _those_of(run: Run, subset: str, samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """The images of a folder that a run had: others may have come since."""
    names = run.read_split(subset)
    found = tuple(sample for sample in samples if sample.name in names)
    absent = sorted(names.keys() - {sample.name for sample in found})
    if absent:
        raise DataError(
            f"{run.split_path}: {len(absent)} of its images are not in the data folder (the first: {absent[0]})"
        )
    return found


def _test_part(runs: Sequence[Run], *, root: str | os.PathLike[str] | None, reporter: Reporter) -> list[Sample]:
    """The test part of the data folder of runs, without the images that one of them has trained on or validated by.

    Such are there where ``split.file`` named them, and where an earlier carvana divided the folder as a whole.
    """
    config = with_data_root(runs[0].read_config(), root, name=runs[0].path)
    samples = samples_to_test(config.data, config.split, reporter=reporter)
    if not samples:
        raise DataError(
            f"{config.data.root}: has no test part with label files, such as test/ and testannot/ beside train/ and "
            "trainannot/; name other labelled images with --data"
        )
    used = {name for run in runs for subset in ("train", "val") for name in run.read_split(subset)}
    left = [sample for sample in samples if sample.name not in used]
    if not left:
        raise DataError(f"{config.data.root}: {runs[0].path} was fitted on all of its test part: name other images")
    if len(left) < len(samples):
        reporter.warn(
            f"{runs[0].path}: was fitted on {len(samples) - len(left)} of the {len(samples)} images of the test part, "
            "which are left out"
        )
    warn_of_known_groups([run.path for run in runs], left, reporter)
    return left


def with_data_root(config: FitConfig, root: str | os.PathLike[str] | None, *, name: Path) -> FitConfig:
    """The config of a run, or of folds, with ``root`` as its data folder if that has moved.

    Raises:
        DataError: ``root`` is not given, and the folder is missing.
    """
    if root is not None:
        return config.moved(expanded(root).resolve())
    if config.data.root is not None and not config.data.root.exists():
        raise DataError(
            f"{config.data.root}: the data folder of {name} is missing; if it has moved, name the new folder with "
            "--root DIR (fit --resume, evaluate)"
        )
    return config


def _is_own(run: str | os.PathLike[str], data: str | os.PathLike[str]) -> bool:
    own = Run(run).read_config().data.root if Run(run).exists else None
    return own is not None and own.resolve() == Path(data).resolve()


def _reading(run: str | os.PathLike[str], folder: Path) -> dict[str, Any]:
    """The keys by which a run reads groups and masks from the names of files, and its folders if there are such."""
    if not Run(run).exists:
        return {}
    data = Run(run).read_config().data
    named = {key: each for key, each in (("images", data.images), ("masks", data.masks)) if each is not None}
    there = named and all(not each.is_absolute() and (folder / each).exists() for each in named.values())
    return {"group": data.group, "mask_suffix": data.mask_suffix, **(named if there else {})}


def warn_of_known_groups(runs: Sequence[str | os.PathLike[str]], samples: Sequence[Sample], reporter: Reporter) -> None:
    """Warn if one of the runs was trained on groups of the samples; a model folder does not hold its groups."""
    trained_on: set[str] = set()
    for run in map(Run, runs):
        groups = run.read_groups("train") if run.split_path.is_file() else set()
        trained_on |= {ROBOFLOW.sub("", group) for group in groups}  # earlier versions had it in the name of a group
    known = sorted({sample.group for sample in samples} & trained_on)
    if known:
        reporter.warn(
            f"{len(known)} group{'s' * (len(known) > 1)} of this data {'were' if len(known) > 1 else 'was'} trained on "
            f"(the first: {known[0]}): the scores are too high"
        )
