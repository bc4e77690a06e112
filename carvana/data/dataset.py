"""Samples as tensors: an image and the coverage of its mask at the training size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from carvana.data import augment as augmentation
from carvana.data.cache import SampleCache
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample, mask_of, read_shrunken
from carvana.errors import ConfigError, DataError

Key = int | tuple[int, int]
"""An index, or (epoch, index)."""

NEAR_BOUNDARY = 0.8
"""Share of the crops that contain a piece of the boundary: away from it there is little to learn."""


class SegmentationDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Images and masks, read, brought to one size and augmented.

    ``dataset[index]`` or ``dataset[epoch, index]`` gives the image, uint8 (3, h, w), and the coverage, float32
    (1, h, w) in [0, 1]: the share of each pixel that the object covers. An item depends only on the seed, the epoch and
    the index, however many processes read. A bare index is one of epoch 0, whose augmentation is the same each time:
    a training loop of your own needs :class:`EpochSampler`.

    Args:
        samples: Labelled images, as :func:`carvana.find_samples` gives them.
        size: (height, width) of the items.
        mode: "resize" shrinks whole images; "crop" cuts out pieces of that size at native resolution, most of them at
            the object's boundary.
        whole: With mode "crop", the share of items that are the whole image, shrunk to ``size``, so that one network
            learns both scales.
        target: "coverage", or "nearest" as in the seed project.
        augment: A registered name, or a callable with albumentations' convention, or None.
        seed: Of all randomness.
        cache: The result of :func:`carvana.data.cache.build_caches` for the same samples, for mode "resize". The
            items are the same to the bit.

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
        mode: Literal["resize", "crop"] = "resize",
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
        self.samples = tuple(samples)
        self.size = size
        self.mode = mode
        self.whole = whole
        self.target = target
        self.augment = augmentation.make_augment(augment) if isinstance(augment, str) else augment
        if target == "coverage":
            augmentation.check_keeps_coverage(self.augment)
        self.seed = seed
        self.cache = cache
        self.start: SegmentationDataset | None = None
        self.start_epochs = 0
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
    def largest_size(self) -> tuple[int, int]:
        """(height, width) of the largest image of any epoch: those of the first epochs may be larger than crops."""
        return self.size if self.start is None else max(self.start.size, self.size, key=math.prod)

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if self.start is not None and epoch < self.start_epochs:
            return self.start[epoch, index]
        if self.mode == "resize" or self._is_whole(epoch, index):
            image, mask = self._shrunken(index)
        else:
            image, mask = self._cropped(self.samples[index], np.random.default_rng((self.seed, epoch, index, 1)))
        coverage = mask.astype(np.float32) / np.float32(255)
        if self.augment is not None:
            image = image if image.flags.writeable else image.copy()  # augmentations may work in place
            image, coverage = augmentation.apply(self.augment, image, coverage, (self.seed, epoch, index))
        return self._to_tensors(image, coverage, index)

    def _is_whole(self, epoch: int, index: int) -> bool:
        return self.whole > 0 and np.random.default_rng((self.seed, epoch, index, 2)).random() < self.whole

    def _shrunken(self, index: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        cached = self.cache.read(index) if self.cache is not None else None
        return cached or read_shrunken(self.samples[index], self.size, target=self.target)

    def _cropped(self, sample: Sample, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        image, mask = read_image(sample.image), read_mask(mask_of(sample))
        if image.shape[:2] != mask.shape:
            raise DataError(
                f"{sample.masks[0]}: the mask is {mask.shape[1]} x {mask.shape[0]}, its image {image.shape[1]} x "
                f"{image.shape[0]}; they must have the same size"
            )
        image, mask = (_padded(array, self.size) for array in (image, mask))
        top, left = _crop_corner(mask, self.size, rng)
        window = np.s_[top : top + self.size[0], left : left + self.size[1]]
        return image[window], mask[window] * np.uint8(255)

    def _to_tensors(
        self, image: NDArray[np.uint8], coverage: NDArray[np.float32], index: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if image.dtype != np.uint8 or image.shape != (*self.size, 3) or coverage.shape != tuple(self.size):
            raise DataError(
                f"{self.samples[index].image}: augmentation gave an image {image.dtype} {image.shape} and a mask "
                f"{coverage.shape}; expected uint8 {(*self.size, 3)} and {tuple(self.size)}"
            )
        channels_first = torch.empty((3, *self.size), dtype=torch.uint8)
        cv2.split(image, list(channels_first.numpy()))  # into the tensor, four times as fast as torch's permute
        return channels_first, torch.from_numpy(np.ascontiguousarray(coverage, dtype=np.float32))[None]

    def _check_cache(self) -> None:
        if self.cache is None:
            return
        if self.mode != "resize":
            raise ConfigError(f"mode {self.mode!r} takes no cache, which holds whole images only; leave cache out")
        made = len(self.cache), self.cache.size, self.cache.target
        expected = len(self.samples), tuple(self.size), self.target
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


def _padded(array: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Repeat the edge of an image that is smaller than the crop."""
    down, right = (max(0, wanted - have) for wanted, have in zip(size, array.shape[:2], strict=True))
    if not down and not right:
        return array
    padded: NDArray[np.uint8] = cv2.copyMakeBorder(array, 0, down, 0, right, cv2.BORDER_REPLICATE)
    return padded


def _crop_corner(mask: NDArray[np.uint8], size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """The top left corner of a crop around a random pixel, of the boundary or of the image, anywhere in the crop.

    With a random corner instead, the last row of an image would be in one crop of a thousand.
    """
    pixel = rng.integers(0, mask.shape)
    if rng.random() < NEAR_BOUNDARY:
        edge = np.flatnonzero(cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)))
        if edge.size:
            pixel = np.array(np.unravel_index(rng.choice(edge), mask.shape))
    top, left = np.clip(pixel - rng.integers(0, size), 0, np.array(mask.shape) - np.array(size))
    return int(top), int(left)
