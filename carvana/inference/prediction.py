"""What networks say of an image, at the image's size: probabilities, 8-bit levels, a mask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.errors import ConfigError
from carvana.inference.levels import levels

FloatMap = NDArray[np.float32]

Want = Literal["probabilities", "levels", "mask"]
"""The most that will be asked of a prediction: a mask alone; levels and the mask; or probabilities and all of it."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image.

    It holds the network's own small map; the maps at the image's size are made when they are asked for.

    Attributes:
        network_probabilities: float32 (h, w) in [0, 1], at the size that the network saw.
        size: (H, W) of the image.
        threshold: above which a probability means foreground.
    """

    network_probabilities: FloatMap
    size: tuple[int, int]
    threshold: float

    @cached_property
    def probabilities(self) -> FloatMap:
        """float32 (H, W) in [0, 1]: the network's map, enlarged bilinearly.

        Enlarging before the threshold keeps the boundary's place to a fraction of a network's pixel.
        """
        return resize_map(self.network_probabilities, self.size)

    @property
    def levels(self) -> NDArray[np.uint8]:
        """uint8 (H, W): the probabilities in 8 bits, such that ``levels >= 256 t`` where ``probabilities > t``.

        It holds for each t that is a multiple of 1/256: see :func:`carvana.inference.levels.levels`.
        """
        return levels(self.probabilities)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 where the probability is above the threshold, else 0."""
        return (self.probabilities > self.threshold).view(np.uint8)


@dataclass(frozen=True, eq=False)
class MixedPrediction(Prediction):
    """The mean of networks that saw the image at different sizes; it is taken at the image's own.

    Attributes:
        network_probabilities: the coarsest map, whose pixels say how wide an edge comes out.
        maps: one for each size, each the mean (h, w) of the networks that saw the image at that size.
        weights: the share of the networks behind each map; they sum to 1.
    """

    maps: tuple[FloatMap, ...]
    weights: tuple[float, ...]

    @cached_property
    def probabilities(self) -> FloatMap:
        """float32 (H, W) in [0, 1]: the mean over the networks."""
        mean = np.zeros(self.size, np.float32)
        for small, weight in zip(self.maps, self.weights, strict=True):
            mean += np.float32(weight) * resize_map(small, self.size)
        return mean


class FinishedPrediction(Prediction):
    """A prediction that was finished on the GPU: it holds what was wanted, and the rest never left the device.

    Args:
        mask: uint8 (H, W) of 0 and 1.
        levels: uint8 (H, W); None where only the mask was wanted.
        threshold: above which a probability meant foreground.
    """

    def __init__(self, mask: NDArray[np.uint8], levels: NDArray[np.uint8] | None, threshold: float) -> None:
        self.__dict__.update(mask=mask, _levels=levels, threshold=threshold, size=mask.shape)

    def __repr__(self) -> str:
        return f"FinishedPrediction(size={self.size}, threshold={self.threshold})"

    @property
    def network_probabilities(self) -> FloatMap:
        """Not to be had."""
        raise _not_wanted("probabilities")

    @property
    def probabilities(self) -> FloatMap:
        """Not to be had."""
        raise _not_wanted("probabilities")

    @property
    def levels(self) -> NDArray[np.uint8]:
        """As for any prediction, if they were wanted."""
        found: NDArray[np.uint8] | None = self.__dict__["_levels"]
        if found is None:
            raise _not_wanted("levels")
        return found


def _not_wanted(what: Want) -> ConfigError:
    return ConfigError(f"{what} never left the GPU, for less was wanted; ask for them with want={what!r}")


def resize_map(probabilities: FloatMap, size: tuple[int, int]) -> FloatMap:
    """Bring a map to (height, width): bilinearly where it grows, by area where it shrinks."""
    height, width = size
    if probabilities.shape == (height, width):
        return probabilities
    shrinks = probabilities.shape[0] >= height and probabilities.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: FloatMap = cv2.resize(probabilities, (width, height), interpolation=how)
    return resized
