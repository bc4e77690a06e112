"""The photos of a folder with their masks, and which photos show the same car."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from carvana.data.io.images import MASK_SUFFIXES
from carvana.data.layouts import (
    Folders,
    find_layout,
    group_and_view,
    group_pattern,
    nested_names,
    nested_photo_names,
)
from carvana.data.mask_names import EXPECTED, MaskNames
from carvana.errors import DataError
from carvana.utils.files import expanded


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo: where it lies, where its mask lies, which car it shows (``group``) and from where (``view``).

    Attributes:
        image: The photo's file.
        mask: The mask's file, a tuple of several that are joined, or None.
        group: The car.
        view: The view; "" where it is unknown.
        depth: How many of the folders above the photo belong to its name.

    >>> Sample(Path("train/00087a6bd4dc_01.jpg"), None, group="00087a6bd4dc", view="01").name
    '00087a6bd4dc_01.jpg'
    >>> Sample(Path("images/a/01.jpg"), None, group="a", depth=1).name
    'a/01.jpg'
    """

    image: Path
    mask: Path | tuple[Path, ...] | None
    group: str
    view: str = ""
    depth: int = 0

    @property
    def name(self) -> str:
        """The photo's file name, with ``depth`` folders before it; it is unique within a data folder."""
        return "/".join(self.image.parts[-1 - self.depth :]) if self.depth else self.image.name

    @property
    def stem(self) -> str:
        """The name without the suffix."""
        return _stem(self.name)

    @property
    def masks(self) -> tuple[Path, ...]:
        """The files of the mask: none, one, or several that are joined."""
        return () if self.mask is None else self.mask if isinstance(self.mask, tuple) else (self.mask,)


def find_samples(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
) -> list[Sample]:
    r"""Find all labelled photos below a data folder, sorted by name.

    Args:
        root: The data folder: ``train/`` + ``train_masks/``, ``images/`` + ``masks/``, what a registered layout reads
            (:func:`carvana.register_layout`), or anything else if ``images`` and ``masks`` name its folders. ``~`` is
            understood in all three.
        images: The folder of photos, absolute or relative to ``root``.
        masks: The folder of masks, which may be the same. A mask belongs to the photo of the same stem, or else of
            the stem without ``_mask``, ``_masks`` or ``_segmentation``; the mask of ``x.jpg`` may be called
            ``x.jpg.png``. Several are joined where a number follows: ``x_mask.png`` and ``x_mask_1.png``.
        group: A regular expression that is matched against each photo's stem; its group ``group`` (or else its first
            group) names the car, its group ``view`` the view. By default Carvana's names are understood, and any
            other photo is a group of its own. With ``/`` in the expression, sub-folders are part of the stem.
        mask_suffix: What masks have behind their photo's stem, such as ``_L``; "" for nothing; None for what is usual.

    Where a folder holds no image but sub-folders do, those are read, and their names are part of the photo's.

    Raises:
        DataError: there is no such folder, no photo, a photo without a mask, or two photos or masks of one stem.
        ConfigError: ``group`` is no regular expression, does not match a name, or finds no car in it.

    Example:
        >>> find_samples("photos")  # doctest: +SKIP
        [Sample(image=PosixPath('photos/train/00087a6bd4dc_01.jpg'), ...]
    """
    return list(each_sample(root, images=images, masks=masks, group=group, mask_suffix=mask_suffix))


def each_sample(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
) -> Iterator[Sample]:
    """What :func:`find_samples` finds, one after the other: only names are held, for folders of very many photos."""
    rule = MaskNames(mask_suffix)
    layout, found = find_layout(expanded(root), images, masks, rule)
    pattern = group_pattern(group)
    if not isinstance(found, Folders):
        yield from listed(found, layout, expanded(root), pattern)
        return
    names = pair_names(found, rule)
    if names.same_stem:
        stem, one, other = names.same_stem[0]
        raise DataError(
            f"{one.parent}: {one.name} and {other.name} both stand for the photo {stem!r}; "
            "rename one of them or move it away"
        )
    missing = [photo for stem, photo in names.photos.items() if stem not in names.masks]
    if missing:
        stem = _stem(missing[0])
        expected = f"{EXPECTED}, as {stem}_mask.png" if mask_suffix is None else f"{stem}{mask_suffix}.png"
        alone = f"; {found.masks} holds {names.alone[0]}, say" if names.alone else ""
        raise DataError(
            f"{found.images}: {len(missing)} of {len(names.photos)} photos have no mask in {found.masks} "
            f"(the first: {missing[0]}; expected {expected}{alone}); add them or move the photos away, or name "
            "another ending of masks with data.mask_suffix"
        )
    for stem, photo in names.photos.items():
        yield names.sample(stem, photo, *group_and_view(stem, pattern))


@dataclass
class PairedNames:
    """The photos and masks of two folders, by the stems of the photos.

    Attributes:
        folders: Where they lie.
        photos: The name of each photo, by its stem, sorted.
        masks: The names of each photo's masks, by its stem.
        alone: The names of masks of which there is no photo.
        same_stem: The stem of a photo, and two files that stand for it, where one of them is too many.
    """

    folders: Folders
    photos: dict[str, str] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    same_stem: list[tuple[str, Path, Path]] = field(default_factory=list)

    def sample(self, stem: str, photo: str, group: str, view: str) -> Sample:
        """The sample of a photo, with its masks or without."""
        paths = tuple(self.folders.masks / name for name in self.masks.get(stem, ()))
        mask = paths if len(paths) > 1 else paths[0] if paths else None
        return Sample(self.folders.images / photo, mask, group, view, photo.count("/"))


def pair_names(folders: Folders, rule: MaskNames) -> PairedNames:
    """Find each photo's masks by their names.

    Raises:
        DataError: a folder cannot be read, or holds no photo.
    """
    found = PairedNames(folders)
    mask_names = sorted(nested_names(folders.masks, MASK_SUFFIXES))
    if folders.images == folders.masks:
        owners = rule.beside(mask_names)
        photo_list = [name for name in mask_names if name not in owners and not name.lower().endswith(".npy")]
        mask_names = list(owners)
    else:
        photo_list = nested_photo_names(folders.images)
    for photo in photo_list:
        other = found.photos.setdefault(_stem(photo), photo)
        if other is not photo:
            found.same_stem.append((_stem(photo), folders.images / other, folders.images / photo))
    numbers: dict[tuple[str, str], str] = {}
    for mask in mask_names:
        stem, number = rule.owner(mask, found.photos)
        if stem is None:
            if rule.suffix is None or rule.is_named_like_a_mask(mask):
                found.alone.append(mask)
            continue
        other = numbers.setdefault((stem, number), mask)
        if other is not mask:
            found.same_stem.append((stem, folders.masks / other, folders.masks / mask))
        else:
            found.masks.setdefault(stem, []).append(mask)
    return found


def listed(found: Iterable[Any], layout: str, root: Path, pattern: re.Pattern[str] | None) -> list[Sample]:
    """The samples that a layout lists, sorted by name.

    Raises:
        DataError: it lists none, something else, a photo without a mask, or two photos of one name.
        ConfigError: the pattern does not match a name, or finds no car in it.
    """
    by_name: dict[str, Sample] = {}
    for sample in found:
        if not _is_sound(sample):
            raise DataError(
                f"the layout '{layout}' lists {sample!r}: expected carvana.Sample(image, mask, group, view), paths as"
                " pathlib.Path, the group (the car) and the view as text"
            )
        other = by_name.setdefault(sample.name, sample)
        if other is not sample:
            raise DataError(
                f"{root}: {other.image} and {sample.image} have one name, by which splits and masks know a photo; "
                "rename one of them"
            )
    without = next((sample for sample in by_name.values() if sample.mask is None), None)
    if without is not None or not by_name:
        what = f"lists {without.image} without a mask" if without is not None else "lists no photo"
        raise DataError(f"{root}: the layout '{layout}' {what}; expected photos with their masks")
    samples = [by_name[name] for name in sorted(by_name)]
    if pattern is None:
        return samples
    cars = [group_and_view(sample.stem, pattern) for sample in samples]
    return [replace(sample, group=car, view=view) for sample, (car, view) in zip(samples, cars, strict=True)]


def _is_sound(sample: Any) -> bool:
    return (
        isinstance(sample, Sample)
        and isinstance(sample.image, Path)
        and all(isinstance(mask, Path) for mask in sample.masks)
        and isinstance(sample.group, str)
        and isinstance(sample.view, str)
    )


def _stem(name: str) -> str:
    return os.path.splitext(name)[0]  # noqa: PTH122 - as below
