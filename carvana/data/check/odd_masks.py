"""Warns of masks that are probably wrong: inverted, turned, or antialiased.

Inverted masks are object nearly everywhere; turned ones were drawn on an image as it is stored, which its EXIF turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.convert import turn
from carvana.data.io.images import image_header, read_image, resize_image
from carvana.data.io.masks import inspect_mask, read_share
from carvana.data.samples import Sample, mask_of
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

_LOOKED_AT = 32  # masks: enough to find what nearly all of them have in common
_LEAST_MASKS = 3  # one or two may be of large objects
_SMALL = 128, 128  # at which outlines and edges are compared


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
        found = threaded(lambda sample: read_share(mask_of(sample)), samples)
        for _ in track(found, reporter, "checking masks", len(samples)):
            pass
    chosen = [samples[place] for place in np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).round().astype(int))]
    looks = list(threaded(_look, chosen))
    what = f"of {len(looks)} masks, "
    if is_inverted([look.share for look in looks], [look.border for look in looks]):
        reporter.warn(
            f"{what}nearly all are object in most of the image and along its border: if object and background are "
            "exchanged, invert the masks (the object is white, or 1)"
        )
    turned = [look.turned for look in looks if look.turned is not None]
    if sum(turned) > len(turned) / 2:
        reporter.warn(
            f"{what}{len(turned)} belong to images that EXIF turns, are not turned, and mostly fit better turned: "
            "`carvana data check` names them"
        )
    soft = sum(look.soft for look in looks)
    if soft:
        reporter.info(f"{what}{soft} have values between black and white: those above half brightness count as object")


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


def _edges(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The gradient at each pixel."""
    smooth = cv2.GaussianBlur(image, (0, 0), 1).astype(np.float32)
    edges: NDArray[np.float32] = np.hypot(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    return edges
