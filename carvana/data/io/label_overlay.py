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
