"""Finds the images of a data folder with their masks and groups, and reads them at a training size."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

from carvana.data.io.arrays import array_info, page_of
from carvana.data.io.images import SUFFIXES
from carvana.data.io.masks import MASK_SUFFIXES, MaskSource
from carvana.data.io.polygons import Annotation
from carvana.data.io.tiff import has_tifffile
from carvana.data.layouts import (
    Folders,
    Part,
    find_layout,
    image_names,
    nested_names,
    require_images,
    sub_folders,
    warn_of_others,
)
from carvana.data.names import EXPECTED, MaskNames, group_and_view, group_pattern, stem_of
from carvana.errors import DataError, plural
from carvana.image_spec import ImageSpec
from carvana.utils.files import expanded
from carvana.utils.progress import Reporter, SilentReporter


class _PathText:
    """A field that is kept as text and read as a path, which would take five times the memory; None stays None.

    Args:
        slot: Where the field of a dataclass with slots is kept.
    """

    def __init__(self, slot: Any) -> None:
        self._slot = slot

    def __get__(self, sample: Any, owner: type) -> Any:
        if sample is None:
            return self
        kept = self._slot.__get__(sample)
        return kept if kept is None else tuple(map(Path, kept)) if isinstance(kept, tuple) else Path(kept)

    def __set__(self, sample: Any, value: Any) -> None:
        if value is not None:
            value = tuple(map(os.fspath, value)) if isinstance(value, tuple) else os.fspath(value)
        self._slot.__set__(sample, value)


@dataclass(frozen=True, slots=True)
class Sample:
    """One image: its file, its mask's file, the group that it shows and the view of it.

    Attributes:
        image: The image's file.
        mask: The mask's file, or a tuple of several, which are joined; the annotation file; or None.
        group: The group.
        view: The view; "" if it is unknown.
        depth: The number of folders above the image that belong to its name.
        subset: The part of the data folder that it stands in: train, val or test; "" where the folders do not say it.
        annotation: The objects of the image, if ``mask`` is an annotation file.
        by_class: Whether each file of ``mask`` is of the class that its folder is named after; there may be none.
        spec: How the image is read; its page is also that of the mask, where that has pages.

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
    subset: str = ""
    annotation: Annotation | None = field(default=None, repr=False)
    by_class: bool = field(default=False, repr=False)
    spec: ImageSpec = field(default=ImageSpec(), repr=False)

    @property
    def name(self) -> str:
        """The image's file name, with ``depth`` folders before it; it is unique within a data folder.

        Of an image that is a page of a file it has the page's number, from 0, behind its stem: ``stack-003.tif``.
        """
        name = "/".join(self.image.parts[-1 - self.depth :]) if self.depth else self.image.name
        page = self.spec.page
        return name if not isinstance(page, int) else f"{stem_of(name)}-{page:03}{self.image.suffix}"

    @property
    def stem(self) -> str:
        """The name without the suffix."""
        return stem_of(self.name)

    @property
    def masks(self) -> tuple[Path, ...]:
        """The files of the mask: none, one, or several that are joined."""
        mask = self.mask
        return () if mask is None else mask if isinstance(mask, tuple) else (mask,)

    @property
    def categories(self) -> set[str] | None:
        """The names of the categories of its objects; None where its labels have none."""
        if self.annotation is not None:
            return {shape.category for shape in self.annotation.shapes}
        return {path.parent.name for path in self.masks} if self.by_class else None


for _field in ("image", "mask"):
    setattr(Sample, _field, _PathText(getattr(Sample, _field)))


def mask_of(sample: Sample) -> MaskSource:
    """The file of the mask, or several, or the page of it that is the image's.

    Raises:
        DataError: there is none, or an annotation file has it.
    """
    if sample.categories is not None:
        names = ", ".join(sorted(sample.categories))
        raise DataError(
            f"{next(iter(sample.masks), sample.image)}: has objects of categories ({names}); name the classes in "
            "task.classes, with task.kind: multilabel where all of an overlap counts",
            kind="labels",
        )
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no mask; training and evaluation need one")
    found = tuple(page_of(path, sample.spec.page) for path in sample.masks)
    return found if isinstance(sample.mask, tuple) else found[0]


def find_samples(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
    layout: str | None = None,
    spec: ImageSpec = ImageSpec(),  # noqa: B008 - it is frozen
    reporter: Reporter | None = None,
) -> list[Sample]:
    r"""Find all labelled images below a data folder, sorted by name.

    Args:
        root: The data folder: ``train/`` + ``train_masks/``, ``images/`` + ``masks/``, folders of parts that train,
            validate and test, what a registered layout reads (:func:`carvana.register_layout`), or anything else if
            ``images`` and ``masks`` name its folders. ``~`` is understood in all three.
        images: The folder of images, absolute or relative to ``root``.
        masks: The folder of masks, which may be the same. A mask belongs to the image of the same stem, or else of
            the stem without ``_mask``, ``_masks`` or ``_segmentation``; the mask of ``x.jpg`` may be called
            ``x.jpg.png``. Several are joined where a number follows: ``x_mask.png`` and ``x_mask_1.png``. Where the
            images are in one folder and the masks in sub-folders of theirs, each of these is of the class that it is
            named after; an image may lack masks there.
        group: A regular expression that is matched against each image's stem; its group ``group`` (or else its first
            group) names the group, its group ``view`` the view. By default Carvana's names are understood, and any
            other image is a group of its own. With ``/`` in the expression, sub-folders are part of the stem.
        mask_suffix: What masks have after their image's stem, such as ``_L``; "" for nothing; None for the usual ones.
        layout: The one layout to read the folder by; None tries all.
        spec: How images are read, if not as RGB of 8 bits. Each page of a TIFF is an image, unless it says otherwise.
        reporter: Receives what is left out: images that no list names, and a test part without labels.

    If a folder has no image but its sub-folders have, those are read, and their names are part of the images' names.

    Raises:
        DataError: there is no such folder, no image, an image without a mask, or two images or masks of one stem.
        ConfigError: ``group`` is not a regular expression, does not match a name, or finds no group in it.
        UnknownNameError: no layout has that name.

    Example:
        >>> find_samples("images")  # doctest: +SKIP
        [Sample(image=PosixPath('images/train/00087a6bd4dc_01.jpg'), ...]
    """
    names = find_names(root, images=images, masks=masks, group=group, mask_suffix=mask_suffix, layout=layout)
    if isinstance(names, list):
        return list(each_page(names, spec))
    if names.same_stem:
        stem, one, other = names.same_stem[0]
        raise DataError(
            f"{one.parent}: {one.name} and {other.name} are both named as the image {stem!r}; "
            "rename one of them or move it away"
        )
    _check_masks(names)
    for folder, what in names.left_out:
        (reporter or SilentReporter()).info(f"{folder}: {what}")
    found = (names.sample(stem, *group_and_view(stem, names.pattern)) for stem in names.images)
    return list(each_page(found, spec))


def with_spec(samples: Iterable[Sample], spec: ImageSpec) -> tuple[Sample, ...]:
    """The samples, whose images are read as a spec says; one that is a page of a file stays that page."""
    return tuple(replace(sample, spec=spec.of_page(sample.spec.page)) for sample in samples)


def each_page(samples: Iterable[Sample], spec: ImageSpec) -> Iterator[Sample]:
    """The samples, read as a spec says. Each page of a TIFF becomes a sample of its own, unless pages are channels.

    Raises:
        DataError: a file cannot be read, or a page has the name of another image.
    """
    seen: dict[str, Path] | None = None  # by name, where there are pages
    files = list(samples)
    for sample in files:
        pages = 1
        if spec.page is None and sample.image.suffix.lower() in (".tif", ".tiff") and has_tifffile():
            pages = array_info(sample.image).pages
        if pages > 1:
            _check_pages(sample, pages)
            seen = {each.name: each.image for each in files} if seen is None else seen
        for page in range(pages) if pages > 1 else (spec.page,):
            found = replace(sample, spec=spec.of_page(page))
            if pages > 1 and seen is not None and (other := seen.setdefault(found.name, found.image)) != found.image:
                raise DataError(f"{found.image}: page {page} is named {found.name}, as {other} is; rename one of them")
            yield found


def _check_pages(sample: Sample, pages: int) -> None:
    """Refuse masks that have other pages than their image."""
    for mask in () if sample.annotation is not None else sample.masks:
        found = array_info(mask).pages
        if found != pages:
            raise DataError(
                f"{mask}: has {plural(found, 'page')}, and its image {sample.image.name} {pages}; expected one for "
                "each, or data.pages=channels where all pages are one image"
            )


@dataclass
class PairedNames:
    """The images and masks of two folders, by the stems of the images.

    Attributes:
        folders: Their folders.
        rule: How the names of masks are made.
        pattern: What finds the group and the view in a stem; None for Carvana's own names.
        images: The name of each image, by its stem, sorted.
        masks: The names of each image's masks, by its stem.
        alone: The names of masks without an image.
        same_stem: The stem of an image, and two files with it, one too many.
        part_of: The part of each image, by its stem; empty if the folders have no parts.
        left_out: Folders, and which images of them are not read.
        by_class: Whether the masks are in folders of classes.
    """

    folders: Folders
    rule: MaskNames
    pattern: re.Pattern[str] | None
    images: dict[str, str] = field(default_factory=dict)
    masks: dict[str, list[str]] = field(default_factory=dict)
    alone: list[str] = field(default_factory=list)
    same_stem: list[tuple[str, Path, Path]] = field(default_factory=list)
    part_of: dict[str, Part] = field(default_factory=dict)
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    by_class: bool = False

    def places(self, stem: str) -> tuple[Path, Path]:
        """The folder of an image, its sub-folders left out, and the folder in which its mask should be."""
        part = self.part_of.get(stem, _WHOLE)
        return self.folders.images / part.images, self.folders.masks / part.masks

    def sample(self, stem: str, group: str, view: str) -> Sample:
        """The sample of an image, with its masks or without."""
        image = self.images[stem]
        paths = tuple(self.folders.masks / name for name in self.masks.get(stem, ()))
        mask = paths if len(paths) > 1 or self.by_class else paths[0] if paths else None
        subset = self.part_of.get(stem, _WHOLE).subset
        return Sample(self.folders.images / image, mask, group, view, image.count("/"), subset, by_class=self.by_class)


def find_names(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
    layout: str | None = None,
) -> list[Sample] | PairedNames:
    """What a layout lists, or else the images of two folders, and each one's masks by their names.

    Raises:
        DataError: there is no such folder, a folder cannot be read or holds no image, or :func:`listed` fails.
        ConfigError: ``group`` is not a regular expression.
        UnknownNameError: no layout has that name.
    """
    name, folders = find_layout(expanded(root), images, masks, MaskNames(mask_suffix), layout)
    if not isinstance(folders, Folders):
        return listed(folders, name, expanded(root), group_pattern(group))
    folders = folders.with_parts()
    rule = MaskNames(folders.mask_suffix if mask_suffix is None else mask_suffix)
    found = PairedNames(folders, rule, group_pattern(folders.group if group is None else group))
    for part in folders.parts or (_WHOLE,):
        _pair(found, part)
    if folders.parts:
        require_images(folders.images, found.images.values())
    found.left_out += _unknown_parts(folders)
    listed_names = [part.only for part in folders.parts if part.only is not None]
    if listed_names:
        count = len(image_names(folders.images, SUFFIXES))
        if (left := count - sum(map(len, listed_names))) > 0:
            found.left_out.append((folders.images, f"{left} of {count} images are in none of the lists, and not read"))
    if len(folders.parts) > 1:
        found.images = dict(sorted(found.images.items(), key=itemgetter(1)))
    return found


_WHOLE = Part()


def _unknown_parts(folders: Folders) -> Iterator[tuple[Path, str]]:
    """The folders beside those of parts that have images, too, at the same place, and whose names are not of a part."""
    if not folders.parts or folders.parts[0].only is not None:
        return
    name, _, below = folders.parts[0].images.partition("/")
    known = {folder.partition("/")[0] for part in folders.parts for folder in (part.images, part.masks)}
    beside = sub_folders(folders.images)
    ending = folders.parts[0].masks.partition("/")[0].removeprefix(name)
    if folders.images == folders.masks and ending:  # train/ and trainannot/
        known.update(each + ending for each in beside)
    for each in beside:
        images = folders.images / each / below
        if each not in known and images.is_dir() and any(nested_names(images, SUFFIXES)):
            yield images, "has images, and is not read: only folders of train, val and test are parts"


def _pair(found: PairedNames, part: Part) -> None:
    """Find the images of a part, and their masks."""
    folders, rule = found.folders, found.rule
    images, masks = folders.images / part.images, folders.masks / part.masks
    before, masks_before = (f"{folder}/" if folder else "" for folder in (part.images, part.masks))
    mask_names = sorted(nested_names(masks, MASK_SUFFIXES)) if not part.subset or masks.is_dir() else []
    if images == masks:
        owners = rule.beside(mask_names)
        image_list = [name for name in mask_names if name not in owners and not name.lower().endswith(".npy")]
        mask_names = list(owners)
    else:
        image_list = sorted(nested_names(images, SUFFIXES))
    if not folders.parts:  # one of several parts may be empty
        require_images(images, image_list)
    stems: dict[str, str] = {}
    for image in image_list:
        stem = stem_of(image).removesuffix(folders.image_suffix)
        if part.only is not None and stem not in part.only:
            continue
        other = stems.setdefault(stem, image)
        if other is not image:
            found.same_stem.append((stem, images / other, images / image))
    if part.only is not None and len(stems) < len(part.only):
        absent = min(part.only - stems.keys())
        raise DataError(f"{images}: has no image {absent}, which the list of {part.subset or 'images'} names")
    by_class = are_class_folders(mask_names, stems)
    found.by_class |= by_class

    owned: dict[str, dict[str, str]] = {}  # masks by image, then by folder and number
    for mask in mask_names:
        folder, _, name = mask.rpartition("/") if by_class else ("", "", mask)
        owner, number = rule.owner(name, stems)
        if owner is not None:
            same = owned.setdefault(owner, {}).setdefault(f"{folder}/{number}", mask)
            if same is not mask:
                found.same_stem.append((owner, masks / same, masks / mask))
        elif part.only is None and (rule.suffix is None or rule.is_named_like_a_mask(mask)):
            found.alone.append(masks_before + mask)
    if part.subset == "test" and len(owned) < len(stems) and not (by_class and owned):
        left = f"{len(stems) - len(owned)} of the {len(stems)} images of this test part"
        found.left_out.append((images, f"{left} have no labels, and are not read"))
        stems = {stem: image for stem, image in stems.items() if stem in owned}
    found.images.update((before + stem, before + image) for stem, image in stems.items())
    for stem, several in owned.items():
        found.masks[before + stem] = [masks_before + mask for mask in several.values()]
    if folders.parts:
        found.part_of.update((before + stem, part) for stem in stems)


def _check_masks(names: PairedNames) -> None:
    """Refuse images without masks; the message names the first, and how many its part has.

    Where masks are in folders of classes, an image without any has no object, unless all images of its part have none.
    """
    labelled = {names.part_of.get(stem, _WHOLE).images for stem in names.masks} if names.by_class else set()
    without = (stem for stem in names.images if stem not in names.masks)
    first = next((stem for stem in without if names.part_of.get(stem, _WHOLE).images not in labelled), None)
    if first is None:
        return
    images, masks = names.places(first)
    together = [stem for stem in names.images if names.places(stem) == (images, masks)]
    missing = [stem for stem in together if stem not in names.masks]
    image = (names.folders.images / names.images[first]).relative_to(images).as_posix()
    stem = stem_of(image).removesuffix(names.folders.image_suffix)
    suffix = names.rule.suffix
    expected = f"{EXPECTED}, as {stem}_mask.png" if suffix is None else f"{stem}{suffix}.png"
    alone = f"; {names.folders.masks} has {names.alone[0]}, for example" if names.alone else ""
    raise DataError(
        f"{images}: {len(missing)} of {len(together)} images {'has' if len(missing) == 1 else 'have'} no "
        f"mask in {masks} "
        f"(the first: {image}; expected {expected}{alone}); add them or move the images away, or name "
        "another ending of masks with data.mask_suffix"
    )


def are_class_folders(masks: Iterable[str], stems: Iterable[str]) -> bool:
    """Whether all masks are in sub-folders and all images in one folder: sub-folders of both are groups of images.

    >>> are_class_folders(["cat/1.png", "dog/1.png"], ["1"]), are_class_folders(["a/1.png"], ["a/1"])
    (True, False)
    """
    nested = {"/" in mask for mask in masks}
    return nested == {True} and not any("/" in stem for stem in stems)


def listed(found: Iterable[Any], layout: str, root: Path, pattern: re.Pattern[str] | None) -> list[Sample]:
    """The samples that a layout lists, sorted by name.

    Raises:
        DataError: it lists none, something else, an image without a mask, or two images of one name.
        ConfigError: the pattern does not match a name, or finds no group in it.
    """
    by_name: dict[str, Sample] = {}
    for sample in found:
        if not (isinstance(sample, Sample) and isinstance(sample.group, str) and isinstance(sample.view, str)):
            raise DataError(
                f"the layout '{layout}' lists {sample!r}: expected carvana.Sample(image, mask, group, view), the group"
                " and the view as text"
            )
        if sample.subset not in ("train", "val", "test", ""):
            raise DataError(
                f"the layout '{layout}' lists {sample.image} with subset {sample.subset!r}: expected train, val, test"
                " or nothing"
            )
        other = by_name.setdefault(sample.name, sample)
        if other is not sample and other.image == sample.image:
            raise DataError(f"{sample.image}: is listed twice, in {other.masks[0]} and {sample.masks[0]}; keep one")
        if other is not sample:
            raise DataError(
                f"{root}: {other.image} and {sample.image} have the same name, which must identify an image; "
                "rename one of them"
            )
    without = next((sample for sample in by_name.values() if sample.mask is None), None)
    if without is not None or not by_name:
        what = f"lists {without.image} without a mask" if without is not None else "lists no image"
        raise DataError(f"{root}: the layout '{layout}' {what}; expected images with their masks")
    samples = [by_name[name] for name in sorted(by_name)]
    if pattern is None:
        return samples
    groups = [group_and_view(sample.stem, pattern) for sample in samples]
    return [replace(sample, group=group, view=view) for sample, (group, view) in zip(samples, groups, strict=True)]


def warn_of_passed_over(samples: Sequence[Sample], reporter: Reporter) -> None:
    """Warn of other files in the folder of a training's images, unless images are in sub-folders; and of annotations
    that are not used as they stand.
    """
    first = samples[0]
    if not first.depth:
        beside = {mask.suffix.lower() for mask in first.masks if mask.parent == first.image.parent}
        warn_of_others(first.image.parent, reporter, MASK_SUFFIXES | beside if beside else SUFFIXES)
    for note in annotation_notes(samples):
        reporter.warn(note)


def annotation_notes(samples: Iterable[Sample]) -> list[str]:
    """What annotation files have besides objects, a line for each kind and file."""
    each = (sample.annotation.notes for sample in samples if sample.annotation is not None)
    return list(dict.fromkeys(note for notes in each for note in notes))
