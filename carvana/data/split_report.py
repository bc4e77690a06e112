"""A split in numbers: whether both sides are alike, and whether they share groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample
from carvana.data.splits import Split
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track


@dataclass(frozen=True)
class Side:
    """One side of a split.

    Attributes:
        images: their number.
        groups: their number.
        views: the number of images of each view; empty where names have none.
        foreground: the mean share that the object covers, in [0, 1].
        spread: the 10% and the 90% quantile of that share.
    """

    images: int
    groups: int
    views: dict[str, int]
    foreground: float
    spread: tuple[float, float]


@dataclass(frozen=True)
class SplitReport:
    """Both sides, and the groups on both, sorted."""

    train: Side
    val: Side
    shared: tuple[str, ...]


def describe_split(split: Split, *, workers: int | None = None, reporter: Reporter | None = None) -> SplitReport:
    """Read all masks of a split and compare its sides.

    Args:
        split: what to describe.
        workers: threads that read; None for one per core.
        reporter: where progress goes.

    Raises:
        DataError: a mask cannot be read.
    """
    masks = (sample.mask for side in (split.train, split.val) for sample in side)
    count, total = len(split.train), len(split.train) + len(split.val)
    found = track(threaded(_share, masks, workers=workers), reporter or default_reporter(), "reading masks", total)
    shares = np.fromiter(found, np.float64)
    return SplitReport(
        _side(split.train, shares[:count]), _side(split.val, shares[count:]), tuple(sorted(split.shared_groups()))
    )


def _side(samples: Sequence[Sample], shares: NDArray[np.float64]) -> Side:
    low, high = np.quantile(shares, (0.1, 0.9))
    views = Counter(sample.view for sample in samples if sample.view)
    return Side(
        images=len(samples),
        groups=len({sample.group for sample in samples}),
        views=dict(sorted(views.items())),
        foreground=float(np.mean(shares)),
        spread=(float(low), float(high)),
    )


def _share(mask: Path | tuple[Path, ...] | None) -> float:
    return 0.0 if mask is None else float(read_mask(mask).mean())
