"""Finding the photos of a folder, their masks, and which photos show the same car.

Two layouts are known, and plugins may add more (registry.layouts): Carvana's own (``train/`` and ``train_masks/``,
masks named ``*_mask.gif``) and ``images/`` with ``masks/``. A layout is a function of the folder that returns the
pair of (images folder, masks folder), or None where the folder is not laid out so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path

from carvana.data.images import SUFFIXES
from carvana.errors import ConfigError, DataError
from carvana.registry import registry

CARVANA_NAME = re.compile(r"(?P<group>[0-9a-f]{12})_(?P<view>\d\d)")
"""Carvana's file names: the car's id, then the number of the view, 01 to 16."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo: where it lies, where its mask lies, which car it shows (``group``) and from where (``view``)."""

    image: Path
    mask: Path | None
    group: str
    view: str = ""

    @property
    def name(self) -> str:
        """The photo's file name, which is unique within a folder."""
        return self.image.name


def find_samples(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
) -> list[Sample]:
    r"""Find all labelled photos below a data folder, sorted by name.

    Args:
        root: The data folder: ``train/`` + ``train_masks/``, ``images/`` + ``masks/``, or anything else if ``images``
            and ``masks`` name its folders. ``~`` is understood in all three.
        images: The folder of photos, absolute or relative to ``root``.
        masks: The folder of masks. A mask belongs to the photo of the same stem, with or without ``_mask``.
        group: A regular expression that is matched against each photo's stem; its group ``group`` (or else its first
            group) names the car, its group ``view`` the view. By default Carvana's names are understood, and any
            other photo is a group of its own.

    Raises:
        DataError: there is no such folder, no photo, a photo without a mask, or two photos or masks of one stem.
        ConfigError: ``group`` is no regular expression, does not match a name, or finds no car in it.

    Example:
        >>> find_samples("photos")  # doctest: +SKIP
        [Sample(image=PosixPath('photos/train/00087a6bd4dc_01.jpg'), ...]
    """
    return list(each_sample(root, images=images, masks=masks, group=group))


def each_sample(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
) -> Iterator[Sample]:
    """What :func:`find_samples` finds, one after the other: only names are held, for folders of very many photos."""
    image_folder, mask_folder = _folders(_path(root), images, masks)
    pattern = _pattern(group)
    photos = _photo_names(image_folder)
    stems = set(map(_stem, photos))
    _by_stem(image_folder, photos, stems, suffix="")
    by_stem = _by_stem(mask_folder, _names(mask_folder), stems, suffix="_mask")
    missing = [photo for photo in photos if _stem(photo) not in by_stem]
    if missing:
        raise DataError(
            f"{image_folder}: {len(missing)} of {len(photos)} photos have no mask in {mask_folder} "
            f"(the first: {missing[0]}; expected {_stem(missing[0])}_mask.gif or .png); "
            "add them or move the photos away"
        )
    for photo in photos:
        stem = _stem(photo)
        yield Sample(image_folder / photo, mask_folder / by_stem[stem], *_group_and_view(stem, pattern))


def find_photos(folder: str | os.PathLike[str]) -> list[Path]:
    """All image files of a folder (not of its sub-folders), sorted by name; a DataError if there is none."""
    return [Path(folder, name) for name in _photo_names(Path(folder))]


def carvana_layout(root: Path) -> tuple[Path, Path] | None:
    """``train/`` and ``train_masks/``."""
    return _pair(root, "train", "train_masks")


def folders_layout(root: Path) -> tuple[Path, Path] | None:
    """``images/`` and ``masks/``."""
    return _pair(root, "images", "masks")


def _pair(root: Path, images: str, masks: str) -> tuple[Path, Path] | None:
    pair = root / images, root / masks
    return pair if all(folder.is_dir() for folder in pair) else None


def _folders(
    root: Path, images: str | os.PathLike[str] | None, masks: str | os.PathLike[str] | None
) -> tuple[Path, Path]:
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected a folder with train/ and train_masks/ or images/ and masks/")
    if (images is None) != (masks is None):
        raise ConfigError("data.images and data.masks go together: name both folders, or neither")
    if images is not None and masks is not None:
        return root / _path(images), root / _path(masks)
    for name in registry.layouts.names():
        found: tuple[Path, Path] | None = registry.layouts.load(name)(root)
        if found is not None:
            return found
    raise DataError(
        f"{root}: holds neither train/ and train_masks/ nor images/ and masks/; "
        "name its folders with --set data.images=... --set data.masks=..."
    )


def _path(path: str | os.PathLike[str]) -> Path:
    """The path with ``~`` replaced, which no shell does for paths in a recipe."""
    try:
        return Path(path).expanduser()
    except RuntimeError:  # no such user: the name is reported with the folder that is missing
        return Path(path)


def _by_stem(folder: Path, names: Iterable[str], stems: Set[str], *, suffix: str) -> dict[str, str]:
    """The names of files that belong to ``stems``, by stem; two that belong to the same one are refused."""
    found: dict[str, str] = {}
    for name in sorted(names):
        stem = _stem(name).removesuffix(suffix)
        if stem not in stems:
            continue
        if stem in found:
            raise DataError(
                f"{folder}: {found[stem]} and {name} both stand for the photo {stem!r}; "
                "rename one of them or move it away"
            )
        found[stem] = name
    return found


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - as below


def _photo_names(folder: Path) -> list[str]:
    names = sorted(_names(folder))
    if not names:
        raise DataError(f"{folder}: no photo in this folder; expected files that end in {', '.join(sorted(SUFFIXES))}")
    return names


def _files(folder: Path) -> Iterator[Path]:
    return (folder / name for name in _names(folder))


def _names(folder: Path) -> Iterator[str]:
    """The names of all image files of a folder, in no order."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                hidden = entry.name.startswith(".")
                if not hidden and os.path.splitext(entry.name)[1].lower() in SUFFIXES:  # noqa: PTH122 - ten times faster
                    yield entry.name
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}; expected a folder of images") from error


def _pattern(group: str | None) -> re.Pattern[str] | None:
    if group is None:
        return None
    try:
        pattern = re.compile(group)
    except re.error as error:
        raise ConfigError(f"data.group: {group!r} is no regular expression ({error})") from error
    if not pattern.groups:
        raise ConfigError(f"data.group: {group!r} holds no group; put the part that names the car into ( )")
    return pattern


def _group_and_view(stem: str, pattern: re.Pattern[str] | None) -> tuple[str, str]:
    match = pattern.match(stem) if pattern else CARVANA_NAME.fullmatch(stem)
    if match is None:
        if pattern is None:
            return stem, ""
        raise ConfigError(f"data.group: {pattern.pattern!r} does not match the photo {stem!r}")
    names = match.groupdict()
    car = names["group"] if "group" in names else match.group(1)
    if not car:
        raise ConfigError(
            f"data.group: {match.re.pattern!r} finds no car in the photo {stem!r}; its group is empty there"
        )
    return car, names.get("view") or ""
