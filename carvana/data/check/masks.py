"""Checks of masks before a training: their sizes, odd ones, and the best Dice that a training size allows.

Inverted masks are object nearly everywhere; turned ones were drawn on an image as it is stored, which its EXIF turns.
The best Dice is that of a perfect network at full size, if it is trained at a smaller one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.arrays import page_of
from carvana.data.io.convert import turn
from carvana.data.io.images import ImageHeader, image_header, read_image, resize_image
from carvana.data.io.masks import inspect_mask, read_mask, share_of, shrink_mask
from carvana.data.samples import Sample, mask_of
from carvana.data.splits import Split, class_shares
from carvana.data.target import read_labels
from carvana.errors import DataError, listed
from carvana.metrics import dice_of
from carvana.task import Task
from carvana.utils.devices import cpu_count
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

SIZES: tuple[tuple[int, int], ...] = ((128, 128), (256, 256), (512, 512), (512, 768), (640, 960), (1024, 1024))
"""Usual training sizes, (height, width)."""

TARGETS = ("coverage", "nearest")

_LOOKED_AT = 32  # masks: enough to find what nearly all of them have in common
_LEAST_MASKS = 3  # one or two may be of large objects
_SMALL = 128, 128  # at which outlines and edges are compared


def check_sizes(samples: Sequence[Sample]) -> None:
    """Make sure that each mask is as large as its image, both upright as their EXIF says.

    Only headers are read.

    Args:
        samples: Images; those without a mask are left out.

    Raises:
        DataError: masks are of another size than their images, or files cannot be read. The first of them is named
            and all of them are counted.
    """
    pairs = ((sample, mask) for sample in samples for mask in sample.masks)
    count, unreadable, wrong = 0, list[str](), list[str]()
    # More threads than cores, since they wait for the disk most of the time.
    for (sample, mask), of_image, of_mask in threaded(_headers, pairs, workers=min(4 * cpu_count(), 32)):
        count += 1
        if isinstance(of_image, str) or isinstance(of_mask, str):
            unreadable += [error for error in (of_image, of_mask) if isinstance(error, str)]
            continue
        if of_image.size != of_mask.size:
            what = "mask is" if sample.annotation is None else "annotation file gives"
            wrong.append(
                f"{mask}: the {what} {of_mask.size[0]} x {of_mask.size[1]} pixels (height x width), its image "
                f"{sample.image.name} {of_image.size[0]} x {of_image.size[1]}"
            )
    if unreadable:
        number = len(unreadable)
        more = f" ({number} of {2 * count} images and masks cannot be read)" if number > 1 else ""
        raise DataError(f"{unreadable[0]}{more}")
    if wrong:
        raise DataError(
            f"{wrong[0]}; {len(wrong)} of {count} masks differ from their images: "
            "give each the size of its image, or leave the image out"
        )


def warn_about_masks(samples: Sequence[Sample], reporter: Reporter, *, every: bool = False) -> None:
    """Warn if the masks of a training are inverted, turned or antialiased, by 32 of them.

    Args:
        samples: Images with masks.
        reporter: Where the warnings go.
        every: Read all masks, if nothing else does before the training.

    Raises:
        DataError: a mask cannot be used.
    """
    if every:
        found = threaded(lambda sample: read_mask(mask_of(sample)).shape, samples)  # many masks would take much memory
        for _ in track(found, reporter, "checking masks", len(samples)):
            pass
    chosen = [samples[place] for place in spread(len(samples), _LOOKED_AT)]
    shares, borders, turns, soft = zip(*threaded(_look, chosen), strict=True)
    what = f"of {len(chosen)} mask{'s' * (len(chosen) > 1)}, "
    if is_inverted(shares, borders):
        reporter.warn(
            f"{what}nearly all are object in most of the image and along its border: if object and background are "
            "exchanged, invert the masks (the object is white, or 1)"
        )
    turned = [turn for turn in turns if turn is not None]
    if sum(turned) > len(turned) / 2:
        reporter.warn(
            f"{what}{len(turned)} belong to images that EXIF turns, are not turned, and mostly fit better turned: "
            "`carvana data check` names them"
        )
    if any(soft):
        reporter.info(
            f"{what}{sum(soft)} {'has' if sum(soft) == 1 else 'have'} values between black and white: those above half "
            "brightness count as object"
        )


def warn_about_labels(split: Split, task: Task, reporter: Reporter) -> None:
    """Read all label files of a training, and warn of classes that one side of its split, or both, do not have.

    Raises:
        DataError: a file cannot be used, or has a value that no class has. The first one is named. Or a side has no
            pixel that counts.
    """
    shares, samples = class_shares(split, task, reporter), split.train + split.val
    _refuse_void("training", split.train, task, known=any(each.train for each in shares))
    _refuse_void("validation", split.val, task, known=any(each.val for each in shares))
    if without := sum(sample.by_class and not sample.masks for sample in samples):
        reporter.info(f"{without} of {len(samples)} images have no mask in any folder of a class: no class is in them")
    sides = {
        (False, False): "in no image: {}; training cannot learn this",
        (False, True): "in no training image: {}; training cannot learn this, and it counts as wrong in validation",
        (True, False): "in no validation image: {}; its score cannot be measured",
    }
    for there, words in sides.items():
        names = [each.name for each in shares if (each.train > 0, each.val > 0) == there]
        if names:
            reporter.warn(words.format(f"the class{'es' * (len(names) > 1)} {listed(names)}"))


def _refuse_void(side: str, samples: Sequence[Sample], task: Task, *, known: bool) -> None:
    """Refuse images whose pixels all have ignored values; not where a class is known to be there."""
    if known or not task.ignore or any((read_labels(sample, task) != task.void).any() for sample in samples):
        return
    values = ", ".join(map(str, task.ignore))
    raise DataError(
        f"no {side} image has a pixel that counts: the labels of {samples[0].image} and of all others are values of "
        f"task.ignore ({values}); correct it, or divide the images otherwise: split.seed, split.val, split.file"
    )


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` of the places 0 to ``count`` - 1, evenly spread."""
    places: list[int] = np.linspace(0, count - 1, min(most, count)).round().astype(int).tolist()
    return places


def is_inverted(shares: Sequence[float], borders: Sequence[float]) -> bool:
    """Whether object and background are probably exchanged in the masks of a data set.

    Args:
        shares: The share of each image that the object covers.
        borders: The share of each image's outermost pixels that it covers.

    Returns:
        Whether there are at least three masks, and nine in ten are object in more than half of the image and of its
        border.
    """
    most = [share > 0.5 and border > 0.5 for share, border in zip(shares, borders, strict=True)]
    return len(most) >= _LEAST_MASKS and sum(most) >= 0.9 * len(most)


def border_share(mask: NDArray[np.uint8]) -> float:
    """The share of a mask's outermost pixels that are object."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def fits_better_turned(image: Path, mask: NDArray[np.uint8], orientation: int) -> bool | None:
    """Whether a mask was drawn on an image as it is stored, which EXIF turns.

    The sizes show whether an image was turned on its side. If they do not, the mask's outline is compared with the
    image's edges, as it is and turned. For one image in thirty the answer is wrong: only the majority of a data set
    counts.

    Args:
        image: The image.
        mask: uint8 (H, W) of 0/1.
        orientation: The mask's own EXIF, 1 to 8.

    Returns:
        None if EXIF does not turn the image, or turns both, or the sizes differ.

    Raises:
        DataError: the image cannot be read.
    """
    header = image_header(image)
    turned = turn(mask, header.orientation)
    if header.orientation in (1, orientation) or not header.size == mask.shape == turned.shape:
        return None
    edges = _edges(cv2.cvtColor(resize_image(read_image(image, at_least=_SMALL), _SMALL), cv2.COLOR_RGB2GRAY))
    as_it_is, as_turned = (float((edges * _edges(resize_image(255 * each, _SMALL))).sum()) for each in (mask, turned))
    return as_turned > as_it_is


@dataclass(frozen=True)
class ResolutionLimit:
    """The best mean Dice possible at a training size.

    Attributes:
        size: (height, width).
        coverage: with masks shrunk by area to a share in [0, 1].
        nearest: with masks shrunk by nearest neighbour.
    """

    size: tuple[int, int]
    coverage: float
    nearest: float

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        return {"size": list(self.size), "coverage": self.coverage, "nearest": self.nearest}


def best_dice(mask: NDArray[np.uint8], size: tuple[int, int], *, target: str = "coverage") -> float:
    """The Dice, at full size, of a network that gives exactly the target it is trained on.

    The mask is shrunk as training does, enlarged as the Predictor does, cut at one half and compared with itself.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        size: (height, width) of the training.
        target: "coverage" or "nearest".

    Returns:
        in [0, 1].

    >>> stripes = np.tile(np.array([0, 1, 1, 1, 1, 0, 0, 0], np.uint8), (8, 1))
    >>> best_dice(stripes, (8, 8)), best_dice(stripes, (2, 2))
    (1.0, 0.75)
    """
    height, width = mask.shape
    small = shrink_mask(mask, size, target=target).astype(np.float32) / np.float32(255)
    found = (resize_image(small, (height, width)) > 0.5).view(np.uint8)
    both = cv2.countNonZero(cv2.bitwise_and(found, mask))
    return float(dice_of(both, cv2.countNonZero(found) + cv2.countNonZero(mask)))


def mean_best_dice(
    samples: Sequence[Sample], size: tuple[int, int], *, target: str = "coverage", task: Task | None = None
) -> float:
    """The mean of :func:`best_dice` over the masks of images, read by as many threads as there are cores."""

    def limit(sample: Sample) -> float:
        mask = (read_labels(sample, task or Task.binary()) == 1).view(np.uint8)
        return best_dice(mask, size, target=target)

    return float(np.mean(list(threaded(limit, (sample for sample in samples if sample.mask is not None)))))


def best_dices(mask: NDArray[np.uint8], sizes: Sequence[tuple[int, int]] = SIZES) -> NDArray[np.float64]:
    """:func:`best_dice` for some sizes and both targets: (sizes, 2), coverage first."""
    return np.array([[best_dice(mask, size, target=target) for target in TARGETS] for size in sizes])


def mean_ceilings(
    dices: Iterable[NDArray[np.float64]], sizes: Sequence[tuple[int, int]] = SIZES
) -> tuple[ResolutionLimit, ...]:
    """The mean over masks of what :func:`best_dices` gave; nothing for no masks."""
    rows = list(dices)
    if not rows:
        return ()
    means = np.mean(rows, axis=0)
    return tuple(ResolutionLimit(size, float(c), float(n)) for size, (c, n) in zip(sizes, means, strict=True))


def _headers(pair: tuple[Sample, Path]) -> tuple[tuple[Sample, Path], ImageHeader | str, ImageHeader | str]:
    sample, mask = pair
    known = sample.annotation
    return pair, _or_error(sample.image), _or_error(mask) if known is None else ImageHeader(known.size)


def _or_error(path: Path) -> ImageHeader | str:
    """The header of a file, or the message about one that cannot be read."""
    try:
        return image_header(path)
    except DataError as error:
        return str(error)


def _look(sample: Sample) -> tuple[float, float, bool | None, bool]:
    """The shares of a mask and of its border that are object, whether it fits better turned, whether it is soft."""
    files = [inspect_mask(page_of(path, sample.spec.page)) for path in sample.masks]
    mask = np.maximum.reduce([file.mask for file in files])
    turned = fits_better_turned(sample.image, mask, files[0].orientation)
    return share_of(mask), border_share(mask), turned, any(file.between for file in files)


def _edges(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The gradient at each pixel."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32)
    edges: NDArray[np.float32] = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return edges
