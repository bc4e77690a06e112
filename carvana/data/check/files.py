"""The sizes, the problems and the digests of one image and its mask. Each file is decoded once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.check.duplicates import SIDE, thumbnail
from carvana.data.check.folder import FilePair
from carvana.data.check.odd_masks import border_share, fits_better_turned
from carvana.data.check.problems import Problem
from carvana.data.check.resolution_limit import best_dices
from carvana.data.io.decode import name_of, read_bytes
from carvana.data.io.images import MAX_PIXELS, image_size, read_image
from carvana.data.io.masks import MaskFile, inspect_mask
from carvana.errors import DataError, printable

T = TypeVar("T")
Size = tuple[int, int]


@dataclass
class ImageSummary:
    """A readable image: its (height, width), a digest of its pixels, and its thumbnail, to find near-duplicates."""

    size: Size
    digest: bytes
    thumbnail: NDArray[np.uint8]


@dataclass
class MaskSummary:
    """A readable mask: its (height, width), the shares of it and of its border that the object covers, a digest.

    ``ceilings`` is the best Dice possible, (sizes, 2), if it was computed.
    """

    size: Size
    share: float
    border: float
    digest: bytes
    ceilings: NDArray[np.float64] | None


@dataclass
class PairSummary:
    """An image and its mask, as far as they can be read; ``turned``: see :func:`.odd_masks.fits_better_turned`."""

    pair: FilePair
    image: ImageSummary | None = None
    mask: MaskSummary | None = None
    turned: bool | None = None
    problems: list[Problem] = field(default_factory=list)


def inspect(pair: FilePair, *, ceilings: bool) -> PairSummary:
    """Read the files of a pair. Safe in any thread; problems are listed, nothing is raised.

    Args:
        pair: the files.
        ceilings: compute the best Dice possible, which takes longer than all the rest.
    """
    summary = PairSummary(pair)
    if pair.image is not None:
        summary.image = _read(_image, pair.image, summary.problems)
    files = [_read(inspect_mask, path, summary.problems) for path in pair.masks]
    masks = [file.mask for file in files if file is not None]
    for path, file in zip(pair.masks, files, strict=True):
        if file is not None:
            summary.problems += _odd(file, path)
    if len({mask.shape for mask in masks}) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in {mask.shape for mask in masks})
        message = f"the masks of one image are of several sizes (height x width): {sizes}"
        summary.problems.append(Problem("size-differs", str(pair.masks[0]), message))
    elif masks and len(masks) == len(pair.masks):
        summary.mask = _mask(np.maximum.reduce(masks), pair.masks[0], summary.problems, ceilings=ceilings)
    if summary.image is not None and summary.mask is not None and summary.image.size != summary.mask.size:
        message = _sizes(summary.image.size, summary.mask.size)
        summary.problems.append(Problem("size-differs", str(pair.masks[0]), message))
    elif pair.image and summary.image and summary.mask and files[0]:
        with suppress(DataError):  # it was removed meanwhile
            summary.turned = fits_better_turned(pair.image, np.maximum.reduce(masks), files[0].orientation)
    return summary


def _read(read: Callable[[bytes], T], path: Path, problems: list[Problem]) -> T | None:
    """The result of ``read``; None, and a problem in the list, if the file cannot be read."""
    try:
        data = read_bytes(path, MAX_PIXELS)
    except DataError as error:
        problems.append(Problem("unreadable", str(path), str(error).removeprefix(printable(f"{path}: "))))
        return None
    if not data:
        problems.append(Problem("unreadable", str(path), "is empty: 0 bytes"))
        return None
    try:
        return read(data)
    except DataError as error:
        problems.append(_unreadable(path, data, error))
        return None


def _image(data: bytes) -> ImageSummary:
    # A JPEG at an eighth of its size takes a third of the time, and all of its bytes are still read.
    size, image = image_size(data), read_image(data, at_least=(SIDE, SIDE))
    return ImageSummary(size, _digest(image, size), thumbnail(image))


def _mask(mask: NDArray[np.uint8], path: Path, problems: list[Problem], *, ceilings: bool) -> MaskSummary:
    share = cv2.countNonZero(mask) / mask.size
    if share in (0, 1):
        kind, message = ("full-mask", "is object everywhere") if share else ("empty-mask", "has no object")
        problems.append(Problem(kind, str(path), message))
    size = mask.shape[0], mask.shape[1]
    return MaskSummary(
        size, share, border_share(mask), _digest(np.packbits(mask), size), best_dices(mask) if ceilings else None
    )


def _odd(file: MaskFile, path: Path) -> Iterator[Problem]:
    """The problems of a mask file that can be read."""
    if file.frames > 1:
        yield Problem("frames", str(path), f"has {file.frames} pictures")
    if file.between:
        message = (
            f"has {file.values} values; {file.between:.2%} of its pixels are neither black nor white: "
            "those above half brightness count as object"
        )
        yield Problem("not-binary", str(path), message)


def _digest(pixels: NDArray[np.uint8], size: Size) -> bytes:
    hasher = hashlib.blake2b(repr(size).encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.digest()


def _unreadable(path: Path, data: bytes, error: DataError) -> Problem:
    # Without the file, which the problem names, and without the advice, which its kind has.
    message = str(error).removeprefix(f"{name_of(data)}: ").removesuffix("; replace the file or leave it out")
    return Problem(error.kind, str(path), message)


def _sizes(image: Size, mask: Size) -> str:
    turned = "; one of them is turned on its side" if image == mask[::-1] else ""
    return f"the mask is {mask[0]} x {mask[1]} pixels (height x width), its image {image[0]} x {image[1]}{turned}"
