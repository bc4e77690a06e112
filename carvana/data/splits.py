"""Which images train and which validate, and whether both sides are alike.

A split by group never shows the network another view of a group that it is tested on; by image, validation reads too
high by more than good architectures differ. The same samples and seed give the same split, on any machine.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from carvana.config import DataConfig, SplitConfig
from carvana.data.balance import balanced_sides
from carvana.data.io.masks import share_of
from carvana.data.objects import check_categories
from carvana.data.samples import Sample, find_samples
from carvana.data.target import class_pixels, read_labels
from carvana.errors import ConfigError, DataError, plural
from carvana.task import Task
from carvana.utils.files import write_bytes
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, SilentReporter, default_reporter, track

_CODING = "utf-8", "surrogateescape"  # names of files may have bytes that are not text

By = Literal["group", "image"]
"""What is not divided."""

MASKS_A_GROUP = 2
"""The number of masks that are read for the foreground share of a group: enough to rank groups by it."""


@dataclass(frozen=True)
class Split:
    """Two disjoint lists of samples."""

    train: tuple[Sample, ...]
    val: tuple[Sample, ...]

    @property
    def is_given(self) -> bool:
        """Whether the data folder says what validates."""
        return all(sample.subset == "val" for sample in self.val)

    def labelled(self) -> list[tuple[Sample, str]]:
        """All samples, each with "train" or "val"."""
        return [(sample, "train") for sample in self.train] + [(sample, "val") for sample in self.val]

    def shared_groups(self) -> set[str]:
        """The groups on both sides: none, unless the split is by image or the user's own."""
        return {sample.group for sample in self.train} & {sample.group for sample in self.val}


@dataclass(frozen=True)
class Side:
    """One side of a split.

    Attributes:
        images: their number.
        groups: their number.
        views: the number of images of each view; empty where names have none.
        foreground: the mean share that the object covers, in [0, 1]; None where there are several classes.
        spread: the 10% and the 90% quantile of that share, likewise.
    """

    images: int
    groups: int
    views: dict[str, int]
    foreground: float | None
    spread: tuple[float, float] | None


@dataclass(frozen=True)
class ClassShare:
    """The shares, in [0, 1], of the labelled pixels of each side that a class has; 0 where it has none."""

    name: str
    train: float
    val: float


@dataclass(frozen=True)
class SplitReport:
    """Both sides, the groups on both, sorted, and the classes of a task that has several."""

    train: Side
    val: Side
    shared: tuple[str, ...]
    classes: tuple[ClassShare, ...] = ()


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
        made = _recall(samples, data, split, split.file)
    _tell_of_parts(data.root, split.file, samples, made, reporter or SilentReporter())
    return made


def recall_split(data: DataConfig, split: SplitConfig, written: str | os.PathLike[str]) -> Split:
    """Divide the images of a config as an existing ``split.csv`` says.

    It is not needed if ``split.file`` is a folder: the images in it validate, all others train.

    Raises:
        ConfigError, DataError: as for :func:`make_split`.
    """
    return _recall(config_samples(data, data.root), data, split, written)


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
            layout=data.layout, reporter=reporter,
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
        return _divide(
            units, balanced_sides(_class_counts(units, task, reporter), [len(units) - count, count], rng) == 1
        )
    order = _order(units, by, rng, task)
    if by == "group":
        held_out = {int(rng.choice(layer)) for layer in np.array_split(order, count)}
    else:
        held_out = set(order[:count].tolist())
    return _divide(units, (place in held_out for place in range(len(units))))


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
        return [_divide(units, side == fold) for fold in range(folds)]
    order = _order(units, by, rng, task)
    layers = -(-len(units) // folds)
    fold_of = np.empty(len(units), np.intp)
    fold_of[order] = np.concatenate([rng.permutation(folds) for _ in range(layers)])[: len(units)]
    return [_divide(units, fold_of == fold) for fold in range(folds)]


def read_split(path: str | os.PathLike[str], samples: Sequence[Sample]) -> Split:
    """Divide samples as a ``split.csv`` says: columns image (a file name) and subset (train, val, or test for neither).

    Raises:
        DataError: the file cannot be used, names an image that does not exist, or leaves one side empty.
    """
    # In the file's order: a resumed training must find each image at its place.
    sides = [(sample, subset) for sample, subset in _named(path, samples) if subset != "test"]
    split = _divide([[sample] for sample, _ in sides], (subset == "val" for _, subset in sides))
    if not split.train or not split.val:
        raise DataError(f"{path}: leaves no image for {'training' if not split.train else 'validation'}")
    return split


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
        named = tuple(sample for sample, subset in _named(split.file, samples) if subset == "test")
        if named:
            return named
    return tuple(sample for sample in samples if sample.subset == "test")


def _named(path: str | os.PathLike[str], samples: Sequence[Sample]) -> list[tuple[Sample, str]]:
    """The samples that a ``split.csv`` names, in its order, each with its subset."""
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
    return [(samples[places[name]], subset) for name, subset in subsets.items()]


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
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    rows = [["image", "group", "subset"], *([sample.name, sample.group, subset] for sample, subset in split.labelled())]
    if digests is not None:
        rows = [[*row, found] for row, found in zip(rows, ["digest", *digests], strict=True)]
    writer.writerows(rows)
    write_bytes(path, table.getvalue().encode(*_CODING))


def check_unchanged(path: str | os.PathLike[str], split: Split) -> None:
    """Make sure that a split equals a written one: the same images in the same order.

    Raises:
        DataError: images were added or removed since, or the file cannot be used.
    """
    rows = list(_read_subsets(Path(path)).items())
    found = [(sample.name, subset) for sample, subset in split.labelled()]
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
        advice = "the folders divide the images so" if split.is_given else "take split.by=group unless this is meant"
        reporter.warn(
            f"{leaking} group{'s are' if leaking > 1 else ' is'} on both sides of the split: validation reads too "
            f"high; {advice}"
        )


def tell_of_copies(split: Split, digests: Sequence[str], reporter: Reporter) -> None:
    """Warn of images that stand, with equal masks, on both sides of a split.

    Args:
        split: The split.
        digests: Of each image and its mask; see :func:`carvana.data.digest.content_digests`.
        reporter: Receives the warning.
    """
    trained = {key: sample for key, sample in zip(digests, split.train, strict=False) if key}
    validated = zip(digests[len(split.train) :], split.val, strict=True)
    copies = [(sample, trained[key]) for key, sample in validated if key in trained]
    if copies:
        sample, other = copies[0]
        reporter.warn(
            f"{plural(len(copies), 'image')} of validation with the same bytes, image and mask, in training (the first:"
            f" {sample.name} is {other.name}): validation reads too high; take one of each two away"
        )


def describe_split(split: Split, task: Task | None = None, *, reporter: Reporter | None = None) -> SplitReport:
    """Read all masks, or label files, of a split and compare its sides.

    Args:
        split: what to describe.
        task: what the label files are; None for masks of one object.
        reporter: where progress goes.

    Raises:
        DataError: a file cannot be read.
    """
    reporter = reporter or default_reporter()
    shared = tuple(sorted(split.shared_groups()))
    if task is not None and task.kind != "binary":
        classes = class_shares(split, task, reporter)
        return SplitReport(_side(split.train), _side(split.val), shared, classes)
    samples = split.train + split.val
    found = threaded(lambda sample: _mean_share([sample], task), samples)
    shares = np.fromiter(track(found, reporter, "reading masks", len(samples)), np.float64)
    sides = _side(split.train, shares[: len(split.train)]), _side(split.val, shares[len(split.train) :])
    return SplitReport(*sides, shared)


def class_shares(split: Split, task: Task, reporter: Reporter) -> tuple[ClassShare, ...]:
    """Read all label files of a split and count the pixels of each class on both sides.

    Raises:
        DataError: a file cannot be used, or has a value that no class has. The first one is named.
    """
    samples = split.train + split.val
    counts = np.zeros((2, len(task.classes)))
    found = threaded(lambda sample: class_pixels(sample, task), samples)
    for place, each in enumerate(track(found, reporter, "checking labels", len(samples))):
        counts[int(place >= len(split.train))] += each
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return tuple(ClassShare(name, *each) for name, each in zip(task.names, shares.T.tolist(), strict=True))


def _recall(
    samples: tuple[Sample, ...], data: DataConfig, split: SplitConfig, written: str | os.PathLike[str]
) -> Split:
    if split.file is not None and split.file.is_dir():
        return Split(without_test(samples), without_test(config_samples(data, split.file)))
    return read_split(written, samples)


def _tell_of_parts(
    root: Path | None, file: Path | None, samples: Sequence[Sample], made: Split, reporter: Reporter
) -> None:
    """Say what is made of the parts of a data folder."""
    tests = {sample.name for sample in samples if sample.subset == "test"}
    taken = sorted(tests & {sample.name for sample in made.train + made.val})
    if taken:
        reporter.warn(
            f"split.file takes {plural(len(taken), 'image')} of the test part of {root} (the first: {taken[0]}), which "
            "are no test of this training any more"
        )
    said = []
    if file is None and made.is_given:
        counts = f"{plural(len(made.train), 'image')} train, {len(made.val)} validate"
        said.append(f"its own parts are used: {counts}; split.val, split.by and split.seed do not apply")
    if len(tests) > len(taken):
        left = plural(len(tests) - len(taken), "image")
        said.append(f"{left} of its test part left to `carvana evaluate --split test`")
    if said:
        reporter.info(f"{root}: {'; '.join(said)}")


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
        units.setdefault(sample.group if by == "group" else str(sample.image), []).append(sample)
    return list(units.values())


def _order(units: Sequence[Sequence[Sample]], by: By, rng: np.random.Generator, task: Task | None) -> NDArray[np.intp]:
    """Groups by the share of the image that their object covers, images at random."""
    if by == "image":
        return rng.permutation(len(units))
    shares = list(threaded(lambda unit: _mean_share(unit, task), units))  # decoders release the interpreter's lock
    return np.argsort(shares, kind="stable")


def _mean_share(samples: Sequence[Sample], task: Task | None = None) -> float:
    step = max(1, len(samples) // MASKS_A_GROUP)
    some = [sample for sample in samples[::step] if sample.mask is not None]
    labels = (read_labels(sample, task or Task.binary()) for sample in some)
    shares = [share_of((each == 1).view(np.uint8)) for each in labels]
    return float(np.mean(shares)) if shares else 0.0


def _class_counts(units: Sequence[Sequence[Sample]], task: Task, reporter: Reporter | None) -> NDArray[np.float64]:
    """The pixels of each class in each unit, (units, K)."""
    found = threaded(lambda unit: np.sum([class_pixels(sample, task) for sample in unit], axis=0, dtype=float), units)
    return np.stack(list(track(found, reporter or SilentReporter(), "counting pixels of classes", len(units))))


def _divide(units: Sequence[Sequence[Sample]], held_out: Iterable[bool]) -> Split:
    sides: tuple[list[Sample], list[Sample]] = [], []
    for unit, validates in zip(units, held_out, strict=True):
        sides[bool(validates)].extend(unit)
    return Split(tuple(sides[0]), tuple(sides[1]))


def _read_subsets(path: Path) -> dict[str, str]:
    subsets: dict[str, str] = {}
    try:
        with open(path, newline="", encoding=_CODING[0], errors=_CODING[1]) as file:
            rows = csv.DictReader(file)
            understood = {"image", "subset"} <= set(rows.fieldnames or ())
            for number, row in enumerate(rows if understood else (), start=2):
                name, subset = row["image"] or "", row["subset"]
                if subset not in ("train", "val", "test") or not name:
                    raise DataError(
                        f"{path}, line {number}: {name!r}, {subset!r}: expected a file name, and train, val or test"
                    )
                if name in subsets:
                    raise DataError(f"{path}, line {number}: {name} is there twice; remove one of the lines")
                subsets[name] = sys.intern(subset)
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a split: {error}") from error
    if not subsets:
        raise DataError(f"{path}: expected a CSV file with the columns image, group, subset")
    return subsets


def _side(samples: Sequence[Sample], shares: NDArray[np.float64] | None = None) -> Side:
    views = Counter(sample.view for sample in samples if sample.view)
    spread = None if shares is None else np.quantile(shares, (0.1, 0.9)).tolist()
    return Side(
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        views=dict(sorted(views.items())),
        foreground=None if shares is None else float(np.mean(shares)),
        spread=spread and (spread[0], spread[1]),
    )
