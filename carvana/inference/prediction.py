"""What a network gives: probabilities on its device, then a mask or labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carvana.data.io.images import resize_image
from carvana.errors import ConfigError
from carvana.task import Task
from carvana.utils.devices import float64_device

FloatMap = NDArray[np.float32]

Want = Literal["probabilities", "levels", "mask"]
"""The most that will be read from a prediction: the mask; levels and the mask; or probabilities and both."""

THRESHOLDS: NDArray[np.float64] = np.arange(1, 256) / 256
"""The grid: 1/256, 2/256, ..., 255/256."""


def levels(probabilities: NDArray[np.floating] | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Count the grid thresholds below each probability: uint8, such that ``levels >= 256 t`` where ``probability > t``.

    So 8 bits keep the mask of every threshold of the grid exact, 0.5 included.

    Args:
        probabilities: float32 in [0, 1]; or uint8, taken to be levels already and handed back.

    >>> levels(np.array([0.0, 0.5, 0.50001, 1.0]))
    array([  0, 127, 128, 255], dtype=uint8)
    """
    if probabilities.dtype == np.uint8:
        return probabilities  # type: ignore[return-value]
    # A hair less than 256: truncation then gives ceil(256 p) - 1, exactly, for every float32 p in (0, 1].
    scaled = np.multiply(probabilities, np.float32(256 * (1 - 2**-24)), dtype=np.float32)
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)  # interpolation leaves [0, 1] by a rounding at times


def threshold_index(threshold: float) -> int:
    """The index of the grid threshold that is nearest to ``threshold``.

    >>> float(THRESHOLDS[threshold_index(0.5)])
    0.5
    """
    return int(np.clip(round(threshold * 256), 1, 255)) - 1


class Prediction:
    """The probabilities of one image, and the mask, or labels, that they make.

    It holds the network's own small maps; those at the image's size are made when they are first read.

    Args:
        network_probabilities: float32 (h, w) in [0, 1], at the size that the network saw; of several classes (K, h, w).
        size: (H, W) of the image.
        threshold: a probability above it is foreground; of classes that overlap one for all, or one for each.
        task: the task; None means one object.

    Attributes:
        size: (H, W) of the image.
        thresholds: the threshold of each class; none where classes exclude each other.
        task: the task.
    """

    def __init__(
        self,
        network_probabilities: FloatMap,
        size: tuple[int, int],
        threshold: float | Sequence[float] = 0.5,
        *,
        task: Task | None = None,
    ) -> None:
        self.size = size
        self.task = task or Task.binary()
        exclusive, count = self.task.kind == "multiclass", len(self.task.classes)
        self.thresholds: tuple[float, ...] = () if exclusive else tuple(np.broadcast_to(threshold, count).tolist())
        self._maps: tuple[FloatMap, ...] = (network_probabilities,)  # empty where they were not kept
        self._weights: tuple[float, ...] = (1.0,)

    @classmethod
    def from_maps(
        cls,
        maps: ProbabilityMaps,
        threshold: float | Sequence[float],
        want: Want = "probabilities",
        *,
        task: Task | None = None,
    ) -> Self:
        """Take probability maps off their device: from a GPU as 8 bits a pixel, unless probabilities are wanted."""
        if maps.maps[0].is_cuda and want != "probabilities":
            return cls.from_device(maps, threshold, want, task=task)
        arrays = tuple(single.cpu().numpy() for single in maps.maps)
        prediction = cls(arrays[0], maps.size, threshold, task=task)
        prediction._maps, prediction._weights = arrays, maps.weights
        return prediction

    @classmethod
    def of_labels(cls, labels: NDArray[Any], task: Task) -> Self:
        """Labels alone, (H, W), whose probabilities were not kept."""
        prediction = cls(np.empty((0, 0), np.float32), (labels.shape[0], labels.shape[1]), task=task)
        prediction._maps = ()
        prediction.__dict__["labels"] = labels.astype(task.dtype, copy=False)
        return prediction

    @classmethod
    def of_masks(cls, masks: NDArray[np.uint8], thresholds: Sequence[float], task: Task) -> Self:
        """Masks of classes that overlap alone, (K, H, W), whose probabilities were not kept."""
        prediction = cls(np.empty((0, 0), np.float32), (masks.shape[1], masks.shape[2]), thresholds, task=task)
        prediction._maps = ()
        prediction.__dict__["masks"] = masks
        return prediction

    @classmethod
    def from_device(
        cls, maps: ProbabilityMaps, threshold: float | Sequence[float], want: Want, *, task: Task | None = None
    ) -> Self:
        """Enlarge, average and decide where the maps are: what OpenCV does on the CPU, up to rounding."""
        if task is not None and task.kind == "multiclass":
            return cls.of_labels(maps.likeliest().cpu().numpy(), task)
        prediction = cls(np.empty((0, 0), np.float32), maps.size, threshold, task=task)
        prediction._maps = ()
        single = prediction.task.kind == "binary"
        masks, graded = [], []
        for index, least in enumerate(prediction.thresholds):
            probabilities = maps.resized(maps.size, None if single else index)
            masks.append((probabilities > least).to(torch.uint8).cpu().numpy())
            if want == "levels":
                # See levels() for the factor.
                scaled = (probabilities * (256 * (1 - 2**-24))).clamp_(0, 255)
                graded.append(scaled.to(torch.uint8).cpu().numpy())
        prediction.__dict__["mask" if single else "masks"] = masks[0] if single else np.stack(masks)
        if want == "levels":
            prediction.__dict__["levels"] = graded[0] if single else np.stack(graded)
        return prediction

    def __repr__(self) -> str:
        if self.task.kind == "multiclass":
            return f"Prediction(size={self.size}, classes={len(self.task.classes)})"
        if self.task.kind == "multilabel":
            return f"Prediction(size={self.size}, thresholds={self.thresholds})"
        return f"Prediction(size={self.size}, threshold={self.threshold})"

    @property
    def threshold(self) -> float:
        """The threshold of one object, or of the first class; 0.5 where there is none."""
        return self.thresholds[0] if self.thresholds else 0.5

    @property
    def network_probabilities(self) -> FloatMap:
        """float32 (h, w), or (K, h, w), in [0, 1], at the size that the network saw; of several sizes, the smallest."""
        return min(self._available("probabilities"), key=lambda single: single.size)

    @cached_property
    def probabilities(self) -> FloatMap:
        """float32 (H, W) in [0, 1], of several classes (K, H, W): the network's map, enlarged bilinearly; the mean of
        several networks' maps.

        Enlarging before the decision keeps the boundary's place to a fraction of a network's pixel.
        """
        if self.task.kind == "binary":
            return self._plane(None)
        return np.stack([self._plane(index) for index in range(len(self.task.classes))])

    @cached_property
    def levels(self) -> NDArray[np.uint8]:
        """uint8 (H, W), of several classes (K, H, W): the probabilities in 8 bits, such that ``levels >= 256 t`` where
        ``probabilities > t``.

        It holds for each t that is a multiple of 1/256: see :func:`carvana.inference.prediction.levels`.
        """
        self._available("levels")
        if self.task.kind == "binary" or "probabilities" in self.__dict__:
            return levels(self.probabilities)
        return np.stack([levels(self._plane(index)) for index in range(len(self.task.classes))])

    @cached_property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 where the probability is above the threshold, else 0.

        Raises:
            ConfigError: there are several classes; they have :attr:`labels` or :attr:`masks`, and :meth:`mask_of`.
        """
        if self.task.kind != "binary":
            have = "masks" if self.task.kind == "multilabel" else "labels"
            raise ConfigError(f"a prediction of several classes has no mask; read {have}, or mask_of(name)")
        return (self.probabilities > self.threshold).view(np.uint8)

    @cached_property
    def masks(self) -> NDArray[np.uint8]:
        """uint8 (K, H, W): the mask of each class, 1 where its probability is above its threshold, else 0.

        Raises:
            ConfigError: classes exclude each other; they have :attr:`labels`, and :meth:`mask_of`.
        """
        if self.task.kind == "multiclass":
            raise ConfigError("classes that exclude each other have no masks; read labels, or mask_of(name)")
        return np.stack([self.mask_of(name) for name in self.task.names])

    @cached_property
    def labels(self) -> NDArray[np.uint8] | NDArray[np.uint16]:
        """uint8 (H, W), uint16 for 255 and more classes: the index of the likeliest class of each pixel.

        ``task.decode`` gives the values that the classes have in files. Of one object it is the mask.

        Raises:
            ConfigError: a pixel may have several classes; they have :attr:`masks`.
        """
        if self.task.kind == "binary":
            return self.mask
        if self.task.kind == "multilabel":
            raise ConfigError("a pixel may have several classes here, and no label; read masks, or mask_of(name)")
        if "probabilities" in self.__dict__:
            planes = iter(self.probabilities)
        else:  # one class at a time, so that memory holds two maps, and not one for each class
            planes = (self._plane(index) for index in range(len(self.task.classes)))
        best = np.array(next(planes))
        labels = np.zeros(self.size, self.task.dtype)
        for index, plane in enumerate(planes, start=1):
            larger = plane > best
            labels[larger] = index
            np.copyto(best, plane, where=larger)
        return labels

    def mask_of(self, name: str) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 where a pixel has a class, else 0.

        Raises:
            ConfigError: there is no such class.
        """
        index = self.task.index(name)
        if self.task.kind == "binary":
            return self.mask
        found: NDArray[Any]
        if self.task.kind == "multiclass":
            found = self.labels == index
        elif "masks" in self.__dict__:
            found = self.masks[index]
        else:
            found = self.probability_of(name) > self.thresholds[index]
        mask: NDArray[np.uint8] = found.view(np.uint8)
        return mask

    def probability_of(self, name: str) -> FloatMap:
        """float32 (H, W) in [0, 1]: the probability of a class.

        Raises:
            ConfigError: there is no such class.
        """
        index = self.task.index(name)
        if self.task.kind == "binary":
            return self.probabilities
        known: FloatMap | None = self.__dict__.get("probabilities")
        return self._plane(index) if known is None else known[index]

    def _plane(self, index: int | None) -> FloatMap:
        """The map of a class at the image's size; None for the only one."""
        maps = [single if index is None else single[index] for single in self._available("probabilities")]
        if len(maps) == 1:
            return resize_image(maps[0], self.size)
        mean = np.zeros(self.size, np.float32)
        for single, weight in zip(maps, self._weights, strict=True):
            mean += np.float32(weight) * resize_image(single, self.size)
        return mean

    def _available(self, what: Want) -> tuple[FloatMap, ...]:
        if not self._maps:
            raise ConfigError(f"{what}: not kept; ask for them with want={what!r}")
        return self._maps


@dataclass(frozen=True, eq=False)
class ProbabilityMaps:
    """The probabilities of one image on their device, at each size at which networks saw the image.

    Attributes:
        maps: float32 (h, w) in [0, 1], of several classes (K, h, w), one for each size.
        weights: the share of the networks that saw the image at that size; they sum to 1.
        size: (H, W) of the image.
    """

    maps: tuple[Tensor, ...]
    weights: tuple[float, ...]
    size: tuple[int, int]

    @classmethod
    def single(cls, probabilities: Tensor, size: tuple[int, int]) -> Self:
        """The probabilities of one network."""
        return cls((probabilities,), (1.0,), size)

    @classmethod
    def mean(cls, several: Sequence[Self]) -> Self:
        """The mean of several networks' probabilities of one image, every network counting the same.

        Maps of one size are averaged at that size, which gives the mean at the image's size: enlarging is linear.

        >>> one, two = (ProbabilityMaps.single(torch.full((2, 2), p), (4, 4)) for p in (0.25, 0.75))
        >>> float(Prediction.from_maps(ProbabilityMaps.mean([one, two]), 0.4).probabilities[0, 0])
        0.5
        """
        shares: dict[torch.Size, float] = {}
        sums: dict[torch.Size, Tensor] = {}
        for each in several:
            for single, weight in zip(each.maps, each.weights, strict=True):
                share = weight / len(several)
                shares[single.shape] = shares.get(single.shape, 0.0) + share
                sums[single.shape] = sums[single.shape] + share * single if single.shape in sums else share * single
        maps = tuple(sums[shape] / shares[shape] for shape in sums)
        return cls(maps, tuple(shares.values()), several[0].size)

    def resized(self, size: tuple[int, int], index: int | None = None) -> Tensor:
        """The mean of the maps at a size, float32 (height, width), on their device; of several classes, of one."""
        maps = self.maps if index is None else tuple(single[index] for single in self.maps)
        parts = [weight * _resized(single, size) for single, weight in zip(maps, self.weights, strict=True)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def likeliest(self) -> Tensor:
        """The class of the largest of several probabilities at each pixel of the image, int32 (H, W): one class is
        enlarged at a time, so that memory holds two maps.
        """
        best = self.resized(self.size, 0).clone()
        labels = torch.zeros_like(best, dtype=torch.int32)
        for index in range(1, len(self.maps[0])):
            plane = self.resized(self.size, index)
            labels.masked_fill_(plane > best, index)
            torch.maximum(best, plane, out=best)
        return labels


def _resized(single: Tensor, size: tuple[int, int]) -> Tensor:
    """Bring a map to (height, width): by area where it shrinks, else bilinearly, as :func:`resize_image` does."""
    least = min(single.shape[0], size[0]), min(single.shape[1], size[1])
    if single.shape != least:
        rows, columns = (_area_weights(*sides, single.device) for sides in zip(single.shape, least, strict=True))
        single = rows @ single @ columns.T
    if single.shape == size:
        return single
    return functional.interpolate(single[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _area_weights(before: int, after: int, device: torch.device) -> Tensor:
    """The weight of each of ``before`` pixels in each of ``after`` larger ones: (after, before), by area."""
    exact = float64_device(device)
    borders = torch.arange(after + 1, device=exact, dtype=torch.float64) * (before / after)
    edges = torch.arange(before + 1, device=exact, dtype=torch.float64)
    ends = torch.minimum(borders[1:, None], edges[None, 1:]) - torch.maximum(borders[:-1, None], edges[None, :-1])
    return (ends.clamp_(min=0) * (after / before)).float().to(device)
