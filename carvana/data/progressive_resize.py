"""Images that grow during a training: small ones for the first epochs, then the size that is wanted.

A step on small images costs little and teaches where the object is; what is left to learn at full size are its edges
(progressive resizing, as in fast.ai's DAWNBench entry of 2018; Tan and Le, EfficientNetV2, ICML 2021).
"""

from __future__ import annotations

import math

import torch

from carvana.data.dataset import Key, SegmentationDataset
from carvana.data.samples import Sample
from carvana.errors import ConfigError


class GrowingDataset(SegmentationDataset):
    """A data set that hands out the items of another one, of the same images, in the first epochs.

    Args:
        data: What it is otherwise.
        start: The same images at another size, or whole where ``data`` cuts pieces out of them.
        epochs: How many epochs ``start`` is asked for.

    Raises:
        ConfigError: the two hold different images.

    Example:
        >>> small, large = (SegmentationDataset(samples, size) for size in (256, 384), (512, 768))  # doctest: +SKIP
        >>> data = GrowingDataset(large, start=small, epochs=4)  # doctest: +SKIP
        >>> data[3, 0][0].shape, data[4, 0][0].shape  # doctest: +SKIP
        (torch.Size([3, 256, 384]), torch.Size([3, 512, 768]))
    """

    def __init__(self, data: SegmentationDataset, *, start: SegmentationDataset, epochs: int) -> None:
        super().__init__(
            data.samples, data.size, mode=data.mode, whole=data.whole, target=data.target, augment=data.augment,
            seed=data.seed, cache=data.cache,
        )  # fmt: skip
        if len(start) != len(data) or any(map(_differ, start.samples, data.samples)):
            raise ConfigError(
                f"start: its {len(start)} images are not the {len(data)} of data; expected the same ones, in order"
            )
        self.start = start
        self.start_epochs = epochs

    def __getitem__(self, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        epoch = key[0] if isinstance(key, tuple) else 0
        return self.start[key] if epoch < self.start_epochs else super().__getitem__(key)

    @property
    def largest_size(self) -> tuple[int, int]:
        """(height, width) of the largest image of any epoch: whole images may be larger than the pieces after them."""
        return max(self.start.largest_size, self.size, key=math.prod)


def _differ(one: Sample, other: Sample) -> bool:
    return one.image != other.image
