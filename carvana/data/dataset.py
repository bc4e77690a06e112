"""Samples as tensors: an image, and the share of each pixel that each class covers, at the training size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from carvana.class_values import run_lengths
from carvana.data import augment as augmentation
from carvana.data.cache import SampleCache
from carvana.data.io.images import holds_values, image_size, read_pixels
from carvana.data.io.labels import Labels
from carvana.data.samples import Sample
from carvana.data.target import (
    augmented,
    check_same_size,
    likeliest,
    pack_labels,
    packed_shape,
    read_at_full_size,
    read_labels,
    read_shrunken,
    to_tensor,
    unpack,
)
from carvana.errors import ConfigError, DataError
from carvana.task import Task

Key = int | tuple[int, int]
"""An index, or (epoch, index)."""

SOUGHT = 0.8
"""Share of the crops that hold what is sought, such as a boundary, away from which there is little to learn."""


KEPT_BYTES = 128_000_000
"""The memory that a data set may take in a process to keep the labels of images of which it cuts pieces."""


class SegmentationDataset(Dataset[tuple[torch.Tensor, ...]]):
    """Images and masks, or label files, read, brought to one size and augmented.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives the image, uint8 (C, h, w), and the target, float32 (K, h, w)
    in [0, 1]: the share of each pixel that each class covers; and, where the task ignores values, float32 (1, h, w),
    the share of each pixel that counts. An item depends only on the seed, the epoch and the index, however many
    processes read. A bare index is one of epoch 0, whose augmentation is the same each time: a training loop of your
    own needs :class:`EpochSampler`.

    Args:
        samples: Labelled images, as :func:`carvana.find_samples` gives them.
        size: (height, width) of the items.
        task: The classes of the label files; None means masks of one object.
        mode: "resize" shrinks whole images; "crop" cuts out pieces of that size.
        scale: With mode "crop", (height, width) that whole images are shrunk to before pieces are cut from them; None
            cuts them at native resolution.
        crops: What most pieces hold: "boundary", a pixel at a boundary; "class", a pixel of a class that is drawn first
            among those of the image, so that rare classes are seen; "any", just any pixel.
        whole: With mode "crop", the share of items that are the whole image, shrunk to ``size``, so that one network
            learns both scales.
        target: "coverage", or "nearest" as in the seed project.
        augment: A registered name, or a callable with albumentations' convention, or None.
        seed: Of all randomness.
        cache: The result of :func:`carvana.data.cache.build_caches` for the same samples at ``size``, for mode
            "resize", or at ``scale``. The items are the same to the bit.

    Raises:
        ConfigError: an option is unknown, or the augmentation would destroy coverage.
        DataError: on access, if a file cannot be used.

    Example:
        >>> data = SegmentationDataset(find_samples("images"), size=(512, 768))  # doctest: +SKIP
        >>> image, coverage = data[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        size: tuple[int, int] = (128, 128),
        *,
        task: Task | None = None,
        mode: Literal["resize", "crop"] = "resize",
        scale: tuple[int, int] | None = None,
        crops: Literal["boundary", "class", "any"] = "boundary",
        whole: float = 0.0,
        target: Literal["coverage", "nearest"] = "coverage",
        augment: str | augmentation.Augment | None = None,
        seed: int = 0,
        cache: SampleCache | None = None,
    ) -> None:
        if mode not in ("resize", "crop"):
            raise ConfigError(f"mode {mode!r} is unknown; expected resize or crop")
        if target not in ("coverage", "nearest"):
            raise ConfigError(f"target {target!r} is unknown; expected coverage or nearest")
        if crops not in ("boundary", "class", "any"):
            raise ConfigError(f"crops {crops!r} is unknown; expected boundary, class or any")
        if scale is not None and (mode != "crop" or scale[0] < size[0] or scale[1] < size[1]):
            raise ConfigError(
                f"scale {scale[0]}x{scale[1]}: expected mode crop, and no less than pieces of {size[0]}x{size[1]}"
            )
        self.task = task or Task.binary()
        self.samples = tuple(samples)
        self.size = size
        self.mode = mode
        self.scale = scale
        self.crops = crops
        self.whole = whole
        self.target = target
        if isinstance(augment, str):
            augment = augmentation.make_augment(augment, void=self._has_void, rgb=self._is_rgb)
        self.augment = augment
        if target == "coverage":
            augmentation.check_keeps_coverage(self.augment)
        self.seed = seed
        self.cache = cache
        self.start: SegmentationDataset | None = None
        self.start_epochs = 0
        self._memory = _LabelMemory()
        self._check_cache()

    def begin_with(self, start: SegmentationDataset, *, epochs: int) -> None:
        """Give the items of another data set of the same images in the first epochs (progressive resizing).

        A step on small images costs little and teaches where the object is; what is left to learn at full size are its
        edges (fast.ai's DAWNBench entry of 2018; Tan and Le, EfficientNetV2, ICML 2021).

        Args:
            start: The same images in the same order, smaller, or whole where this data set crops.
            epochs: The number of epochs.

        Raises:
            ConfigError: the two have different images.

        Example:
            >>> small, data = (SegmentationDataset(samples, size) for size in (256, 384), (512, 768))  # doctest: +SKIP
            >>> data.begin_with(small, epochs=4)  # doctest: +SKIP
            >>> data[3, 0][0].shape, data[4, 0][0].shape  # doctest: +SKIP
            (torch.Size([3, 256, 384]), torch.Size([3, 512, 768]))
        """
        if [sample.image for sample in start.samples] != [sample.image for sample in self.samples]:
            raise ConfigError(
                f"start: its {len(start)} images are not the {len(self)} of data; expected the same ones, in order"
            )
        self.start, self.start_epochs = start, epochs

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def _is_rgb(self) -> bool:
        return all(sample.spec.is_rgb for sample in self.samples[:1])

    @property
    def _has_void(self) -> bool:
        """Whether what lies beyond an image can count for nothing."""
        return self.task.kind == "multiclass" or bool(self.task.ignore)

    @property
    def largest_size(self) -> tuple[int, int]:
        """(height, width) of the largest image of any epoch: those of the first epochs may be larger than crops."""
        return self.size if self.start is None else max(self.start.size, self.size, key=math.prod)

    @property
    def shown_size(self) -> tuple[int, int] | None:
        """(height, width) that whole images are shrunk to; None where pieces are cut at native resolution."""
        return self.size if self.mode == "resize" else self.scale

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, ...]:
        image, packed = self.packed(key)
        return image, *(part[0] for part in unpack(packed[None], self.task))

    def packed(self, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """An item whose target takes as little memory for many classes as for a few.

        :func:`carvana.data.target.unpack` makes targets of a batch of them, on any device.
        """
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.start is not None and epoch < self.start_epochs:
            return self.start.packed((epoch, index))
        if self.mode == "resize" or self._is_whole(epoch, index):
            image, target = self._shrunken(index, self.size)
        else:
            image, target = self._cropped(index, np.random.default_rng((self.seed, epoch, index, 1)))
        moved: NDArray[Any] = target
        if self.augment is not None:
            image, moved = augmented(self.augment, image, target, (self.seed, epoch, index), self.task)
        return self._to_tensors(image, moved, index)

    def _is_whole(self, epoch: int, index: int) -> bool:
        return self.whole > 0 and np.random.default_rng((self.seed, epoch, index, 2)).random() < self.whole

    def _shrunken(self, index: int, size: tuple[int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        cached = self.cache.read(index) if self.cache is not None and self.cache.size == size else None
        return cached or read_shrunken(self.samples[index], size, target=self.target, task=self.task)

    def _cropped(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        if self.scale is not None:
            image, target = self._shrunken(index, self.scale)
            labels = likeliest(target, self.task)
            top, left = _crop_corner(labels, self.size, rng, holds=self.crops, void=self.task.void, kept=None)
            rows, columns = slice(top, top + self.size[0]), slice(left, left + self.size[1])
            return image[rows, columns], target[..., rows, columns]
        return self._cut(index, rng)

    def _cut(self, index: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """A piece at native resolution."""
        sample, void = self.samples[index], self.task.void if self._has_void else None
        kept, image = self._memory.get(index), None
        by_window = holds_values(sample.image)  # of a TIFF only the piece is decoded
        if kept is not None:
            labels = kept.labels()
            image = None if by_window else _padded(read_pixels(sample.image, sample.spec), self.size)
        if kept is None or (image is not None and image.shape[:2] != labels.shape[-2:]):  # it, or the size, was changed
            if by_window:
                labels = read_labels(sample, self.task)
                check_same_size(sample, image_size(sample.image), labels)
            else:
                image, labels = read_at_full_size(sample, self.task)
                image = _padded(image, self.size)
            labels = _padded_labels(labels, self.size, void)
            kept = self._memory.put(index, labels, boundaries=self.crops == "boundary")
        top, left = _crop_corner(labels, self.size, rng, holds=self.crops, void=self.task.void, kept=kept)
        window = np.s_[top : top + self.size[0], left : left + self.size[1]]
        piece = self._window(sample, top, left) if image is None else image[window]
        return piece, pack_labels(labels[..., *window], self.size, task=self.task)

    def _window(self, sample: Sample, top: int, left: int) -> NDArray[np.uint8]:
        sides = zip(image_size(sample.image), (top, left), self.size, strict=True)
        height, width = (min(side - first, wanted) for side, first, wanted in sides)
        return _padded(read_pixels(sample.image, sample.spec, window=(top, left, height, width)), self.size)

    def _to_tensors(
        self, image: NDArray[np.uint8], target: NDArray[Any], index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape, channels = packed_shape(self.size, self.task), len(self.samples[index].spec.channels)
        image = image[..., None] if image.ndim == 2 else image  # OpenCV drops the axis of one channel
        if image.dtype != np.uint8 or image.shape != (*self.size, channels) or target.shape != shape:
            raise DataError(
                f"{self.samples[index].image}: augmentation gave an image {image.dtype} {image.shape} and a mask "
                f"{target.shape[-2:]}; expected uint8 {(*self.size, channels)} and {tuple(self.size)}"
            )
        if channels > augmentation.MOST_AT_ONCE:
            return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), to_tensor(target, self.task)
        channels_first = torch.empty((channels, *self.size), dtype=torch.uint8)
        cv2.split(image, list(channels_first.numpy()))  # into the tensor, four times as fast as torch's permute
        return channels_first, to_tensor(target, self.task)

    def _check_cache(self) -> None:
        if self.cache is None:
            return
        if self.shown_size is None:
            raise ConfigError(f"mode {self.mode!r} takes no cache, which holds whole images only; leave cache out")
        made = len(self.cache), self.cache.size, self.cache.target
        expected = len(self.samples), tuple(self.shown_size), self.target
        if self.cache.task.model_copy(update={"kind": self.task.kind}) != self.task:
            raise ConfigError("cache: was built for another task; build it for this one")
        if made != expected:
            raise ConfigError(
                f"cache: holds {made[0]} images at {made[1]} with target {made[2]!r}; expected {expected[0]} at "
                f"{expected[1]} with {expected[2]!r}: build it for these samples"
            )


class EpochSampler(Sampler[tuple[int, int]]):
    """Keys (epoch, index) for a DataLoader, in an order that depends on the seed and the epoch alone.

    The epoch comes with every index, so that worker processes need not be started anew for each epoch.

    Args:
        length: How many samples there are.
        seed: Of all randomness.

    Example:
        >>> sampler = EpochSampler(3, seed=0)
        >>> sampler.set_epoch(1)
        >>> sorted(sampler)
        [(1, 0), (1, 1), (1, 2)]
    """

    def __init__(self, length: int, *, seed: int = 0) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for index in np.random.default_rng((self.seed, epoch)).permutation(self.length).tolist():
            yield epoch, index


def _padded(array: NDArray[Any], size: tuple[int, int], *, value: int | None = None) -> NDArray[Any]:
    """Pad an image that is smaller than the crop, with a value or else with its edge."""
    down, right = (max(0, wanted - have) for wanted, have in zip(size, array.shape[:2], strict=True))
    if not down and not right:
        return array
    if array.ndim == 3 and array.shape[2] > augmentation.MOST_AT_ONCE:
        return np.pad(array, ((0, down), (0, right), (0, 0)), mode="edge")
    border = cv2.BORDER_REPLICATE if value is None else cv2.BORDER_CONSTANT
    padded: NDArray[Any] = cv2.copyMakeBorder(array, 0, down, 0, right, border, value=value)
    return padded


def _padded_labels(labels: Labels, size: tuple[int, int], value: int | None) -> Labels:
    if labels.ndim == 2:
        return _padded(labels, size, value=value)
    return np.stack([_padded(mask, size, value=value) for mask in labels])


@dataclass(frozen=True)
class _Kept:
    """The labels of an image as runs of equal values, and the places of their boundaries.

    Of a mask of 1918 x 1280 pixels they take some 60 kB, and make it again in 0.1 ms: its file takes 7 ms, and finding
    the boundaries 4.

    Attributes:
        shape: of the labels.
        values: of each run, row after row.
        lengths: of each run.
        boundary: the pixels at a boundary, counted row after row; None where they are not needed.
    """

    shape: tuple[int, ...]
    values: Labels
    lengths: NDArray[np.int32]
    boundary: NDArray[np.int32] | None

    @classmethod
    def of(cls, labels: Labels, *, boundaries: bool) -> _Kept:
        lengths = run_lengths(labels)
        values = labels.reshape(-1)[np.cumsum(lengths) - 1]
        places = np.flatnonzero(_boundaries(labels)).astype(np.int32) if boundaries else None
        return cls(labels.shape, values, lengths.astype(np.int32), places)

    def labels(self) -> Labels:
        made: Any = np.repeat(self.values, self.lengths).reshape(self.shape)
        return cast("Labels", made)

    @property
    def nbytes(self) -> int:
        arrays = (self.values, self.lengths, self.boundary)
        return sum(each.nbytes for each in arrays if each is not None)


class _LabelMemory:
    """The labels of images of which pieces were cut, until they take ``KEPT_BYTES`` together.

    A label file is read once: what is changed in it during a training does not count.
    """

    def __init__(self) -> None:
        self._kept: dict[int, _Kept] = {}
        self._bytes = 0

    def get(self, index: int) -> _Kept | None:
        return self._kept.get(index)

    def put(self, index: int, labels: Labels, *, boundaries: bool) -> _Kept | None:
        """Keep labels, unless there is no more room, or runs would take more than the labels themselves."""
        if self._bytes >= KEPT_BYTES:
            return None
        kept = _Kept.of(labels, boundaries=boundaries)
        if index not in self._kept and kept.nbytes <= labels.nbytes:
            self._kept[index] = kept
            self._bytes += kept.nbytes
        return kept

    def __getstate__(self) -> dict[str, Any]:
        """Empty: a process that reads begins its own."""
        return {"_kept": {}, "_bytes": 0}


def _crop_corner(
    labels: Labels, size: tuple[int, int], rng: np.random.Generator, *, holds: str, void: int, kept: _Kept | None
) -> tuple[int, int]:
    """The top left corner of a crop around a random pixel, of what it holds or of the image, anywhere in the crop.

    With a random corner instead, the last row of an image would be in one crop of a thousand.
    """
    shape = labels.shape[-2:]
    pixel = rng.integers(0, shape)
    if holds != "any" and rng.random() < SOUGHT:
        if holds == "class":
            places: NDArray[Any] = np.flatnonzero(_drawn_class(labels, rng, void))
        else:
            known = None if kept is None else kept.boundary
            places = np.flatnonzero(_boundaries(labels)) if known is None else known
        if places.size:
            pixel = np.array(np.unravel_index(rng.choice(places), shape))
    top, left = np.clip(pixel - rng.integers(0, size), 0, np.array(shape) - np.array(size))
    return int(top), int(left)


def _boundaries(labels: Labels) -> NDArray[np.bool_]:
    """Where a label map, or any of several masks, has a boundary, (H, W)."""
    found = np.zeros(labels.shape[-2:], bool)
    for each in labels if labels.ndim == 3 else [labels]:
        found |= cv2.morphologyEx(each, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    return found


def _drawn_class(labels: Labels, rng: np.random.Generator, void: int) -> NDArray[np.bool_]:
    """Where a class is that is drawn among those that are there, (H, W)."""
    if labels.ndim == 3:
        present = np.flatnonzero((labels == 1).any((1, 2)))
    else:
        present = np.unique(labels)
        present = present[present != void]
    if not len(present):
        return np.zeros(labels.shape[-2:], bool)
    drawn = rng.choice(present)
    found: NDArray[np.bool_] = labels[drawn] == 1 if labels.ndim == 3 else labels == drawn
    return found
