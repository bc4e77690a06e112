"""A labelled image at the training size, for data sets and for the cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.images import read_image, resize_image
from carvana.data.io.masks import read_coverage
from carvana.data.samples import Sample
from carvana.errors import DataError


def read_shrunken(sample: Sample, size: tuple[int, int], *, target: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The image, uint8 (h, w, 3), and 255 times the coverage of its mask, uint8 (h, w).

    Args:
        sample: A labelled image.
        size: (height, width).
        target: "coverage" or "nearest", as :func:`carvana.data.io.masks.shrink_mask` takes it.

    Raises:
        DataError: there is no mask, or a file cannot be used.
    """
    image = resize_image(read_image(sample.image, at_least=size), size)
    return image, read_coverage(mask_of(sample), size, target=target)


def mask_of(sample: Sample) -> Path | tuple[Path, ...]:
    """The file of the mask, or several that are joined; a DataError if there is none."""
    if sample.mask is None:
        raise DataError(f"{sample.image}: has no mask; training and evaluation need one")
    return sample.mask
