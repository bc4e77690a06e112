"""Everything that is wrong with a data folder, not the first thing alone, and what is in it."""

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

from carvana.data.check.duplicates import SIDE, find_twins_among, thumbnail
from carvana.data.check.files import Facts, Size, inspect
from carvana.data.check.folder import Places, list_folders
from carvana.data.check.gathered import Gathered
from carvana.data.check.problems import ADVICE, Problem
from carvana.data.check.resolution_limit import ResolutionLimit, mean_ceilings
from carvana.data.check.sizes import is_inverted
from carvana.data.io.images import read_image
from carvana.errors import DataError
from carvana.utils.deprecated import Attribute
from carvana.utils.notebook import default_reporter
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

_THUMBNAILS = 1024  # of images that may be another's twin, kept in memory

CEILING_MASKS = 256
"""From how many masks the ceilings are computed, evenly spread over all: their mean is then good to about 3e-5."""


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
        views: how many images there are of each view; empty where names tell none.
        images_per_group: the fewest and the most.
        sizes: how many readable images there are of each (height, width).
        foreground: None where no mask can be read.
        ceilings: the best Dice possible at usual training sizes.
        ceiling_masks: from how many masks that was computed.
        problems: all that is wrong, in the order of :data:`carvana.data.check.problems.ADVICE`.
        notes: what is odd.
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
    """Look through a data folder: every file is decoded once, and everything that is wrong is told.

    Args:
        root: the data folder.
        images: as for :func:`carvana.find_samples`, like the next three.
        masks: the folder of masks.
        group: the pattern that names the group.
        mask_suffix: how the names of masks end.
        workers: threads that read; None for one per core.
        reporter: told of the progress.

    Raises:
        DataError: there is no such folder, or no image in it.
        ConfigError: the folders are half named, or ``group`` is no pattern.

    Example:
        >>> import tempfile
        >>> from carvana import write_demo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = check_data(write_demo(folder, cars=1, views=2, size=(40, 60), workers=1))
        >>> report.image_count, report.group_count, report.problems
        (2, 1, ())
    """
    reporter = reporter or default_reporter()
    listing = list_folders(root, images=images, masks=masks, group=group, mask_suffix=mask_suffix)
    places = listing.places
    measured = set(_spread(np.flatnonzero([bool(place.masks) for place in places]), CEILING_MASKS))

    def look(number: int) -> Facts:
        return inspect(places[number], ceilings=number in measured)

    gathered = Gathered(len(places))
    found = threaded(look, range(len(places)), workers=workers)
    for number, facts in enumerate(track(found, reporter, "checking files", len(places))):
        gathered.add(number, facts)
    problems = [*listing.problems, *gathered.problems, *_equal_images(places, gathered)]
    problems += [*_inverted_masks(listing.masks, gathered), *_turned_masks(places, gathered)]
    problems += [*_equal_masks(places, gathered), *_near_duplicates(places, gathered)]
    order = {kind: number for number, kind in enumerate(ADVICE)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.file))
    groups = Counter(place.group for place in places if place.image is not None)
    return Report(
        images=str(listing.images),
        masks=str(listing.masks),
        image_count=sum(groups.values()),
        pairs=sum(place.image is not None and bool(place.masks) for place in places),
        group_count=len(groups),
        views=_sorted(place.view for place in places if place.image is not None and place.view),
        images_per_group=(min(groups.values()), max(groups.values())),
        sizes=gathered.count_sizes(),
        foreground=_foreground(places, gathered.shares),
        ceilings=mean_ceilings(gathered.ceilings),
        ceiling_masks=len(gathered.ceilings),
        problems=tuple(problems),
        notes=(*listing.notes, *_mixed_sizes(places, gathered)),
    )


def _spread(numbers: NDArray[np.intp], count: int) -> list[int]:
    """At most ``count`` of them, evenly spread."""
    spread = np.linspace(0, len(numbers) - 1, min(count, len(numbers)))
    return [int(numbers[round(place)]) for place in spread]


def _sorted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _foreground(places: Places, shares: NDArray[np.float64]) -> Foreground | None:
    if np.isnan(shares).all():
        return None

    def first(share: float) -> tuple[str, float]:
        return min(str(places[number].masks[0]) for number in np.flatnonzero(shares == share).tolist()), share

    lowest, highest = first(float(np.nanmin(shares))), first(float(np.nanmax(shares)))
    return Foreground(float(np.nanmean(shares)), lowest, highest)


def _equal_images(places: Places, gathered: Gathered) -> Iterator[Problem]:
    """Images that hold the pixels of an earlier one."""
    for number, first in gathered.repeated_images():
        place, other = places[number], places[first]
        assert other.image is not None
        of = "the same group" if other.group == place.group else f"another group, {other.group}"
        yield Problem("duplicate", place.file, f"is {other.image.name} over again, of {of}")


def _inverted_masks(folder: Path, gathered: Gathered) -> Iterator[Problem]:
    """All masks at once, if object and background seem to be exchanged."""
    known = np.flatnonzero(~np.isnan(gathered.shares))
    shares = gathered.shares[known].tolist()
    if is_inverted(shares, gathered.borders[known].tolist()):
        message = f"nearly all of {len(shares)} masks are object in most of the image and along its border"
        yield Problem("inverted", str(folder), message)


def _turned_masks(places: Places, gathered: Gathered) -> Iterator[Problem]:
    """All masks of images that EXIF turns alone, if most of them fit better turned as well."""
    count = sum(gathered.turned.values())
    if count > len(gathered.turned) / 2:
        message = f"EXIF turns its image alone, and {count} of {len(gathered.turned)} such masks fit better turned, too"
        for number in gathered.turned:
            yield Problem("turned", str(places[number].masks[0]), message)


def _equal_masks(places: Places, gathered: Gathered) -> Iterator[Problem]:
    """Masks that are those of an earlier, different image."""
    for number, first in gathered.repeated_masks():
        message = f"is the mask of {places[first].stem} pixel by pixel"
        yield Problem("same-mask", str(places[number].masks[0]), message)


def _near_duplicates(places: Places, gathered: Gathered) -> Iterator[Problem]:
    numbers, pictures = gathered.different_images()

    @lru_cache(_THUMBNAILS)
    def look(number: int) -> NDArray[np.uint8] | None:
        path = places[numbers[number]].image
        assert path is not None
        try:
            return thumbnail(read_image(path, at_least=(SIDE, SIDE)))
        except DataError:  # it is gone meanwhile
            return None

    groups = (places[number].group for number in numbers)
    for twins in find_twins_among(pictures, groups, look=look):
        place, other = places[numbers[twins.second]], places[numbers[twins.first]]
        how = "the mirror image of" if twins.mirrored else "nearly the same picture as"
        message = f"is {how} {other.stem} of another group (correlation {twins.similarity:.3f})"
        yield Problem("near-duplicate", place.file, message)


def _mixed_sizes(places: Places, gathered: Gathered) -> Iterator[Problem]:
    first: dict[str, int] = {}
    mixed: dict[str, set[Size]] = {}
    for number in gathered.readable():
        group = places[number].group
        known, size = gathered.size(first.setdefault(group, number)), gathered.size(number)
        if size != known:
            mixed.setdefault(group, {known}).add(size)
    for group, found in mixed.items():
        told = ", ".join(f"{height} x {width}" for height, width in sorted(found))
        message = f"the images of {group} are of {len(found)} sizes: {told}"
        yield Problem("mixed-sizes", places[first[group]].file, message)
