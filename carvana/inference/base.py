"""BasePredictor: what Predictor, Ensemble and Refiner have in common, and streams of images through one of them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.data.io.images import ImageSource
from carvana.errors import ConfigError, ModelError
from carvana.image_spec import ImageSpec, Page
from carvana.inference.pipeline import T, overlapped
from carvana.inference.prediction import Prediction, ProbabilityMaps, Want
from carvana.inference.preprocess import PreprocessedImage, Preprocessor
from carvana.inference.raster import Raster
from carvana.inference.strips import decided, strips_of
from carvana.task import Task
from carvana.utils.deprecated import Attribute, parameters
from carvana.utils.devices import freed_memory_kept


class BasePredictor(ABC):
    """Maps images of any size to probabilities and masks of that size.

    The work has two steps, so that threads or processes can do the first while the network does the second:
    :meth:`prepare` reads and resizes an image, :meth:`run` sends a batch of them through the network.
    :meth:`fits_batch` says which images may form a batch.

    Attributes:
        device: where the networks run; of several, the first one's.
        task: the classes.
        thresholds: for each class a number in [0, 1]; a probability above it is foreground. Classes that exclude each
            other have none.
        max_pixels: files that hold more pixels are refused before they are decoded.
        sizes: (height, width) at which each network sees images, None for their own size.
        image_specs: what the images of each network are.
    """

    device: torch.device
    task: Task
    thresholds: tuple[float, ...]
    max_pixels: int
    sizes: tuple[tuple[int, int] | None, ...]
    image_specs: tuple[ImageSpec, ...]

    @parameters(photo="image")
    def predict(self, image: ImageSource) -> Prediction:
        """Predict one image.

        A path, its bytes and its pixels, in any form that :func:`carvana.read_image` takes, give the same bits.

        Raises:
            DataError: the file cannot be read, or the array is not an image.
        """
        return self.run([self.prepare(image)])[0]

    @parameters(photos="images")
    def predict_batch(self, images: Iterable[ImageSource]) -> list[Prediction]:
        """Predict some images of any sizes, in their order. :meth:`predict_many` takes more than fit the memory."""
        prepared = [self.prepare(image) for image in images]
        return [prediction for batch in self.batches(prepared) for prediction in self.run(batch)]

    @parameters(photos="images")
    def predict_many(self, images: Iterable[ImageSource], *, want: Want = "mask") -> Iterator[Prediction]:
        """Predict a stream of images, in their order: threads read ahead, and memory stays flat however many there are.

        Args:
            images: any number, of any sizes.
            want: the most that will be read from the predictions: "probabilities" for all of a
                :class:`carvana.inference.prediction.Prediction`, "levels", or "mask". On a GPU the rest stays there.

        Raises:
            DataError: a file cannot be read, or an array is not an image; raised at that image's turn.

        Example:
            >>> for prediction in predictor.predict_many(Path("images").glob("*.jpg")):  # doctest: +SKIP
            ...     print(prediction.mask.mean())
        """
        if isinstance(images, str | os.PathLike):
            raise ConfigError(f"{images!r}: expected several images; predict() takes a single one")
        prepared = overlapped(self.prepare, images, bytes_of=lambda image: image.read_nbytes)
        jobs = ((None, image) for image in prepared)
        for _, prediction in run_batches(self, jobs, want=want):
            assert prediction is not None
            yield prediction

    def batches(self, prepared: Sequence[PreprocessedImage]) -> list[list[PreprocessedImage]]:
        """Divide prepared images into batches for :meth:`run`: of one size, and no larger than is fast."""
        groups = _grouped(self, ((None, image) for image in prepared))
        return [[image for _, image in group if image is not None] for group in groups]

    @parameters(photo="image")
    def read(self, image: ImageSource, *, page: Page = None) -> NDArray[np.uint8]:
        """An image's pixels at its full size, within ``max_pixels``; of a file of several, those of a page."""
        return self.preprocessor.read(image, max_pixels=self.max_pixels, page=page)

    @parameters(photo="image")
    def prepare(self, image: ImageSource, *, name: str | os.PathLike[str] = "") -> PreprocessedImage:
        """Read an image and resize it for the network. Safe in any thread.

        Args:
            image: as for :meth:`predict`.
            name: what error messages call it; a path is its own name.
        """
        name = image if isinstance(image, str | os.PathLike) else name
        return self.preprocessor(self.read(image), os.fspath(name))

    @torch.inference_mode()
    def run(self, batch: Sequence[PreprocessedImage], *, want: Want = "probabilities") -> list[Prediction]:
        """Run the network on a batch of prepared images.

        Where no more than the labels or masks of several classes are wanted, those of images in tiles are decided from
        top to bottom: memory then holds no map of probabilities for each class.

        Args:
            batch: at least one, as :meth:`fits_batch` allows.
            want: the most that will be read from the predictions.

        Raises:
            ModelError: the network gives NaN, or the memory is too small for it.
        """
        if want == "mask" and self.task.kind != "binary" and any(map(self.in_tiles, batch)):
            return [decided(self.strips(image), image.size, self.task, self.thresholds) for image in batch]
        return [Prediction.from_maps(maps, self.thresholds, want, task=self.task) for maps in self.predict_maps(batch)]

    def in_tiles(self, image: PreprocessedImage) -> bool:
        """Whether a network sees a prepared image at its own size in several tiles."""
        return False

    def strips(self, image: PreprocessedImage) -> Iterator[Tensor]:
        """The probabilities of a prepared image of several classes, from top to bottom, float32 (K, h, W) each time.

        Raises:
            ModelError: as :meth:`run` says.
        """
        return strips_of(self.predict_maps([image])[0])

    def check_streamed(self, path: Path) -> None:
        """Refuse to predict a raster that does not fit the memory.

        Raises:
            ModelError: a network sees images at another size than their own, or there is a second look.
        """
        size = next((size for size in self.sizes if size is not None), None)
        if size is not None:
            raise ModelError(
                f"{path}: does not fit the memory, and the network sees images at {size[0]}x{size[1]}: take --scale "
                "native"
            )

    def raster_strips(self, raster: Raster) -> Iterator[Tensor]:
        """The probabilities of a raster that does not fit the memory, from top to bottom, float32 (K, h, W) each time.

        Raises:
            ModelError: as :meth:`run` says.
        """
        raise ModelError(f"{raster.path}: does not fit the memory; take one network, or the mean of several")

    @torch.inference_mode()
    def raster_labels(self, raster: Raster) -> Iterator[NDArray[Any]]:
        """The labels (h, W) of such a raster, from top to bottom; of classes that overlap the masks (K, h, W)."""
        for strip in self.raster_strips(raster):
            if self.task.kind == "multiclass":
                yield strip.argmax(0).to(torch.uint8 if self.task.dtype == "uint8" else torch.int32).cpu().numpy()
                continue
            masks = (strip > strip.new_tensor(self.thresholds)[:, None, None]).to(torch.uint8).cpu().numpy()
            yield masks if self.task.kind == "multilabel" else masks[0]

    @property
    def scale(self) -> str | tuple[int, int]:
        """(height, width) at which the networks see images, or "native" for their own size.

        Where they differ, their scales as text: "128x128 + native".
        """
        scales: list[str | tuple[int, int]] = list(dict.fromkeys(size or "native" for size in self.sizes))
        return scales[0] if len(scales) == 1 else " + ".join(map(scale_text, scales))

    @property
    def threshold(self) -> float:
        """The threshold of one object, or of the first class; 0.5 where there is none."""
        return self.thresholds[0] if self.thresholds else 0.5

    @property
    def preprocessor(self) -> Preprocessor:
        """Reads an image and resizes it for the networks; small, so that it is quickly sent to other processes."""
        return Preprocessor(self.sizes, self.image_specs)

    @property
    @abstractmethod
    def weights_digest(self) -> str:
        """The weights' digest in manifests."""

    def _threshold_setting(self) -> dict[str, float | list[float]]:
        if self.task.kind == "multilabel":
            return {"thresholds": list(self.thresholds)}
        return {"threshold": self.threshold} if self.thresholds else {}

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the image, as JSON values."""

    @abstractmethod
    def fits_batch(self, image: PreprocessedImage, batch: Sequence[PreprocessedImage]) -> bool:
        """Whether one more image may join a batch."""

    @abstractmethod
    def predict_maps(self, batch: Sequence[PreprocessedImage]) -> list[ProbabilityMaps]:
        """The probabilities of a batch of prepared images, still on their device; see :meth:`run`."""

    mix, joins, preparation = Attribute("predict_maps"), Attribute("fits_batch"), Attribute("preprocessor")


def run_batches(
    predictor: BasePredictor, jobs: Iterable[tuple[T, PreprocessedImage | None]], *, want: Want = "probabilities"
) -> Iterator[tuple[T, Prediction | None]]:
    """Predict the images of a stream of jobs in batches, keeping the order.

    A job without an image (unreadable, or done already) passes through.

    Args:
        predictor: makes the predictions.
        jobs: each with its prepared image, or None.
        want: the most that will be read from the predictions.

    Raises:
        ModelError: the network gives NaN for an image, or the memory is too small for it.
    """
    with freed_memory_kept(predictor.device):
        for group in _grouped(predictor, jobs):
            batch = [image for _, image in group if image is not None]
            predictions = iter(predictor.run(batch, want=want) if batch else ())
            yield from ((job, None if image is None else next(predictions)) for job, image in group)
            del predictions  # neither predictions nor images are held while the next ones are read
            batch.clear()
            group.clear()


def _grouped(
    predictor: BasePredictor, jobs: Iterable[tuple[T, PreprocessedImage | None]]
) -> Iterator[list[tuple[T, PreprocessedImage | None]]]:
    """Successive jobs whose images form a batch; those without an image do not wait where there is no batch yet."""
    group: list[tuple[T, PreprocessedImage | None]] = []
    batch: list[PreprocessedImage] = []
    for job in jobs:
        prepared = job[1]
        if group and (not batch or (prepared is not None and not predictor.fits_batch(prepared, batch))):
            yield group
            group, batch = [], []
        group.append(job)
        if prepared is not None:
            batch.append(prepared)
    if group:
        yield group


def same_task(predictors: Sequence[BasePredictor]) -> Task:
    """The task of several networks.

    Raises:
        ConfigError: their classes differ.
    """
    first, *others = predictors
    for other in others:
        if other.image_specs[0].channels != first.image_specs[0].channels:
            raise ConfigError("networks of images with other channels cannot work together")
        if (other.task.kind, other.task.names) != (first.task.kind, first.task.names):
            raise ConfigError(
                f"networks of different tasks cannot work together: {', '.join(first.task.names)} and "
                f"{', '.join(other.task.names)}; expected the same classes in the same order"
            )
    return first.task


def scale_text(scale: str | tuple[int, int]) -> str:
    """A scale in words.

    >>> scale_text((640, 960)), scale_text("native")
    ('640x960', 'native')
    """
    return scale if isinstance(scale, str) else f"{scale[0]}x{scale[1]}"


def thresholds_text(thresholds: Sequence[float]) -> str:
    """Thresholds for people, of many classes the first ones.

    >>> thresholds_text([0.5]), thresholds_text([0.5] * 9)
    ('0.500', '0.500, 0.500, 0.500, 0.500, ...')
    """
    shown = ", ".join(f"{each:.3f}" for each in thresholds[:4])
    return f"{shown}, ..." if len(thresholds) > 4 else shown


Threshold = float | Sequence[float] | None
"""One for all classes, or one for each; None for the usual ones."""


def checked_thresholds(threshold: Threshold, task: Task, default: Sequence[float]) -> tuple[float, ...]:
    """The threshold of each class, the default if there is none.

    Raises:
        ConfigError: one is outside 0 to 1, there is another number of them, or classes exclude each other.
    """
    if threshold is None:
        return tuple(default)
    if task.kind == "multiclass":
        raise ConfigError(f"threshold {threshold}: a multiclass task has none; leave it out")
    count = len(task.classes)
    if np.shape(threshold) not in ((), (count,)):
        raise ConfigError(f"threshold {threshold}: expected one for all classes, or {count}, one for each")
    several: list[float] = np.broadcast_to(threshold, count).tolist()
    for each in several:
        if not 0 <= each <= 1:
            raise ConfigError(f"threshold {each} is outside 0 to 1; leave it out to take the model's own")
    return tuple(map(float, several))
