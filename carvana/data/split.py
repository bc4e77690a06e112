"""A split: what trains and what validates; ``split.csv``, the file that keeps one; and whether both sides are alike."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import share_of
from carvana.data.samples import Sample, with_spec
from carvana.data.target import class_pixels, read_labels
from carvana.errors import DataError, plural
from carvana.image_spec import ImageSpec
from carvana.task import Task
from carvana.utils.files import write_bytes
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

_CODING = "utf-8", "surrogateescape"  # names of files may have bytes that are not text

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

    def with_spec(self, spec: ImageSpec) -> Split:
        """The same images, read as a spec says."""
        return Split(with_spec(self.train, spec), with_spec(self.val, spec))

    def shared_groups(self) -> set[str]:
        """The groups on both sides: none, unless the split is by image or the user's own."""
        return {sample.group for sample in self.train} & {sample.group for sample in self.val}


def divided(units: Sequence[Sequence[Sample]], held_out: Iterable[bool]) -> Split:
    """Units, such as the images of a group, on the sides that they are held out for."""
    sides: tuple[list[Sample], list[Sample]] = [], []
    for unit, validates in zip(units, held_out, strict=True):
        sides[bool(validates)].extend(unit)
    return Split(tuple(sides[0]), tuple(sides[1]))


def read_split(path: str | os.PathLike[str], samples: Sequence[Sample]) -> Split:
    """Divide samples as a ``split.csv`` says: columns image (a file name) and subset (train, val, or test for neither).

    Raises:
        DataError: the file cannot be used, names an image that does not exist, or leaves one side empty.
    """
    # In the file's order: a resumed training must find each image at its place.
    sides = [(sample, subset) for sample, subset in named_samples(path, samples) if subset != "test"]
    split = divided([[sample] for sample, _ in sides], (subset == "val" for _, subset in sides))
    if not split.train or not split.val:
        raise DataError(f"{path}: leaves no image for {'training' if not split.train else 'validation'}")
    return split


def write_split(
    path: str | os.PathLike[str], split: Split, *, digests: Sequence[str] | None = None, test: Sequence[Sample] = ()
) -> None:
    """Write ``split.csv``: image, group, subset.

    Args:
        path: The file.
        split: What to write.
        digests: Of each image and its mask, in the same order, for a fourth column: see
            :func:`carvana.data.digest.content_digests`.
        test: Images that are kept for a test; without digests.
    """
    table = io.StringIO()
    # By default the writer does not quote a carriage return, which the reader takes for the end of a line.
    returns = any("\r" in sample.name + sample.group for sample in (*split.train, *split.val, *test))
    writer = csv.writer(table, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    rows = [["image", "group", "subset"], *([sample.name, sample.group, subset] for sample, subset in split.labelled())]
    if digests is not None:
        rows = [[*row, found] for row, found in zip(rows, ["digest", *digests], strict=True)]
    writer.writerows(rows)
    writer.writerows([sample.name, sample.group, "test"] for sample in test)
    write_bytes(path, table.getvalue().encode(*_CODING))


def check_unchanged(path: str | os.PathLike[str], split: Split) -> None:
    """Make sure that a split equals a written one: the same images in the same order.

    Raises:
        DataError: images were added or removed since, or the file cannot be used.
    """
    rows = list(_rows(Path(path)))  # a validation folder may have a name that the training folder has
    found = [(sample.name, subset) for sample, subset in split.labelled()]
    if rows != found:
        differing = sorted(set(rows) ^ set(found)) or [rows[0]]
        raise DataError(
            f"{path}: names other images than the data folder has ({differing[0][0]} differs); restore them, or "
            "begin another training with --init"
        )


def named_samples(path: str | os.PathLike[str], samples: Sequence[Sample]) -> list[tuple[Sample, str]]:
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


def _read_subsets(path: Path) -> dict[str, str]:
    subsets: dict[str, str] = {}
    for name, subset in _rows(path):
        if name in subsets:
            raise DataError(f"{path}: {name} is there twice; remove one of the lines")
        subsets[name] = subset
    if not subsets:
        raise DataError(f"{path}: expected a CSV file with the columns image, group, subset")
    return subsets


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    """The name and the subset in each row."""
    try:
        with open(path, newline="", encoding="utf-8-sig", errors=_CODING[1]) as file:  # Excel writes its mark
            rows = csv.DictReader(file)
            understood = {"image", "subset"} <= set(rows.fieldnames or ())
            for number, row in enumerate(rows if understood else (), start=2):
                name, subset = row["image"] or "", row["subset"]
                if subset not in ("train", "val", "test") or not name:
                    raise DataError(
                        f"{path}, line {number}: {name!r}, {subset!r}: expected a file name, and train, val or test"
                    )
                yield name, sys.intern(subset)
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a split: {error}") from error


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
    found = threaded(lambda sample: mean_share([sample], task), samples)
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


def mean_share(samples: Sequence[Sample], task: Task | None = None) -> float:
    """The mean share of the image that the object covers, of a few of these samples; 0 if none has a mask."""
    step = max(1, len(samples) // MASKS_A_GROUP)
    some = [sample for sample in samples[::step] if sample.mask is not None]
    labels = (read_labels(sample, task or Task.binary()) for sample in some)
    shares = [share_of((each == 1).view(np.uint8)) for each in labels]
    return float(np.mean(shares)) if shares else 0.0


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


def tell_of_parts(
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
    if file is not None and file.is_file():
        named = {sample.name for sample, _ in named_samples(file, samples)}
        unnamed = sum(sample.subset != "test" and sample.name not in named for sample in samples)
    else:
        unnamed = 0
    if unnamed:
        reporter.info(f"{file}: does not name {plural(unnamed, 'image')} of {root}, which count for nothing")
    said = []
    if file is None and made.is_given:
        counts = f"{plural(len(made.train), 'image')} train, {len(made.val)} validate"
        said.append(f"its own parts are used: {counts}; split.val, split.by and split.seed do not apply")
    if len(tests) > len(taken):
        left = plural(len(tests) - len(taken), "image")
        said.append(f"{left} of its test part left to `carvana evaluate --split test`")
    if said:
        reporter.info(f"{root}: {'; '.join(said)}")


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
