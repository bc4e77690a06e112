"""An image of any size to probabilities, or a mask, of that size."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from carvana.data.io.images import MAX_PIXELS
from carvana.errors import ConfigError, ModelError
from carvana.folds import Folds
from carvana.inference.base import BasePredictor, Threshold, checked_thresholds
from carvana.inference.engines.choice import checked_engine, engine_of, engine_of_file
from carvana.inference.engines.exported import is_exported
from carvana.inference.prediction import Prediction, ProbabilityMaps, Want
from carvana.inference.preprocess import PreprocessedImage, Scale, network_size
from carvana.inference.raster import Raster
from carvana.inference.strips import mean_strips
from carvana.inference.tiling import Engine
from carvana.inference.tiling.grid import TileGrid
from carvana.inference.tiling.roi import mirrored
from carvana.inference.tiling.sliding_window import (
    DeviceTimer,
    SlidingWindowConfig,
    SlidingWindowInferer,
    probabilities_of,
)
from carvana.inference.tiling.tiled import WindowedImage
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.utils.deprecated import Attribute, parameters
from carvana.utils.devices import describe, resolve_device
from carvana.utils.parallel import check_fork, network_runs
from carvana.utils.progress import Reporter, default_reporter


class Predictor(BasePredictor):
    """A network, the scale at which it sees images, and the threshold that makes masks of its probabilities.

    The weights are copied at the first prediction; after more training, make a new predictor.

    Args:
        model: a Segmenter, moved to the device and set to evaluation mode, in place; or another engine.
        scale: how large the network sees images: ``"trained"`` as in its training, ``"native"`` the image's own size,
            ``"HEIGHTxWIDTH"`` or (height, width).
        mode: how that image is covered: ``"whole"``, ``"tiles"``, or ``"auto"``, whole if it fits the memory and
            neither tile nor overlap is given.
        tile: largest side of tiles in pixels, or (height, width); None chooses the cheapest ones that fit the memory.
        overlap: share of a tile's side that neighbours have in common, from 0 to 0.9; not for the exact join.
        join: ``"blend"`` weighs tiles by a gaussian; ``"exact"`` gives what the whole image gives, up to rounding.
        tta: average with the probabilities of the mirrored image, in twice the time.
        memory: what one pass of the network may take, in GB; None takes a share of what is free.
        threshold: in [0, 1], of classes that overlap one for all or one for each; None takes the model's own.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.
        engine: what runs the network: ``"torch"``, ``"onnx"``, ``"openvino"``, or ``"auto"``, on a CPU the quicker one
            of torch and OpenVINO; None is torch for a Segmenter.
        max_pixels: files that hold more pixels are refused before they are decoded.
        reporter: where warnings go, as when memory runs short; None takes the log.

    Raises:
        ConfigError: an argument is out of its range.
        ModelError: the model is neither a Segmenter nor an engine, or has several classes and no task.
        ConfigError: a threshold is given, and classes exclude each other.

    Example:
        >>> from carvana.models.spec import ModelSpec
        >>> model = Segmenter(torch.nn.Conv2d(3, 1, 1), ModelSpec(arch="mine", trained_size=(8, 8)))
        >>> Predictor(model).predict(np.zeros((30, 40, 3), np.uint8)).mask.shape
        (30, 40)
    """

    def __init__(
        self,
        model: Segmenter | Engine,
        *,
        scale: Scale = "trained",
        mode: str = "auto",
        tile: int | tuple[int, int] | None = None,
        overlap: float | None = None,
        join: str = "blend",
        tta: bool = False,
        memory: float | None = None,
        threshold: Threshold = None,
        device: str = "auto",
        precision: str = "auto",
        engine: str | None = None,
        max_pixels: int = MAX_PIXELS,
        reporter: Reporter | None = None,
    ) -> None:
        if not isinstance(model, Segmenter | Engine):
            raise ModelError(
                f"a {type(model).__name__} does not say how to prepare images for it; "
                "wrap it: Segmenter(network, ModelSpec(...))"
            )
        if model.spec.task is None:
            raise ModelError(
                f"{model.spec.arch} has {model.spec.classes} channels and no task, which would say what they mean: "
                "name the classes, as in model.with_spec(task=carvana.Task(classes=[...]))"
            )
        self.task = model.spec.task
        self.size = network_size(scale, model.spec.trained_size)
        self.sizes = (self.size,)
        self.tta = tta
        self.image_specs = (model.spec.image_spec,)
        self.thresholds = checked_thresholds(threshold, self.task, model.spec.thresholds)
        self.max_pixels = max_pixels
        self.model = model
        reporter = reporter or default_reporter()
        self.engine: Engine
        if isinstance(model, Segmenter):
            self.engine = engine_of(model, engine, device=device, precision=precision, reporter=reporter)
        else:
            self.engine = model
            if engine not in (None, "auto", model.name):
                raise ConfigError(f"engine {engine!r}: this is one of {model.name} already; leave it out")
            if precision not in ("auto", model.precision):
                raise ConfigError(f"precision {precision!r}: this engine computes in {model.precision}; leave it out")
        self.device, self.precision = self.engine.device, self.engine.precision
        _warn_about_scale(model.spec, self.size, reporter)
        self._inferer = SlidingWindowInferer(
            self.engine, SlidingWindowConfig(mode, tile, overlap, join, memory), reporter=reporter
        )

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Load the model of a run, a model folder or a hub repository, or an exported file.

        Args:
            path: the folder, the repository's name, or a file or folder that ``carvana export`` wrote.
            settings: the constructor's. Without a precision, that of the run counts: see
                :func:`carvana.inference.predictor.precision_of`.

        Raises:
            ModelError: there is no model, or several: a folder of folds is an :class:`Ensemble`.
        """
        check_fork()
        if Folds(path).exists:
            raise ModelError(f"{os.fspath(path)}: holds folds; carvana.Ensemble.from_pretrained averages all of them")
        device, engine = settings.get("device", "auto"), settings.get("engine")
        if is_exported(path):
            precision = settings.pop("precision", "auto")
            return cls(
                engine_of_file(path, settings.pop("engine", None), device=device, precision=precision), **settings
            )
        named = checked_engine(engine)
        if named != "onnx":  # which computes in fp32
            settings.setdefault("precision", precision_of(path, "cpu" if named == "openvino" else device))
        return cls(Segmenter.from_pretrained(path), **settings)

    def plan(self, size: tuple[int, int]) -> TileGrid:
        """How the network covers an image of (height, width): see :class:`carvana.inference.tiling.grid.TileGrid`."""
        return self._inferer.plan(self.size or size)

    @parameters(photo="image")
    def fits_batch(self, image: PreprocessedImage, batch: Sequence[PreprocessedImage]) -> bool:
        """Whether one more image may join a batch."""
        return self._inferer.fits_batch(_size(image), [_size(other) for other in batch])

    @torch.inference_mode()
    def run(self, batch: Sequence[PreprocessedImage], *, want: Want = "probabilities") -> list[Prediction]:
        """As for every predictor. Labels alone, of images that the network sees at their own size, are decided where
        its logits are: memory then holds no probabilities.
        """
        own_size = all(_size(each) == each.size for each in batch)
        if self.task.kind != "multiclass" or want != "mask" or self.tta or not own_size:
            return super().run(batch, want=want)
        network_runs()
        return self._of_labels(batch, self._inferer.labels([self._on_device(each.images[0]) for each in batch]))

    def in_tiles(self, image: PreprocessedImage) -> bool:
        """Whether the network sees a prepared image at its own size in several tiles."""
        return _size(image) == image.size and len(self.plan(image.size)) > 1

    def strips(self, image: PreprocessedImage) -> Iterator[Tensor]:
        """The probabilities of a prepared image of several classes, from top to bottom."""
        if not self.in_tiles(image):
            return super().strips(image)
        network_runs()
        pixels = self._on_device(image.images[0])
        return self._mean_strips(pixels, pixels.flip(-1) if self.tta else None, image.name)

    def _mean_strips(
        self, image: Tensor | WindowedImage, turned: Tensor | WindowedImage | None, name: str
    ) -> Iterator[Tensor]:
        """The strips of an image, or their mean with those of the mirrored one."""

        def finite(strip: Tensor) -> Tensor:
            if not bool(torch.isfinite(strip.sum())):
                raise self._not_a_number(name)
            return strip

        def turned_back(strip: Tensor) -> Tensor:
            return finite(strip).flip(-1)

        # By map: the variable of a generator expression would keep a strip.
        strips = map(finite, self._inferer.strips(image))
        return strips if turned is None else mean_strips([strips, map(turned_back, self._inferer.strips(turned))])

    def raster_strips(self, raster: Raster) -> Iterator[Tensor]:
        """The probabilities of a raster that does not fit the memory, from top to bottom."""
        network_runs()
        (spec,) = self.image_specs
        turned = raster.taken_for(spec, self.device, is_turned=True) if self.tta else None
        return self._mean_strips(raster.taken_for(spec, self.device), turned, str(raster.path))

    @torch.inference_mode()
    def predict_maps(self, batch: Sequence[PreprocessedImage]) -> list[ProbabilityMaps]:
        """Run the network on a batch of prepared images.

        Raises:
            ModelError: the network gives NaN, the memory is too small for it, or there is no
                exact join.
        """

        def predict(images: Sequence[Tensor], _: bool) -> list[Tensor]:
            return [probabilities_of(self.task, logits) for logits in self._inferer.logits(images)]

        return self._maps(batch, predict)

    def refine_labels(
        self, batch: Sequence[PreprocessedImage], drafts: Sequence[Tensor], uncertain: Sequence[NDArray[np.bool_]]
    ) -> list[Prediction]:
        """As :meth:`refine_maps`, for the labels of several classes alone; not for mirrored images.

        Args:
            batch: Prepared images.
            drafts: For each image its coarse labels (h, w), on the device.
            uncertain: As for :meth:`refine_maps`.

        Raises:
            ModelError: as :meth:`predict_maps` says.
        """
        network_runs()
        images = [self._on_device(each.images[0]) for each in batch]
        return self._of_labels(batch, self._inferer.refine_labels(images, drafts, uncertain))

    @parameters(unsure="uncertain")
    @torch.inference_mode()
    def refine_maps(
        self, batch: Sequence[PreprocessedImage], drafts: Sequence[Tensor], uncertain: Sequence[NDArray[np.bool_]]
    ) -> list[ProbabilityMaps]:
        """Run the network on the uncertain regions of images, and take the rest from drafts.

        Args:
            batch: Prepared images.
            drafts: For each image its coarse probabilities (h, w), of several classes (K, h, w), on the device.
            uncertain: For each image its uncertain cells: see :func:`carvana.inference.tiling.roi.cover_cells`.

        Raises:
            ModelError: as :meth:`predict_maps` says.
        """

        def refine(images: Sequence[Tensor], flipped: bool) -> list[Tensor]:
            if not flipped:
                return self._inferer.refine(images, drafts, uncertain)
            turned = [mirrored(cells, image.shape[2]) for cells, image in zip(uncertain, images, strict=True)]
            return self._inferer.refine(images, [draft.flip(-1) for draft in drafts], turned)

        return self._maps(batch, refine)

    @parameters(unsure="uncertain")
    def refine_cost(self, uncertain: NDArray[np.bool_], size: tuple[int, int]) -> float:
        """The pixels that the network sees in :meth:`refine_maps`, per pixel of an image of (height, width)."""
        # Mirrored, about as many are seen once more.
        return (2 if self.tta else 1) * self._inferer.plan_refinement(uncertain, size).cost

    def _maps(
        self, batch: Sequence[PreprocessedImage], run: Callable[[Sequence[Tensor], bool], list[Tensor]]
    ) -> list[ProbabilityMaps]:
        """The probabilities of prepared images; ``run`` gets them, and whether they are mirrored."""
        network_runs()
        images = [self._on_device(each.images[0]) for each in batch]
        maps = run(images, False)
        if self.tta:
            flipped = run([image.flip(-1) for image in images], True)
            maps = [(one + other.flip(-1)) / 2 for one, other in zip(maps, flipped, strict=True)]
        for each, single in zip(batch, maps, strict=True):
            if not bool(torch.isfinite(single.sum())):
                raise self._not_a_number(each.name)
        return [ProbabilityMaps.single(single, each.size) for single, each in zip(maps, batch, strict=True)]

    def _of_labels(self, batch: Sequence[PreprocessedImage], labels: Sequence[Tensor]) -> list[Prediction]:
        predictions = [Prediction.of_labels(single.cpu().numpy(), self.task) for single in labels]
        for prediction, each in zip(predictions, batch, strict=True):
            if (prediction.labels == self.task.void).any():
                raise self._not_a_number(each.name)
        return predictions

    def _not_a_number(self, name: str) -> ModelError:
        where = f"{name}: " if name else ""
        overflow = "" if self.precision == "fp32" else _OVERFLOW
        return ModelError(
            f"{where}{self.model.spec.arch} gives NaN in {self.precision}: its training may have diverged (a "
            f"lower train.lr helps){overflow}"
        )

    def _on_device(self, image: Tensor) -> Tensor:
        """An image (channels, h, w) whose memory stays in the order of pixels, which is torch's channels_last."""
        if self.device.type == "cuda":
            image = image.pin_memory()
        return image.to(self.device, non_blocking=self.device.type == "cuda").permute(2, 0, 1)

    @contextmanager
    def timed(self) -> Iterator[DeviceTimer]:
        """Measure the seconds that the network takes within the block; on a GPU this waits for each batch."""
        self._inferer.timer = timer = DeviceTimer()
        try:
            yield timer
        finally:
            self._inferer.timer = None

    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the image, as JSON values."""
        settings = {"scale": self.scale, **self._threshold_setting(), "precision": self.precision}
        if self.engine.name != ("torch" if isinstance(self.model, Segmenter) else "onnx"):  # the only ones there were
            settings["engine"] = self.engine.name
        return settings | self._inferer.config.settings() | ({"tta": True} if self.tta else {})

    @cached_property
    def weights_digest(self) -> str:
        """The weights' digest in manifests."""
        return self.engine.digest()

    mix_again, cost_again = Attribute("refine_maps"), Attribute("refine_cost")


def precision_of(path: str | os.PathLike[str], device: str = "auto") -> str:
    """The precision to use a run in, as ``carvana.utils.devices`` names it.

    On the machine that trained it, a run keeps the precision of its training, so that results are the same. fp32 is
    kept everywhere: it may have been chosen because the network overflows in others. Else it is "auto".

    Args:
        path: a run; "auto" for anything else.
        device: auto, cpu, cuda or mps.

    Raises:
        ConfigError: there is no such device here.
        RunError: the run's records cannot be read.

    >>> precision_of("no such run")
    'auto'
    """
    if not Run(path).exists:
        return "auto"
    run = Run(path)
    record = run.read_record()
    # A fit that was interrupted has not recorded what "auto" was; it is the same again on the same machine.
    precision = str(record.get("precision") or run.read_config().train.precision)
    if precision == "fp32" or record.get("machine") == describe(resolve_device(device)):
        return precision
    return "auto"


def _warn_about_scale(spec: ModelSpec, size: tuple[int, int] | None, reporter: Reporter) -> None:
    """Warn that a network trained on whole, shrunken images sees larger objects in images at their own size."""
    if size is None and spec.trained_size is not None:
        height, width = spec.trained_size
        reporter.warn(
            f"{spec.arch} was trained on whole images of {height}x{width}; larger ones at their own size show larger "
            "objects than in training, and masks get worse (data.mode=crop trains for that)"
        )


_OVERFLOW = "; or its numbers overflow: train with train.precision=fp32"


def _size(image: PreprocessedImage) -> tuple[int, int]:
    return image.images[0].shape[0], image.images[0].shape[1]
