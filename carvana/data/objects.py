"""Labels from objects, each with a category: polygons of an annotation file, or masks in a folder for each class.

Objects may overlap. Where each pixel has one class, smaller objects lie over larger ones; where it may have several, it
has all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.class_values import REST
from carvana.data.io.arrays import page_of
from carvana.data.io.convert import UInt8
from carvana.data.io.images import MAX_PIXELS, image_size
from carvana.data.io.labels import Labels, task_in_a_line
from carvana.data.io.masks import read_mask
from carvana.data.io.polygons import Box
from carvana.data.samples import Sample
from carvana.errors import DataError, listed
from carvana.task import Task

Object = tuple[str, Box, NDArray[np.uint8]]
"""A category; rows and columns; uint8 of 0 and 1 for these."""


def read_objects(sample: Sample, *, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], Iterator[Object]]:
    """The size (height, width) of the label map of an image, and its objects, which are made one by one.

    The category of a mask file is the name of its folder. An image without any file of a mask has no object.

    Raises:
        DataError: the image has one label map; or a mask cannot be read, or masks of one image differ in size, which is
            found when its turn comes.
    """
    if sample.annotation is not None:
        size = sample.annotation.size
        if size[0] * size[1] > max_pixels:
            raise DataError(f"{sample.annotation.path}: an image of {size[1]} x {size[0]} pixels is too large")
        return size, ((shape.category, *shape.mask(size)) for shape in sample.annotation.shapes)
    if not sample.by_class:
        raise DataError(
            f"{_where(sample)}: gives each pixel one class at most, and task.kind is multilabel; expected a folder of "
            "masks for each class, or polygons; or take task.kind: multiclass",
            kind="labels",
        )
    paths = sample.masks

    def read(path: Path) -> UInt8:
        return read_mask(page_of(path, sample.spec.page), max_pixels=max_pixels)

    first = [read(path) for path in paths[:1]]
    height, width = first[0].shape if first else image_size(sample.image, max_pixels=max_pixels)

    def objects() -> Iterator[Object]:
        for path in paths:
            mask = first.pop() if first else read(path)
            if mask.shape != (height, width):
                sizes = f"{paths[0]} {(height, width)}, {path} {mask.shape}"
                raise DataError(f"masks of one image differ in size (height, width): {sizes}")
            yield path.parent.name, (slice(0, height), slice(0, width)), mask

    return (height, width), objects()


def paint_labels(sample: Sample, task: Task, *, max_pixels: int = MAX_PIXELS) -> Labels:
    """The labels (H, W) of a binary or multiclass task: smaller objects, by their pixels, lie over larger ones.

    Of objects of one size the later one is on top.

    Raises:
        DataError: as for :func:`read_objects`; or a category belongs to no class, and is not ignored.
    """
    size, objects = read_objects(sample, max_pixels=max_pixels)
    categories = {"", *(sample.categories or ())}
    codes = {category: task.category_code(category) for category in categories}
    unknown = {category: -1 - place for place, category in enumerate(sorted(categories)) if codes[category] is None}
    labels = np.full(size, unknown.get("", codes[""]), np.int32 if unknown else task.dtype)
    areas = np.full(size, np.iinfo(np.int32).max, np.int32)  # of the objects on top, so that no mask need be kept
    for category, box, mask in objects:
        area = np.count_nonzero(mask)
        on_top = mask.view(bool) & (areas[box] >= area)
        labels[box][on_top] = unknown.get(category, codes[category])
        areas[box][on_top] = area
    if unknown:  # of categories that are nowhere visible nothing need be known
        counts = {category: int((labels == code).sum()) for category, code in unknown.items()}
        if any(counts.values()):
            raise task.unknown_categories({name: n for name, n in counts.items() if n}, _where(sample))
    return labels.astype(task.dtype, copy=False)


def paint_masks(sample: Sample, task: Task, *, max_pixels: int = MAX_PIXELS) -> Labels:
    """The masks (K, H, W) of a multilabel task: 1 where a class is, and ``void`` in all where a pixel is ignored.

    Raises:
        DataError: as for :func:`read_objects`.
    """
    size, objects = read_objects(sample, max_pixels=max_pixels)
    masks = np.zeros((len(task.classes), *size), np.dtype(task.dtype))
    outside = task.category_code("")
    covered = np.zeros(size if outside is not None else (0, 0), np.uint8)
    ignored = np.zeros(size, np.uint8)
    for category, box, mask in objects:
        if outside is not None:
            covered[box] |= mask
        code = task.category_code(category)
        if code == task.void:
            ignored[box] |= mask
        elif code is not None:
            masks[code][box] |= mask
    if outside == task.void:
        np.copyto(masks, task.void, where=covered == 0)
    elif outside is not None:
        masks[outside] = covered == 0
    np.copyto(masks, task.void, where=ignored.view(bool))  # not by an index, which takes 16 bytes a pixel
    return masks


def check_categories(samples: Sequence[Sample], task: Task) -> None:
    """Make sure that a class has a category of annotation files or of folders of masks, if there are any.

    Raises:
        DataError: none has. The message has the categories, and a task of them for a config.
    """
    known = [sample for sample in samples if sample.categories is not None]
    categories = sorted({category for each in known for category in each.categories or ()})
    named = {name for each in task.classes for name in each.categories}
    if not known or REST in named or not named.isdisjoint(categories):
        return
    where = _where(known[0]) if known[0].annotation else known[0].image.parent
    if not categories:
        raise DataError(f"{where}: no image has an object", kind="labels")
    overlap = {"kind": "multilabel", "classes": categories} if task.kind == "multilabel" else None
    raise DataError(
        f"{where}: no class of the task has a category of {listed(categories)}; write into the "
        f"config {task_in_a_line(overlap or suggest_classes(categories))} (`carvana data check` counts their objects)",
        kind="labels",
    )


def suggest_classes(categories: Sequence[str]) -> dict[str, Any]:
    """The task of these categories, as values of a config: one is an object, several stand beside a background.

    >>> suggest_classes(["car"]), suggest_classes(["car", "road"])
    ({'classes': ['car']}, {'classes': ['background', 'car', 'road']})
    """
    outside = [] if len(categories) == 1 or "background" in categories else ["background"]
    return {"classes": [*outside, *categories]}


def _where(sample: Sample) -> Path:
    return next(iter(sample.masks), sample.image)
