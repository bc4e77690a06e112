"""Which images train and which validate.

A split by group never shows the network another view of a group that it is tested on; by image, validation reads too
high by more than good architectures differ. The same samples and seed give the same split, on any machine.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carvana.config import DataConfig, SplitConfig
from carvana.data.objects import check_categories
from carvana.data.samples import Sample, find_samples
from carvana.data.split import (
    Split,
    check_unchanged,
    class_shares,
    describe_split,
    divided,
    mean_share,
    named_samples,
    read_split,
    tell_of_copies,
    tell_of_leak,
    tell_of_parts,
    write_split,
)  # fmt: skip
from carvana.data.target import class_pixels
from carvana.errors import ConfigError, DataError
from carvana.task import Task
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, SilentReporter, track

__all__ = [
    "Split", "check_unchanged", "class_shares", "config_samples", "describe_split", "make_split", "read_split",
    "recall_split", "samples_to_test", "split_folds", "split_samples", "tell_of_copies", "tell_of_leak",
    "without_test", "write_split",
]  # fmt: skip

By = Literal["group", "image"]
"""What is not divided."""

_DRAWS = 2000  # divisions of which the best is taken
_BATCH = 2**22  # units in all of the divisions that are compared at once
_WHOLE = 2**30  # the number that stands for all pixels of a class
_TRIED = 16  # units of a class that are tried in an exchange


def make_split(
    data: DataConfig, split: SplitConfig, task: Task | None = None, *, reporter: Reporter | None = None
) -> Split:
    """Find the images of a config and divide them as it says, or as the folders say; the test part is left out.

    Args:
        data: Where the images are.
        split: How they are divided; its file comes before the parts of the data folder.
        task: What the label files are; None for masks of one object.
        reporter: Shows the reading of label files, and receives what is made of the parts.

    Raises:
        ConfigError: no data folder is named.
        DataError: the images cannot be found or divided.
    """
    samples = config_samples(data, data.root, reporter=reporter)
    if task is not None:
        check_categories(without_test(samples), task)
    if split.file is None:
        made = split_samples(samples, by=split.by, val=split.val, seed=split.seed, task=task, reporter=reporter)
    else:
        made = recall_split(data, split, split.file, samples)
    tell_of_parts(data.root, split.file, samples, made, reporter or SilentReporter())
    return made


def recall_split(
    data: DataConfig, split: SplitConfig, written: str | os.PathLike[str], samples: tuple[Sample, ...] | None = None
) -> Split:
    """Divide the images of a config, or these, as an existing ``split.csv`` says.

    It is not needed if ``split.file`` is a folder: the images in it validate, all others train.

    Raises:
        ConfigError, DataError: as for :func:`make_split`.
    """
    samples = config_samples(data, data.root) if samples is None else samples
    if split.file is not None and split.file.is_dir():
        if any(folder is not None and Path(folder).is_absolute() for folder in (data.images, data.masks)):
            data = data.model_copy(update={"images": None, "masks": None})  # which are not those of another folder
        return Split(without_test(samples), without_test(config_samples(data, split.file)))
    return read_split(written, samples)


def config_samples(data: DataConfig, root: Path | None, *, reporter: Reporter | None = None) -> tuple[Sample, ...]:
    """The images of a data folder, found as a config says, those of a test part among them.

    Args:
        data: The config.
        root: The folder.
        reporter: Receives what is left out.

    Raises:
        ConfigError: no folder is named.
    """
    if root is None:
        raise ConfigError("data.root: no data folder is named; give one with --data")
    return tuple(
        find_samples(
            root, images=data.images, masks=data.masks, group=data.group, mask_suffix=data.mask_suffix,
            layout=data.layout, spec=data.image_spec(), reporter=reporter,
        )
    )  # fmt: skip


def without_test(samples: Iterable[Sample]) -> tuple[Sample, ...]:
    """The samples that may train and validate: all but a test part."""
    return tuple(sample for sample in samples if sample.subset != "test")


def split_samples(
    samples: Sequence[Sample],
    *,
    by: By = "group",
    val: float = 0.2,
    seed: int = 0,
    task: Task | None = None,
    reporter: Reporter | None = None,
) -> Split:
    """Hold some samples out for validation.

    By group, the groups are sorted by the share of the image that their object covers, cut into as many layers as
    groups are wanted, and one group is drawn from each layer: validation then holds small and large groups as training
    does. Of several classes, the best of many drawn divisions is taken: first of all each class is on both sides where
    two groups have it, then both sides have the classes in shares as equal as can be.

    Where the folders of the samples say what validates, that is taken as it is. A test part is on neither side.

    Args:
        samples: What to split.
        by: "group" keeps all images of a group together; "image" draws single images.
        val: The share (below 1) or the number (1 and more) of groups, or images, to hold out.
        seed: Other numbers draw others.
        task: What the label files are; None for masks of one object.
        reporter: Shows the reading of the label files of several classes, all of which are read.

    Raises:
        DataError: nothing would be left on one side.

    Example:
        >>> import tempfile
        >>> from carvana import find_samples, write_demo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     samples = find_samples(write_demo(folder, cars=3, views=2, size=(40, 60), workers=1))
        ...     split = split_samples(samples, val=1)
        >>> len(split.train), len(split.val), len({sample.group for sample in split.val})
        (4, 2, 1)
    """
    if given := [sample for sample in samples if sample.subset == "val"]:
        train = [sample for sample in samples if sample.subset in ("train", "")]
        if not train:
            raise DataError(f"{given[0].image}: the data folder has no train part, only others; name one that has")
        return Split(tuple(train), tuple(given))
    units = _units(without_test(samples), by)
    if not units and samples:
        raise DataError(f"{samples[0].image}: the data folder has a test part alone; name one that has a train part")
    count = _count(val, len(units), f"{by}s")
    rng = np.random.default_rng(seed)
    if task is not None and task.kind != "binary":
        return divided(
            units, balanced_sides(_class_counts(units, task, reporter), [len(units) - count, count], rng) == 1
        )
    order = _order(units, by, rng, task)
    if by == "group":
        held_out = {int(rng.choice(layer)) for layer in np.array_split(order, count)}
    else:
        held_out = set(order[:count].tolist())
    return divided(units, (place in held_out for place in range(len(units))))


def split_folds(
    samples: Sequence[Sample], *, folds: int = 5, seed: int = 0, by: By = "group", task: Task | None = None
) -> list[Split]:
    """Divide the samples into folds, so that each one validates exactly once.

    By group, the groups are sorted by the share of the image that their object covers, and cut into layers of as
    many groups as there are folds: every fold gets one of each layer, so that all have small and large groups. The
    folds' numbers of groups (or images) differ by at most one. A test part is in no fold; a validation part is divided
    as what trains is.

    Args:
        samples: What to split.
        folds: Their number, at least 2.
        seed: Which group of a layer goes to which fold.
        by: "group" keeps all images of a group together; "image" divides single images.
        task: What the label files are; of several classes, folds are balanced as :func:`split_samples` says.

    Returns:
        For each fold what trains and what validates.

    Raises:
        ConfigError: fewer than two folds.
        DataError: there are fewer groups (images) than folds.
    """
    if folds < 2:
        raise ConfigError(f"{folds} folds: expected at least 2, each trained on the {by}s of the others")
    units = _units(without_test(samples), by)
    if len(units) < folds:
        raise DataError(f"{folds} folds need as many {by}s, and there are {len(units)}; take fewer folds")
    rng = np.random.default_rng(seed)
    if task is not None and task.kind != "binary":
        sizes = [len(units) // folds + (fold < len(units) % folds) for fold in range(folds)]
        side = balanced_sides(_class_counts(units, task, None), sizes, rng)
        return [divided(units, side == fold) for fold in range(folds)]
    order = _order(units, by, rng, task)
    layers = -(-len(units) // folds)
    fold_of = np.empty(len(units), np.intp)
    fold_of[order] = np.concatenate([rng.permutation(folds) for _ in range(layers)])[: len(units)]
    return [divided(units, fold_of == fold) for fold in range(folds)]


def samples_to_test(data: DataConfig, split: SplitConfig, *, reporter: Reporter | None = None) -> tuple[Sample, ...]:
    """The images that a training with this config does not touch: those that ``split.file`` or the folders call test.

    Args:
        data: Where the images are.
        split: Its file comes before the folders.
        reporter: Receives what is left out.

    Raises:
        DataError: the images cannot be found, or the file cannot be used.
    """
    samples = config_samples(data, data.root, reporter=reporter)
    if split.file is not None and split.file.is_file():
        named = tuple(sample for sample, subset in named_samples(split.file, samples) if subset == "test")
        if named:
            return named
    return tuple(sample for sample in samples if sample.subset == "test")


def _count(val: float, available: int, what: str) -> int:
    if val >= 1 and val != int(val):
        raise DataError(f"split.val = {val}: expected a share below 1 or a whole number of {what}")
    count = int(val) if val >= 1 else max(1, round(val * available))
    if available == 1:
        other = "take split.by=image" if what == "groups" else "add more"
        raise DataError(
            f"there is one {what[:-1]}, which cannot be split; {other}, or name a validation folder with split.file"
        )
    if count >= available:
        raise DataError(
            f"split.val = {val:g} holds out {count} of {available} {what} and leaves none for training; "
            "take a smaller one, or name a validation folder with split.file"
        )
    return count


def _units(samples: Sequence[Sample], by: By) -> list[list[Sample]]:
    """What is not divided, groups or images, in the order of their names."""
    units: dict[str, list[Sample]] = {}
    for sample in sorted(samples, key=lambda sample: (sample.group, sample.name)):
        units.setdefault(sample.group if by == "group" else sample.name, []).append(sample)
    return list(units.values())


def _order(units: Sequence[Sequence[Sample]], by: By, rng: np.random.Generator, task: Task | None) -> NDArray[np.intp]:
    """Groups by the share of the image that their object covers, images at random."""
    if by == "image":
        return rng.permutation(len(units))
    shares = list(threaded(lambda unit: mean_share(unit, task), units))  # decoders release the interpreter's lock
    return np.argsort(shares, kind="stable")


def _class_counts(units: Sequence[Sequence[Sample]], task: Task, reporter: Reporter | None) -> NDArray[np.float64]:
    """The pixels of each class in each unit, (units, K)."""
    found = threaded(lambda unit: np.sum([class_pixels(sample, task) for sample in unit], axis=0, dtype=float), units)
    return np.stack(list(track(found, reporter or SilentReporter(), "counting pixels of classes", len(units))))


def balanced_sides(counts: NDArray[np.float64], sizes: Sequence[int], rng: np.random.Generator) -> NDArray[np.intp]:
    """The side of each unit, with so many units on each: the best of many draws, then improved by exchanges.

    First of all each class is on as many sides as have room for it, then the shares on all sides are even.

    Args:
        counts: (units, K), pixels of classes.
        sizes: The number of units on each side.
        rng: Draws.
    """
    # Shares as whole numbers: their sums are exact in any order, and so the same split is best on any machine.
    shares = np.maximum(np.rint(counts / np.maximum(counts.sum(0), 1) * _WHOLE), counts > 0)
    goal = np.rint(np.array(sizes)[:, None] / len(counts) * _WHOLE)
    wanted = np.minimum((counts > 0).sum(0), len(sizes))  # the sides that can have each class
    labels = np.repeat(np.arange(len(sizes)), sizes)
    best, least = labels, (np.inf, np.inf)
    batch = max(1, min(_DRAWS, _BATCH // len(labels)))
    for first in range(0, _DRAWS, batch):
        drawn = rng.permuted(np.tile(labels, (min(batch, _DRAWS - first), 1)), axis=1)
        on = np.stack([(drawn == side).astype(np.float64) @ shares for side in range(len(sizes))], axis=1)
        absent, uneven = (wanted - (on > 0).sum(1)).sum(1), np.abs(on - goal).sum((1, 2))
        place = np.lexsort((uneven, absent))[0]
        if (absent[place], uneven[place]) < least:
            best, least = drawn[place], (absent[place], uneven[place])
    return _spread_classes(best, shares, goal, rng)


def _spread_classes(
    sides: NDArray[np.intp], shares: NDArray[np.float64], goal: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.intp]:
    """Exchange units of two sides where that brings a class to a side that has none of it, and takes none away.

    Args:
        sides: (units,), the side of each unit.
        shares: (units, K), of each class, whole numbers.
        goal: (sides, 1), the share that each side ought to have.
        rng: Draws units to be tried, where many have a class.
    """
    sides, there = sides.copy(), (shares > 0).astype(np.int64)
    members, on = (np.stack([each[sides == side].sum(0) for side in range(len(goal))]) for each in (there, shares))
    rarest = np.argsort(there.sum(0), kind="stable").tolist()
    improved = True
    while improved:
        improved = False
        for index, to in itertools.product(rarest, range(len(goal))):
            if members[to, index]:
                continue
            holders = np.flatnonzero((there[:, index] > 0) & (members[sides, index] > 1))
            others, tried = np.flatnonzero(sides == to), []
            for unit in rng.permutation(holders)[:_TRIED].tolist():
                here = [to, sides[unit]]
                into = np.stack([there[unit] - there[others], there[others] - there[unit]])  # (2, others, K)
                moved = np.stack([shares[unit] - shares[others], shares[others] - shares[unit]])
                gained = (members[here][:, None] + into > 0).sum((0, 2)) - (members[here] > 0).sum()
                uneven = np.abs(on[here][:, None] + moved - goal[here][:, None]).sum((0, 2))
                place = np.lexsort((uneven, -gained))[0]
                tried.append((-int(gained[place]), float(uneven[place]), unit, int(others[place])))
            if tried and min(tried)[0] < 0:
                *_, unit, other = min(tried)
                for side, come, go in ((to, unit, other), (sides[unit], other, unit)):
                    members[side] += there[come] - there[go]
                    on[side] += shares[come] - shares[go]
                sides[unit], sides[other] = to, sides[unit]
                improved = True
    return sides
