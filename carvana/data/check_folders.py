"""What lies in the folders of a data set: the pairs, and all that does not pair."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from carvana.data.images import SUFFIXES
from carvana.data.layouts import (
    Folders,
    find_layout,
    group_and_view,
    group_pattern,
    image_names,
    is_folder,
    photo_names,
    photo_of,
)
from carvana.data.problems import Problem
from carvana.data.samples import Sample, listed
from carvana.data.table import SampleTable
from carvana.errors import ConfigError
from carvana.files import expanded


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


class Places(Sequence[Place]):
    """The places of a data folder: photos, with their masks or without, and behind them masks without photos.

    A place is made when it is asked for: all of them at a time would take a kilobyte each.
    """

    def __init__(self, photos: SampleTable, alone: Sequence[Path] = ()) -> None:
        self._photos = photos
        self._alone = alone

    def __len__(self) -> int:
        return len(self._photos) + len(self._alone)

    @overload
    def __getitem__(self, index: int) -> Place: ...
    @overload
    def __getitem__(self, index: slice) -> list[Place]: ...
    def __getitem__(self, index: int | slice) -> Place | list[Place]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        if index >= len(self._photos):
            mask = self._alone[index - len(self._photos)]
            stem = mask.stem.removesuffix("_mask")
            return Place(stem, None, mask, stem, "")
        sample = self._photos[index]
        return Place(sample.image.stem, sample.image, sample.mask, sample.group, sample.view)


@dataclass
class Listing:
    """Two folders, the places in them, and what their names tell is wrong or odd."""

    images: Path
    masks: Path
    places: Places = field(default_factory=lambda: Places(SampleTable.of(())))
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
        samples = SampleTable.of(listed(found, layout, expanded(root), pattern))
        return Listing(expanded(root), expanded(root), Places(samples))
    listing = Listing(*found)
    photos = _by_stem(
        listing.images, photo_names(listing.images), listing.problems, stem_of=lambda name: Path(name).stem
    )
    masked = _by_stem(
        listing.masks, image_names(listing.masks), listing.problems, stem_of=lambda name: photo_of(name, photos)
    )
    samples = SampleTable.of(_samples(listing, photos, masked, pattern))
    listing.places = Places(samples, [listing.masks / masked[stem] for stem in sorted(masked.keys() - photos.keys())])
    for stem in sorted(photos.keys() - masked.keys()):
        message = f"has no mask; expected {stem}_mask.gif or .png in {listing.masks}"
        listing.problems.append(Problem("no-mask", str(listing.images / photos[stem]), message))
    for stem in sorted(masked.keys() - photos.keys()):
        message = f"belongs to no photo; expected {stem}.jpg or the like in {listing.images}"
        listing.problems.append(Problem("no-photo", str(listing.masks / masked[stem]), message))
    for folder in dict.fromkeys((listing.images, listing.masks)):
        listing.notes.extend(Problem("ignored", path, what) for path, what in _ignored(folder))
    return listing


def _by_stem(
    folder: Path, names: Iterable[str], problems: list[Problem], *, stem_of: Callable[[str], str]
) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in sorted(names):
        first = found.setdefault(stem_of(name), name)
        if first is not name:
            problems.append(Problem("same-stem", str(folder / name), f"stands for the same photo as {first}; not read"))
    return found


def _samples(
    listing: Listing, photos: Mapping[str, str], masked: Mapping[str, str], pattern: re.Pattern[str] | None
) -> Iterator[Sample]:
    for stem in sorted(photos):
        image = listing.images / photos[stem]
        try:
            car, view = group_and_view(stem, pattern)
        except ConfigError as error:
            car, view = stem, ""
            listing.problems.append(Problem("no-car", str(image), str(error).removeprefix("data.group: ")))
        yield Sample(image, listing.masks / masked[stem] if stem in masked else None, car, view)


def _ignored(folder: Path) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                yield entry.path, "a folder: photos are not looked for in folders of a folder"
            elif Path(entry.name).suffix.lower() not in SUFFIXES:
                yield entry.path, "no image by its suffix"
