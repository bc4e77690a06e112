"""All problems of a data folder, not only the first, and a summary of what is in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import SIDE, find_near_duplicates_among, thumbnail
from carvana.data.check.files import PairSummary, Size, inspect
from carvana.data.check.folder import FilePairs, list_folders
from carvana.data.check.odd_masks import is_inverted
from carvana.data.check.problems import ADVICE, Problem
from carvana.data.check.resolution_limit import ResolutionLimit, mean_ceilings
from carvana.data.check.summary_table import SummaryTable
from carvana.data.io.images import read_image
from carvana.errors import DataError
from carvana.utils.deprecated import Attribute
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

_THUMBNAILS = 1024  # of possible near-duplicates, kept in memory

CEILING_MASKS = 256
"""The number of masks from which the ceilings are computed, for an error of about 3e-5."""


@dataclass(frozen=True)
class Foreground:
    """The share of the images that the object covers: the mean, and the masks with the lowest and highest share."""

    mean: float
    lowest: tuple[str, float]
    highest: tuple[str, float]

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        ends = {"lowest": self.lowest, "highest": self.highest}
        return {"mean": self.mean} | {key: {"file": file, "share": share} for key, (file, share) in ends.items()}


@dataclass(frozen=True)
class Report:
    """What :func:`check_data` found.

    Attributes:
        images: the folder of images.
        masks: the folder of masks.
        image_count: how many images there are, readable or not.
        pairs: how many of them have a mask.
        group_count: how many groups they show.
        views: how many images there are of each view; empty where names have none.
        images_per_group: the fewest and the most.
        sizes: how many readable images there are of each (height, width).
        foreground: None if no mask can be read.
        ceilings: the best Dice possible at usual training sizes.
        ceiling_masks: from how many masks that was computed.
        problems: in the order of :data:`carvana.data.check.problems.ADVICE`.
        notes: what may be meant so.
    """

    images: str
    masks: str
    image_count: int
    pairs: int
    group_count: int
    views: dict[str, int]
    images_per_group: tuple[int, int]
    sizes: dict[Size, int]
    foreground: Foreground | None
    ceilings: tuple[ResolutionLimit, ...]
    ceiling_masks: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    photos, cars, photos_per_car = Attribute("image_count"), Attribute("group_count"), Attribute("images_per_group")

    def count(self) -> dict[str, int]:
        """How many problems there are of each kind that there is."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values; sizes are written height x width."""
        return {
            "images": self.images,
            "masks": self.masks,
            "photos": self.image_count,
            "pairs": self.pairs,
            "cars": self.group_count,
            "photos_per_car": list(self.images_per_group),
            "views": self.views,
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.items()},
            "foreground": None if self.foreground is None else self.foreground.to_json(),
            "ceilings": [ceiling.to_json() for ceiling in self.ceilings],
            "ceiling_masks": self.ceiling_masks,
            "counts": self.count(),
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
        }


def check_data(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Look through a data folder: every file is decoded once, and all problems are reported.

    Args:
        root: the data folder.
        images: as for :func:`carvana.find_samples`, like the next three.
        masks: the folder of masks.
        group: the pattern that names the group.
        mask_suffix: how the names of masks end.
        workers: threads that read; None for one per core.
        reporter: where progress goes.

    Raises:
        DataError: there is no such folder, or no image in it.
        ConfigError: only one of the folders is named, or ``group`` is not a regular expression.

    Example:
        >>> import tempfile
        >>> from carvana import write_demo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = check_data(write_demo(folder, cars=1, views=2, size=(40, 60), workers=1))
        >>> report.image_count, report.group_count, report.problems
        (2, 1, ())
    """
    reporter = reporter or default_reporter()
    contents = list_folders(root, images=images, masks=masks, group=group, mask_suffix=mask_suffix)
    pairs = contents.pairs
    measured = set(_spread(np.flatnonzero([bool(pair.masks) for pair in pairs]), CEILING_MASKS))

    def look(number: int) -> PairSummary:
        return inspect(pairs[number], ceilings=number in measured)

    table = SummaryTable(len(pairs))
    found = threaded(look, range(len(pairs)), workers=workers)
    for number, summary in enumerate(track(found, reporter, "checking files", len(pairs))):
        table.add(number, summary)
    problems = [*contents.problems, *table.problems, *_equal_images(pairs, table)]
    problems += [*_inverted_masks(contents.masks, table), *_turned_masks(pairs, table)]
    problems += [*_equal_masks(pairs, table), *_near_duplicates(pairs, table)]
    order = {kind: number for number, kind in enumerate(ADVICE)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.file))
    groups = Counter(pair.group for pair in pairs if pair.image is not None)
    return Report(
        images=str(contents.images),
        masks=str(contents.masks),
        image_count=sum(groups.values()),
        pairs=sum(pair.image is not None and bool(pair.masks) for pair in pairs),
        group_count=len(groups),
        views=_sorted(pair.view for pair in pairs if pair.image is not None and pair.view),
        images_per_group=(min(groups.values()), max(groups.values())),
        sizes=table.count_sizes(),
        foreground=_foreground(pairs, table.shares),
        ceilings=mean_ceilings(table.ceilings),
        ceiling_masks=len(table.ceilings),
        problems=tuple(problems),
        notes=(*contents.notes, *_mixed_sizes(pairs, table)),
    )


def _spread(numbers: NDArray[np.intp], count: int) -> list[int]:
    """At most ``count`` of them, evenly spread."""
    spread = np.linspace(0, len(numbers) - 1, min(count, len(numbers)))
    return [int(numbers[round(place)]) for place in spread]


def _sorted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _foreground(pairs: FilePairs, shares: NDArray[np.float64]) -> Foreground | None:
    if np.isnan(shares).all():
        return None

    def first(share: float) -> tuple[str, float]:
        return min(str(pairs[number].masks[0]) for number in np.flatnonzero(shares == share).tolist()), share

    lowest, highest = first(float(np.nanmin(shares))), first(float(np.nanmax(shares)))
    return Foreground(float(np.nanmean(shares)), lowest, highest)


def _equal_images(pairs: FilePairs, table: SummaryTable) -> Iterator[Problem]:
    """Images with the same pixels as an earlier one."""
    for number, first in table.repeated_images():
        pair, other = pairs[number], pairs[first]
        assert other.image is not None
        of = "the same group" if other.group == pair.group else f"another group, {other.group}"
        yield Problem("duplicate", pair.file, f"has the same pixels as {other.image.name} of {of}")


def _inverted_masks(folder: Path, table: SummaryTable) -> Iterator[Problem]:
    """All masks at once, if object and background seem to be exchanged."""
    known = np.flatnonzero(~np.isnan(table.shares))
    shares = table.shares[known].tolist()
    if is_inverted(shares, table.borders[known].tolist()):
        message = f"nearly all of {len(shares)} masks are object in most of the image and along its border"
        yield Problem("inverted", str(folder), message)


def _turned_masks(pairs: FilePairs, table: SummaryTable) -> Iterator[Problem]:
    """All masks whose image is turned by EXIF and which are not, if most of them fit better turned as well."""
    count = sum(table.turned.values())
    if count > len(table.turned) / 2:
        message = (
            f"EXIF turns its image and not the mask; {count} of {len(table.turned)} such masks fit better turned, too"
        )
        for number in table.turned:
            yield Problem("turned", str(pairs[number].masks[0]), message)


def _equal_masks(pairs: FilePairs, table: SummaryTable) -> Iterator[Problem]:
    """Masks that are those of an earlier, different image."""
    for number, first in table.repeated_masks():
        message = f"is the mask of {pairs[first].stem} pixel by pixel"
        yield Problem("same-mask", str(pairs[number].masks[0]), message)


def _near_duplicates(pairs: FilePairs, table: SummaryTable) -> Iterator[Problem]:
    numbers, pictures = table.different_images()

    @lru_cache(_THUMBNAILS)
    def look(number: int) -> NDArray[np.uint8] | None:
        path = pairs[numbers[number]].image
        assert path is not None
        try:
            return thumbnail(read_image(path, at_least=(SIDE, SIDE)))
        except DataError:  # it was removed meanwhile
            return None

    groups = (pairs[number].group for number in numbers)
    for found in find_near_duplicates_among(pictures, groups, look=look):
        pair, other = pairs[numbers[found.second]], pairs[numbers[found.first]]
        how = "the mirror image of" if found.mirrored else "nearly the same picture as"
        message = f"is {how} {other.stem} of another group (correlation {found.similarity:.3f})"
        yield Problem("near-duplicate", pair.file, message)


def _mixed_sizes(pairs: FilePairs, table: SummaryTable) -> Iterator[Problem]:
    first: dict[str, int] = {}
    mixed: dict[str, set[Size]] = {}
    for number in table.readable():
        group = pairs[number].group
        known, size = table.size(first.setdefault(group, number)), table.size(number)
        if size != known:
            mixed.setdefault(group, {known}).add(size)
    for group, found in mixed.items():
        sizes = ", ".join(f"{height} x {width}" for height, width in sorted(found))
        message = f"the images of {group} are of {len(found)} sizes: {sizes}"
        yield Problem("mixed-sizes", pairs[first[group]].file, message)
