"""What one image and its mask tell: their sizes, and what is wrong inside of them. Each file is decoded once."""

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
from carvana.data.check.folder import Place
from carvana.data.check.problems import Problem
from carvana.data.check.resolution_limit import best_dices
from carvana.data.check.sizes import border_share, fits_better_turned
from carvana.data.io.decode import name_of, read_bytes
from carvana.data.io.images import MAX_PIXELS, MaskFile, image_size, inspect_mask, read_image
from carvana.errors import DataError, printable

T = TypeVar("T")
Size = tuple[int, int]


@dataclass
class ImageFacts:
    """A readable image: its (height, width), a digest of its pixels, and what near-duplicates are found by."""

    size: Size
    digest: bytes
    thumbnail: NDArray[np.uint8]


@dataclass
class MaskFacts:
    """A readable mask: its (height, width), the shares of it and of its border that the object covers, a digest.

    And the best Dice (sizes, 2), if it was found out.
    """

    size: Size
    share: float
    border: float
    digest: bytes
    ceilings: NDArray[np.float64] | None


@dataclass
class Facts:
    """What became known of a place; ``turned``: see :func:`carvana.data.check.sizes.fits_better_turned`."""

    place: Place
    image: ImageFacts | None = None
    mask: MaskFacts | None = None
    turned: bool | None = None
    problems: list[Problem] = field(default_factory=list)


def inspect(place: Place, *, ceilings: bool) -> Facts:
    """Read the files of a place. Safe in any thread; whatever is wrong is noted, nothing is raised.

    Args:
        place: what to read.
        ceilings: whether to find out the best Dice possible, which takes longer than all the rest.
    """
    facts = Facts(place)
    if place.image is not None:
        facts.image = _tried(_image, place.image, facts.problems)
    files = [_tried(inspect_mask, path, facts.problems) for path in place.masks]
    masks = [file.mask for file in files if file is not None]
    for path, file in zip(place.masks, files, strict=True):
        if file is not None:
            facts.problems += _odd(file, path)
    if len({mask.shape for mask in masks}) > 1:
        sizes = ", ".join(f"{height} x {width}" for height, width in {mask.shape for mask in masks})
        message = f"the masks of one image are of several sizes (height x width): {sizes}"
        facts.problems.append(Problem("size-differs", str(place.masks[0]), message))
    elif masks and len(masks) == len(place.masks):
        facts.mask = _mask(np.maximum.reduce(masks), place.masks[0], facts.problems, ceilings=ceilings)
    if facts.image is not None and facts.mask is not None and facts.image.size != facts.mask.size:
        facts.problems.append(Problem("size-differs", str(place.masks[0]), _sizes(facts.image.size, facts.mask.size)))
    elif place.image and facts.image and facts.mask and files[0]:
        with suppress(DataError):  # it is gone meanwhile
            facts.turned = fits_better_turned(place.image, np.maximum.reduce(masks), files[0].orientation)
    return facts


def _tried(read: Callable[[bytes], T], path: Path, problems: list[Problem]) -> T | None:
    """What a file is read as; None, and a problem, if it cannot be."""
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


def _image(data: bytes) -> ImageFacts:
    # A JPEG at an eighth of its size takes a third of the time, and its bytes are all gone through just the same.
    size, image = image_size(data), read_image(data, at_least=(SIDE, SIDE))
    return ImageFacts(size, _digest(image, size), thumbnail(image))


def _mask(mask: NDArray[np.uint8], path: Path, problems: list[Problem], *, ceilings: bool) -> MaskFacts:
    share = cv2.countNonZero(mask) / mask.size
    if share in (0, 1):
        kind, message = ("full-mask", "holds nothing but object") if share else ("empty-mask", "holds no object")
        problems.append(Problem(kind, str(path), message))
    size = mask.shape[0], mask.shape[1]
    return MaskFacts(
        size, share, border_share(mask), _digest(np.packbits(mask), size), best_dices(mask) if ceilings else None
    )


def _odd(file: MaskFile, path: Path) -> Iterator[Problem]:
    """What is odd about a mask file that can be read."""
    if file.frames > 1:
        yield Problem("frames", str(path), f"holds {file.frames} pictures")
    if file.between:
        message = (
            f"holds {file.values} values; {file.between:.2%} of its pixels are neither black nor white, "
            "and are taken for object above half brightness"
        )
        yield Problem("not-binary", str(path), message)


def _digest(pixels: NDArray[np.uint8], size: Size) -> bytes:
    hasher = hashlib.blake2b(repr(size).encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.digest()


def _unreadable(path: Path, data: bytes, error: DataError) -> Problem:
    # Without the file, which the problem names, and without the advice, which its kind has.
    message = str(error).removeprefix(f"{name_of(data)}: ").removesuffix("; replace the file or leave it out")
    # The file itself is sound where its values alone are the matter.
    kinds = {"not-binary": "the mask holds", "range": " bits a value, the lowest "}
    kind = next((kind for kind, words in kinds.items() if words in message), "unreadable")
    return Problem(kind, str(path), message)


def _sizes(image: Size, mask: Size) -> str:
    turned = "; one of them is turned on its side" if image == mask[::-1] else ""
    return f"the mask is {mask[0]} x {mask[1]} pixels (height x width), its image {image[0]} x {image[1]}{turned}"
