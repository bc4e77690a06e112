"""An image made ready for a network: read, checked and brought to the size at which the network sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.data.io.images import resize_image

"""What :func:`carvana.read_image` takes."""


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image as the network will see it, uint8 (h, w, 3), and the size (H, W) that its mask must have."""

    image: NDArray[np.uint8]
    size: tuple[int, int]


@dataclass(frozen=True)
class Preprocessor:
    """Brings images to one network's size, by area.

    Attributes:
        size: (height, width); None leaves each image as it is.
    """

    size: tuple[int, int] | None

    def __call__(self, image: NDArray[np.uint8]) -> PreprocessedImage:
        """Make an image, uint8 (H, W, 3), ready."""
        height, width = image.shape[:2]
        return PreprocessedImage(resize_image(image, self.size or (height, width)), (height, width))


@dataclass(frozen=True)
class EnsemblePreprocessor:
    """Brings images to the sizes of several networks, to each different one once.

    Attributes:
        members: those of the networks.
    """

    members: tuple[Preprocessor, ...]

    def __call__(self, image: NDArray[np.uint8]) -> tuple[PreprocessedImage, ...]:
        """Make an image, uint8 (H, W, 3), ready for each network."""
        prepared = {member: member(image) for member in set(self.members)}
        return tuple(prepared[member] for member in self.members)


def bytes_of(prepared: Any) -> int:
    """What an image that was made ready takes, for one network or for several; 0 for whatever else takes its place."""
    if isinstance(prepared, PreprocessedImage):
        return prepared.image.nbytes
    return sum(bytes_of(part) for part in prepared) if isinstance(prepared, tuple) else 0
