"""The scale: how large the network sees an image, and the preprocessors that resize images to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.data.io.images import resize_image
from carvana.errors import ConfigError, did_you_mean

Scale = str | tuple[int, int]
"""``"trained"``, ``"native"``, ``"HEIGHTxWIDTH"`` or (height, width)."""

SMALLEST, LARGEST = 8, 16384
"""Bounds of either side, in pixels: those of data.size in a config."""


def network_size(scale: Scale, trained_size: tuple[int, int] | None) -> tuple[int, int] | None:
    """The size to which images are resized for the network.

    Args:
        scale: ``"trained"`` is the size that the network was trained at, ``"native"`` the image's own.
        trained_size: (height, width) of the network's training, None if it saw images at their own size.

    Returns:
        (height, width), each from 8 to 16384, or None for each image's own size.

    Raises:
        ConfigError: the scale is not valid.

    >>> network_size("trained", (128, 128)), network_size("640x960", (128, 128)), network_size("native", (128, 128))
    ((128, 128), (640, 960), None)
    """
    if scale == "native":
        return None
    if scale == "trained":
        return trained_size
    if isinstance(scale, str):
        match = re.fullmatch(r"\s*(\d{1,9})\s*x\s*(\d{1,9})\s*", scale)
        size: tuple[int, ...] = tuple(int(number) for number in match.groups()) if match else ()
    else:
        size = tuple(scale)
    if len(size) != 2 or min(size) < SMALLEST or max(size) > LARGEST:
        hint = did_you_mean(scale, ["trained", "native"]) if isinstance(scale, str) else ""
        raise ConfigError(
            f"scale {scale!r} cannot be used; expected trained, native or HEIGHTxWIDTH such as 640x960, each side "
            f"{SMALLEST} to {LARGEST} pixels{hint}"
        )
    return size[0], size[1]


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image at the network's size, uint8 (h, w, 3), and the size (H, W) of the original, which its mask gets.

    A tensor is sent to another process without a copy.
    """

    image: Tensor
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
        resized = resize_image(image, self.size or (height, width))
        return PreprocessedImage(torch.from_numpy(np.require(resized, requirements="W")), (height, width))


@dataclass(frozen=True)
class EnsemblePreprocessor:
    """Resizes images for several networks, once for each different size.

    Attributes:
        members: the preprocessors of the networks.
    """

    members: tuple[Any, ...]

    def __call__(self, image: NDArray[np.uint8]) -> tuple[Any, ...]:
        """Resize an image, uint8 (H, W, 3), for each network."""
        prepared = {member: member(image) for member in set(self.members)}
        return tuple(prepared[member] for member in self.members)


def tensors_of(prepared: Any) -> list[Tensor]:
    """The tensors of a prepared image, for one network or for several; none of anything else, such as a message."""
    if isinstance(prepared, PreprocessedImage):
        return [prepared.image]
    return [tensor for part in prepared for tensor in tensors_of(part)] if isinstance(prepared, tuple) else []


def bytes_of(prepared: Any) -> int:
    """The bytes of a prepared image."""
    return sum(tensor.nbytes for tensor in tensors_of(prepared))
