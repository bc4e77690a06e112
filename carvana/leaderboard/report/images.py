"""The pictures of the page: the images on which networks disagree most, with each network's errors."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.display import over_white, overlay_labels, paint_errors, paint_outline, read_shown
from carvana.data.io.images import encode_image, resize_image
from carvana.data.io.labels import Labels
from carvana.data.io.masks import MASK_SUFFIXES
from carvana.data.samples import Sample
from carvana.data.target import read_labels
from carvana.errors import DataError
from carvana.evaluation.evaluate import read_written
from carvana.leaderboard.records import WAITING, LeaderboardData, Row, ScoredImage
from carvana.leaderboard.report.text import unfinished
from carvana.task import Task

UInt8 = NDArray[np.uint8]
Scalar = TypeVar("Scalar", bound=np.generic)
Masks = Sequence[Labels]

READINGS = 240
"""The most masks that are read: some seconds at 1918 x 1280 pixels."""

_SHOWN = 12  # networks, the best ones
_THUMBNAIL = 420  # pixels, the width of a whole image
_CROP = (3 / 16, 1 / 4)  # of the image's width: height and width of the part that is shown large
_CROP_OF_LABELS = (3 / 8, 1 / 2)  # which have something to see everywhere
_MOST_CROP = 720  # pixels, the width of a part with labels: a page has up to 144 photographs of them
_LEAST_CROP = 240  # pixels: smaller parts are enlarged, so that browsers do not blur them
_DIMMED = 140  # of 255: how much of the image's light is taken away outside a mask


@dataclass(frozen=True)
class Picture:
    """An image as the page shows it; pictures are URLs that hold an image file.

    Attributes:
        image: with its scores.
        distance: how much its masks differ, in [0, 1].
        whole: all of it, small.
        frame: where ``crop`` lies in it, as CSS.
        crop: the part where the masks differ most.
        truth: a layer over the part: the outline of the true mask, or the true labels.
        errors: a layer for each network, by name.
        labels: the predicted labels of each network, by name, where classes exclude each other.
        legend: names and colours of the classes in these.
        of_class: the class whose masks are shown, where classes overlap: that in which they differ most.
    """

    image: ScoredImage
    distance: float
    whole: str
    frame: str
    crop: str
    truth: str
    errors: Mapping[str, str]
    labels: Mapping[str, str] = field(default_factory=dict)
    legend: Sequence[tuple[str, str]] = ()
    of_class: str = ""


def disagreements(board: LeaderboardData) -> list[Picture] | str:
    """The pictures, or a sentence that says why there are none."""
    if any(row.status == WAITING for row in board.rows) or (unfinished(board) and not board.samples):
        return "Images are compared when the comparison is finished."
    rows, task = [row for row in board.ranked if row.masks][:_SHOWN], board.task
    if len(rows) < 2:
        return "It takes the masks of two networks to compare them."
    samples = {sample.name: sample for sample in board.samples if _has_truth(sample) and _is_there(sample)}
    names = [row.name for row in rows]
    images = [image for image in board.images if image.image in samples and image.scores.keys() >= set(names)]
    if not images:
        return "The images could not be found when this page was written."
    chosen = most_different(
        images,
        names,
        lambda image: _read_counted(samples[image.image], rows, task),
        measure=_label_distance if task.kind == "multiclass" else mean_distance,
    )
    if not chosen:
        return "The masks could not be found when this page was written."
    try:
        return [_picture(image, distance, samples[image.image], rows, task) for image, distance in chosen]
    except DataError:  # a saved leaderboard does not know the bands of images that are not RGB
        return "The images could not be read when this page was written."


def most_different(
    images: Sequence[ScoredImage],
    names: Sequence[str],
    read: Callable[[ScoredImage], Masks | None],
    *,
    measure: Callable[[Masks], float] | None = None,
    count: int = 6,
    per_group: int = 2,
    readings: int = READINGS,
) -> list[tuple[ScoredImage, float]]:
    """The images whose masks differ most, at most ``per_group`` of one group.

    The Jaccard distance obeys the triangle inequality: the distance of two masks is at most the sum of their distances
    from the true mask, which follow from their scores. Where there are many images, those with the largest bound are
    read. (Scores are at thresholds chosen on other groups and masks are not, which moves the bound a little; the images
    are examples, and no number depends on them.)

    Args:
        images: with the scores of all networks.
        names: of the networks.
        read: gives an image's masks, uint8 (H, W) of 0 and 1, in any order, or None where some are missing.
        measure: how much they differ; None is :func:`mean_distance`.
        count: how many images.
        per_group: how many of one group.
        readings: the most masks to read.

    Returns:
        At most ``count`` images with the distance of their masks, the largest first.
    """
    measure = measure or mean_distance
    likely = sorted(images, key=lambda image: -_bound([image.scores[name] for name in names if name in image.scores]))
    masks = ((image, read(image)) for image in likely[: readings // len(names)])
    found = [(image, measure(each)) for image, each in masks if each is not None]
    chosen: list[tuple[ScoredImage, float]] = []
    for image, distance in sorted(found, key=lambda each: -each[1]):
        same_group = sum(other.group == image.group for other, _ in chosen)
        if same_group < per_group and len(chosen) < count:
            chosen.append((image, distance))
    return chosen


def mean_distance(masks: Masks) -> float:
    """The mean of 1 - intersection / union over all pairs of masks; 0 for two empty ones.

    Of classes that overlap, (K, H, W), the mean over the classes.
    """
    if masks[0].ndim == 3:
        return float(np.mean([mean_distance(of_class) for of_class in zip(*masks, strict=True)]))
    distances = []
    for a, b in combinations([np.packbits(mask) for mask in masks], 2):
        differing, either = (int(np.bitwise_count(bits).sum(dtype=np.int64)) for bits in (a ^ b, a | b))
        distances.append(differing / either if either else 0.0)
    return float(np.mean(distances)) if distances else 0.0


def _label_distance(labels: Masks) -> float:
    """The share of pixels with different labels, averaged over all pairs."""
    return float(_disagreement(labels).mean())


def _disagreement(labels: Masks) -> NDArray[np.float32]:
    """For each pixel the share of pairs with different labels there, (H, W)."""
    count: NDArray[np.uint16] = np.zeros(labels[0].shape, np.uint16)
    pairs = list(combinations(labels, 2))
    for a, b in pairs:  # not all at once: the pairs of twelve networks would take 264 bytes a pixel
        count += a != b
    return count.astype(np.float32) / np.float32(len(pairs))


def busiest_window(weights: NDArray[np.floating[Any]], size: tuple[int, int]) -> tuple[int, int]:
    """The top left corner (row, column) of the window of a size (height, width) that holds the most weight.

    Of equal windows it is the middle one, which shows what it holds in its centre.
    """
    height, width = (min(window, whole) for window, whole in zip(size, weights.shape, strict=True))
    sums = cv2.integral(weights, sdepth=cv2.CV_64F)
    held = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    corners = np.argwhere(held >= held.max() * (1 - 1e-6))
    row, column = corners[np.argmin(np.square(corners - corners.mean(axis=0)).sum(axis=1))]
    return int(row), int(column)


def errors(mask: UInt8, true: UInt8, factor: int = 1) -> UInt8:
    """A layer that shows a mask and its errors, in the colours of :mod:`carvana.inference.outputs.files`.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        true: the same of the truth.
        factor: by which the layer is enlarged.

    Returns:
        uint8 (factor H, factor W, 4), RGBA: dark outside the mask, red where it is too much, blue where it misses.
    """
    layer = _dimmed(mask)
    # Single pixels would not be seen.
    paint_errors(layer, mask, true, brush=np.ones((2, 2) if factor == 1 else (1, 1), np.uint8))
    return _enlarged(layer, factor)


def outline(true: UInt8, factor: int = 1) -> UInt8:
    """The same for the truth: dark outside it, its outline yellow."""
    layer = _enlarged(_dimmed(true), factor)
    paint_outline(layer, _enlarged(true, factor), brush=np.ones((3, 3), np.uint8))
    return layer


def _bound(scores: Sequence[float]) -> float:
    """The largest mean distance that masks with these scores can have."""
    distances = [1 - dice / (2 - dice) for dice in scores]
    return float(np.mean([min(1.0, a + b) for a, b in combinations(distances, 2)])) if len(distances) > 1 else 0.0


def _read_masks(sample: Sample, rows: Sequence[Row], task: Task) -> list[Labels] | None:
    """The masks of an image, one of each network; None where one is missing, damaged or of another size."""
    try:
        masks = [read_written(row.masks or "", task, sample) for row in rows]
    except DataError:
        return None
    return masks if len({mask.shape for mask in masks}) == 1 else None


def _read_counted(sample: Sample, rows: Sequence[Row], task: Task) -> list[Labels] | None:
    """The same, alike where the truth is ignored; None also where the truth is gone."""
    masks = _read_masks(sample, rows, task)
    if masks is None or not task.ignore:
        return masks
    try:
        true = read_labels(sample, task)
    except DataError:
        return None
    return _counted(masks, true, task) if true.shape == masks[0].shape else None


def _counted(masks: Masks, true: Labels, task: Task) -> list[Labels]:
    """The masks, 0 where the truth is ignored: what is predicted there counts for nothing."""
    found = [mask.copy() for mask in masks] if task.ignore else list(masks)
    for mask in found if task.ignore else ():
        mask[true == task.void] = 0
    return found


def _has_truth(sample: Sample) -> bool:
    """Whether the true mask can be read: the objects of an annotation file are not in a leaderboard that was saved."""
    return sample.annotation is not None or any(path.suffix.lower() in MASK_SUFFIXES for path in sample.masks)


def _is_there(sample: Sample) -> bool:
    """Whether its files are still where they were when they were evaluated."""
    return all(path.is_file() for path in (sample.image, *sample.masks))


def _picture(scored: ScoredImage, distance: float, sample: Sample, rows: Sequence[Row], task: Task) -> Picture:
    """One image as a whole, and the part where its masks differ most: the truth, then the errors of each network."""
    masks = _read_masks(sample, rows, task)
    assert masks is not None
    image, true = over_white(read_shown(sample.image, sample.spec)), read_labels(sample, task)
    of_class, counted = "", _counted(masks, true, task)
    if task.kind == "multilabel":
        index = int(np.argmax([mean_distance(each) for each in zip(*counted, strict=True)]))
        of_class, true, counted = task.names[index], true[index], [mask[index] for mask in counted]
    height, width = true.shape
    share = _CROP_OF_LABELS if task.kind == "multiclass" else _CROP
    size = round(share[0] * width), round(share[1] * width)
    if task.kind == "multiclass" and size[1] > _MOST_CROP:
        size = round(_MOST_CROP * share[0] / share[1]), _MOST_CROP
    top, left = busiest_window(_disagreement(counted), size)
    part = np.s_[top : top + size[0], left : left + size[1]]
    crop = image[part]
    factor = max(1, round(_LEAST_CROP / crop.shape[1]))
    drawn = masks if task.kind == "multiclass" else counted  # whose layer of errors leaves out what is ignored itself
    named = {row.name: mask[part] for row, mask in zip(rows, drawn, strict=True)}
    layers = _label_layers if task.kind == "multiclass" else _mask_layers
    return Picture(
        image=scored,
        distance=distance,
        whole=_data_url(_resized(image, min(1.0, _THUMBNAIL / width)), ".jpg"),
        frame=f"left: {left / width:.2%}; top: {top / height:.2%}; "
        f"width: {crop.shape[1] / width:.2%}; height: {crop.shape[0] / height:.2%}",
        crop=_data_url(_resized(crop, factor), ".jpg"),
        of_class=of_class,
        **layers(crop, true[part], named, factor, task),
    )


def _mask_layers(_: UInt8, true: Labels, masks: Mapping[str, Labels], factor: int, __: Task) -> dict[str, Any]:
    """The layers of masks: the truth's outline, and errors."""
    known = (true == 1).view(np.uint8)  # not what is ignored
    return {
        "truth": _data_url(outline(known, factor), ".png"),
        "errors": {
            name: _data_url(errors(mask.astype(np.uint8), known, factor), ".png") for name, mask in masks.items()
        },
    }


def _label_layers(
    crop: UInt8, true: Labels, predicted: Mapping[str, Labels], factor: int, task: Task
) -> dict[str, Any]:
    """The layers of label maps: the truth, the labels, and the wrong ones alone; with a legend."""
    enlarged = _resized(crop, factor)

    def drawn(found: Labels, wrong: NDArray[np.bool_] | None = None) -> str:
        where = None if wrong is None else _enlarged(wrong, factor)
        picture = overlay_labels(
            enlarged, _enlarged(found.astype(task.dtype), factor), task, legend=False, errors=where
        )
        return _data_url(picture, ".jpg")

    counts = np.bincount(np.concatenate([each.ravel() for each in (true, *predicted.values())]))
    present = [index for index in np.argsort(-counts).tolist() if counts[index] and index < len(task.classes)]
    return {
        "truth": drawn(true),
        "labels": {name: drawn(found) for name, found in predicted.items()},
        "errors": {name: drawn(found, (found != true) & (true != task.void)) for name, found in predicted.items()},
        "legend": [(task.names[index], "#" + bytes(task.palette[index].tolist()).hex()) for index in present],
    }


def _dimmed(mask: UInt8) -> UInt8:
    layer = np.zeros((*mask.shape, 4), np.uint8)
    layer[mask == 0, 3] = _DIMMED
    return layer


def _enlarged(pixels: NDArray[Scalar], factor: int) -> NDArray[Scalar]:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _resized(image: UInt8, factor: float) -> UInt8:
    height, width = image.shape[:2]
    return resize_image(image, (max(1, round(factor * height)), max(1, round(factor * width))))


def _data_url(pixels: UInt8, suffix: str) -> str:
    """Pixels as a URL that holds an image file."""
    data = encode_image(pixels, suffix, quality=84)
    return f"data:image/{'jpeg' if suffix == '.jpg' else 'png'};base64,{base64.b64encode(data).decode('ascii')}"
