"""Probabilities of several classes from the top of an image to its bottom, so that memory holds no whole map for each.

A strip is float32 (K, h, W): the probabilities of some rows. Those of one image come from top to bottom. Generators
keep no reference to a strip that they have given: it would be one strip more in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carvana.inference.prediction import Prediction, ProbabilityMaps
from carvana.task import Task

_ROWS = 64
"""Rows of a strip that is cut out of maps."""


def mean_strips(several: Sequence[Iterator[Tensor]]) -> Iterator[Tensor]:
    """The mean of some networks' strips of one image, whose heights may differ.

    >>> one, two = iter([torch.zeros(2, 3, 4), torch.ones(2, 1, 4)]), iter([torch.full((2, 4, 4), 0.5)])
    >>> [strip[0, :, 0].tolist() for strip in mean_strips([one, two])]
    [[0.25, 0.25, 0.25], [0.75]]
    """
    first, *others = several
    rests: list[Tensor | None] = [None] * len(others)
    for mean in first:
        mean /= len(several)
        for index, other in enumerate(others):
            done = 0
            while done < mean.shape[1]:
                if (strip := rests[index]) is None:
                    strip = next(other)
                part = strip[:, : mean.shape[1] - done]
                mean[:, done : done + part.shape[1]].add_(part, alpha=1 / len(several))
                done += part.shape[1]
                rests[index] = strip[:, part.shape[1] :] if part.shape[1] < strip.shape[1] else None
                del strip, part
        yield mean
        del mean


def strips_of(maps: ProbabilityMaps) -> Iterator[Tensor]:
    """The strips of maps of several classes, enlarged."""
    height, width = maps.size
    if any(single.shape[-2] > height or single.shape[-1] > width for single in maps.maps):
        yield torch.stack([maps.resized(maps.size, index) for index in range(len(maps.maps[0]))])
        return
    device = maps.maps[0].device
    columns = _places(torch.arange(width, device=device), width)
    for top in range(0, height, _ROWS):
        rows = _places(torch.arange(top, min(top + _ROWS, height), device=device), height)
        grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)[None]
        strip = torch.zeros(len(maps.maps[0]), len(rows), width, device=device)
        for single, weight in zip(maps.maps, maps.weights, strict=True):
            part = functional.grid_sample(single[None], grid, padding_mode="border", align_corners=False)[0]
            strip.add_(part, alpha=weight)
        yield strip


def decided(strips: Iterator[Tensor], size: tuple[int, int], task: Task, thresholds: Sequence[float]) -> Prediction:
    """The labels of an image of that size by its strips; of classes that overlap the masks."""
    overlap, top = task.kind == "multilabel", 0
    shape, dtype = ((len(task.classes), *size), "uint8") if overlap else (size, task.dtype)
    found: NDArray[Any] = np.empty(shape, dtype)
    for strip in strips:
        part = strip > strip.new_tensor(thresholds)[:, None, None] if overlap else strip.argmax(0)
        found[..., top : top + strip.shape[1], :] = part.cpu().numpy()
        top += strip.shape[1]
        del strip
    return Prediction.of_masks(found, thresholds, task) if overlap else Prediction.of_labels(found, task)


def _places(pixels: Tensor, side: int) -> Tensor:
    """The middles of pixels, where -1 and 1 are the two ends of the side."""
    return (2 * pixels + 1) / side - 1
