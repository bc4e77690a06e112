"""A sheet of images as training uses them: their outlines, the coverage to be learnt, augmented versions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply, check_keeps_coverage, make_augment
from carvana.data.io.images import read_image, resize_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import Sample, mask_of
from carvana.errors import DataError
from carvana.utils.files import atomic_path

Image = NDArray[np.uint8]
FloatMap = NDArray[np.float32]

OUTLINE = (255, 214, 10)
"""Yellow: where the coverage is one half."""
PARTLY = (255, 149, 0)
"""Orange: pixels that the object covers in part, in the pictures of coverage."""

VERSIONS = 4
"""The number of augmented versions of each image: those of the first epochs."""

_CELL = 256  # pixels, about the height of a picture on the sheet
_GAP, _LINE, _HEAD, _MARGIN = 10, 24, 84, 22  # pixels: between pictures, for names, at the top, at the sides
_NARROWEST = 900  # pixels of the sheet: the title and the legend are side by side
_DPI = 100
_LEGEND = "yellow: the outline, where the coverage is one half    orange: pixels that the object covers in part"
_RIM = (44, 44, 46)
_DARK, _INK, _DIM = "#1c1c1e", "#f2f2f7", "#98989d"
_GROUND, _OBJECT = np.array((44, 44, 46)), np.array((242, 242, 247))


def show_samples(
    samples: Sequence[Sample],
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (128, 128),
    augment: str = "studio",
    count: int = 6,
    seed: int = 0,
) -> list[Sample]:
    """Draw some images with their masks, as training at a size uses them.

    A row has the image with its mask's outline; the coverage that the network learns, where orange pixels lie on
    the boundary; and the image as the first epochs of a training would show it. All pixels are those of the training
    size, enlarged; the outline is where the coverage is one half.

    Args:
        samples: labelled images.
        path: the PNG to write.
        size: (height, width) of the training.
        augment: a registered name: studio, seed, none, or a plugin's.
        count: number of images, each of another group if there are enough.
        seed: which images, and how they are augmented.

    Returns:
        what was drawn, in order.

    Raises:
        DataError: there are no samples, or a file cannot be used.
        UnknownNameError: no augmentation has this name.
    """
    chosen = choose(samples, count, seed=seed)
    augmentation = make_augment(augment)
    check_keeps_coverage(augmentation)
    versions = ["as the network sees it"]
    if augmentation is not None:
        versions = [f"{augment}, epoch {n + 1}" for n in range(VERSIONS)]
    heads = ["image", f"coverage at {size[0]} x {size[1]}", *versions]
    rows = [_row(samples[index], size, augmentation, len(versions), (seed, index)) for index in chosen]
    _draw(rows, heads, path, title="What training sees")
    return [samples[index] for index in chosen]


def choose(samples: Sequence[Sample], count: int, *, seed: int) -> list[int]:
    """Which samples to draw: at random, an image of each of some groups before a second one of any; sorted by name.

    Raises:
        DataError: there are none.
    """
    if not samples:
        raise DataError("no images to show")
    order = np.random.default_rng(seed).permutation(len(samples)).tolist()
    seen = Counter[str]()
    turns = []
    for index in order:
        seen[samples[index].group] += 1
        turns.append((seen[samples[index].group], index))
    chosen = [index for _, index in sorted(turns, key=lambda turn: turn[0])[:count]]
    return sorted(chosen, key=lambda index: samples[index].name)


def _row(
    sample: Sample, size: tuple[int, int], augment: Augment | None, versions: int, key: tuple[int, int]
) -> tuple[str, list[Image]]:
    """The caption and the pictures of an image."""
    image, mask = read_image(sample.image), read_mask(mask_of(sample))
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{sample.masks[0]}: the mask and its image differ in size; `carvana data check` names all such pairs"
        )
    height, width = mask.shape
    small, coverage = resize_image(image, size), _coverage(mask, size)
    pictures = [_enlarged(_painted(coverage))]
    for epoch in range(versions):
        version, share = small, coverage
        if augment is not None:
            version, share = apply(augment, small, coverage, (key[0], epoch, key[1]))
        pictures.append(_outlined(_enlarged(version), share))
    tall = pictures[0].shape[0]
    shown = (tall, max(1, round(tall * width / height)))
    first = _outlined(resize_image(image, shown), _coverage(mask, shown))
    return f"{sample.name}   {height} x {width}   object {mask.mean():.1%}", [first, *pictures]


def _coverage(mask: Image, size: tuple[int, int]) -> FloatMap:
    coverage: FloatMap = shrink_mask(mask, size).astype(np.float32) / np.float32(255)
    return coverage


def _painted(coverage: FloatMap) -> Image:
    """Coverage in colours: dark outside, light inside, orange where a pixel is covered in part."""
    share = coverage[..., None].astype(np.float64)
    partly = np.sqrt(4 * share * (1 - share))  # 0 at both ends and steep there, so that small shares are visible
    base = (1 - share) * _GROUND + share * _OBJECT
    painted: Image = np.rint((1 - partly) * base + partly * np.array(PARTLY)).astype(np.uint8)
    return painted


def _enlarged(image: Image) -> Image:
    """A picture at about a cell's height: whole pixels as squares, or shrunk by area where there are too many."""
    height, width = image.shape[:2]
    if height > 1.5 * _CELL:
        return resize_image(image, (_CELL, max(1, round(_CELL * width / height))))
    factor = max(1, round(_CELL / height))
    return np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))


def _outlined(image: Image, coverage: FloatMap) -> Image:
    """A picture with the line where the coverage, enlarged smoothly, is one half."""
    height, width = image.shape[:2]
    inside = (resize_image(coverage, (height, width)) > 0.5).view(np.uint8)
    contours, _ = cv2.findContours(inside, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    # A faint dark rim makes the line stand out from white objects as well.
    rimmed = cv2.addWeighted(image, 0.6, cv2.drawContours(image.copy(), contours, -1, _RIM, 3), 0.4, 0)
    drawn: Image = cv2.drawContours(rimmed, contours, -1, OUTLINE, 1)
    return drawn


def _draw(
    rows: Sequence[tuple[str, list[Image]]], heads: Sequence[str], path: str | os.PathLike[str], *, title: str
) -> None:
    """Lay the rows on a dark sheet, each picture in whole pixels of it, so that nothing is resampled."""
    widths = [max(pictures[column].shape[1] for _, pictures in rows) for column in range(len(heads))]
    heights = [max(picture.shape[0] for picture in pictures) + _LINE for _, pictures in rows]
    lefts = [_MARGIN + sum(widths[:column]) + column * _GAP for column in range(len(heads))]
    width = max(lefts[-1] + widths[-1] + _MARGIN, _NARROWEST)
    height = _HEAD + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_DARK)

    def write(text: str, left: float, top: float, **style: object) -> None:
        figure.text(left / width, 1 - top / height, text, va="center", **style)  # type: ignore[arg-type]

    write(title, _MARGIN, 30, size=15, weight="bold", color=_INK)
    write(_LEGEND, width - _MARGIN, 30, size=9.5, color=_DIM, ha="right")
    for head, left in zip(heads, lefts, strict=True):
        write(head, left, 68, size=10, color=_INK)
    top = _HEAD
    for (caption, pictures), tall in zip(rows, heights, strict=True):
        for picture, left in zip(pictures, lefts, strict=True):
            figure.figimage(picture, xo=left, yo=height - top - picture.shape[0])
        write(caption, lefts[0], top + tall - _LINE / 2, size=8.5, color=_DIM)
        top += tall + _GAP
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
