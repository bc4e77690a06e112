"""Training targets: the shares that classes cover of each pixel, in memory that does not grow with their number.

A pixel of a small image covers many pixels of the label map. Its target is the share of it that each class covers, void
covering none; all shares but the four largest are dropped, and the sum of what is kept is the pixel's valid share. So
a target takes eight bytes a pixel (twelve with 255 and more classes) however many classes there are, in the cache, in
reading processes and on their way to the network: four places for classes, and their shares in 0..255.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.augment import Augment, apply
from carvana.data.io.arrays import again
from carvana.data.io.convert import UInt8
from carvana.data.io.images import MAX_PIXELS, read_pixels, read_void, read_with_void, resize_image
from carvana.data.io.labels import Labels, read_values
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.objects import paint_labels, paint_masks
from carvana.data.samples import Sample, mask_of
from carvana.errors import DataError
from carvana.task import NODATA, Task
from carvana.utils.parallel import threaded
from carvana.utils.progress import Reporter, track

if TYPE_CHECKING:  # commands about data folders do without torch
    from torch import Tensor

MOST_SHARES = 4
"""Classes of a pixel that are kept."""


class Shares(NamedTuple):
    """The classes of each pixel, and the shares that they cover.

    Attributes:
        classes: uint8 or uint16 (4, h, w), indices of classes; which one does not matter where the share is 0.
        shares: uint8 (4, h, w), 255 times the share, the largest first.
    """

    classes: Labels
    shares: NDArray[np.uint8]


def shrink_labels(labels: Labels, size: tuple[int, int], *, void: int, target: str = "coverage") -> Shares:
    """Bring a label map to a training size.

    Args:
        labels: uint8 or uint16 (H, W), indices of classes and ``void``.
        size: (height, width).
        void: The index of what counts for nothing.
        target: "coverage", or "nearest" for one class a pixel.

    Returns:
        The exact shares, rounded to 1/255. Of more than four classes the four largest grow to what all have: the shares
        of a pixel without void sum to 1.
    """
    if target == "nearest" and labels.shape != size:
        resized: Any = cv2.resize(labels, size[::-1], interpolation=cv2.INTER_NEAREST)
        labels = resized
    if labels.shape == size:
        empty = np.zeros((MOST_SHARES - 1, *size), np.uint8)
        classes = np.where(labels == void, 0, labels)
        shares = (labels != void) * np.uint8(255)
        return Shares(np.stack([classes, *empty.astype(labels.dtype)]), np.stack([shares, *empty]))
    present: Any = np.flatnonzero(np.bincount(labels.ravel(), minlength=1)).astype(labels.dtype)
    counted = present[present != void]
    planes = np.zeros((max(1, len(counted)), *size), np.uint8)
    for plane, index in zip(planes, counted, strict=False):
        plane[:] = shrink_mask((labels == index).view(np.uint8), size)
    nothing = shrink_mask((labels == void).view(np.uint8), size) if len(counted) < len(present) else None
    return _whole(top_shares(planes, counted if len(counted) else np.zeros(1, labels.dtype)), nothing)


def top_shares(planes: NDArray[np.uint8], classes: Labels) -> Shares:
    """The four largest of 255 times the shares (P, h, w) of the classes (P,), P at least 1."""
    count, *size = planes.shape
    flat = planes.reshape(count, -1)
    first = flat.argmax(0)
    largest = np.take_along_axis(flat, first[None], 0)[0]
    found = np.zeros((MOST_SHARES, len(first)), np.uint8)
    indices = np.zeros((MOST_SHARES, len(first)), classes.dtype)
    found[0], indices[0] = largest, np.where(largest > 0, classes[first], 0)
    mixed = np.flatnonzero(flat.sum(0, dtype=np.int32) > largest)  # few pixels have more than one class
    some = flat[:, mixed]
    order = np.argsort(-some.astype(np.int16), axis=0, kind="stable")[1:MOST_SHARES]
    found[1 : 1 + len(order), mixed] = shares = np.take_along_axis(some, order, 0)
    indices[1 : 1 + len(order), mixed] = np.where(shares > 0, classes[order], 0)
    return Shares(indices.reshape(MOST_SHARES, *size), found.reshape(MOST_SHARES, *size))


def dense(found: Shares) -> tuple[NDArray[np.uint8], Labels]:
    """255 times the shares of the classes that there are, (P, h, w), and the indices of these P classes."""
    present: Any = np.flatnonzero(np.bincount(found.classes[found.shares > 0].ravel(), minlength=1))
    places = np.zeros(int(found.classes.max(initial=0)) + 1, np.intp)
    places[present] = np.arange(len(present))
    planes = np.zeros((max(1, len(present)), found.shares[0].size), np.uint8)
    for classes, shares in zip(found.classes, found.shares, strict=True):
        some = np.flatnonzero(shares)
        planes[places[classes.ravel()[some]], some] = shares.ravel()[some]
    present = present if len(present) else np.zeros(1, np.intp)
    return planes.reshape(-1, *found.shares.shape[1:]), present.astype(found.classes.dtype)


def read_shrunken(
    sample: Sample, size: tuple[int, int], *, target: str = "coverage", task: Task | None = None
) -> tuple[UInt8, UInt8]:
    """The image, uint8 (h, w, channels), and its target, uint8, at a training size, from their files.

    Args:
        sample: A labelled image.
        size: (height, width).
        target: "coverage" or "nearest", as :func:`carvana.data.io.masks.shrink_mask` takes it.
        task: What its mask, or label file, is; None for a mask of one object.

    Raises:
        DataError: there is no mask, or a file cannot be used.
    """
    task = task or Task.binary()
    image, labels = _read(sample, task, at_least=size)
    return resize_image(image, size).reshape(*size, -1), pack_labels(labels, size, task=task, target=target)


def read_labels(sample: Sample, task: Task, *, max_pixels: int = MAX_PIXELS) -> Labels:
    """The labels (H, W) of a sample: indices of classes, and ``task.void``; in a binary task 0, 1 and ``task.void``.

    In a multilabel task (K, H, W) of 0, 1 and ``task.void``. Pixels of the image that have no value are void where the
    task says so.

    Raises:
        DataError: there is no mask or label file, or it cannot be used.
    """
    labels = _labels_of(sample, task, max_pixels)
    if NODATA not in task.ignore:
        return labels
    void = read_void(sample.image, sample.spec.with_nodata, max_pixels=max_pixels)
    return _voided(labels, void, sample, task)


def _labels_of(sample: Sample, task: Task, max_pixels: int) -> Labels:
    """The labels of a sample by its label files alone."""
    categories = sample.categories
    if task.kind == "multilabel" and (categories is not None or sample.masks):
        return paint_masks(sample, task, max_pixels=max_pixels)
    if categories is not None and (not task.is_unnamed or categories <= set(task.names)):  # a usual name otherwise
        return paint_labels(sample, task, max_pixels=max_pixels)
    source = mask_of(sample)
    if task.reads_masks:
        try:
            return read_mask(source, max_pixels=max_pixels)
        except DataError as error:
            if error.kind != "not-binary" or task.is_unnamed or isinstance(source, tuple):
                raise
            source = again(source)  # a class that is named without a value is 1 in label files, and the rest background
    if isinstance(source, tuple):
        raise DataError(f"{sample.image}: has {len(source)} label files, such as {sample.masks[1]}; expected one")
    return task.encode(read_values(source, colors=task.reads_colors, max_pixels=max_pixels), sample.masks[0])


def read_at_full_size(sample: Sample, task: Task) -> tuple[UInt8, Labels]:
    """The image, uint8 (H, W, channels), and its labels, as :func:`read_labels` gives them.

    Raises:
        DataError: a file cannot be used, or the two differ in size.
    """
    image, labels = _read(sample, task)
    check_same_size(sample, image.shape, labels)
    return image, labels


def check_same_size(sample: Sample, size: tuple[int, ...], labels: Labels) -> None:
    """Refuse labels of another size than their image, (height, width, ...).

    Raises:
        DataError: they differ.
    """
    if tuple(size[:2]) == labels.shape[-2:]:
        return
    what = "mask is" if sample.annotation is None else "annotation file gives"
    raise DataError(
        f"{sample.masks[0]}: the {what} {labels.shape[-1]} x {labels.shape[-2]}, its image {size[1]} x {size[0]}: they "
        "differ in size; `carvana data check` names all such pairs"
    )


def _read(sample: Sample, task: Task, *, at_least: tuple[int, int] | None = None) -> tuple[UInt8, Labels]:
    """The image of a sample and its labels, which may differ in size; the image's file is read once."""
    if NODATA not in task.ignore:
        return read_pixels(sample.image, sample.spec, at_least=at_least), _labels_of(sample, task, MAX_PIXELS)
    image, void = read_with_void(sample.image, sample.spec.with_nodata)
    return image, _voided(_labels_of(sample, task, MAX_PIXELS), void, sample, task)


def _voided(labels: Labels, void: NDArray[np.bool_] | None, sample: Sample, task: Task) -> Labels:
    if void is None:
        return labels
    check_same_size(sample, void.shape, labels)
    return np.where(void, labels.dtype.type(task.void), labels)


def pack_labels(labels: Labels, size: tuple[int, int], *, task: Task, target: str = "coverage") -> UInt8:
    """The target of a label map at a training size: see :func:`packed_shape`."""
    if task.kind == "multiclass":
        return _pack(shrink_labels(labels, size, void=task.void, target=target))
    masks = labels if task.kind == "multilabel" else labels[None]
    planes = [shrink_mask((mask == 1).view(np.uint8), size, target=target) for mask in masks]
    if task.ignore:
        planes.append(shrink_mask((masks[0] != task.void).view(np.uint8), size, target=target))
    return planes[0] if packed_shape(size, task) == size else np.stack(planes)


def packed_shape(size: tuple[int, int], task: Task) -> tuple[int, ...]:
    """The shape of a target at a training size, uint8.

    Binary: (h, w), 255 times the share of each pixel that the object covers; with ignored values (2, h, w), the second
    plane being the share that counts. Multilabel: (K, h, w), or (K + 1, h, w). Multiclass: (8, h, w) or (12, h, w): of
    each pixel the indices of four classes (their high bytes, where there are 255 classes and more), then 255 times
    their shares.
    """
    if task.kind != "multiclass":
        planes = len(task.classes) + bool(task.ignore)
        return size if task.kind == "binary" and planes == 1 else (planes, *size)
    return (3 * MOST_SHARES if task.void > 255 else 2 * MOST_SHARES, *size)


def likeliest(target: UInt8, task: Task) -> Labels:
    """The labels of a target: of each pixel what covers most of it, as :func:`read_labels` gives them."""
    if task.kind == "multiclass":
        classes, shares = _unpacked(target)
        return np.where(shares[0] > 0, classes[0], classes.dtype.type(task.void))
    planes = target.reshape(-1, *target.shape[-2:])
    labels = (planes[: len(task.classes)] > 127).astype(task.dtype)
    if task.ignore:
        labels[:, planes[-1] < 128] = task.void
    return labels if task.kind == "multilabel" else labels[0]


def augmented(
    augment: Augment, image: UInt8, target: UInt8, key: tuple[int, int, int], task: Task
) -> tuple[UInt8, NDArray[Any]]:
    """Augment an image and its target, which moves as the shares of the classes that are in it.

    What comes in at a border without a class is void, and never the first class.

    Returns:
        The image, and the target as :func:`unpack` takes it.
    """
    image = image if image.flags.writeable else image.copy()  # augmentations may work in place
    if task.kind != "multiclass":
        shares = target.astype(np.float32) / np.float32(255)
        image, moved = apply(augment, image, shares if shares.ndim == 2 else shares.transpose(1, 2, 0), key)
        return image, moved.transpose(2, 0, 1) if moved.ndim == 3 else moved.reshape(shares.shape)
    planes, present = dense(_unpacked(target))
    given = np.ascontiguousarray(planes.transpose(1, 2, 0) / np.float32(255), dtype=np.float32)
    image, found = apply(augment, image, given, key)
    found = found[:, :, None] if found.ndim == 2 else found
    if found.ndim != 3 or found.shape[2] != len(present):
        raise DataError(f"augmentation gave a mask of shape {found.shape}, and was given {len(present)} planes")
    levels = np.ascontiguousarray((found * 255 + 0.5).astype(np.uint8).transpose(2, 0, 1))
    return image, _pack(top_shares(levels, present))


def to_tensor(target: NDArray[Any], task: Task) -> Tensor:
    """A target of one image, as it goes through a DataLoader: float32 (K or K + 1, h, w), or uint8 if multiclass."""
    import torch

    if task.kind != "multiclass":
        planes = target / np.float32(255) if target.dtype == np.uint8 else target
        return torch.from_numpy(np.ascontiguousarray(planes, dtype=np.float32)).reshape(-1, *target.shape[-2:])
    return torch.from_numpy(np.array(target))  # a copy: cached arrays are read-only


def unpack(packed: Tensor, task: Task) -> tuple[Tensor, ...]:
    """The targets of a batch, and what of them counts where the task ignores values: the arguments of a loss.

    Args:
        packed: (N, P, h, w): see :func:`to_tensor`.
        task: The task.

    Returns:
        float32 (N, K, h, w), the share of each pixel that each class covers; and (N, 1, h, w), the share that counts.
    """
    if task.kind != "multiclass":
        classes = len(task.classes)
        return (packed[:, :classes], packed[:, classes:]) if task.ignore else (packed,)
    import torch

    pixels = packed.permute(0, 2, 3, 1)  # with the classes of a pixel side by side, as in channels_last
    parts = pixels.split(MOST_SHARES, dim=3)
    indices = parts[0].long() if len(parts) == 2 else parts[0].long() + 256 * parts[1].long()
    targets = torch.zeros((*pixels.shape[:3], len(task.classes)), device=packed.device)
    if packed.is_cuda:
        targets.scatter_add_(3, indices, parts[-1].float() / 255)
    else:  # twice as fast, since few pixels have a second class; a GPU would have to wait for their number
        targets.scatter_(3, indices[..., :1], parts[-1][..., :1].float() / 255)
        image, row, column, place = (parts[-1][..., 1:] > 0).nonzero(as_tuple=True)
        more = image, row, column, place + 1
        targets[image, row, column, indices[more]] = parts[-1][more].float() / 255
    targets = targets.permute(0, 3, 1, 2)
    return (targets, targets.sum(1, keepdim=True)) if task.ignore else (targets,)


def packed_again(targets: Sequence[Tensor], task: Task) -> Tensor:
    """What :func:`unpack` makes targets of, for one image's: (K, h, w) and, where values are ignored, (1, h, w)."""
    import torch

    if task.kind != "multiclass":
        return torch.cat([each.float() for each in targets])
    shares = targets[0]
    if len(targets) > 1:  # what counts may have been made less
        counted = shares.sum(0, keepdim=True)
        shares = shares * torch.where(counted > 0, (targets[1] / counted).clamp(max=1), 1.0)
    planes = (255 * shares).round().to(torch.uint8).numpy()
    return torch.from_numpy(_pack(top_shares(planes, np.arange(len(planes), dtype=task.dtype))))


def _pack(found: Shares) -> UInt8:
    classes = found.classes
    if classes.dtype == np.uint8:
        return np.concatenate([classes, found.shares])
    return np.concatenate([(classes & 255).astype(np.uint8), (classes >> 8).astype(np.uint8), found.shares])


def _unpacked(packed: UInt8) -> Shares:
    classes: Labels = packed[:MOST_SHARES]
    if len(packed) > 2 * MOST_SHARES:
        classes = classes + 256 * packed[MOST_SHARES : 2 * MOST_SHARES].astype(np.uint16)
    return Shares(classes, packed[-MOST_SHARES:])


def _whole(found: Shares, void: NDArray[np.uint8] | None) -> Shares:
    """Give the largest share what rounding has left over, and all shares what dropped ones had.

    So that a pixel without void sums to 255 exactly.
    """
    total = found.shares.sum(0, dtype=np.int16)
    wanted = np.int16(255) if void is None else 255 - void.astype(np.int16)
    missing = wanted - total
    if np.abs(missing).max(initial=0) <= MOST_SHARES:
        found.shares[0] = np.clip(found.shares[0] + missing, 0, 255)
        return found
    some = total > 0
    factor = np.where(some, wanted / np.maximum(total, 1), 0)
    for shares in found.shares[::-1]:
        shares[:] = shares * factor + 0.5
    found.shares[0] = np.clip(found.shares[0] + (wanted - found.shares.sum(0, dtype=np.int16)) * some, 0, 255)
    return found


def balanced_weights(samples: Sequence[Sample], task: Task, reporter: Reporter) -> list[float]:
    """A weight for each class: all pixels, over its own times the number of classes (scikit-learn's "balanced").

    A class without a pixel weighs nothing.

    Raises:
        DataError: a label file cannot be used.
    """
    found = threaded(lambda sample: class_pixels(sample, task), samples)
    counts = sum(track(found, reporter, "counting pixels of classes", len(samples)), np.zeros(len(task.classes)))
    return (counts.sum() / np.maximum(counts, 1) / len(counts) * (counts > 0)).tolist()  # type: ignore[no-any-return]


def pixel_counts(labels: Labels, task: Task) -> NDArray[np.int64]:
    """The pixels of each class in labels, as :func:`read_labels` gives them, int64 (K,)."""
    if task.kind == "multilabel":
        return np.array([np.count_nonzero(mask == 1) for mask in labels], np.int64)
    counts = np.bincount(labels.ravel(), minlength=len(task.classes) + 1)
    return counts[1:2] if task.kind == "binary" else counts[: len(task.classes)]


def class_pixels(sample: Sample, task: Task) -> NDArray[np.int64]:
    """:func:`pixel_counts` of a sample, int64 (K,), read-only; a process reads an unchanged file once.

    Raises:
        DataError: there is no label file, or it cannot be used.
    """
    try:
        stats = tuple((each.st_mtime_ns, each.st_size) for each in map(os.stat, sample.masks))
    except OSError:
        stats = ()  # the error of reading says more
    return _class_pixels(sample, task, stats)


@lru_cache(maxsize=20_000)
def _class_pixels(sample: Sample, task: Task, _stats: tuple[tuple[int, int], ...]) -> NDArray[np.int64]:
    counts = pixel_counts(read_labels(sample, task), task)
    counts.flags.writeable = False
    return counts
