"""The contracts of augmentations and of data layouts; and what all contracts share: a break becomes one line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply, check_keeps_coverage, make_augment
from carvana.data.check.masks import check_sizes
from carvana.data.io.masks import write_mask
from carvana.data.layouts import layout_of
from carvana.data.samples import find_samples
from carvana.errors import ConfigError
from carvana.registry import Catalog, registry

_DRAWS = 16  # so that what happens in one of four is met
_CONTRAST = 150  # of an image's greys, 0 to 255


def expect(holds: object, otherwise: str) -> None:
    """Raise an AssertionError with the message ``otherwise``, unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


@contextmanager
def contract(catalog: Catalog, name: str) -> Iterator[None]:
    """Make every error within the block, of the contract or of what is tested, an AssertionError of one line.

    Args:
        catalog: Where what is tested is registered; that it is not is the caller's mistake.
        name: Its name, with which the line begins.
    """
    catalog.entry(name)
    try:
        yield
    except Exception as error:  # other people's code raises anything
        kind = "" if isinstance(error, AssertionError) and str(error) else f"{type(error).__name__}: "
        raise AssertionError(f"the {catalog.kind} '{name}': {kind}{' '.join(str(error).split())}") from error


def check_augment(name: str, *, size: tuple[int, int] = (48, 72)) -> None:
    """Check that an augmentation keeps images, masks and coverage together.

    Image and mask come back of their size and type, moved alike; shares stay shares; and the same seed gives the same,
    whatever was drawn in between. The planes (h, w, P) of several classes move as each would alone, so that what comes
    in at a border is never a class that was not there. All this holds with ``void=True``, too, where the factory takes
    that.

    An augmentation for one object alone may refuse planes with a ConfigError; they are not checked then.

    Args:
        name: An augmentation of the registry; register your own first.
        size: Height and width in pixels of the images that it is tried on.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_augment("seed")
    """
    with contract(registry.augments, name):
        for void in (False, True):
            augment = make_augment(name, void=void)
            if augment is not None:  # as "none" is, and whatever means the same
                _check_augment(augment, size)


def check_layout(name: str, folder: str | os.PathLike[str] | None = None) -> None:
    """Check that a layout leaves other folders alone and reads its own.

    Args:
        name: A layout of the registry; register your own first.
        folder: A data folder that is laid out so, with masks as large as their images; None checks only that other
            folders are left alone.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_layout("folders")
    """
    with contract(registry.layouts, name):
        _check_other_folders(name)
        if folder is None:
            return
        root = Path(folder).absolute()
        expect(layout_of(name, root) is not None, f"it does not know {folder}")
        samples = find_samples(root, layout=name)
        check_sizes(samples)
        expect(all(sample.group for sample in samples), "it finds images whose group is empty")


def _check_augment(augment: Augment, size: tuple[int, int]) -> None:
    check_keeps_coverage(augment)
    mask = _blocks(size)
    image = _image(mask)
    stays = False
    for draw in range(_DRAWS):
        coverage = _check_draw(augment, image, mask, draw)
        _, whole = apply(augment, image.copy(), np.ones(size, np.float32), (0, 0, draw))
        inside = whole > 0.999  # and not what came in at a border, or was covered up
        _check_half(augment, image, inside, draw)
        _check_alike(augment, (image, mask), (coverage, inside), draw)
        stays |= bool(inside.any())
    with suppress(ConfigError):  # it is for one object alone, and says so
        for draw in range(_DRAWS):
            _check_planes(augment, image, mask, draw)
    expect(stays, "of a mask that covers all, nothing stays")


def _check_draw(
    augment: Augment, image: NDArray[np.uint8], mask: NDArray[np.float32], draw: int
) -> NDArray[np.float32]:
    result = augment(image=image.copy(), mask=mask.copy())
    complete = isinstance(result, Mapping) and {"image", "mask"} <= result.keys()
    expect(complete, f"it must return a mapping with image and mask, got {type(result).__name__}")
    changed, coverage = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    for what, array, like in (("image", changed, image), ("mask", coverage, mask)):
        same = array.shape == like.shape and array.dtype == like.dtype
        expect(same, f"its {what} is {array.dtype} {array.shape}, and was {like.dtype} {like.shape}")
    again = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    same = np.array_equal(changed, again[0]) and np.array_equal(coverage, again[1])
    expect(same, "the same seed gives another image: draw from albumentations, random or numpy.random alone")
    return coverage


def _check_half(augment: Augment, image: NDArray[np.uint8], inside: NDArray[np.bool_], draw: int) -> None:
    """Half of each pixel covered, everywhere: whatever moves, that is what must come back."""
    _, half = apply(augment, image.copy(), np.full(inside.shape, 0.5, np.float32), (0, 0, draw))
    close = np.abs(half - 0.5)[inside] < 0.02
    expect(close.all(), "a coverage of one half everywhere does not stay so")


def _check_planes(augment: Augment, image: NDArray[np.uint8], mask: NDArray[np.float32], draw: int) -> None:
    """Planes of several classes, of which the first covers nothing, must move as each does alone."""
    left = (np.arange(mask.shape[1]) < mask.shape[1] // 2).astype(np.float32)
    planes = np.stack([0 * mask, mask * left, mask - mask * left, (1 - mask) * left, (1 - mask) * (1 - left)], axis=2)
    for given in (planes, planes[..., 1:2]):
        try:
            _, moved = apply(augment, image.copy(), given.copy(), (0, 0, draw))
        except ConfigError:
            raise
        except Exception as error:  # whatever it raises
            raise AssertionError(
                f"it fails for a mask of {given.shape[2]} planes, as several classes have: {type(error).__name__}: "
                f"{error}"
            ) from error
        same = moved.dtype == np.float32 and moved.size == given.size and moved.shape[:2] == mask.shape
        expect(same, f"its mask of planes is {moved.dtype} {moved.shape}, and was float32 {given.shape}")
        for plane, after in zip(np.moveaxis(given, 2, 0), np.moveaxis(moved.reshape(given.shape), 2, 0), strict=True):
            _, alone = apply(augment, image.copy(), plane.copy(), (0, 0, draw))
            if not plane.any():
                expect(not after.any(), "a class that is nowhere in a mask comes in; fill its borders with 0")
            close = np.abs(after - alone).max() < 0.02
            expect(close, "the planes of several classes are not moved as each is alone")


def _check_alike(
    augment: Augment,
    given: tuple[NDArray[np.uint8], NDArray[np.float32]],
    got: tuple[NDArray[np.float32], NDArray[np.bool_]],
    draw: int,
) -> None:
    """Where the image shows the object, its mask must be.

    The same draw of an image without the object shows where that is: noise, dropout, inverted light and new
    backgrounds are the same in both.
    """
    (image, mask), (coverage, inside) = given, got
    changed, _ = apply(augment, image.copy(), mask.copy(), (0, 0, draw))
    bare, _ = apply(augment, _image(0 * mask), mask.copy(), (0, 0, draw))
    shown = (changed.mean(axis=2) - bare.mean(axis=2))[inside]
    there = coverage[inside]
    if inside.mean() < 0.1 or there.std() < 0.05 or shown.std() < 0.3 * _CONTRAST * there.std():
        return  # this draw leaves too little to see
    expect(abs(float(np.corrcoef(shown, there)[0, 1])) > 0.3, "image and mask are not moved alike")


def _image(mask: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An image of the mask, whose two greys stay two when they are inverted above any threshold."""
    return np.repeat((10 + _CONTRAST * mask).astype(np.uint8)[..., None], 3, axis=2)


def _blocks(size: tuple[int, int]) -> NDArray[np.float32]:
    """A mask of blocks by chance, half of all, with shares along their sides: no moved or turned one is like it."""
    counts = [max(2, side // 6) - 1 for side in size]  # one less, so that sides fall within pixels
    generator = np.random.default_rng(0)
    halves = np.arange(counts[0] * counts[1]) % 2
    chance = min((generator.permutation(halves).reshape(counts) for _ in range(64)), key=_symmetry)
    rows, columns = (np.arange(8 * side) * count // (8 * side) for side, count in zip(size, counts, strict=True))
    shares: NDArray[np.float64] = chance[np.ix_(rows, columns)].reshape(size[0], 8, size[1], 8).mean((1, 3))
    return shares.astype(np.float32)


def _symmetry(blocks: NDArray[np.int_]) -> float:
    """How much 0s and 1s are like their own flips and half turn, 0 to 1."""
    signs = 2 * blocks - 1
    return max(abs(float((signs * np.flip(signs, axes)).mean())) for axes in (0, 1, (0, 1)))


def _check_other_folders(name: str) -> None:
    """For folders of other layouts, and an empty one, the layout must return None."""
    others = {"empty": (), "carvana": ("train", "train_masks"), "folders": ("images", "masks")}
    for other, parts in others.items():
        if other == name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            for part, suffix in zip(parts, ("", "_mask"), strict=False):
                Path(folder, part).mkdir()
                write_mask(Path(folder, part, f"0123456789ab_01{suffix}.png"), np.eye(8, dtype=np.uint8))
            found = layout_of(name, Path(folder))
            what = f"a folder with {' and '.join(parts)}" if parts else "an empty folder"
            expect(found is None, f"of {what} it returns {found!r:.80}; it must return None")
