"""What one photo and its mask tell: their sizes, and what is wrong inside of them. Each file is decoded once."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from carvana.data.ceiling import best_dices
from carvana.data.check_folders import Place
from carvana.data.duplicates import SIDE, thumbnail
from carvana.data.gif import read_runs
from carvana.data.images import MAX_PIXELS, image_size, read_image
from carvana.data.opening import name_of, open_picture, read_bytes
from carvana.data.pixels import mask_values, object_of, orientation_of, turn
from carvana.data.problems import Problem
from carvana.errors import DataError, printable

Size = tuple[int, int]


@dataclass
class PhotoFacts:
    """A readable photo: its (height, width), a digest of its pixels, and what near-duplicates are found by."""

    size: Size
    digest: bytes
    thumbnail: NDArray[np.uint8]


@dataclass
class MaskFacts:
    """A readable mask: its (height, width), the share that the object covers, a digest, the best Dice (sizes, 2)."""

    size: Size
    share: float
    digest: bytes
    ceilings: NDArray[np.float64] | None


@dataclass
class Facts:
    """What became known of a place."""

    place: Place
    photo: PhotoFacts | None = None
    mask: MaskFacts | None = None
    problems: list[Problem] = field(default_factory=list)


def inspect(place: Place, *, ceilings: bool) -> Facts:
    """Read the files of a place. Safe in any thread; whatever is wrong is noted, nothing is raised.

    Args:
        place: what to read.
        ceilings: whether to find out the best Dice possible, which takes longer than all the rest.
    """
    facts = Facts(place)
    if place.image is not None:
        data = _read(place.image, facts)
        if data is not None:
            try:
                facts.photo = _photo(data)
            except DataError as error:
                facts.problems.append(_unreadable(place.image, data, error))
    if place.mask is not None:
        data = _read(place.mask, facts)
        if data is not None:
            try:
                facts.mask = _mask(data, place.mask, facts.problems, ceilings=ceilings)
            except DataError as error:
                facts.problems.append(_unreadable(place.mask, data, error))
    if facts.photo is not None and facts.mask is not None and facts.photo.size != facts.mask.size:
        facts.problems.append(Problem("size-differs", str(place.mask), _sizes(facts.photo.size, facts.mask.size)))
    return facts


def _read(path: Path, facts: Facts) -> bytes | None:
    try:
        data = read_bytes(path, MAX_PIXELS)
    except DataError as error:
        facts.problems.append(Problem("unreadable", str(path), str(error).removeprefix(printable(f"{path}: "))))
        return None
    if not data:
        facts.problems.append(Problem("unreadable", str(path), "is empty: 0 bytes"))
        return None
    return data


def _photo(data: bytes) -> PhotoFacts:
    # A JPEG at an eighth of its size takes a third of the time, and its bytes are all gone through just the same.
    size, image = image_size(data), read_image(data, at_least=(SIDE, SIDE))
    return PhotoFacts(size, _digest(image, size), thumbnail(image))


def _mask(data: bytes, path: Path, problems: list[Problem], *, ceilings: bool) -> MaskFacts:
    runs = read_runs(data, max_pixels=MAX_PIXELS)
    mask = runs.mask() if runs is not None else _unusual_mask(data, path, problems)
    share = cv2.countNonZero(mask) / mask.size
    if share in (0, 1):
        kind, message = ("full-mask", "holds nothing but object") if share else ("empty-mask", "holds no object")
        problems.append(Problem(kind, str(path), message))
    size = mask.shape[0], mask.shape[1]
    return MaskFacts(size, share, _digest(np.packbits(mask), size), best_dices(mask) if ceilings else None)


def _unusual_mask(data: bytes, path: Path, problems: list[Problem]) -> NDArray[np.uint8]:
    """A mask as pixels, with a look at its values; only GIF files of one picture of two values are known without."""
    with open_picture(data, data, MAX_PIXELS) as picture:
        values = turn(mask_values(picture), orientation_of(picture))
        frames = _frames(picture)  # last of all: it goes through the file, away from the first picture
    if frames > 1:
        problems.append(Problem("frames", str(path), f"holds {frames} pictures"))
    mask = object_of(values, name_of(data))
    between = _between(values)
    if between:
        kinds = len(np.unique(values))
        message = (
            f"holds {kinds} values; {between:.2%} of its pixels are neither black nor white, "
            "and are taken for object above half brightness"
        )
        problems.append(Problem("not-binary", str(path), message))
    return mask


def _frames(picture: Image.Image) -> int:
    try:
        return int(getattr(picture, "n_frames", 1))
    except Exception:  # Pillow goes through what follows the first picture, and may raise nearly anything there
        return 1


def _between(values: NDArray[np.generic]) -> float:
    """The share of the pixels whose value is neither the lowest nor the highest."""
    return float(np.mean((values != values.min()) & (values != values.max())))


def _digest(pixels: NDArray[np.uint8], size: Size) -> bytes:
    hasher = hashlib.blake2b(repr(size).encode(), digest_size=16)
    hasher.update(np.ascontiguousarray(pixels).data)
    return hasher.digest()


def _unreadable(path: Path, data: bytes, error: DataError) -> Problem:
    # Without the file, which the problem names, and without the advice, which its kind has.
    message = str(error).removeprefix(f"{name_of(data)}: ").removesuffix("; replace the file or leave it out")
    # The file itself is sound where its values alone are the matter.
    return Problem("not-binary" if message.startswith("the mask holds") else "unreadable", str(path), message)


def _sizes(photo: Size, mask: Size) -> str:
    turned = "; one of them is turned on its side" if photo == mask[::-1] else ""
    return f"the mask is {mask[0]} x {mask[1]} pixels (height x width), its photo {photo[0]} x {photo[1]}{turned}"
