"""All problems of a data folder, not only the first, and a summary of what is in it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import COARSE, SIDE, find_near_duplicates, thumbnail
from carvana.data.check.files import ADVICE, FolderContents, PairSummary, Problem, Size, inspect, list_folders
from carvana.data.check.masks import ResolutionLimit, is_inverted, mean_ceilings, spread
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
        problems: in the order of :data:`carvana.data.check.files.ADVICE`.
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
    samples = contents.samples
    with_masks = [number for number in range(len(contents)) if contents.pair(number)[1]]
    measured = {with_masks[place] for place in spread(len(with_masks), CEILING_MASKS)}

    def look(number: int) -> PairSummary:
        return inspect(*contents.pair(number), ceilings=number in measured)

    table = _Table(len(contents))
    summaries = threaded(look, range(len(contents)), workers=workers)
    for number, summary in enumerate(track(summaries, reporter, "checking files", len(contents))):
        table.add(number, summary)
    problems = [*contents.problems, *table.problems, *_equal_images(contents, table)]
    problems += [*_inverted_masks(contents, table), *_turned_masks(contents, table)]
    problems += [*_equal_masks(contents, table), *_near_duplicates(contents, table)]
    order = {kind: number for number, kind in enumerate(ADVICE)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.file))
    groups = Counter(sample.group for sample in samples)
    return Report(
        images=str(contents.images),
        masks=str(contents.masks),
        image_count=len(samples),
        pairs=sum(bool(sample.masks) for sample in samples),
        group_count=len(groups),
        views=_sorted(sample.view for sample in samples if sample.view),
        images_per_group=(min(groups.values()), max(groups.values())),
        sizes=_sorted(map(table.size, table.readable())),
        foreground=_foreground(contents, table.shares),
        ceilings=mean_ceilings(table.ceilings),
        ceiling_masks=len(table.ceilings),
        problems=tuple(problems),
        notes=(*contents.notes, *_mixed_sizes(contents, table)),
    )


class _Table:
    """What is kept of all images and masks of a data folder: half a kilobyte each.

    Args:
        count: The number of pairs.

    Attributes:
        problems: Those inside of files.
        first: (count,), the first image of the same pixels; -1 where there is no image that can be read.
        pictures: (count, 16, 16), what images are compared by; 0, without memory, where an equal one came before.
        masks: (count,), digests of masks.
        shares: (count,), the share that each mask's object covers; NaN where no mask can be read.
        borders: (count,), the share of its border that each mask's object covers; NaN as for ``shares``.
        turned: Where EXIF turns an image and not its mask, whether the mask fits better turned as well.
        ceilings: The best Dice possible, for the masks for which it was computed.
    """

    def __init__(self, count: int) -> None:
        self.problems: list[Problem] = []
        self.first = np.full(count, -1, np.int64)
        self.pictures = np.zeros((count, COARSE, COARSE), np.uint16)
        self.masks = np.zeros(count, "S16")
        self.shares = np.full(count, np.nan)
        self.borders = np.full(count, np.nan)
        self.turned: dict[int, bool] = {}
        self.ceilings: list[NDArray[np.float64]] = []
        self._sizes = np.zeros((count, 2), np.int32)
        self._known: dict[bytes, int] = {}

    def add(self, number: int, summary: PairSummary) -> None:
        """Add what is known of a pair; pairs come in their order."""
        self.problems += summary.problems
        if summary.size is not None and summary.picture is not None:
            self._sizes[number] = summary.size
            self.first[number] = first = self._known.setdefault(summary.image, number)
            if first == number:
                self.pictures[number] = summary.picture
        if summary.turned is not None:
            self.turned[number] = summary.turned
        self.masks[number], self.shares[number], self.borders[number] = summary.mask, summary.share, summary.border
        if summary.ceilings is not None:
            self.ceilings.append(summary.ceilings)

    def readable(self) -> list[int]:
        """The places of the images that can be read."""
        return list(map(int, np.flatnonzero(self.first >= 0)))

    def size(self, number: int) -> Size:
        """The (height, width) of an image."""
        height, width = self._sizes[number].tolist()
        return height, width


def _sorted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _foreground(contents: FolderContents, shares: NDArray[np.float64]) -> Foreground | None:
    if np.isnan(shares).all():
        return None

    def first(share: float) -> tuple[str, float]:
        return min(str(contents.pair(number)[1][0]) for number in np.flatnonzero(shares == share).tolist()), share

    lowest, highest = first(float(np.nanmin(shares))), first(float(np.nanmax(shares)))
    return Foreground(float(np.nanmean(shares)), lowest, highest)


def _equal_images(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    """Images with the same pixels as an earlier one."""
    for number in table.readable():
        first = int(table.first[number])
        if first != number:
            sample, other = contents.samples[number], contents.samples[first]
            of = "the same group" if other.group == sample.group else f"another group, {other.group}"
            yield Problem("duplicate", str(sample.image), f"has the same pixels as {other.image.name} of {of}")


def _inverted_masks(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    """All masks at once, if object and background seem to be exchanged."""
    known = ~np.isnan(table.shares)
    if is_inverted(table.shares[known].tolist(), table.borders[known].tolist()):
        message = f"nearly all of {known.sum()} masks are object in most of the image and along its border"
        yield Problem("inverted", str(contents.masks), message)


def _turned_masks(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    """All masks whose image is turned by EXIF and which are not, if most of them fit better turned as well."""
    count = sum(table.turned.values())
    if count > len(table.turned) / 2:
        message = (
            f"EXIF turns its image and not the mask; {count} of {len(table.turned)} such masks fit better turned, too"
        )
        for number in table.turned:
            yield Problem("turned", str(contents.samples[number].masks[0]), message)


def _equal_masks(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    """Masks that are those of an earlier, different image; empty and full ones do not count."""
    known: dict[bytes, int] = {}
    for number in np.flatnonzero((table.first >= 0) & (table.shares > 0) & (table.shares < 1)).tolist():
        first = known.setdefault(table.masks[number], number)
        if table.first[first] != table.first[number]:
            message = f"is the mask of {contents.samples[first].stem} pixel by pixel"
            yield Problem("same-mask", str(contents.samples[number].masks[0]), message)


def _near_duplicates(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    samples = contents.samples

    @lru_cache(_THUMBNAILS)
    def look(number: int) -> NDArray[np.uint8] | None:
        try:
            return thumbnail(read_image(samples[number].image, at_least=(SIDE, SIDE)))
        except DataError:  # it was removed meanwhile
            return None

    groups = (sample.group for sample in samples)
    for found in find_near_duplicates(table.pictures[: len(samples)], groups, look=look):
        sample, other = samples[found.second], samples[found.first]
        how = "the mirror image of" if found.mirrored else "nearly the same picture as"
        message = f"is {how} {other.stem} of another group (correlation {found.similarity:.3f})"
        yield Problem("near-duplicate", str(sample.image), message)


def _mixed_sizes(contents: FolderContents, table: _Table) -> Iterator[Problem]:
    """Groups whose images differ in size, at the first image of each."""
    first: dict[str, int] = {}
    mixed: dict[str, set[Size]] = {}
    for number in table.readable():
        group = contents.samples[number].group
        known, size = table.size(first.setdefault(group, number)), table.size(number)
        if size != known:
            mixed.setdefault(group, {known}).add(size)
    for group, found in mixed.items():
        sizes = ", ".join(f"{height} x {width}" for height, width in sorted(found))
        message = f"the images of {group} are of {len(found)} sizes: {sizes}"
        yield Problem("mixed-sizes", str(contents.samples[first[group]].image), message)
