"""What one network and several together have in common: photos in, probabilities and masks out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from carvana.data.images import read_image
from carvana.errors import ConfigError, DataError
from carvana.inference.prediction import Prediction

Photo = str | os.PathLike[str] | NDArray[np.uint8]
"""A path, or uint8 (H, W, 3) RGB."""

P = TypeVar("P")
"""A photo made ready: a predictor's own form, which nobody else looks into."""


class BasePredictor(ABC, Generic[P]):
    """A photo of any size to probabilities, or a mask, of that size.

    The work comes in two parts, so that threads can do the first while the network does the second:
    :meth:`prepare` makes a photo ready, :meth:`run` sends some of them through the network. :meth:`joins` says which
    may go together.

    Attributes:
        threshold: in [0, 1]; a probability above it is foreground.
        max_pixels: files that hold more pixels are refused before they are decoded.
    """

    threshold: float
    max_pixels: int

    def predict(self, photo: Photo) -> Prediction:
        """Predict one photo. A path and the pixels of the same photo give the same prediction, bit for bit.

        Raises:
            DataError: the file cannot be read, or the array is no photo.
        """
        return self.run([self.prepare(photo)])[0]

    def predict_batch(self, photos: Iterable[Photo]) -> list[Prediction]:
        """Predict some photos of any sizes, in their order. For more than fit the memory: ``predict_folder``."""
        prepared = [self.prepare(photo) for photo in photos]
        return [prediction for batch in self.batches(prepared) for prediction in self.run(batch)]

    def batches(self, prepared: Sequence[P]) -> list[list[P]]:
        """Cut a row of photos into batches that :meth:`run` takes: of one size, and of no more pixels than is quick."""
        parts: list[list[P]] = []
        for photo in prepared:
            if parts and self.joins(photo, parts[-1]):
                parts[-1].append(photo)
            else:
                parts.append([photo])
        return parts

    def read(self, path: str | os.PathLike[str]) -> NDArray[np.uint8]:
        """Read a photo at its full size, within ``max_pixels``."""
        return read_image(path, max_pixels=self.max_pixels)

    def pixels(self, photo: Photo) -> NDArray[np.uint8]:
        """A photo's pixels, read if it is a path and checked if it is an array."""
        return _checked_image(photo) if isinstance(photo, np.ndarray) else self.read(photo)

    @property
    @abstractmethod
    def scale(self) -> str | tuple[int, int]:
        """(height, width) at which the network sees photos, or "native" for their own size."""

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """What the weights are known by in manifests."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the photo, as JSON-able values."""

    @abstractmethod
    def prepare(self, photo: Photo) -> P:
        """Read a photo and bring it to the network's size. Safe in any thread."""

    @abstractmethod
    def joins(self, photo: P, batch: Sequence[P]) -> bool:
        """Whether one more photo may go with a batch."""

    @abstractmethod
    def run(self, batch: Sequence[P]) -> list[Prediction]:
        """Send prepared photos that join one another through the network together."""


def checked_threshold(threshold: float) -> float:
    """The threshold, if it is one.

    Raises:
        ConfigError: it is outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold} is outside 0 to 1; leave it out to take the model's own")
    return float(threshold)


def _checked_image(image: NDArray[Any]) -> NDArray[np.uint8]:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DataError(
            f"an array of {image.dtype} {image.shape} is no photo; expected uint8 of shape (height, width, 3), RGB"
        )
    return image
