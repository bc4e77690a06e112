"""Makes the files of a prediction: mask, probabilities, cut-out, and overlay, which is the mask drawn on its image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from carvana.data.io.display import over_white
from carvana.data.io.images import UInt8, encode_image
from carvana.data.io.masks import encode_mask
from carvana.errors import ConfigError, DataError, did_you_mean
from carvana.inference.outputs.cutout import Background, compose, cutout, edge_softness
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.prediction import Prediction, Want

OUTLINE = (255, 214, 10)
"""Yellow: the mask's outline."""
EXTRA = (255, 45, 85)
"""Red: marked, but background (false positives)."""
MISSED = (10, 132, 255)
"""Blue: foreground, but not marked (false negatives)."""

_DIMMED = 0.45  # of the image's light that is left outside the mask

_SUFFIXES = {"mask": "_mask.png", "prob": "_prob.png", "cutout": "_cutout.png", "overlay": "_overlay.jpg"}


@dataclass(frozen=True)
class Outputs:
    """The files to make of predictions.

    Attributes:
        kinds: some of mask, prob, cutout, overlay.
        cleaning: how masks are cleaned; None leaves them as they are. Cut-outs and overlays follow the mask,
            probabilities stay what the network gave.
        background: the background of cut-outs; None leaves them transparent.

    Raises:
        ConfigError: a name is unknown or missing, or a background is given and no cut-out wanted.
    """

    kinds: tuple[str, ...]
    cleaning: Cleaning | None = None
    background: Background | None = None

    def __post_init__(self) -> None:
        known = ", ".join(_SUFFIXES)
        if not self.kinds:
            raise ConfigError(f"nothing to save; expected some of {known}")
        for kind in self.kinds:
            if kind not in _SUFFIXES:
                raise ConfigError(f"cannot save {kind!r}; expected some of {known}{did_you_mean(kind, _SUFFIXES)}")
        if self.background is not None and "cutout" not in self.kinds:
            raise ConfigError("a background is for cut-outs, and none is saved; add cutout to --save")

    @property
    def need_image(self) -> bool:
        """Whether the image's pixels are needed again after the network has run."""
        return not {"cutout", "overlay"}.isdisjoint(self.kinds)

    @property
    def want(self) -> Want:
        """The most that is read from a prediction."""
        return "probabilities" if "cutout" in self.kinds else "levels" if "prob" in self.kinds else "mask"

    def names(self, stem: str) -> dict[str, str]:
        """The file's name for each kind, given the image's stem."""
        suffixes = _SUFFIXES | ({"cutout": "_cutout.jpg"} if self.background is not None else {})
        return {kind: stem + suffixes[kind] for kind in self.kinds}

    def settings(self) -> dict[str, Any]:
        """All that decides the files besides the predictor and the image, as JSON values; empty for plain outputs."""
        settings: dict[str, Any] = {}
        if self.cleaning is not None:
            settings["clean"] = asdict(self.cleaning)
        if self.background is not None:
            settings["background"] = self.background.settings
        return settings

    def encode(
        self, names: Mapping[str, str], prediction: Prediction, image: UInt8 | None
    ) -> Iterator[tuple[str, bytes]]:
        """The name and the bytes of each file of one image.

        Args:
            names: as :meth:`names` gives them, or some of them.
            prediction: of the image.
            image: the image, uint8 (H, W, 3) RGB or (H, W, 4) RGBA, as :func:`carvana.data.io.display.read_shown` gives
                it; None will do where :attr:`need_image` is false.

        Raises:
            DataError: no file of that kind holds so many pixels.
        """
        cleaned = None if self.cleaning is None else clean(prediction.mask, **vars(self.cleaning))
        mask = prediction.mask if cleaned is None else cleaned
        for kind, name in names.items():
            if kind == "mask":
                yield name, encode_mask(mask, name=name)
                continue
            if kind == "prob":
                pixels = prediction.levels
            elif kind == "overlay":
                assert image is not None
                pixels = overlay(over_white(image), mask)
            else:
                assert image is not None
                softness = edge_softness(prediction.size, prediction.network_probabilities.shape)
                pixels = cutout(
                    image, prediction.probabilities, prediction.threshold, softness=softness, cleaned=cleaned
                )
                pixels = pixels if self.background is None else compose(pixels, self.background)
            yield name, encode_image(pixels, Path(name).suffix, name=name)


def overlay(
    image: NDArray[np.uint8], mask: ArrayLike, target: ArrayLike | None = None, *, thickness: int | None = None
) -> NDArray[np.uint8]:
    """Draw a mask on its image: the background is dimmed, the outline drawn.

    Args:
        image: uint8 (H, W, 3), RGB.
        mask: (H, W), nonzero where the object was predicted.
        target: the true mask (H, W). With it, errors are painted in place of the outline: false positives red, misses
            blue.
        thickness: pixels of the outline, or by which errors are made thicker so that they are seen when the picture is
            shrunk; None takes one for each 500 pixels of the image's width.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        DataError: the sizes differ.
    """
    marked = _binary(mask, image)
    thickness = max(1, round(image.shape[1] / 500)) if thickness is None else thickness
    shade = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    shown = np.where(marked[..., None] > 0, image, cv2.convertScaleAbs(shade, alpha=_DIMMED))
    brush = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness - 1, 2 * thickness - 1))
    if target is None:
        # A brush of one pixel would find no gradient.
        paint_outline(shown, marked, brush if thickness > 1 else np.ones((3, 3), np.uint8))
    else:
        paint_errors(shown, marked, _binary(target, image), brush)
    return shown


def paint_outline(picture: NDArray[np.uint8], mask: NDArray[np.uint8], brush: NDArray[np.uint8]) -> None:
    """Paint a mask's outline in yellow.

    Args:
        picture: uint8 (H, W, 3), or (H, W, 4), where what is painted becomes opaque.
        mask: uint8 (H, W) of 0 and 1.
        brush: a kernel of 3 x 3 pixels or more, the width of the outline.
    """
    picture[cv2.morphologyEx(mask, cv2.MORPH_GRADIENT, brush) > 0] = (*OUTLINE, 255)[: picture.shape[2]]


def paint_errors(
    picture: NDArray[np.uint8], mask: NDArray[np.uint8], target: NDArray[np.uint8], brush: NDArray[np.uint8]
) -> None:
    """Paint red where a mask is too much and blue where it misses.

    Args:
        picture: as for :func:`paint_outline`.
        mask: uint8 (H, W) of 0 and 1.
        target: the true mask, likewise.
        brush: a kernel by which errors are made thicker.
    """
    for colour, wrong in ((EXTRA, mask & ~target), (MISSED, target & ~mask)):
        picture[cv2.dilate(wrong, brush) > 0] = (*colour, 255)[: picture.shape[2]]


def _binary(mask: ArrayLike, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    array = np.asarray(mask)
    if array.shape != image.shape[:2]:
        raise DataError(f"a mask of shape {array.shape} does not lie on an image of shape {image.shape[:2]}")
    return np.ascontiguousarray(array != 0).view(np.uint8)
