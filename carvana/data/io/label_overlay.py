"""Draws label maps on images in the colours of classes, with a legend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from carvana.data.io.labels import Labels
from carvana.errors import DataError, shortened
from carvana.task import Task

_IN_LEGEND = 12  # classes; more would be higher than the image


def overlay_labels(
    image: NDArray[np.uint8],
    labels: Labels,
    task: Task,
    *,
    legend: bool = True,
    errors: NDArray[np.bool_] | None = None,
) -> NDArray[np.uint8]:
    """Paint each class in its colour over the image, with lines between classes.

    Args:
        image: uint8 (H, W, 3), RGB.
        labels: (H, W), indices of classes, or ``task.void``, which stays grey.
        task: the task.
        legend: whether a strip below names the classes that there are, the largest first.
        errors: bool (H, W): if given, only these pixels are painted.

    Returns:
        uint8 (H, W, 3), RGB; higher with a legend.

    Raises:
        DataError: the sizes differ.
    """
    if labels.shape != image.shape[:2]:
        raise DataError(f"labels of shape {labels.shape} do not lie on an image of shape {image.shape[:2]}")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    known = np.minimum(labels, len(task.classes))  # void is the place behind the last class
    colours = np.concatenate([task.palette, np.full((1, 3), 128, np.uint8)])[known]
    shown = cv2.addWeighted(grey, 0.4, colours, 0.6, 0)
    line = np.zeros(labels.shape, bool)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    shown[line] = (colours // 2)[line]
    shown[labels == task.void] = (grey // 2)[labels == task.void]
    if errors is not None:
        shown = np.where(errors[..., None], shown, cv2.convertScaleAbs(grey, alpha=0.5))
    counts = np.bincount(known.ravel(), minlength=len(task.classes) + 1)[:-1]
    present = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    return np.concatenate([shown, legend_of(task, present, image.shape[1])]) if legend and present else shown


def overlay_masks(
    image: NDArray[np.uint8], masks: Labels, task: Task, *, legend: bool = True, thickness: int | None = None
) -> NDArray[np.uint8]:
    """Paint masks that may overlap over the image: mixed colours inside, and the outline of each class in its own.

    Args:
        image: uint8 (H, W, 3), RGB.
        masks: (K, H, W), 1 where a class is; ``task.void`` is left grey.
        task: the task.
        legend: whether a strip below names the classes that there are, the largest first.
        thickness: pixels of outlines; None takes one for each 400 pixels of the image's width.

    Returns:
        uint8 (H, W, 3), RGB; higher with a legend.

    Raises:
        DataError: the sizes differ.
    """
    if masks.shape[1:] != image.shape[:2]:
        raise DataError(f"masks of shape {masks.shape} do not lie on an image of shape {image.shape[:2]}")
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    sums, times = np.zeros(image.shape, np.uint32), np.zeros(masks.shape[1:], np.uint16)
    inside = [(mask == 1).view(np.uint8) for mask in masks]
    for mask, colour in zip(inside, task.palette, strict=True):
        sums += mask[..., None] * colour.astype(np.uint32)
        times += mask
    mean = (sums / np.maximum(times, 1)[..., None]).astype(np.uint8)
    painted = np.where(times[..., None] > 0, cv2.addWeighted(grey, 0.5, mean, 0.5, 0), grey)
    painted[masks[0] == task.void] = (grey // 2)[masks[0] == task.void]
    side = 2 * (max(1, round(image.shape[1] / 400)) if thickness is None else thickness) + 1
    counts = np.array([int(mask.sum()) for mask in inside])
    present = [index for index in np.argsort(-counts, kind="stable").tolist() if counts[index]]
    for index in present:  # the smallest last, whose outline is the most hidden
        rim = inside[index] - cv2.erode(inside[index], np.ones((side, side), np.uint8))
        painted[rim > 0] = task.palette[index]
    return np.concatenate([painted, legend_of(task, present, image.shape[1])]) if legend and present else painted


def legend_of(task: Task, present: Sequence[int], width: int) -> NDArray[np.uint8]:
    """Lines of swatches and names, as wide as the image; of very many classes the first ones."""
    size = max(10, round(width / 60))
    font, row, gap = _font(size), round(1.7 * size), round(0.6 * size)
    words = {index: shortened(task.names[index]) for index in present[:_IN_LEGEND]}
    if len(present) > _IN_LEGEND:
        words[-1] = f"and {len(present) - _IN_LEGEND} more"
    places: list[tuple[int, int, int]] = []
    x, y = gap, 0
    for index, name in words.items():
        taken = (size + gap) * (index >= 0) + math.ceil(font.getlength(name)) + 2 * gap
        if x > gap and x + taken > width:
            x, y = gap, y + row
        places.append((index, x, y))
        x += taken
    picture = Image.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(picture)
    for index, x, y in places:
        if index >= 0:
            top = y + (row - size) // 2
            draw.rectangle((x, top, x + size, top + size), fill=tuple(task.palette[index].tolist()), outline="#888888")
            x += size + gap
        draw.text((x, y + row / 2), words[index], fill="black", font=font, anchor="lm")
    return np.asarray(picture)


@cache
def _font(size: int) -> Any:
    """The font that matplotlib brings, which has the letters of most of Europe; Pillow's own has no umlauts."""
    found = find_spec("matplotlib")
    for folder in (found and found.submodule_search_locations) or ():
        with suppress(OSError):
            return ImageFont.truetype(Path(folder, "mpl-data", "fonts", "ttf", "DejaVuSans.ttf"), size)
    return ImageFont.load_default(size)
