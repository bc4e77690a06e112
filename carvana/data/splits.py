"""Which images train and which validate.

A split by group never shows the network another view of a group that it is tested on; by image, validation reads too
high by more than good architectures differ. The same samples and seed give the same split, on any machine.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO

import numpy as np

from carvana.config import DataConfig, SplitConfig
from carvana.data.io.masks import read_share
from carvana.data.sample_list import SampleList
from carvana.data.samples import Sample, each_sample
from carvana.errors import ConfigError, DataError
from carvana.utils.files import write_bytes
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter

_CODING = "utf-8", "surrogateescape"  # names of files may have bytes that are not text

MASKS_A_GROUP = 2
"""The number of masks that are read for the foreground share of a group: enough to rank groups by it."""


@dataclass(frozen=True)
class Split:
    """Two disjoint lists of samples."""

    train: SampleList
    val: SampleList

    def shared_groups(self) -> set[str]:
        """The groups on both sides: none, unless the split is by image or the user's own."""
        return {sample.group for sample in self.train} & {sample.group for sample in self.val}


def make_split(data: DataConfig, split: SplitConfig) -> Split:
    """Find the images of a config and divide them as it says.

    Raises:
        ConfigError: no data folder is named.
        DataError: the images cannot be found or divided.
    """
    samples = config_samples(data, data.root)
    if split.file is None:
        return split_samples(samples, by=split.by, val=split.val, seed=split.seed)
    return recall_split(data, split, split.file)


def recall_split(data: DataConfig, split: SplitConfig, written: str | os.PathLike[str]) -> Split:
    """Divide the images of a config as an existing ``split.csv`` says.

    It is not needed if ``split.file`` is a folder: the images in it validate, all others train.

    Raises:
        ConfigError, DataError: as for :func:`make_split`.
    """
    samples = config_samples(data, data.root)
    if split.file is not None and split.file.is_dir():
        return Split(samples, config_samples(data, split.file))
    return read_split(written, samples)


def config_samples(data: DataConfig, root: Path | None) -> SampleList:
    """The images of a data folder, found as a config says.

    Raises:
        ConfigError: no folder is named.
    """
    if root is None:
        raise ConfigError("data.root: no data folder is named; give one with --data")
    return SampleList.of(
        each_sample(root, images=data.images, masks=data.masks, group=data.group, mask_suffix=data.mask_suffix)
    )


def split_samples(
    samples: Sequence[Sample], *, by: Literal["group", "image"] = "group", val: float = 0.2, seed: int = 0
) -> Split:
    """Hold some samples out for validation.

    By group, the groups are sorted by the share of the image that their object covers, cut into as many layers as
    groups are wanted, and one group is drawn from each layer: validation then holds small and large groups as training
    does.

    Args:
        samples: What to split.
        by: "group" keeps all images of a group together; "image" draws single images.
        val: The share (below 1) or the number (1 and more) of groups, or images, to hold out.
        seed: Other numbers draw others.

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
    unit = _unit(by)
    ordered, members = _sorted_units(samples, unit)
    what = "groups" if by == "group" else "images"
    count = _count(val, len(members), what)
    rng = np.random.default_rng(seed)
    names = list(members)
    if by == "group":
        shares = _foreground_shares(ordered, members)
        by_share = np.argsort([shares[name] for name in names], kind="stable")
        held_out = {names[int(rng.choice(layer))] for layer in np.array_split(by_share, count)}
    else:
        held_out = {names[place] for place in rng.permutation(len(names))[:count].tolist()}
    return _divide(ordered, lambda sample: unit(sample) in held_out)


def split_folds(
    samples: Sequence[Sample], *, folds: int = 5, seed: int = 0, by: Literal["group", "image"] = "group"
) -> list[Split]:
    """Divide the samples into folds, so that each one validates exactly once.

    By group, the groups are sorted by the share of the image that their object covers, and cut into layers of as
    many groups as there are folds: every fold gets one of each layer, so that all have small and large groups. The
    folds' numbers of groups (or images) differ by at most one.

    Args:
        samples: What to split.
        folds: Their number, at least 2.
        seed: Which group of a layer goes to which fold.
        by: "group" keeps all images of a group together; "image" divides single images.

    Returns:
        For each fold what trains and what validates.

    Raises:
        ConfigError: fewer than two folds.
        DataError: there are fewer groups (images) than folds.
    """
    what = "groups" if by == "group" else "images"
    if folds < 2:
        raise ConfigError(f"{folds} folds: expected at least 2, each trained on the {what} of the others")
    unit = _unit(by)
    ordered, members = _sorted_units(samples, unit)
    if len(members) < folds:
        raise DataError(f"{folds} folds need as many {what}, and there are {len(members)}; take fewer folds")
    rng = np.random.default_rng(seed)
    names = list(members)
    if by == "group":
        shares = _foreground_shares(ordered, members)
        order = np.argsort([shares[name] for name in names], kind="stable")
    else:
        order = rng.permutation(len(names))
    layers = -(-len(names) // folds)
    layered = np.concatenate([rng.permutation(folds) for _ in range(layers)])[: len(names)]
    fold_of = {names[place]: fold for place, fold in zip(order.tolist(), layered.tolist(), strict=True)}

    def fold_split(fold: int) -> Split:
        return _divide(ordered, lambda sample: fold_of[unit(sample)] == fold)

    return [fold_split(fold) for fold in range(folds)]


def read_split(path: str | os.PathLike[str], samples: Sequence[Sample]) -> Split:
    """Divide samples as a ``split.csv`` says: columns image (a file name) and subset (train or val).

    Raises:
        DataError: the file cannot be used, names an image that does not exist, or leaves one side empty.
    """
    subsets = _read_subsets(Path(path))
    places = {sample.name: place for place, sample in enumerate(samples)}
    known = [name if name in places else Path(name).name for name in subsets]  # written with a folder before it
    if len(set(known)) < len(known):
        twice = Counter(known).most_common(1)[0][0]
        raise DataError(f"{path}: {twice} is there twice; remove one of the lines")
    subsets = dict(zip(known, subsets.values(), strict=True))
    absent = sorted(subsets.keys() - places.keys())
    if absent:
        raise DataError(f"{path}: {len(absent)} of its images are not in the data folder (the first: {absent[0]})")
    # In the file's order: a resumed training must find each image at its place.
    chosen = SampleList.of(samples).take([places[name] for name in subsets])
    split = _divide(chosen, lambda sample: subsets[sample.name] == "val")
    if not split.train or not split.val:
        raise DataError(f"{path}: leaves no image for {'training' if not split.train else 'validation'}")
    return split


def write_split(path: str | os.PathLike[str], split: Split, *, digests: Sequence[str] | None = None) -> None:
    """Write ``split.csv``: image, group, subset.

    Args:
        path: The file.
        split: What to write.
        digests: Of each image and its mask, in the same order, for a fourth column: see
            :func:`carvana.data.digest.content_digests`.
    """
    table = io.StringIO()
    # By default the writer does not quote a carriage return, which the reader takes for the end of a line.
    returns = any("\r" in sample.name + sample.group for sample in split.train + split.val)
    rows = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    columns = [
        [sample.name, sample.group, subset]
        for subset, samples in (("train", split.train), ("val", split.val))
        for sample in samples
    ]
    if digests is None:
        rows.writerows([["image", "group", "subset"], *columns])
    else:
        rows.writerow(["image", "group", "subset", "digest"])
        rows.writerows([*row, found] for row, found in zip(columns, digests, strict=True))
    write_bytes(path, table.getvalue().encode(*_CODING))


def _unit(by: Literal["group", "image"]) -> Callable[[Sample], str]:
    """The name of what is not divided: a group, or an image."""
    return (lambda sample: sample.group) if by == "group" else (lambda sample: str(sample.image))


def _sorted_units(samples: Sequence[Sample], unit: Callable[[Sample], str]) -> tuple[SampleList, dict[str, list[int]]]:
    """The samples sorted by group and name, and the places in that order of each unit."""
    table = SampleList.of(samples)
    keys = [(sample.group, sample.name) for sample in table]
    ordered = table.take(sorted(range(len(keys)), key=keys.__getitem__))
    members: dict[str, list[int]] = {}
    for place, sample in enumerate(ordered):
        members.setdefault(unit(sample), []).append(place)
    return ordered, members


def check_unchanged(path: str | os.PathLike[str], split: Split) -> None:
    """Make sure that a split equals a written one: the same images in the same order.

    Raises:
        DataError: images were added or removed since, or the file cannot be used.
    """
    rows = list(_read_subsets(Path(path)).items())
    sides = (("train", split.train), ("val", split.val))
    found = [(sample.name, subset) for subset, samples in sides for sample in samples]
    if rows != found:
        differing = sorted(set(rows) ^ set(found)) or [rows[0]]
        raise DataError(
            f"{path}: names other images than the data folder has ({differing[0][0]} differs); restore them, or "
            "begin another training with --init"
        )


def tell_of_leak(split: Split, reporter: Reporter) -> None:
    """Warn of groups on both sides of a split."""
    leaking = len(split.shared_groups())
    if leaking:
        reporter.warn(
            f"{leaking} group{'s are' if leaking > 1 else ' is'} on both sides of the split: validation reads too "
            "high; take split.by=group unless this is meant"
        )


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


def _divide(samples: SampleList, is_val: Callable[[Sample], bool]) -> Split:
    held_out = np.fromiter(map(is_val, samples), np.bool_, len(samples))
    return Split(samples.take(np.flatnonzero(~held_out)), samples.take(np.flatnonzero(held_out)))


def _foreground_shares(samples: SampleList, members: Mapping[str, Sequence[int]]) -> dict[str, float]:
    def share(group: str) -> float:
        places = members[group]
        step = max(1, len(places) // MASKS_A_GROUP)
        masks = [samples[place].mask for place in places[::step]]
        shares = [read_share(mask) for mask in masks if mask is not None]
        return float(np.mean(shares)) if shares else 0.0

    return dict(zip(members, threaded(share, members), strict=True))  # decoders release the interpreter's lock


def _read_subsets(path: Path) -> dict[str, str]:
    subsets: dict[str, str] = {}
    try:
        with _opened(path) as file:
            rows = csv.DictReader(file)
            understood = {"image", "subset"} <= set(rows.fieldnames or ())
            for number, row in enumerate(rows if understood else (), start=2):
                name, subset = row["image"] or "", row["subset"]
                if subset not in ("train", "val") or not name:
                    raise DataError(
                        f"{path}, line {number}: {name!r}, {subset!r}: expected a file name, and train or val"
                    )
                if name in subsets:
                    raise DataError(f"{path}, line {number}: {name} is there twice; remove one of the lines")
                subsets[name] = sys.intern(subset)
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a split: {error}") from error
    if not subsets:
        raise DataError(f"{path}: expected a CSV file with the columns image, group, subset")
    return subsets


def _opened(path: str | os.PathLike[str]) -> TextIO:
    return open(path, newline="", encoding=_CODING[0], errors=_CODING[1])
