"""What lies in the folders of a data set: the pairs, and all that does not pair."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from carvana.data.images import SUFFIXES
from carvana.data.layouts import Folders, expanded, find_layout, find_photos, group_and_view, group_pattern, image_names
from carvana.data.problems import Problem
from carvana.data.samples import listed
from carvana.errors import ConfigError


@dataclass(frozen=True)
class Place:
    """One photo's place in the data and what is there of it: the photo, its mask, or both."""

    stem: str
    image: Path | None
    mask: Path | None
    group: str
    view: str

    @property
    def file(self) -> str:
        """The path to name it by."""
        return str(self.image or self.mask)


@dataclass
class Listing:
    """Two folders, the places in them sorted by stem, and what their names tell is wrong or odd."""

    images: Path
    masks: Path
    places: list[Place] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def list_folders(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
) -> Listing:
    """Pair the photos and masks of a data folder as :func:`carvana.find_samples` does, but go on past what is wrong.

    Raises:
        DataError: there is no such folder, or no photo in it.
        ConfigError: ``group`` cannot serve at all.
    """
    layout, found = find_layout(expanded(root), images, masks)
    pattern = group_pattern(group)
    if not isinstance(found, Folders):
        listing = Listing(expanded(root), expanded(root))
        for sample in listed(found, layout, expanded(root), pattern):
            place = Place(Path(sample.name).stem, sample.image, sample.mask, sample.group, sample.view)
            listing.places.append(place)
        return listing
    listing = Listing(*found)
    photos = _by_stem(find_photos(listing.images), listing.problems, suffix="")
    own = _by_stem((listing.masks / name for name in image_names(listing.masks)), listing.problems, suffix="_mask")
    for stem in sorted(photos.keys() | own.keys()):
        place = _place(stem, photos.get(stem), own.get(stem), pattern, listing.problems)
        listing.places.append(place)
        if place.mask is None:
            message = f"has no mask; expected {stem}_mask.gif or .png in {listing.masks}"
            listing.problems.append(Problem("no-mask", place.file, message))
        if place.image is None:
            message = f"belongs to no photo; expected {stem}.jpg or the like in {listing.images}"
            listing.problems.append(Problem("no-photo", place.file, message))
    for folder in dict.fromkeys((listing.images, listing.masks)):
        listing.notes.extend(Problem("ignored", path, what) for path, what in _ignored(folder))
    return listing


def _by_stem(paths: Iterable[Path], problems: list[Problem], *, suffix: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        first = found.setdefault(path.stem.removesuffix(suffix), path)
        if first is not path:
            problems.append(Problem("same-stem", str(path), f"stands for the same photo as {first.name}; not read"))
    return found


def _place(
    stem: str, image: Path | None, mask: Path | None, pattern: re.Pattern[str] | None, problems: list[Problem]
) -> Place:
    try:
        car, view = group_and_view(stem, pattern)
    except ConfigError as error:
        car, view = stem, ""
        if image is not None:
            problems.append(Problem("no-car", str(image), str(error).removeprefix("data.group: ")))
    return Place(stem, image, mask, car, view)


def _ignored(folder: Path) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield entry.path, "a folder: photos are not looked for in folders of a folder"
            elif Path(entry.name).suffix.lower() not in SUFFIXES:
                yield entry.path, "no image by its suffix"
