"""The files of a data folder: which belong together, and what is wrong with each. Each image is decoded once."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from carvana.class_values import color_of
from carvana.data.check.duplicates import SIDE, coarse, thumbnail
from carvana.data.check.masks import best_dices, border_share, fits_better_turned
from carvana.data.io.arrays import again, extremes, page_of, read_with_nodata
from carvana.data.io.decode import Source
from carvana.data.io.display import as_picture
from carvana.data.io.images import SUFFIXES, image_size, read_image
from carvana.data.io.labels import FEW_VALUES, count_values, read_values
from carvana.data.io.masks import MASK_SUFFIXES, inspect_mask, read_mask, share_of
from carvana.data.layouts import Part, image_names, others
from carvana.data.names import EXPECTED, group_and_view
from carvana.data.objects import paint_labels, read_objects
from carvana.data.samples import PairedNames, Sample, each_page
from carvana.errors import ConfigError, DataError, printable
from carvana.image_spec import Page, Pages
from carvana.task import Task

T = TypeVar("T")
Size = tuple[int, int]

_FEW_COLORS, _FLAT = 64, 0.9
"""A file of labels has so many colours on this share of its pixels; of a photo these are on less than half."""

_MOST_COLORS = 1024  # of a file that are counted

ADVICE = {
    "unreadable": "replace the file, or move image and mask away",
    "no-mask": "add the mask, or move the image away",
    "no-photo": "add the image, or move the mask away",
    "same-stem": "keep one of the files",
    "no-car": "make --group (data.group) match every image's name",
    "size-differs": "export image and mask at one size",
    "not-binary": "store two values alone: 0 and 255, or 0 and 1",
    "labels": "store one value a pixel, and name each value in task.classes, or in task.ignore",
    "inverted": "if object and background are exchanged, invert the masks: the object is white, or 1",
    "turned": "look at it (carvana data show); turn the mask, or take the orientation out of the image's EXIF",
    "frames": "store one picture a file: only the first one is read",
    "empty-mask": "draw the object, or leave the image out if it should have one",
    "full-mask": "make sure that the object really fills the image",
    "same-mask": "make sure that each image has its own mask",
    "duplicate": "keep one: it counts twice",
    "two-parts": "keep it in one part: a score on images that were trained on, or nearly, is too high",
    "near-duplicate": "give both images one group's name, or keep one: a split may put them on both sides",
}
"""What to do, by kind of problem; the order is that of reports."""

NOTES = {
    "ignored": "files and folders that are not read",
    "mixed-sizes": "images of one group differ in size",
    "values": "images that are not RGB of 8 bits: fit measures the range of values, and needs the number of channels",
    "pages": "fit takes each page as an image; data.pages=channels takes all of a file as one image's channels",
    "groups": "images that may show the same things: frames of a sequence must not train and validate both",
    "absent": "classes that cannot be learnt from these files",
    "annotations": "what annotation files have that is not used as it stands",
    "rare": "below 0.1% of the pixels, or in fewer than 5% of the images: data.crops: class looks for such classes",
}
"""What may be meant so, by kind."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem of one file, or a note about it.

    Attributes:
        kind: a key of :data:`ADVICE` or :data:`NOTES`.
        file: its path.
        message: what was found, without the path.
    """

    kind: str
    file: str
    message: str


@dataclass
class FolderContents:
    """What is in a data folder, and the problems with its names.

    Attributes:
        images: The folder of images.
        masks: The folder of masks.
        samples: The images, with masks or without.
        alone: The masks without an image.
        problems: Those that names show.
        notes: What is not read.
    """

    images: Path
    masks: Path
    samples: Sequence[Sample]
    alone: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.samples) + len(self.alone)

    def pair(self, number: int) -> tuple[Path | None, tuple[Path, ...]]:
        """An image and its masks: first all samples, then all masks that are alone."""
        if number >= len(self.samples):
            return None, (self.alone[number - len(self.samples)],)
        sample = self.samples[number]
        return sample.image, sample.masks

    def page(self, number: int) -> Page:
        """The page of its file that an image is, or all; None for other images, and for masks that are alone."""
        return self.samples[number].spec.page if number < len(self.samples) else None

    def with_objects(self, number: int) -> Sample | None:
        """The sample of an image whose labels are objects with categories."""
        sample = self.samples[number] if number < len(self.samples) else None
        return sample if sample is not None and sample.categories is not None else None


def list_folders(names: PairedNames, pages: Pages = "images") -> FolderContents:
    """The images and masks of two folders, and what is wrong with their names."""
    found, suffix = names.folders, names.rule.suffix
    problems: list[Problem] = []
    masks_alone = [found.masks / mask for mask in names.alone]
    samples = list(by_pages(_samples(names, problems), pages))
    contents = FolderContents(found.images, found.masks, samples, masks_alone, problems)
    for stem in () if names.by_class else sorted(names.images.keys() - names.masks.keys()):
        expected = EXPECTED if suffix is None else f"a name that ends in {suffix}"
        images, masks = names.places(stem)
        own = (found.images / stem).relative_to(images).as_posix()
        message = f"has no mask in {masks}; expected {expected}, as {own}{suffix or '_mask'}.png"
        problems.append(Problem("no-mask", str(contents.images / names.images[stem]), message))
    alone = f"belongs to no image in {found.images}"
    problems += [Problem("no-photo", str(mask), alone) for mask in contents.alone]
    for _, first, other in names.same_stem:
        problems.append(Problem("same-stem", str(other), f"has the same stem as {first.name}; not read"))
    places = {(found.images / part.images, found.masks / part.masks) for part in found.parts or (Part(),)}
    folders = {images: SUFFIXES for images, _ in sorted(places)}
    folders |= {masks: MASK_SUFFIXES for _, masks in sorted(places) if masks.is_dir()}  # one, if they are one
    left_out = [each for folder, suffixes in folders.items() for each in _ignored(folder, suffixes)]
    contents.notes += [Problem("ignored", str(path), what) for path, what in (*left_out, *names.left_out)]
    return contents


@dataclass(slots=True)
class PairSummary:
    """What is known of an image and its mask, as far as they can be read; a hundred thousand of them are kept.

    Attributes:
        problems: Those inside of the files.
        size: The image's (height, width).
        kind: The channels, the type, the lowest and the highest value of an image that is not RGB of 8 bits.
        image: A digest of its pixels.
        picture: What it is compared with others by, as :func:`.duplicates.coarse` gives it.
        mask: A digest of the mask's pixels, or labels; b"" if they cannot be read.
        share: The share of the mask that is object; of labels, the share that the most frequent value has.
        border: The share of its border that is object.
        turned: See :func:`.masks.fits_better_turned`.
        ceilings: The best Dice possible, (sizes, 2), if it was computed.
        values: The values, colours or categories that label files or objects have, and the number of pixels of each.
        objects: Of each category the number of objects.
        area: The number of pixels of the label file, or of the image with objects.
    """

    problems: list[Problem] = field(default_factory=list)
    size: Size | None = None
    kind: tuple[int, str, float, float] | None = None
    image: bytes = b""
    picture: NDArray[np.uint16] | None = None
    mask: bytes = b""
    share: float = np.nan
    border: float = np.nan
    turned: bool | None = None
    ceilings: NDArray[np.float64] | None = None
    values: dict[int | str, int] = field(default_factory=dict)
    objects: dict[str, int] = field(default_factory=dict)
    area: int = 0

    @property
    def plain(self) -> tuple[object, ...]:
        """What copies of an image and its mask have in common."""
        return self.size, self.image, self.mask, self.share, self.border, self.turned, self.ceilings is None


Kind = Literal["masks", "labels", "colors"]
"""What the files of a folder are: masks; label files whose values count; or whose colours count."""


def kind_of_file(path: Source) -> Kind | None:
    """Whether a file is a mask, or has labels and cannot be read as one; None if it cannot be read.

    Values of labels are few, or number objects from 0 on without gaps; colours are few but for what JPEG and resampling
    add. Others are a mask's that has gone wrong.
    """
    try:
        read_mask(path)
    except DataError as error:
        if error.kind != "not-binary":
            return None
    else:
        return "masks"
    try:
        values = read_values(again(path))
    except DataError:  # it has colours
        _, counts = np.unique(read_values(again(path), colors=True), return_counts=True)
        return "colors" if np.sort(counts)[-_FEW_COLORS:].sum() >= _FLAT * counts.sum() else "masks"
    try:
        found = list(count_values(values, path))
    except DataError:
        return "masks"
    few = len(found) <= FEW_VALUES or (found == list(range(len(found))) and len(found) != 256)
    return "labels" if few else "masks"


def inspect(
    contents: FolderContents, number: int, *, ceilings: bool, kind: Kind = "masks", task: Task | None = None
) -> PairSummary:
    """Read an image and its masks. Safe in any thread; problems are listed, nothing is raised.

    Args:
        contents: the folder.
        number: of the pair, as for :meth:`FolderContents.pair`.
        ceilings: compute the best Dice possible, which takes longer than all the rest.
        kind: what the files are.
        task: what the values of label files, or the categories of objects, are, if it is known.
    """
    found = PairSummary()
    (image, masks), objects = contents.pair(number), contents.with_objects(number)
    page = contents.page(number)
    if image is not None:
        _read(lambda path: _inspect_image(path, found, page), image, found.problems)
    if objects is not None:
        _read(lambda _: _inspect_objects(objects, task, found), (*masks, objects.image)[0], found.problems)
        return found
    if kind != "masks":
        if len(masks) > 1:
            found.problems.append(Problem("labels", str(masks[1]), f"is one of {len(masks)} files of one image"))
        elif masks:
            _read(
                lambda path: _inspect_labels(path, page, task, found, colors=kind == "colors"), masks[0], found.problems
            )
        return found
    files = [_read(lambda path: inspect_mask(page_of(path, page)), path, found.problems) for path in masks]
    read = [file.mask for file in files if file is not None]
    for path, file in zip(masks, files, strict=True):
        if file is not None and file.frames > 1:
            found.problems.append(Problem("frames", str(path), f"has {file.frames} pictures"))
        if file is not None and file.between:
            message = (
                f"has {file.values} values; {file.between:.2%} of its pixels are neither black nor white: "
                "those above half brightness count as object"
            )
            found.problems.append(Problem("not-binary", str(path), message))
    if len({mask.shape for mask in read}) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in {mask.shape for mask in read})
        message = f"the masks of one image are of several sizes (height x width): {sizes}"
        found.problems.append(Problem("size-differs", str(masks[0]), message))
    elif read and len(read) == len(masks):
        mask = np.maximum.reduce(read)
        _inspect_mask(mask, masks[0], found, ceilings=ceilings)
        if found.size is not None and found.size != mask.shape:
            found.problems.append(Problem("size-differs", str(masks[0]), _differ(found.size, mask.shape)))
        elif found.size is not None and image is not None and files[0] is not None:
            with suppress(DataError):  # it was removed meanwhile
                found.turned = fits_better_turned(image, mask, files[0].orientation)
    return found


def by_pages(samples: Iterable[Sample], pages: Pages) -> Iterator[Sample]:
    """The samples; each page of a TIFF is one of its own, unless pages are channels."""
    for sample in samples:
        one = pages == "channels" and sample.image.suffix.lower() in (".tif", ".tiff")
        try:
            yield from each_page([sample], sample.spec.of_page("channels" if one else None))
        except DataError:  # reading it tells why
            yield sample


def _samples(names: PairedNames, problems: list[Problem]) -> Iterator[Sample]:
    for stem in sorted(names.images):
        try:
            group, view = group_and_view(stem, names.pattern)
        except ConfigError as error:
            group, view = stem, ""
            file = str(names.folders.images / names.images[stem])
            problems.append(Problem("no-car", file, str(error).removeprefix("data.group: ")))
        yield names.sample(stem, group, view)


def _ignored(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[Path, str]]:
    nested = not any(image_names(folder, suffixes))
    for name, is_folder in others(folder, suffixes).items():
        if not is_folder:
            yield folder / name, "its suffix is not one of an image"
        elif not nested:
            yield folder / name, "a folder beside images, whose files are not read"


def _read(read: Callable[[Path], T], path: Path, problems: list[Problem]) -> T | None:
    """The result of ``read``; None, and a problem in the list, if the file cannot be read."""
    try:
        return read(path)
    except DataError as error:
        # Without the file, which the problem names, and without the advice, which its kind has.
        message = str(error).removeprefix(printable(f"{path}: ")).removesuffix("; replace the file or leave it out")
        if path.is_file() and not path.stat().st_size:
            message = "is empty: 0 bytes"
        problems.append(Problem(error.kind, str(path), message))
        return None


def _inspect_image(path: Path, found: PairSummary, page: Page) -> None:
    pixels = read_picture(path, page, found)
    found.size = image_size(path)
    found.image, found.picture = _digest(pixels, found.size), coarse(thumbnail(pixels))


def read_picture(path: Path, page: Page = None, found: PairSummary | None = None) -> NDArray[np.uint8]:
    """An image as RGB of 8 bits, small where its file allows it; of other channels the first three, stretched.

    Args:
        path: the file.
        page: its page, if each is an image, or "channels".
        found: gets the kind of an image that is not RGB of 8 bits.

    Raises:
        DataError: it cannot be read.
    """
    try:
        if page is None:  # a JPEG at an eighth of its size takes a third of the time; all of its bytes are still read
            return read_image(path, at_least=(SIDE, SIDE))
        values, nodata = read_with_nodata(path, page=page)
    except DataError as error:
        try:
            values, nodata = read_with_nodata(path)
        except DataError:
            raise error from None
    channels, dtype = values.shape[2] if values.ndim == 3 else 1, str(values.dtype)
    if found is not None and (channels, dtype) not in ((1, "uint8"), (3, "uint8")):
        found.kind = channels, dtype, *extremes(values, [nodata])
    return as_picture(values, nodata=nodata)


def _inspect_mask(mask: NDArray[np.uint8], path: Path, found: PairSummary, *, ceilings: bool) -> None:
    found.share, found.border = share_of(mask), border_share(mask)
    found.mask = _digest(np.packbits(mask), (mask.shape[0], mask.shape[1]))
    if found.share in (0, 1):
        kind, message = ("full-mask", "is object everywhere") if found.share else ("empty-mask", "has no object")
        found.problems.append(Problem(kind, str(path), message))
    if ceilings:
        found.ceilings = best_dices(mask)


def _inspect_labels(path: Path, page: Page, task: Task | None, found: PairSummary, *, colors: bool) -> None:
    values = read_values(page_of(path, page), colors=colors)
    shape = values.shape[0], values.shape[1]
    counts = count_values(values, path)
    if len(counts) > _MOST_COLORS:
        counts = dict(sorted(Counter(counts).most_common(_MOST_COLORS)))
    found.values = {color_of(value) if colors else value: count for value, count in counts.items()}
    found.mask, found.area = _digest(values, shape), values.size
    found.share = max(counts.values()) / values.size
    if found.size not in (None, shape):
        found.problems.append(Problem("size-differs", str(path), _differ(found.size, shape)))
    if task is not None:
        task.encode(values, path)


def _inspect_objects(sample: Sample, task: Task | None, found: PairSummary) -> None:
    """Count the objects of each category, and the pixels that they cover together."""
    size, objects = read_objects(sample)
    hasher, found.area = hashlib.blake2b(repr(size).encode(), digest_size=16), size[0] * size[1]
    covered: dict[str, NDArray[np.uint8]] = {}
    for category, box, inside in objects:
        covered.setdefault(category, np.zeros(size, np.uint8))[box] |= inside
        found.objects[category] = found.objects.get(category, 0) + 1
    for category in sorted(covered):
        found.values[category] = int(np.count_nonzero(covered[category]))
        hasher.update(category.encode() + covered[category].data)
    found.mask, found.share = hasher.digest(), max(found.values.values(), default=0) / found.area
    if found.size not in (None, size):
        what = _differ(found.size, size, "mask is" if sample.annotation is None else "annotation file gives")
        found.problems.append(Problem("size-differs", str((*sample.masks, sample.image)[0]), what))
    if task is not None and task.kind == "multiclass":
        paint_labels(sample, task)


def _digest(pixels: NDArray[Any], size: Size) -> bytes:
    hasher = hashlib.blake2b(repr(size).encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.digest()


def _differ(image: Size, mask: tuple[int, ...], what: str = "mask is") -> str:
    turned = "; one of them is turned on its side" if image == mask[::-1] else ""
    return f"the {what} {mask[0]} x {mask[1]} pixels (height x width), its image {image[0]} x {image[1]}{turned}"
