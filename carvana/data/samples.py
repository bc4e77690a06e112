"""The photos of a folder with their masks, and which photos show the same car."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from carvana.data.layouts import (
    Folders,
    find_layout,
    group_and_view,
    group_pattern,
    image_names,
    photo_names,
    photo_of,
)
from carvana.errors import DataError
from carvana.files import expanded


@dataclass(frozen=True, slots=True)
class Sample:
    """One photo: where it lies, where its mask lies, which car it shows (``group``) and from where (``view``).

    >>> Sample(Path("train/00087a6bd4dc_01.jpg"), None, group="00087a6bd4dc", view="01").name
    '00087a6bd4dc_01.jpg'
    """

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
        root: The data folder: ``train/`` + ``train_masks/``, ``images/`` + ``masks/``, what a registered layout reads
            (:func:`carvana.register_layout`), or anything else if ``images`` and ``masks`` name its folders. ``~`` is
            understood in all three.
        images: The folder of photos, absolute or relative to ``root``.
        masks: The folder of masks. A mask belongs to the photo of the same stem, or else of the stem without
            ``_mask``; the mask of ``x.jpg`` may be called ``x.jpg.png``.
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
    layout, found = find_layout(expanded(root), images, masks)
    pattern = group_pattern(group)
    if not isinstance(found, Folders):
        yield from listed(found, layout, expanded(root), pattern)
        return
    image_folder, mask_folder = found
    photos = photo_names(image_folder)
    stems = set(map(_stem, photos))
    _by_stem(image_folder, photos, stems, stem_of=_stem)
    by_stem = _by_stem(mask_folder, image_names(mask_folder), stems, stem_of=lambda name: photo_of(name, stems))
    missing = [photo for photo in photos if _stem(photo) not in by_stem]
    if missing:
        raise DataError(
            f"{image_folder}: {len(missing)} of {len(photos)} photos have no mask in {mask_folder} "
            f"(the first: {missing[0]}; expected {_stem(missing[0])}_mask.gif or .png); "
            "add them or move the photos away"
        )
    for photo in photos:
        stem = _stem(photo)
        yield Sample(image_folder / photo, mask_folder / by_stem[stem], *group_and_view(stem, pattern))


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
    cars = [group_and_view(_stem(sample.name), pattern) for sample in samples]
    return [replace(sample, group=car, view=view) for sample, (car, view) in zip(samples, cars, strict=True)]


def _is_sound(sample: Any) -> bool:
    return (
        isinstance(sample, Sample)
        and isinstance(sample.image, Path)
        and isinstance(sample.mask, Path | None)
        and isinstance(sample.group, str)
        and isinstance(sample.view, str)
    )


def _by_stem(folder: Path, names: Iterable[str], stems: Set[str], *, stem_of: Callable[[str], str]) -> dict[str, str]:
    """The names of files that belong to ``stems``, by stem; two that belong to the same one are refused."""
    found: dict[str, str] = {}
    for name in sorted(names):
        stem = stem_of(name)
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
