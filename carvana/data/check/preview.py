"""A sheet of images as training uses them: their outlines, the coverage to be learnt, augmented versions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import cv2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply, check_keeps_coverage, make_augment
from carvana.data.io.display import OUTLINE, as_picture, largest_first, legend_of, overlay_classes
from carvana.data.io.images import resize_image
from carvana.data.io.masks import shrink_mask
from carvana.data.objects import check_categories
from carvana.data.samples import Sample
from carvana.data.target import pack_labels, pixel_counts, read_at_full_size, to_tensor, unpack
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.files import atomic_path

if TYPE_CHECKING:
    from carvana.data.dataset import SegmentationDataset

Image = NDArray[np.uint8]
FloatMap = NDArray[np.float32]

PARTLY = (255, 149, 0)
"""Orange: pixels that the object covers in part, in the pictures of coverage."""

VERSIONS = 4
"""The number of augmented versions of each image: those of the first epochs."""

_CELL = 256  # pixels, about the height of a picture on the sheet
_GAP, _LINE, _HEAD, _MARGIN = 10, 24, 84, 22  # pixels: between pictures, for names, at the top, at the sides
_NARROWEST = 900  # pixels of the sheet: the title and the legend are side by side
_DPI = 100
_LEGEND = "yellow: the outline, where the coverage is one half    orange: pixels that the object covers in part"
_LABELS = "each class in its colour, with lines between classes    grey: counts for nothing"
_MASKS = "each class in its colour, with its outline; colours mix where classes overlap"
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
    task: Task | None = None,
    mode: Literal["resize", "crop"] = "resize",
    scale: tuple[int, int] | None = None,
    crops: Literal["boundary", "class", "any"] = "boundary",
    whole: float = 0.0,
    target: Literal["coverage", "nearest"] = "coverage",
) -> list[Sample]:
    """Draw some images with their masks, or labels, as training at a size uses them.

    A row has the image with its mask's outline; the coverage that the network learns, where orange pixels lie on
    the boundary; and the image as the first epochs of a training would show it. All pixels are those of the training
    size, enlarged; the outline is where the coverage is one half.

    Labels are painted in the colours of their classes, and a legend names these. The second picture mixes colours where
    classes share a pixel. With mode "crop" it is left out: each epoch cuts out other pieces.

    Args:
        samples: labelled images.
        path: the PNG to write.
        size: (height, width) of the training.
        augment: a registered name: studio, seed, none, or a plugin's.
        count: number of images, each of another group if there are enough.
        seed: which images, and how they are augmented.
        task: the classes of the label files; None means masks of one object.
        mode: of label files: whole images, or pieces of the size.
        scale: (height, width) that images are shrunk to before pieces are cut; None means their own size.
        crops: what most pieces hold.
        whole: the share of whole images among the pieces.
        target: coverage or nearest.

    Returns:
        what was drawn, in order.

    Raises:
        DataError: there are no samples, or a file cannot be used.
        UnknownNameError: no augmentation has this name.
    """
    check_categories(samples, task or Task.binary())
    chosen = choose(samples, count, seed=seed)
    if task is not None and task.kind != "binary":
        from carvana.data.dataset import SegmentationDataset  # torch

        data = SegmentationDataset(
            samples, size, task=task, mode=mode, scale=scale, crops=crops, whole=whole, target=target, augment=augment,
            seed=seed,
        )  # fmt: skip
        _draw_labels(data, chosen, path, "" if augment == "none" else f"{augment}, ")
        return [samples[index] for index in chosen]
    void = task is not None and bool(task.ignore)
    augmentation = make_augment(augment, void=void, rgb=samples[0].spec.is_rgb)
    check_keeps_coverage(augmentation)
    versions = ["as the network sees it"]
    if augmentation is not None:
        versions = [f"{augment}, epoch {n + 1}" for n in range(VERSIONS)]
    heads = ["image", f"{target if target == 'coverage' else 'target'} at {size[0]} x {size[1]}", *versions]
    task = task or Task.binary()
    rows = [_row(samples[index], task, size, augmentation, len(versions), (seed, index), target) for index in chosen]
    _draw(rows, heads, path, note=_LEGEND)
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
    sample: Sample, task: Task, size: tuple[int, int], augment: Augment | None, versions: int, key: tuple[int, int],
    target: str,
) -> tuple[str, list[Image]]:  # fmt: skip
    """The caption and the pictures of an image."""
    image, labels = read_at_full_size(sample, task)
    mask = (labels == 1).view(np.uint8)
    height, width = mask.shape
    small, coverage = resize_image(image, size), _coverage(mask, size, target)
    pictures = [_enlarged(_painted(coverage))]
    for epoch in range(versions):
        version, share = small, coverage
        if augment is not None:
            version, share = apply(augment, small, coverage, (key[0], epoch, key[1]))
        pictures.append(_outlined(_enlarged(_shown(version, sample)), share))
    tall = pictures[0].shape[0]
    shown = (tall, max(1, round(tall * width / height)))
    first = _outlined(resize_image(_shown(image, sample), shown), _coverage(mask, shown))
    return f"{sample.name}   {height} x {width}   object {mask.mean():.1%}", [first, *pictures]


def _shown(image: Image, sample: Sample) -> Image:
    """An image as networks take it, (h, w, C), as a picture."""
    return image if sample.spec.is_rgb else as_picture(image, sample.spec.channels)


def _draw_labels(data: SegmentationDataset, chosen: Sequence[int], path: str | os.PathLike[str], augment: str) -> None:
    """Draw the sheet of images with labels; ``augment`` begins the headings of epochs."""
    task, whole = data.task, data.mode == "resize"
    versions = VERSIONS if augment or not whole else 1
    heads = [f"{augment}epoch {epoch + 1}" for epoch in range(versions)] if versions > 1 else ["as the network sees it"]
    heads = ["image", *([f"target at {data.size[0]} x {data.size[1]}"] if whole else []), *heads]
    rows, pixels = [], np.zeros(len(task.classes), np.int64)
    for index in chosen:
        sample = data.samples[index]
        image, labels = read_at_full_size(sample, task)
        pictures = []
        if whole:
            packed = pack_labels(labels, data.size, task=task, target=data.target)
            target = unpack(to_tensor(packed, task)[None], task)[0]
            pictures.append(_enlarged(_mixed(target[0].numpy(), task)))
        for epoch in range(versions):
            seen, shares, *_ = (part.numpy() for part in data[epoch, index])
            if task.kind == "multilabel":
                found = (shares > 0.5).astype(task.dtype)
            else:
                found = np.where(shares.sum(0) < 0.5, task.void, shares.argmax(0)).astype(task.dtype)
            seen = _shown(np.ascontiguousarray(seen.transpose(1, 2, 0)), sample)
            pictures.append(_enlarged(overlay_classes(seen, found, task, legend=False)))
        (height, width), tall = labels.shape[-2:], pictures[0].shape[0]
        shown = tall, max(1, round(tall * width / height))
        lines, columns = (np.arange(new) * old // new for new, old in zip(shown, (height, width), strict=True))
        small = labels[..., lines[:, None], columns]
        pictures.insert(0, overlay_classes(resize_image(_shown(image, sample), shown), small, task, legend=False))
        counts = pixel_counts(labels, task)
        rows.append((f"{sample.name}   {height} x {width}   classes: {np.count_nonzero(counts)}", pictures))
        pixels += counts
    note = _MASKS if task.kind == "multilabel" else _LABELS
    _draw(rows, heads, path, note=note, foot=lambda width: legend_of(task, largest_first(pixels), width))


def _mixed(shares: FloatMap, task: Task) -> Image:
    """The colours of classes (K, h, w), mixed by their shares; what counts for nothing, or has no class, is grey."""
    total = shares.sum(0)[..., None]
    rest = np.clip(1 - total, 0, 1) * (_GROUND if task.kind == "multilabel" else 128)
    colours = np.tensordot(shares, task.palette.astype(np.float64), axes=(0, 0)) / np.maximum(total, 1) + rest
    mixed: Image = np.clip(np.rint(colours), 0, 255).astype(np.uint8)
    return mixed


def _coverage(mask: Image, size: tuple[int, int], target: str = "coverage") -> FloatMap:
    coverage: FloatMap = shrink_mask(mask, size, target=target).astype(np.float32) / np.float32(255)
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
    rows: Sequence[tuple[str, list[Image]]],
    heads: Sequence[str],
    path: str | os.PathLike[str],
    *,
    note: str,
    foot: Callable[[int], Image] | None = None,
) -> None:
    """Lay the rows on a dark sheet, each picture in whole pixels of it, so that nothing is resampled.

    Args:
        rows: captions and pictures.
        heads: what stands above the columns.
        path: the file to write.
        note: what colours mean.
        foot: makes a picture of a width that stands below all rows.
    """
    widths = [max(pictures[column].shape[1] for _, pictures in rows) for column in range(len(heads))]
    heights = [max(picture.shape[0] for picture in pictures) + _LINE for _, pictures in rows]
    lefts = [_MARGIN + sum(widths[:column]) + column * _GAP for column in range(len(heads))]
    width = max(lefts[-1] + widths[-1] + _MARGIN, _NARROWEST)
    below = None if foot is None else foot(_NARROWEST - 2 * _MARGIN)
    height = _HEAD + sum(heights) + _GAP * (len(rows) - 1) + _MARGIN
    height += 0 if below is None else below.shape[0] + _GAP
    figure = Figure(figsize=(width / _DPI, height / _DPI), dpi=_DPI, facecolor=_DARK)

    def write(text: str, left: float, top: float, **style: object) -> None:
        figure.text(left / width, 1 - top / height, text, va="center", parse_math=False, **style)  # type: ignore[arg-type]

    write("What training sees", _MARGIN, 30, size=15, weight="bold", color=_INK)
    write(note, width - _MARGIN, 30, size=9.5, color=_DIM, ha="right")
    for head, left in zip(heads, lefts, strict=True):
        write(head, left, 68, size=10, color=_INK)
    top = _HEAD
    for (caption, pictures), tall in zip(rows, heights, strict=True):
        for picture, left in zip(pictures, lefts, strict=True):
            figure.figimage(picture, xo=left, yo=height - top - picture.shape[0])
        write(caption, lefts[0], top + tall - _LINE / 2, size=8.5, color=_DIM)
        top += tall + _GAP
    if below is not None:
        figure.figimage(below, xo=_MARGIN, yo=_MARGIN)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png")
