"""Whether both sides of a split are alike, and what a user should know of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import share_of
from carvana.data.samples import Sample
from carvana.data.split_file import Split
from carvana.data.target import class_pixels, read_labels
from carvana.errors import plural
from carvana.task import Task
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

MASKS_A_GROUP = 2
"""The number of masks that are read for the foreground share of a group: enough to rank groups by it."""


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
