"""Refines uncertain regions: one network sees the image small, a second one sees those regions at full size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carvana.data.io.images import ImageSource
from carvana.errors import ConfigError, ModelError
from carvana.inference.base import BasePredictor, Threshold, checked_thresholds, same_task, scale_text
from carvana.inference.prediction import Prediction, ProbabilityMaps, Want
from carvana.inference.predictor import Predictor
from carvana.inference.preprocess import PreprocessedImage
from carvana.inference.tiling.roi import CELL, cells_of
from carvana.utils.deprecated import Attribute, parameters
from carvana.utils.devices import float64_device
from carvana.utils.files import digest

BAND = (0.1, 0.9)
"""Probabilities between which the first network counts as uncertain."""

MARGIN = 8
"""Pixels by which the uncertain parts are widened."""

MOST_PIXELS = 2**25
"""Pixels that the images of a batch may have together, for each class: memory holds 11 bytes of each, however small the
first scale."""


class Refiner(BasePredictor):
    """Two networks: a coarse one for the whole image, and a fine one for the regions where the first is uncertain.

    The boundary of an object is a thin line, and a network that sees the image small is certain of most other pixels.
    The second network sees the image at its own size, in windows that cover the pixels whose coarse probability lies
    within a band. Its probabilities replace the coarse ones there; elsewhere the coarse ones are enlarged. (Kirillov et
    al. 2020, PointRend, https://arxiv.org/abs/1912.08193, refine points likewise, within one network.)

    Args:
        coarse: The first network at its scale, or an ensemble.
        fine: The second network, at the image's own size (``scale="native"``). Its ``tile`` is the side of the windows,
            by default 192 pixels; with ``join="exact"`` each window has the network's whole receptive field around the
            pixels that are taken from it, so that these are what the network gives for the whole image.
        band: (low, high), 0 <= low < high <= 1: probabilities between which a pixel counts as uncertain; of classes
            that overlap, the probability of any. Of classes that exclude each other, best / (best + second) of the
            probabilities of the two likeliest is below ``high``; it is 0.5 or more, as the larger of both
            probabilities is where there is one object.
        margin: Pixels by which the uncertain parts are widened.
        threshold: In [0, 1]; None takes the fine network's own. Not for several classes.

    Raises:
        ConfigError: an argument is out of its range.

    Example:
        >>> first = Predictor.from_pretrained("runs/small")  # doctest: +SKIP
        >>> second = Predictor.from_pretrained("runs/crops", scale="native")  # doctest: +SKIP
        >>> Refiner(first, second).predict("car.jpg").mask.shape  # doctest: +SKIP
        (1280, 1918)
    """

    def __init__(
        self,
        coarse: BasePredictor,
        fine: Predictor,
        *,
        band: tuple[float, float] = BAND,
        margin: int = MARGIN,
        threshold: Threshold = None,
    ) -> None:
        if fine.size is not None:
            raise ConfigError(
                f"the fine network sees images at their own size, not at {fine.size[0]}x{fine.size[1]}: give it "
                'scale="native"'
            )
        self.coarse, self.fine = coarse, fine
        self.device = coarse.device
        self.task = same_task([coarse, fine])
        self.sizes = (*coarse.sizes, None)
        self.image_specs = (*coarse.image_specs, *fine.image_specs)
        low, high = band
        if not 0 <= low < high <= 1:
            raise ConfigError(f"band {low} to {high}: expected two probabilities, the lower one first, such as 0.1 0.9")
        self.band = float(low), float(high)
        if self.task.kind == "multiclass" and high <= 0.5:
            raise ConfigError(
                f"band {low} to {high}: the likeliest class has a share of the best two of at least 0.5; take an upper "
                f"end above 0.5, such as {BAND[1]}"
            )
        if not 0 <= margin <= 10_000:
            raise ConfigError(f"margin {margin}: expected pixels from 0 to 10000, such as {MARGIN}")
        self.margin = margin
        self.thresholds = checked_thresholds(threshold, self.task, fine.thresholds)
        self.max_pixels = min(coarse.max_pixels, fine.max_pixels)

    def check_streamed(self, path: Path) -> None:
        """Refuse all: uncertain regions are those of a whole image."""
        raise ModelError(f"{path}: does not fit the memory, so no second network can refine it: leave that out")

    @property
    def scale(self) -> str:
        """The scales of the two networks, such as "512x768, then native"."""
        return f"{scale_text(self.coarse.scale)}, then native"

    @property
    def weights_digest(self) -> str:
        """The digest of both networks' weights in manifests."""
        return digest([self.coarse.weights_digest, self.fine.weights_digest])

    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the image, as JSON values."""
        how = {"band": list(self.band), "margin": self.margin} | self._threshold_setting()
        return {"coarse": self.coarse.settings(), "fine": self.fine.settings()} | how

    @parameters(photo="image")
    def fits_batch(self, image: PreprocessedImage, batch: Sequence[PreprocessedImage]) -> bool:
        """Whether an image may join a batch of the coarse network; windows of the fine one are batched separately.

        All images of a batch are held at their own size, so the sum of their pixels is limited.
        """
        pixels = sum(math.prod(other.size) for other in (*batch, image)) * len(self.task.classes)
        return pixels <= MOST_PIXELS and self.coarse.fits_batch(image[:-1], [other[:-1] for other in batch])

    @torch.inference_mode()
    def run(self, batch: Sequence[PreprocessedImage], *, want: Want = "probabilities") -> list[Prediction]:
        """As for every predictor. Where no more than the labels of several classes is wanted, windows decide them, and
        memory holds no map for each class. It does where the fine network mirrors images (``tta``): windows of the
        mirrored image lie elsewhere, so that probabilities wait for both. So it does for classes that overlap.
        """
        if want != "mask" or self.task.kind != "multiclass" or self.fine.tta:
            return super().run(batch, want=want)
        first = self.coarse.predict_maps([image[:-1] for image in batch])
        drafts = [maps.likeliest().to(self.fine.device) for maps in first]
        uncertain = [self.uncertain_cells(maps) for maps in first]
        return self.fine.refine_labels([image[-1] for image in batch], drafts, uncertain)

    @torch.inference_mode()
    def predict_maps(self, batch: Sequence[PreprocessedImage]) -> list[ProbabilityMaps]:
        """Run the coarse network on prepared images, and the fine one on their uncertain regions.

        Raises:
            ModelError: a network gives NaN, or the memory is too small for it.
        """
        first = self.coarse.predict_maps([image[:-1] for image in batch])
        drafts = [self._enlarged(maps).to(self.fine.device) for maps in first]
        uncertain = [self.uncertain_cells(maps) for maps in first]
        return self.fine.refine_maps([image[-1] for image in batch], drafts, uncertain)

    @parameters(photo="image")
    def refined_share(self, image: ImageSource) -> float:
        """How many pixels of an image the fine network would see, as a share of its pixels; overlaps count again."""
        [maps] = self.coarse.predict_maps([self.coarse.prepare(image)])
        return self.fine.refine_cost(self.uncertain_cells(maps), maps.size)

    def uncertain_cells(self, coarse: ProbabilityMaps) -> NDArray[np.bool_]:
        """The cells of an image that are refined: see :mod:`carvana.inference.tiling.roi`."""
        low, high = self.band
        indices = [None] if self.task.kind == "binary" else range(len(self.task.classes))
        extremes = [_extremes(coarse, index) for index in indices]
        if self.task.kind != "multiclass":
            found = torch.stack([(most > low) & (least < high) for most, least in extremes]).any(0)
        else:
            second = torch.stack([most for most, _ in extremes]).topk(2, dim=0).values[1]
            best = torch.stack([least for _, least in extremes]).amax(0)
            found = best < high * (best + second)
        around = math.ceil(self.margin / CELL)
        grown = functional.max_pool2d(found.float()[None], (2 * around + 1, 1), 1, (around, 0))
        grown = functional.max_pool2d(grown, (1, 2 * around + 1), 1, (0, around))
        return (grown[0] > 0).cpu().numpy()

    def _enlarged(self, coarse: ProbabilityMaps) -> Tensor:
        """The coarse probabilities at the image's size, (H, W), of several classes (K, H, W)."""
        if self.task.kind == "binary":
            return coarse.resized(coarse.size)
        enlarged = torch.empty(len(self.task.classes), *coarse.size, device=coarse.maps[0].device)
        for index, plane in enumerate(enlarged):
            plane.copy_(coarse.resized(coarse.size, index))
        return enlarged

    looked_at, unsure = Attribute("refined_share"), Attribute("uncertain_cells")


def _extremes(coarse: ProbabilityMaps, index: int | None) -> tuple[Tensor, Tensor]:
    """The largest and the smallest probability in each cell; of several classes, of one."""
    most, least = torch.zeros(2, *cells_of(coarse.size), device=coarse.maps[0].device)
    for maps, weight in zip(coarse.maps, coarse.weights, strict=True):
        single = maps if index is None else maps[index]
        # Enlarged bilinearly it takes every value between these two.
        most += weight * _most(_most(single, coarse.size[0]).T, coarse.size[1]).T
        least -= weight * _most(_most(-single, coarse.size[0]).T, coarse.size[1]).T
    return most, least


def _most(single: Tensor, side: int) -> Tensor:
    """The largest value of a map (n, m) in each row of cells of an image that has ``side`` rows of pixels."""
    count, ratio = -(-side // CELL), single.shape[0] / side
    exact = float64_device(single.device)
    cells = torch.arange(count, device=exact, dtype=torch.float64) * CELL
    # A pixel at x is a mean of the map's rows around (x + 1/2) ratio - 1/2; of more where the map is the larger one.
    first = ((cells + 0.5) * ratio - 0.5).floor().minimum((cells * ratio).floor())
    last = (((cells + CELL - 0.5) * ratio - 0.5).floor() + 1).maximum(((cells + CELL) * ratio).ceil() - 1)
    span = int((last - first).max()) + 1
    rows = first[:, None] + torch.arange(span, device=exact)
    rows = rows.minimum(last[:, None]).clamp_(0, single.shape[0] - 1).long()
    return single[rows.to(single.device)].amax(1)
