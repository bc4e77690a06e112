"""What a network gets: an image resized to its scale, which is how large the network sees it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.data.io.images import ImageSource, read_pixels, resize_image
from carvana.errors import ConfigError, did_you_mean
from carvana.image_spec import ImageSpec, Page

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
        size = tuple(scale) if isinstance(scale, list | tuple) else ()
    if len(size) != 2 or not all(isinstance(side, int) for side in size) or min(size) < SMALLEST or max(size) > LARGEST:
        hint = did_you_mean(scale, ["trained", "native"]) if isinstance(scale, str) else ""
        raise ConfigError(
            f"scale {scale!r} cannot be used; expected trained, native or HEIGHTxWIDTH such as 640x960, each side "
            f"{SMALLEST} to {LARGEST} pixels{hint}"
        )
    return size[0], size[1]


@dataclass(frozen=True, eq=False)
class PreprocessedImage:
    """An image at the size of each network that is to see it. A tensor is sent to another process without a copy.

    Attributes:
        images: uint8 (h, w, channels), one for each network.
        size: (H, W) of the original, which its mask gets.
        name: what error messages call it; empty for pixels without a file.
    """

    images: tuple[Tensor, ...]
    size: tuple[int, int]
    name: str = ""

    def __getitem__(self, networks: int | slice) -> PreprocessedImage:
        """The same image for one of the networks, or for some."""
        images = self.images[networks] if isinstance(networks, slice) else (self.images[networks],)
        return PreprocessedImage(images, self.size, self.name)

    @property
    def nbytes(self) -> int:
        """What its pixels take."""
        return sum(image.nbytes for image in self.images)

    @property
    def read_nbytes(self) -> int:
        """What its pixels took while it was read at full size, or what they take now if that is more."""
        return max(self.nbytes, self.size[0] * self.size[1] * self.images[0].shape[-1])


@dataclass(frozen=True)
class Preprocessor:
    """Reads an image and resizes it for networks, by area, once for each different size.

    Attributes:
        sizes: (height, width) at which each network sees images; None leaves each image as it is.
        specs: what the images of each network are.
    """

    sizes: tuple[tuple[int, int] | None, ...]
    specs: tuple[ImageSpec, ...]

    def read(self, image: ImageSource, *, max_pixels: int, page: Page = None) -> NDArray[np.uint8]:
        """The pixels of an image as the networks take them, uint8 (H, W, channels), at its own size.

        Where networks take its values by other ranges, as those of folds do, their channels stand one behind another.
        """
        specs = [spec if page is None else spec.of_page(page) for spec in dict.fromkeys(self.specs)]
        read = [read_pixels(image, spec, max_pixels=max_pixels) for spec in specs]
        return read[0] if len(read) == 1 else np.concatenate(read, axis=2)

    def __call__(self, image: NDArray[np.uint8], name: str = "") -> PreprocessedImage:
        """Resize an image, as :meth:`read` gives it."""
        height, width = image.shape[:2]
        places = {spec: place for place, spec in enumerate(dict.fromkeys(self.specs))}
        wanted = list(zip(self.sizes, (places[spec] for spec in self.specs), strict=True))
        parts = [image] if len(places) == 1 else np.split(image, len(places), axis=2)
        resized = {(size, place): _resized(parts[place], size or (height, width)) for size, place in set(wanted)}
        return PreprocessedImage(tuple(resized[each] for each in wanted), (height, width), name)


def first_of(image: NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """The pixels that the first of several networks takes, of an image as :meth:`Preprocessor.read` gives it."""
    channels = len(spec.channels)
    return image if image.shape[2] == channels else np.ascontiguousarray(image[..., :channels])


def _resized(image: NDArray[np.uint8], size: tuple[int, int]) -> Tensor:
    pixels = np.require(resize_image(image, size), requirements="W")  # OpenCV drops the axis of one channel
    return torch.from_numpy(pixels.reshape(*size, image.shape[2]))
