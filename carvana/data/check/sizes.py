"""Whether images and masks fit together, before any time is spent on training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.convert import turn
from carvana.data.io.images import Header, image_header, read_image, resize_image
from carvana.data.io.masks import MASK_SUFFIXES, inspect_mask, read_share
from carvana.data.layouts import warn_of_others
from carvana.data.samples import Sample
from carvana.data.target import mask_of
from carvana.errors import DataError
from carvana.utils.devices import cpu_count
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

_LOOKED_AT = 32  # masks: enough to tell what is odd about nearly all of them
_LEAST_MASKS = 3  # one or two may be of large objects
_SMALL = 128, 128  # at which outlines and edges are compared
_TOGETHER = 1024  # images that are handed to the threads at a time: work for all of them, in little memory


def check_sizes(samples: Sequence[Sample], *, workers: int | None = None) -> None:
    """Make sure that each mask is as large as its image, both upright as their EXIF says.

    Only headers are read, and images of more than 8 bits a value, which may use a small part of their range.

    Args:
        samples: Images; those without a mask are passed over.
        workers: Threads that read; None takes a few for each core, since they wait for the disk most of the time.

    Raises:
        DataError: masks are of another size than their images, or files cannot be read. The first of them is named
            and all of them are counted.
    """
    pairs = ((sample.image, mask) for sample in samples for mask in sample.masks)
    count, unreadable, wrong, wide = 0, _Problems(), _Problems(), list[Path]()
    pool = ThreadPoolExecutor(workers or min(4 * cpu_count(), 32), thread_name_prefix="carvana")
    try:
        while some := list(itertools.islice(pairs, _TOGETHER)):
            count += len(some)
            headers = list(pool.map(_header, itertools.chain.from_iterable(some)))
            for (image, mask), of_image, of_mask in zip(some, headers[::2], headers[1::2], strict=True):
                if isinstance(of_image, DataError) or isinstance(of_mask, DataError):
                    for header in (of_image, of_mask):
                        if isinstance(header, DataError):
                            unreadable.add(str(header))
                    continue
                if of_image.size != of_mask.size:
                    wrong.add(
                        f"{mask}: the mask is {of_mask.size[0]} x {of_mask.size[1]} pixels (height x width), its image "
                        f"{image.name} {of_image.size[0]} x {of_image.size[1]}"
                    )
                if of_image.bits > 8 and image not in wide[-1:]:
                    wide.append(image)
    finally:
        pool.shutdown(cancel_futures=True)
    # All of an image is read only where its values may use a small part of their range, and by few threads.
    for error in threaded(_problem_of_image, wide):
        if error is not None:
            unreadable.add(error)
    if unreadable.count:
        more = f" ({unreadable.count} of {2 * count} images and masks cannot be read)" if unreadable.count > 1 else ""
        raise DataError(f"{unreadable.first}{more}")
    if wrong.count:
        raise DataError(
            f"{wrong.first}; {wrong.count} of {count} masks differ from their images: "
            "give each the size of its image, or leave the image out"
        )


@dataclass
class _Problems:
    """The first of a kind, and how many there are."""

    first: str = ""
    count: int = 0

    def add(self, text: str) -> None:
        self.first = self.first or text
        self.count += 1


def _header(path: Path) -> Header | DataError:
    try:
        return image_header(path)
    except DataError as error:
        return error


def _problem_of_image(path: Path) -> str | None:
    try:
        read_image(path)
    except DataError as error:
        return str(error)
    return None


def warn_of_passed_over(samples: Sequence[Sample], reporter: Reporter) -> None:
    """Warn of what the folder of a training's images holds besides; not where images lie in sub-folders."""
    first = samples[0]
    if not first.depth:
        beside = any(mask.parent == first.image.parent for mask in first.masks)
        warn_of_others(first.image.parent, reporter, MASK_SUFFIXES if beside else None)


def warn_about_masks(samples: Sequence[Sample], reporter: Reporter, *, every: bool = False) -> None:
    """Warn of what is odd about the masks of a training, from a few of them.

    They are object nearly everywhere; they lie as their images are stored, which EXIF turns; or their boundaries are
    antialiased.

    Args:
        samples: Images with masks.
        reporter: Where the warnings go.
        every: Read all masks, where nothing else reads them before the training.

    Raises:
        DataError: a mask cannot be used.
    """
    if every:
        found = threaded(lambda sample: read_share(mask_of(sample)), samples)
        for _ in track(found, reporter, "checking masks", len(samples)):
            pass
    chosen = [samples[place] for place in np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).round().astype(int))]
    with ThreadPoolExecutor(cpu_count(), thread_name_prefix="carvana") as pool:
        looks = list(pool.map(_look, chosen))
    what = f"of {len(looks)} masks looked at, "
    if is_inverted([look.share for look in looks], [look.border for look in looks]):
        reporter.warn(
            f"{what}nearly all are object in most of the image and along its border: if object and background are "
            "exchanged, invert the masks (the object is white, or 1)"
        )
    turned = [look.turned for look in looks if look.turned is not None]
    if sum(turned) > len(turned) / 2:
        reporter.warn(
            f"{what}{len(turned)} belong to images that EXIF turns alone, and most of these fit better turned as well: "
            "`carvana data check` names them all"
        )
    soft = sum(look.soft for look in looks)
    if soft:
        reporter.info(f"{what}{soft} have values between black and white: object is what exceeds half brightness")


@dataclass(frozen=True)
class _Look:
    share: float
    border: float
    soft: bool
    turned: bool | None


def _look(sample: Sample) -> _Look:
    files = [inspect_mask(path) for path in sample.masks]
    mask = np.maximum.reduce([file.mask for file in files])
    turned = fits_better_turned(sample.image, mask, files[0].orientation)
    return _Look(cv2.countNonZero(mask) / mask.size, border_share(mask), any(file.between for file in files), turned)


def is_inverted(shares: Sequence[float], borders: Sequence[float]) -> bool:
    """Whether object and background seem to be exchanged in a data set's masks.

    Args:
        shares: The share of each image that the object covers.
        borders: The share of each image's outermost pixels that it covers.

    Returns:
        Whether there are three masks at least, and nine in ten are object in more than half of the image and of its
        border.
    """
    most = [share > 0.5 and border > 0.5 for share, border in zip(shares, borders, strict=True)]
    return len(most) >= _LEAST_MASKS and sum(most) >= 0.9 * len(most)


def border_share(mask: NDArray[np.uint8]) -> float:
    """The share of a mask's outermost pixels that are object."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def fits_better_turned(image: Path, mask: NDArray[np.uint8], orientation: int) -> bool | None:
    """Whether a mask was drawn on an image as it is stored, which EXIF turns.

    Sizes tell that an image was turned on its side. Where they do not, the mask's outline is compared with the image's
    edges, as it lies and turned. For one image in thirty that is wrong: what most images of a data set say counts.

    Args:
        image: The image.
        mask: uint8 (H, W) of 0/1.
        orientation: What the mask's own EXIF says, 1 to 8.

    Returns:
        None where EXIF does not turn the image alone, or sizes tell.

    Raises:
        DataError: the image cannot be read.
    """
    header = image_header(image)
    turned = turn(mask, header.orientation)
    if header.orientation in (1, orientation) or not header.size == mask.shape == turned.shape:
        return None
    edges = _edges(cv2.cvtColor(resize_image(read_image(image, at_least=_SMALL), _SMALL), cv2.COLOR_RGB2GRAY))
    as_it_lies, as_turned = (float((edges * _edges(resize_image(255 * each, _SMALL))).sum()) for each in (mask, turned))
    return as_turned > as_it_lies


def _edges(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How much each pixel differs from its neighbours."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32)
    edges: NDArray[np.float32] = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return edges
