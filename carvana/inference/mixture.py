"""The probabilities of one image while they are still on their device, and how they leave it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

from carvana.inference.prediction import FinishedPrediction, MixedPrediction, Prediction, Want
from carvana.utils.devices import float64_device


@dataclass(frozen=True, eq=False)
class Mixture:
    """What one network says of an image, or several: their maps, and the share of the networks behind each.

    Attributes:
        maps: float32 (h, w) in [0, 1], one for each size at which the image was seen.
        weights: the shares; they sum to 1.
        size: (H, W) of the image.
    """

    maps: tuple[Tensor, ...]
    weights: tuple[float, ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, single: Tensor, size: tuple[int, int]) -> Self:
        """What one network says."""
        return cls((single,), (1.0,), size)

    @classmethod
    def mean(cls, mixtures: Sequence[Self]) -> Self:
        """The mean of several networks' probabilities of one image, every network counting the same.

        Those at one size are averaged there, which gives the mean at the image's size as well: enlarging is linear.

        >>> one, two = (Mixture.of(torch.full((2, 2), p), (4, 4)) for p in (0.25, 0.75))
        >>> float(Mixture.mean([one, two]).predict(0.4).probabilities[0, 0])
        0.5
        """
        shares: dict[torch.Size, float] = {}
        sums: dict[torch.Size, Tensor] = {}
        for mixture in mixtures:
            for single, weight in zip(mixture.maps, mixture.weights, strict=True):
                share = weight / len(mixtures)
                shares[single.shape] = shares.get(single.shape, 0.0) + share
                sums[single.shape] = sums[single.shape] + share * single if single.shape in sums else share * single
        maps = tuple(sums[shape] / shares[shape] for shape in sums)
        return cls(maps, tuple(shares.values()), mixtures[0].size)

    def at(self, size: tuple[int, int]) -> Tensor:
        """The probabilities at another size, float32 (height, width), on their device: enlarged bilinearly."""
        parts = [weight * _resized(single, size) for single, weight in zip(self.maps, self.weights, strict=True)]
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    def predict(self, threshold: float, want: Want = "probabilities") -> Prediction:
        """Take it off its device: from a GPU as 8 bits a pixel, unless probabilities are wanted."""
        if self.maps[0].is_cuda and want != "probabilities":
            return finish_on_device(self, threshold, want)
        maps = tuple(single.cpu().numpy() for single in self.maps)
        if len(maps) == 1:
            return Prediction(maps[0], self.size, threshold)
        return MixedPrediction(min(maps, key=lambda small: small.size), self.size, threshold, maps, self.weights)


def finish_on_device(mixture: Mixture, threshold: float, want: Want) -> FinishedPrediction:
    """Enlarge, average and cut where the maps are: what :class:`Prediction` does with OpenCV, up to rounding."""
    probabilities = mixture.at(mixture.size)
    mask = (probabilities > threshold).to(torch.uint8).cpu().numpy()
    graded = None
    if want == "levels":
        # See carvana.inference.levels.levels for the factor.
        graded = (probabilities * (256 * (1 - 2**-24))).clamp_(0, 255).to(torch.uint8).cpu().numpy()
    return FinishedPrediction(mask, graded, threshold)


def _resized(single: Tensor, size: tuple[int, int]) -> Tensor:
    if single.shape == size:
        return single
    if single.shape[0] >= size[0] and single.shape[1] >= size[1]:
        rows, columns = (_shares(*sides, single.device) for sides in zip(single.shape, size, strict=True))
        return rows @ single @ columns.T
    return functional.interpolate(single[None, None], size, mode="bilinear", align_corners=False)[0, 0]


def _shares(before: int, after: int, device: torch.device) -> Tensor:
    """How much each of ``before`` pixels counts in each of ``after`` larger ones: (after, before), by area."""
    exact = float64_device(device)
    borders = torch.arange(after + 1, device=exact, dtype=torch.float64) * (before / after)
    edges = torch.arange(before + 1, device=exact, dtype=torch.float64)
    ends = torch.minimum(borders[1:, None], edges[None, 1:]) - torch.maximum(borders[:-1, None], edges[None, :-1])
    return (ends.clamp_(min=0) * (after / before)).float().to(device)
