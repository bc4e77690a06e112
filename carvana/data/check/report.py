"""All problems of a data folder, not only the first, and a summary of what is in it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import COARSE, find_near_duplicates, thumbnail
from carvana.data.check.files import (
    ADVICE,
    FolderContents,
    Kind,
    PairSummary,
    Problem,
    Size,
    by_pages,
    inspect,
    kind_of_file,
    list_folders,
    read_picture,
)
from carvana.data.check.labels import LabelValue, ValueTally
from carvana.data.check.masks import ResolutionLimit, is_inverted, mean_ceilings, spread
from carvana.data.io.arrays import page_of
from carvana.data.samples import PairedNames, Sample, annotation_notes, find_names
from carvana.errors import DataError, plural, shortened
from carvana.image_spec import Pages
from carvana.task import Task
from carvana.utils.deprecated import Attribute
from carvana.utils.files import expanded
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, default_reporter, track

_THUMBNAILS = 1024  # of possible near-duplicates, kept in memory

_LOOKED_AT = 32  # files: enough to see what most of them are

_NUMBERED = r"(.*?[A-Za-z].*?)[-_ ]?[A-Za-z]?\d+$"
"""Names that end in a number, as frames of a sequence do."""

CEILING_MASKS = 256
"""The number of masks from which the ceilings are computed, for an error of about 3e-5."""


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
        views: how many images there are of each view; empty where names have none.
        images_per_group: the fewest and the most.
        sizes: how many readable images there are of each (height, width).
        foreground: None if no mask can be read.
        ceilings: the best Dice possible at usual training sizes.
        ceiling_masks: from how many masks that was computed.
        problems: in the order of :data:`carvana.data.check.files.ADVICE`.
        notes: what may be meant so.
        parts: how many images there are in each part; empty where the folders have none.
        values: those of label files; empty if there are masks.
        task: of label files, the task that was given, or else the one that they suggest, as values of a config.
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
    parts: dict[str, int]
    values: tuple[LabelValue, ...] = ()
    task: dict[str, Any] | None = None
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
            "parts": self.parts,
            "sizes": {f"{height}x{width}": count for (height, width), count in self.sizes.items()},
            "foreground": None if self.foreground is None else self.foreground.to_json(),
            "ceilings": [ceiling.to_json() for ceiling in self.ceilings],
            "ceiling_masks": self.ceiling_masks,
            "counts": self.count(),
            "problems": [asdict(problem) for problem in self.problems],
            "notes": [asdict(note) for note in self.notes],
            "values": [value.to_json() for value in self.values],
            "task": self.task,
        }


def check_data(
    root: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    masks: str | os.PathLike[str] | None = None,
    group: str | None = None,
    mask_suffix: str | None = None,
    layout: str | None = None,
    pages: Pages = "images",
    task: Task | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Report:
    """Look through a data folder: every file is decoded once, and all problems are reported.

    Args:
        root: the data folder.
        images: as for :func:`carvana.find_samples`, like the next four.
        masks: the folder of masks.
        group: the pattern that names the group.
        mask_suffix: how the names of masks end.
        layout: the one layout to read the folder by.
        pages: what the pages of a TIFF are: images, or channels of one.
        task: what label files are; None looks at some of the files to see whether they are masks or label files.
        workers: threads that read; None for one per core.
        reporter: where progress goes.

    Raises:
        DataError: there is no such folder, or no image in it.
        ConfigError: only one of the folders is named, or ``group`` is not a regular expression.

    Example:
        >>> import tempfile
        >>> from carvana import write_demo
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     report = check_data(write_demo(folder, cars=1, views=2, size=(40, 60), workers=1))
        >>> report.image_count, report.group_count, report.problems
        (2, 1, ())
    """
    reporter = reporter or default_reporter()
    names = find_names(root, images=images, masks=masks, group=group, mask_suffix=mask_suffix, layout=layout)
    folder = expanded(root)
    if isinstance(names, PairedNames):
        contents = list_folders(names, pages)
    else:
        contents = FolderContents(folder, folder, list(by_pages(names, pages)))
    del names  # half a kilobyte an image
    samples = contents.samples
    with_masks = [number for number in range(len(contents)) if contents.pair(number)[1]]
    kind = _kind_of(contents, with_masks, task)
    measured = {with_masks[place] for place in spread(len(with_masks), CEILING_MASKS)}

    def look(number: int) -> PairSummary:
        return inspect(contents, number, ceilings=number in measured, kind=kind, task=task)

    found: list[PairSummary] = []
    pictures = np.zeros((len(samples), COARSE, COARSE), np.uint16)  # 0 where an equal image came before, or none
    firsts: dict[bytes, int] = {}
    sizes: dict[Size, Size] = {}
    problems, tally = list(contents.problems), ValueTally(task)
    nothing: tuple[list[Problem], dict[int | str, int]] = [], {}
    summaries = threaded(look, range(len(contents)), workers=workers)
    for number, summary in enumerate(track(summaries, reporter, "checking files", len(contents))):
        first = number if summary.picture is None else firsts.setdefault(summary.image, number)
        if summary.picture is not None and first == number:
            pictures[number] = summary.picture
        problems += summary.problems
        tally.add(summary)
        # One empty list and one empty table for all: a hundred thousand summaries are kept.
        summary.problems, summary.values, summary.objects, summary.picture = *nothing, {}, None
        if summary.size is not None:
            summary.size = sizes.setdefault(summary.size, summary.size)  # one tuple for all images of a size
        found.append(found[first] if first < number and found[first].plain == summary.plain else summary)
    problems += [*_equal_images(samples, found, firsts), *_inverted_masks(contents, found)]
    problems += [*_turned_masks(samples, found), *_equal_masks(samples, found), *_near_duplicates(samples, pictures)]
    order = {kind: number for number, kind in enumerate(ADVICE)}
    problems.sort(key=lambda problem: (order[problem.kind], problem.file))
    groups = Counter(sample.group for sample in samples)
    annotated = [Problem("annotations", *note.split(": ", 1)) for note in annotation_notes(samples)]
    ceilings = [summary.ceilings for summary in found if summary.ceilings is not None]
    return Report(
        images=str(contents.images),
        masks=str(contents.masks),
        image_count=len(samples),
        pairs=sum(bool(sample.masks) for sample in samples),
        group_count=len(groups),
        views=_sorted(sample.view for sample in samples if sample.view),
        images_per_group=(min(groups.values()), max(groups.values())),
        sizes=_sorted(summary.size for summary in found if summary.size is not None),
        foreground=None if kind != "masks" else _foreground(contents, found),
        ceilings=mean_ceilings(ceilings),
        ceiling_masks=len(ceilings),
        problems=tuple(problems),
        notes=(
            *contents.notes,
            *annotated,
            *_other_kinds(samples, found),
            *_mixed_sizes(samples, found),
            *_alike(samples),
            *tally.notes(str(contents.masks)),
        ),
        parts=_sorted(sample.subset for sample in samples if sample.subset),
        values=tally.values(),
        task=tally.suggest(folder),
    )


def _kind_of(contents: FolderContents, with_masks: Sequence[int], task: Task | None) -> Kind:
    """What the files are by the task, or else what more than a fifth of some are besides masks.

    Many an image of three classes shows two of them.
    """
    if with_masks and contents.with_objects(with_masks[0]):
        return "labels"
    if task is not None and (not task.reads_masks or task.is_unnamed):
        return "masks" if task.reads_masks else "colors" if task.reads_colors else "labels"
    chosen = [with_masks[place] for place in spread(len(with_masks), _LOOKED_AT)]
    some = (page_of(contents.pair(number)[1][0], contents.page(number)) for number in chosen)
    known = [found for found in threaded(kind_of_file, some) if found is not None]
    if task is not None:  # one class, named without a value, whose files may be masks or labels
        return "labels" if "labels" in known else "masks"
    kinds: tuple[Kind, ...] = ("colors", "labels")
    return next((kind for kind in kinds if known.count(kind) > len(known) / 5), "masks")


def _sorted(values: Iterable[Any]) -> dict[Any, int]:
    return dict(sorted(Counter(values).items()))


def _foreground(contents: FolderContents, found: Sequence[PairSummary]) -> Foreground | None:
    shares = [(one.share, str(contents.pair(number)[1][0])) for number, one in enumerate(found) if one.mask]
    if not shares:
        return None
    lowest, highest = min(shares), min(shares, key=lambda pair: (-pair[0], pair[1]))
    return Foreground(float(np.mean([share for share, _ in shares])), lowest[::-1], highest[::-1])


def _other_kinds(samples: Sequence[Sample], found: Sequence[PairSummary]) -> Iterator[Problem]:
    """What the images are that are not RGB of 8 bits, the first of each kind."""
    kinds: dict[tuple[int, str], list[int]] = {}
    for number, summary in enumerate(found[: len(samples)]):
        if summary.kind is not None:
            kinds.setdefault(summary.kind[:2], []).append(number)
    for (channels, dtype), numbers in kinds.items():
        known = [kind for number in numbers if (kind := found[number].kind) is not None]
        lowest, highest = min(kind[2] for kind in known), max(kind[3] for kind in known)
        wanted = "" if channels == 3 else f"data.channels={'gray' if channels == 1 else channels}; "
        message = (
            f"{plural(len(numbers), 'image')} of {plural(channels, 'channel')} of {dtype}, from {lowest:,.6g} to "
            f"{highest:,.6g}; {wanted}training measures the range of values, unless data.range names it"
        )
        yield Problem("values", str(samples[numbers[0]].image), message)
    stacks = Counter(str(sample.image) for sample in samples if isinstance(sample.spec.page, int))
    for path, pages in stacks.items():
        yield Problem("pages", path, f"a stack of {pages} pages")


def _equal_images(
    samples: Sequence[Sample], found: Sequence[PairSummary], firsts: Mapping[bytes, int]
) -> Iterator[Problem]:
    """Images with the same pixels as an earlier one."""
    for number, summary in enumerate(found):
        first = firsts.get(summary.image, number)
        if first != number:
            sample, other = samples[number], samples[first]
            if sample.subset != other.subset:
                message = f"is in {sample.subset}, and {other.name} in {other.subset} has the same pixels"
                yield Problem("two-parts", str(sample.image), message)
                continue
            of = "the same group" if other.group == sample.group else f"another group, {other.group}"
            yield Problem("duplicate", str(sample.image), f"has the same pixels as {other.image.name} of {of}")


def _inverted_masks(contents: FolderContents, found: Sequence[PairSummary]) -> Iterator[Problem]:
    """All masks at once, if object and background seem to be exchanged."""
    known = [summary for summary in found if summary.mask]
    if is_inverted([summary.share for summary in known], [summary.border for summary in known]):
        message = f"nearly all of {len(known)} masks are object in most of the image and along its border"
        yield Problem("inverted", str(contents.masks), message)


def _turned_masks(samples: Sequence[Sample], found: Sequence[PairSummary]) -> Iterator[Problem]:
    """All masks whose image is turned by EXIF and which are not, if most of them fit better turned as well."""
    turned = {number: summary.turned for number, summary in enumerate(found) if summary.turned is not None}
    count = sum(turned.values())
    if count > len(turned) / 2:
        message = f"EXIF turns its image and not the mask; {count} of {len(turned)} such masks fit better turned, too"
        for number in turned:
            yield Problem("turned", str(samples[number].masks[0]), message)


def _equal_masks(samples: Sequence[Sample], found: Sequence[PairSummary]) -> Iterator[Problem]:
    """Masks that are those of an earlier, different image; empty and full ones do not count."""
    known: dict[bytes, int] = {}
    for number, summary in enumerate(found):
        if summary.image and summary.mask and 0 < summary.share < 1:
            first = known.setdefault(summary.mask, number)
            if found[first].image != summary.image:
                message = f"is the mask of {samples[first].stem} pixel by pixel"
                yield Problem("same-mask", str(samples[number].masks[0]), message)


def _near_duplicates(samples: Sequence[Sample], pictures: NDArray[np.uint16]) -> Iterator[Problem]:
    @lru_cache(_THUMBNAILS)
    def look(number: int) -> NDArray[np.uint8] | None:
        try:
            return thumbnail(read_picture(samples[number].image, samples[number].spec.page))
        except DataError:  # it was removed meanwhile
            return None

    # What validates is given: groups are not drawn, and only what stands in two parts matters.
    given = any(sample.subset == "val" for sample in samples)
    groups = (sample.subset if given else f"{sample.subset}/{sample.group}" for sample in samples)
    for found in find_near_duplicates(pictures, groups, look=look):
        sample, other = samples[found.second], samples[found.first]
        how = "the mirror image of" if found.mirrored else "nearly the same picture as"
        if sample.subset != other.subset:
            message = f"is in {sample.subset}, and {how} {other.name} in {other.subset} ({found.similarity:.3f})"
            yield Problem("two-parts", str(sample.image), message)
            continue
        message = f"is {how} {other.stem} of another group (correlation {found.similarity:.3f})"
        yield Problem("near-duplicate", str(sample.image), message)


def _alike(samples: Sequence[Sample]) -> Iterator[Problem]:
    """Where every image is a group of its own, and names have few beginnings: what would make groups of these."""
    if len({sample.group for sample in samples}) < len(samples):
        return
    found = [re.match(_NUMBERED, sample.image.stem) for sample in samples]
    beginnings = Counter(match[1] for match in found if match)
    if 1 < len(beginnings) <= len(samples) / 4 and beginnings.total() == len(samples):
        yield Problem(
            "groups",
            str(samples[0].image),
            f"each image is a group of its own, and names have {len(beginnings)} beginnings, such as "
            f"{shortened(beginnings.most_common(1)[0][0])}; if these are sequences, set data.group: '{_NUMBERED}', "
            "or a pattern of shorter blocks",
        )


def _mixed_sizes(samples: Sequence[Sample], found: Sequence[PairSummary]) -> Iterator[Problem]:
    """Groups whose images differ in size, at the first image of each."""
    first: dict[str, tuple[Sample, Size]] = {}
    mixed: dict[str, set[Size]] = {}
    for sample, summary in zip(samples, found, strict=False):  # behind the samples are masks alone
        if summary.size is not None:
            _, known = first.setdefault(sample.group, (sample, summary.size))
            if summary.size != known:
                mixed.setdefault(sample.group, {known}).add(summary.size)
    for group, several in mixed.items():
        sizes = ", ".join(f"{height} x {width}" for height, width in sorted(several))
        message = f"the images of {group} are of {len(several)} sizes: {sizes}"
        yield Problem("mixed-sizes", str(first[group][0].image), message)
