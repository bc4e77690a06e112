"""Everything that is wrong with a data folder, not the first thing alone, and what is in it."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from carvana.data.ceiling import Ceiling, mean_ceilings
from carvana.data.check_files import Facts, PhotoFacts, Size, inspect
from carvana.data.check_folders import list_folders
from carvana.data.duplicates import find_twins
from carvana.data.problems import ADVICE, Problem
from carvana.devices import cpu_count
from carvana.progress import LogReporter, Reporter, track

CEILING_MASKS = 256
"""From how many masks the ceilings are computed, evenly spread over all: their mean is then good to about 3e-5."""


@dataclass(frozen=True)
class Foreground:
    """The share of the photos that the object covers: the mean, and the masks with the lowest and highest share."""

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
        images: the folder of photos.
        masks: the folder of masks.
        photos: how many photos there are, readable or not.
        pairs: how many of them have a mask.
        cars: how many cars they show.
        views: how many photos there are of each view; empty where names tell none.
        photos_per_car: the fewest and the most.
        sizes: how many readable photos there are of each (height, width).
        foreground: None where no mask can be read.
        ceilings: the best Dice possible at usual training sizes.
        ceiling_masks: from how many masks that was computed.
        problems: all that is wrong, in the order of :data:`carvana.data.problems.ADVICE`.
        notes: what is odd.
    """

    images: str
    masks: str
    photos: int
    pairs: int
    cars: int
    views: dict[str, int]
    photos_per_car: tuple[int, int]
    sizes: dict[Size, int]
    foreground: Foreground | None
    ceilings: tuple[Ceiling, ...]
    ceiling_masks: int
    problems: tuple[Problem, ...]
    notes: tuple[Problem, ...]

    def count(self) -> dict[str, int]:
        """How many problems there are of each kind that there is."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values; sizes are written height x width."""
        return {
            "images": self.images,
            "masks": self.masks,
            "photos": self.photos,
            "pairs": self.pairs,
            "cars": self.cars,
            "photos_per_car": list(self.photos_per_car),
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
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Look through a data folder: every file is decoded once, and everything that is wrong is told.

    Args:
        root: the data folder.
        images: as for :func:`carvana.find_samples`, like the next two.
        masks: the folder of masks.
        group: the pattern that names the car.
        workers: threads that read; None for one per core.
        reporter: told of the progress.

    Raises:
        DataError: there is no such folder, or no photo in it.
        ConfigError: the folders are half named, or ``group`` is no pattern.

    Example:
        >>> import tempfile
        >>> from carvana import write_demo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = check_data(write_demo(folder, cars=1, views=2, size=(40, 60), workers=1))
        >>> report.photos, report.cars, report.problems
        (2, 1, ())
    """
    reporter = reporter or LogReporter()
    listing = list_folders(root, images=images, masks=masks, group=group)
    labelled = [number for number, place in enumerate(listing.places) if place.mask is not None]
    measured = set(_spread(labelled, CEILING_MASKS))

    def look(number: int) -> Facts:
        return inspect(listing.places[number], ceilings=number in measured)

    pool = ThreadPoolExecutor(workers or cpu_count(), thread_name_prefix="carvana")
    try:
        found = pool.map(look, range(len(listing.places)))
        facts = list(track(found, reporter, "checking files", len(listing.places)))
    finally:
        pool.shutdown(cancel_futures=True)
    problems = [*listing.problems, *(problem for fact in facts for problem in fact.problems)]
    problems += [*_equal_photos(facts), *_equal_masks(facts), *_near_duplicates(facts)]
    order = {kind: number for number, kind in enumerate(ADVICE)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.file))
    cars = Counter(place.group for place in listing.places if place.image is not None)
    return Report(
        images=str(listing.images),
        masks=str(listing.masks),
        photos=sum(cars.values()),
        pairs=sum(None not in (place.image, place.mask) for place in listing.places),
        cars=len(cars),
        views=_sorted(place.view for place in listing.places if place.image is not None and place.view),
        photos_per_car=(min(cars.values()), max(cars.values())),
        sizes=_sorted(fact.photo.size for fact in facts if fact.photo is not None),
        foreground=_foreground(facts),
        ceilings=mean_ceilings(ceilings := _ceilings(facts)),
        ceiling_masks=len(ceilings),
        problems=tuple(problems),
        notes=(*listing.notes, *_mixed_sizes(facts)),
    )


def _spread(numbers: Sequence[int], count: int) -> list[int]:
    """At most ``count`` of them, evenly spread."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers)))
    return [numbers[round(place)] for place in places]


def _sorted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _ceilings(facts: Iterable[Facts]) -> list[Any]:
    return [fact.mask.ceilings for fact in facts if fact.mask is not None and fact.mask.ceilings is not None]


def _foreground(facts: Iterable[Facts]) -> Foreground | None:
    shares = [(fact.mask.share, str(fact.place.mask)) for fact in facts if fact.mask is not None]
    if not shares:
        return None
    (low, low_file), (high, high_file) = min(shares), max(shares)
    return Foreground(float(np.mean([share for share, _ in shares])), (low_file, low), (high_file, high))


def _equal_photos(facts: Iterable[Facts]) -> Iterator[Problem]:
    """Photos that hold the pixels of an earlier one."""
    first: dict[bytes, Facts] = {}
    for fact in facts:
        if fact.photo is None:
            continue
        other = first.setdefault(fact.photo.digest, fact)
        if other is not fact:
            of = "the same car" if other.place.group == fact.place.group else f"another car, {other.place.group}"
            yield Problem("duplicate", fact.place.file, f"is {other.place.image.name} over again, of {of}")  # type: ignore[union-attr]


def _equal_masks(facts: Iterable[Facts]) -> Iterator[Problem]:
    """Masks that are those of an earlier, different photo."""
    first: dict[bytes, Facts] = {}
    for fact in facts:
        if fact.mask is None or fact.photo is None or fact.mask.share in (0, 1):
            continue
        other = first.setdefault(fact.mask.digest, fact)
        assert other.photo is not None
        if other is not fact and other.photo.digest != fact.photo.digest:
            yield Problem("same-mask", str(fact.place.mask), f"is the mask of {other.place.stem} pixel by pixel")


def _near_duplicates(facts: Iterable[Facts]) -> Iterator[Problem]:
    photos: list[tuple[Facts, PhotoFacts]] = [(fact, fact.photo) for fact in facts if fact.photo is not None]
    if not photos:
        return
    thumbnails = np.stack([photo.thumbnail for _, photo in photos])
    for twins in find_twins(thumbnails, [fact.place.group for fact, _ in photos]):
        (other, before), (fact, photo) = photos[twins.first], photos[twins.second]
        if before.digest == photo.digest:
            continue  # told already, as a duplicate
        how = "the mirror image of" if twins.mirrored else "nearly the same picture as"
        message = f"is {how} {other.place.stem} of another car (correlation {twins.similarity:.3f})"
        yield Problem("near-duplicate", fact.place.file, message)


def _mixed_sizes(facts: Iterable[Facts]) -> Iterator[Problem]:
    sizes: dict[str, set[Size]] = defaultdict(set)
    first: dict[str, str] = {}
    for fact in facts:
        if fact.photo is not None:
            sizes[fact.place.group].add(fact.photo.size)
            first.setdefault(fact.place.group, fact.place.file)
    for group, found in sizes.items():
        if len(found) > 1:
            told = ", ".join(f"{height} x {width}" for height, width in sorted(found))
            yield Problem("mixed-sizes", first[group], f"the photos of {group} are of {len(found)} sizes: {told}")
