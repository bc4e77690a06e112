"""What networks say of a photo: their own small map, and what is made of it at the photo's size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.thresholds import levels

FloatMap = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one photo.

    It holds the network's own small map; the maps at the photo's size are made when they are asked for.

    Attributes:
        network_probabilities: float32 (h, w) in [0, 1], at the size that the network saw.
        size: (H, W) of the photo.
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

        It holds for each t that is a multiple of 1/256: see :func:`carvana.thresholds.levels`.
        """
        return levels(self.probabilities)

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 where the probability is above the threshold, else 0."""
        return (self.probabilities > self.threshold).view(np.uint8)


@dataclass(frozen=True, eq=False)
class MixedPrediction(Prediction):
    """The mean of networks that saw the photo at different sizes; it is taken at the photo's own.

    Attributes:
        network_probabilities: the coarsest map, whose pixels say how wide an edge comes out.
        maps: one for each size, each the mean (h, w) of the networks that saw the photo at that size.
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


def average(predictions: Sequence[Prediction], threshold: float) -> Prediction:
    """The mean of several networks' probabilities of one photo, every network counting the same.

    Those at one size are averaged there, which gives the mean at the photo's size as well, for enlarging is linear.

    Args:
        predictions: at least one, all of the same photo.
        threshold: that of the mean.

    >>> one, two = (Prediction(np.full((2, 2), p, np.float32), (4, 4), 0.5) for p in (0.25, 0.75))
    >>> float(average([one, two], threshold=0.4).probabilities[0, 0])
    0.5
    """
    by_size: dict[tuple[int, ...], list[FloatMap]] = {}
    for prediction in predictions:
        by_size.setdefault(prediction.network_probabilities.shape, []).append(prediction.network_probabilities)
    maps = [_mean(by_size[size]) for size in by_size]
    size = predictions[0].size
    if len(maps) == 1:
        return Prediction(maps[0], size, threshold)
    weights = tuple(len(same) / len(predictions) for same in by_size.values())
    return MixedPrediction(min(maps, key=lambda small: small.size), size, threshold, tuple(maps), weights)


def resize_map(probabilities: FloatMap, size: tuple[int, int]) -> FloatMap:
    """Bring a map to (height, width): bilinearly where it grows, by area where it shrinks."""
    height, width = size
    if probabilities.shape == (height, width):
        return probabilities
    shrinks = probabilities.shape[0] >= height and probabilities.shape[1] >= width
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: FloatMap = cv2.resize(probabilities, (width, height), interpolation=how)
    return resized


def _mean(maps: Sequence[FloatMap]) -> FloatMap:
    if len(maps) == 1:
        return maps[0]
    mean: FloatMap = np.mean(np.stack(maps), axis=0, dtype=np.float32)
    return mean
