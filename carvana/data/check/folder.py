"""The files of a data folder: the pairs of image and mask, and all that has no counterpart."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload

from carvana.data.check.problems import Problem
from carvana.data.io.images import SUFFIXES
from carvana.data.io.masks import MASK_SUFFIXES
from carvana.data.layouts import (
    Folders,
    find_layout,
    group_and_view,
    group_pattern,
    image_names,
    is_folder,
)
from carvana.data.mask_names import EXPECTED, MaskNames
from carvana.data.samples import PairedNames, Sample, listed, pair_names
from carvana.errors import ConfigError
from carvana.utils.files import expanded


@dataclass(frozen=True)
class FilePair:
    """The files of one image: the image, its masks, or both."""

    stem: str
    image: Path | None
    masks: tuple[Path, ...]
    group: str
    view: str

    @property
    def file(self) -> str:
        """The path that names it in messages."""
        return str(self.image or self.masks[0])


class FilePairs(Sequence[FilePair]):
    """The pairs of a data folder: images, with or without masks, then masks without images.

    A pair is made on access, since all of them together would take a kilobyte each.
    """

    def __init__(self, images: Sequence[Sample] = (), alone: Sequence[Path] = ()) -> None:
        self._images = images
        self._alone = alone

    def __len__(self) -> int:
        return len(self._images) + len(self._alone)

    @overload
    def __getitem__(self, index: int) -> FilePair: ...
    @overload
    def __getitem__(self, index: slice) -> list[FilePair]: ...
    def __getitem__(self, index: int | slice) -> FilePair | list[FilePair]:
        if isinstance(index, slice):
            return [self[number] for number in range(len(self))[index]]
        if index >= len(self._images):
            mask = self._alone[index - len(self._images)]
            return FilePair(mask.stem, None, (mask,), mask.stem, "")
        sample = self._images[index]
        return FilePair(sample.stem, sample.image, sample.masks, sample.group, sample.view)


@dataclass
class FolderContents:
    """Two folders, the pairs in them, and the problems with their names."""

    images: Path
    masks: Path
    pairs: FilePairs = field(default_factory=FilePairs)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)


def list_folders(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
) -> FolderContents:
    """Pair the images and masks of a data folder as :func:`carvana.find_samples` does, but list the problems and go on.

    Raises:
        DataError: there is no such folder, or no image in it.
        ConfigError: ``group`` is not usable at all.
    """
    rule = MaskNames(mask_suffix)
    layout, found = find_layout(expanded(root), images, masks, rule)
    pattern = group_pattern(group)
    if not isinstance(found, Folders):
        samples = listed(found, layout, expanded(root), pattern)
        return FolderContents(expanded(root), expanded(root), FilePairs(samples))
    names = pair_names(found, rule)
    contents = FolderContents(*found)
    samples = list(_samples(names, pattern, contents.problems))
    contents.pairs = FilePairs(samples, [contents.masks / mask for mask in names.alone])
    for stem in sorted(names.images.keys() - names.masks.keys()):
        expected = EXPECTED if mask_suffix is None else f"a name that ends in {mask_suffix}"
        message = f"has no mask in {contents.masks}; expected {expected}, as {stem}{mask_suffix or '_mask'}.png"
        contents.problems.append(Problem("no-mask", str(contents.images / names.images[stem]), message))
    for mask in names.alone:
        message = f"belongs to no image in {contents.images}"
        contents.problems.append(Problem("no-photo", str(contents.masks / mask), message))
    for _, first, other in names.same_stem:
        message = f"has the same stem as {first.name}; not read"
        contents.problems.append(Problem("same-stem", str(other), message))
    for folder, suffixes in {contents.images: SUFFIXES, contents.masks: MASK_SUFFIXES}.items():  # one, if they are one
        contents.notes.extend(Problem("ignored", path, what) for path, what in _ignored(folder, suffixes))
    return contents


def _samples(names: PairedNames, pattern: re.Pattern[str] | None, problems: list[Problem]) -> Iterator[Sample]:
    for stem in sorted(names.images):
        image = names.images[stem]
        try:
            group, view = group_and_view(stem, pattern)
        except ConfigError as error:
            group, view = stem, ""
            file = str(names.folders.images / image)
            problems.append(Problem("no-car", file, str(error).removeprefix("data.group: ")))
        yield names.sample(stem, image, group, view)


def _ignored(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, str]]:
    nested = not any(image_names(folder, suffixes))
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.name.startswith("."):
                continue
            if is_folder(entry):
                if not nested:
                    yield entry.path, "a folder beside images, whose files are not read"
            elif Path(entry.name).suffix.lower() not in suffixes:
                yield entry.path, "its suffix is not one of an image"
