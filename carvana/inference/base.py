"""What one network and several together have in common: photos in, probabilities and masks out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from carvana.data.io.images import read_image
from carvana.errors import ConfigError
from carvana.inference.mixture import Mixture
from carvana.inference.pipeline import ordered_map, run_batches
from carvana.inference.prediction import Prediction, Want
from carvana.inference.preprocessed import Photo, bytes_of

P = TypeVar("P")
"""A photo made ready: a predictor's own form, which nobody else looks into."""


class BasePredictor(ABC, Generic[P]):
    """A photo of any size to probabilities, or a mask, of that size.

    The work comes in two parts, so that threads or processes can do the first while the network does the second:
    :meth:`prepare` makes a photo ready, :meth:`run` sends some of them through the network. :meth:`joins` says which
    may go together.

    Attributes:
        device: where the networks run; of several, the first one's.
        threshold: in [0, 1]; a probability above it is foreground.
        max_pixels: files that hold more pixels are refused before they are decoded.
    """

    device: torch.device
    threshold: float
    max_pixels: int

    def predict(self, photo: Photo) -> Prediction:
        """Predict one photo.

        A path, its bytes and its pixels, in any form that :func:`carvana.read_image` takes, give the same bits.

        Raises:
            DataError: the file cannot be read, or the array is no photo.
        """
        return self.run([self.prepare(photo)])[0]

    def predict_batch(self, photos: Iterable[Photo]) -> list[Prediction]:
        """Predict some photos of any sizes, in their order. For more than fit the memory: :meth:`predict_many`."""
        prepared = [self.prepare(photo) for photo in photos]
        return [prediction for batch in self.batches(prepared) for prediction in self.run(batch)]

    def predict_many(self, photos: Iterable[Photo], *, want: Want = "mask") -> Iterator[Prediction]:
        """Predict a stream of photos, in their order: threads read ahead, and memory stays flat however many there are.

        Args:
            photos: any number, of any sizes.
            want: what will be asked of the predictions: see :class:`carvana.inference.prediction.Prediction`. On a GPU
                the rest stays there.

        Raises:
            DataError: a file cannot be read, or an array is no photo; it comes out at its photo's turn.

        Example:
            >>> for prediction in predictor.predict_many(Path("photos").glob("*.jpg")):  # doctest: +SKIP
            ...     print(prediction.mask.mean())
        """
        if isinstance(photos, str | os.PathLike):
            raise ConfigError(f"{photos!r}: expected a row of photos; predict() takes a single one")
        jobs = ((None, prepared) for prepared in ordered_map(self.prepare, photos, bytes_of=bytes_of))
        for _, prediction in run_batches(self, jobs, want=want):
            assert prediction is not None
            yield prediction

    def batches(self, prepared: Sequence[P]) -> list[list[P]]:
        """Cut a row of photos into batches that :meth:`run` takes: such that go together, and no more than is quick."""
        parts: list[list[P]] = []
        for photo in prepared:
            if parts and self.joins(photo, parts[-1]):
                parts[-1].append(photo)
            else:
                parts.append([photo])
        return parts

    def read(self, photo: Photo) -> NDArray[np.uint8]:
        """A photo's pixels at its full size, within ``max_pixels``."""
        return read_image(photo, max_pixels=self.max_pixels)

    def prepare(self, photo: Photo) -> P:
        """Read a photo and bring it to the network's size. Safe in any thread."""
        return self.preparation(self.read(photo))

    def run(self, batch: Sequence[P], *, want: Want = "probabilities") -> list[Prediction]:
        """Send prepared photos that join one another through the network together.

        Args:
            batch: at least one, as :meth:`joins` allows.
            want: what will be asked of the predictions.

        Raises:
            ModelError: the network gives something that is no number, or the memory is too small for it.
        """
        return [mixture.predict(self.threshold, want) for mixture in self.mix(batch)]

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

    @property
    @abstractmethod
    def preparation(self) -> Callable[[NDArray[np.uint8]], P]:
        """What brings a photo's pixels, uint8 (H, W, 3), to the network's size: light, and other processes take it."""

    @abstractmethod
    def joins(self, photo: P, batch: Sequence[P]) -> bool:
        """Whether one more photo may go with a batch."""

    @abstractmethod
    def mix(self, batch: Sequence[P]) -> list[Mixture]:
        """What the networks say of photos that join one another, still on their device; see :meth:`run`."""


def checked_threshold(threshold: float) -> float:
    """The threshold, if it is one.

    Raises:
        ConfigError: it is outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold} is outside 0 to 1; leave it out to take the model's own")
    return float(threshold)
