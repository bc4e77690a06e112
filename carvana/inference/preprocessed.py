"""Prepared images: resized to what the network sees, before batching."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.images import resize_image


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image at the network's size, uint8 (h, w, 3), and the size (H, W) of the original, which its mask gets."""

    image: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Preprocessor:
    """Resizes images for one network, by area.

    Attributes:
        size: (height, width); None leaves each image as it is.
    """

    size: tuple[int, int] | None

    def __call__(self, image: NDArray[np.uint8]) -> PreprocessedImage:
        """Resize an image, uint8 (H, W, 3)."""
        height, width = image.shape[:2]
        return PreprocessedImage(resize_image(image, self.size or (height, width)), (height, width))


@dataclass(frozen=True)
class EnsemblePreprocessor:
    """Resizes images for several networks, once for each different size.

    Attributes:
        members: the preprocessors of the networks.
    """

    members: tuple[Preprocessor, ...]

    def __call__(self, image: NDArray[np.uint8]) -> tuple[PreprocessedImage, ...]:
        """Resize an image, uint8 (H, W, 3), for each network."""
        prepared = {member: member(image) for member in set(self.members)}
        return tuple(prepared[member] for member in self.members)


def bytes_of(prepared: Any) -> int:
    """The bytes of a prepared image, for one network or for several; 0 for anything else, such as an error message."""
    if isinstance(prepared, PreprocessedImage):
        return prepared.image.nbytes
    return sum(bytes_of(part) for part in prepared) if isinstance(prepared, tuple) else 0
