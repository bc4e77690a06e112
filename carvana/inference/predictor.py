"""A photo of any size to probabilities, or a mask, of that size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from carvana.archs.segmenter import Segmenter
from carvana.data.images import MAX_PIXELS
from carvana.devices import autocast, resolve_device, resolve_precision
from carvana.errors import ModelError
from carvana.files import digest
from carvana.folds import Folds
from carvana.inference.base import BasePredictor, checked_threshold
from carvana.inference.mixture import Mixture
from carvana.inference.precision import precision_of
from carvana.inference.prepared import Preparation, Prepared
from carvana.inference.scale import Scale, network_size


class Predictor(BasePredictor[Prepared]):
    """A network, the scale at which it sees photos, and the threshold that makes masks of its probabilities.

    Args:
        model: moved to the device and set to evaluation mode, in place.
        scale: how large the network sees photos: ``"trained"`` as in its training, ``"native"`` the photo's own size,
            ``"HEIGHTxWIDTH"`` or (height, width).
        threshold: in [0, 1]; None takes the model's own.
        device: auto, cpu or cuda.
        precision: auto, fp32, bf16 or fp16.
        max_pixels: files that hold more pixels are refused before they are decoded.

    Raises:
        ConfigError: an argument is none of the above.
        ModelError: the model is no Segmenter of one class.

    Example:
        >>> from carvana.archs.spec import ModelSpec
        >>> model = Segmenter(torch.nn.Conv2d(3, 1, 1), ModelSpec(arch="mine", trained_size=(8, 8)))
        >>> Predictor(model).predict(np.zeros((30, 40, 3), np.uint8)).mask.shape
        (30, 40)
    """

    def __init__(
        self,
        model: Segmenter,
        *,
        scale: Scale = "trained",
        threshold: float | None = None,
        device: str = "auto",
        precision: str = "auto",
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if not isinstance(model, Segmenter):
            raise ModelError(
                f"a {type(model).__name__} does not tell how to prepare photos for it; "
                "wrap it: Segmenter(network, ModelSpec(...))"
            )
        if model.spec.classes != 1:
            raise ModelError(f"{model.spec.arch} has {model.spec.classes} classes; masks are made from one")
        self.size = network_size(scale, model.spec.trained_size)
        self.threshold = checked_threshold(model.spec.threshold if threshold is None else threshold)
        self.max_pixels = max_pixels
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self.model = model.to(self.device).to(memory_format=torch.channels_last).eval()

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], **settings: Any) -> Self:
        """Load the model of a run, a model folder or a hub repository.

        Args:
            path: the folder, or the repository's name.
            settings: the constructor's. Without a precision, that of the run counts: see
                :func:`carvana.inference.precision.precision_of`.

        Raises:
            ModelError: there is no model, or several: a folder of folds is an :class:`Ensemble`.
        """
        if Folds(path).exists:
            raise ModelError(f"{os.fspath(path)}: holds folds; carvana.Ensemble.from_pretrained averages all of them")
        settings.setdefault("precision", precision_of(path, settings.get("device", "auto")))
        return cls(Segmenter.from_pretrained(path), **settings)

    @property
    def preparation(self) -> Preparation:
        """Brings a photo to the network's size, by area."""
        return Preparation(self.size)

    def joins(self, photo: Prepared, batch: Sequence[Prepared]) -> bool:
        """Whether one more photo may go with a batch."""
        pixels = photo.image.shape[0] * photo.image.shape[1]
        return batch[0].image.shape == photo.image.shape and (len(batch) + 1) * pixels <= self._batch_pixels

    @torch.inference_mode()
    def mix(self, batch: Sequence[Prepared]) -> list[Mixture]:
        """Send prepared photos of one size through the network together.

        Raises:
            ModelError: the network gives something that is no number, or the memory is too small for it.
        """
        try:
            probabilities = self._probabilities(batch)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
            height, width = batch[0].image.shape[:2]
            raise ModelError(
                f"{self.model.spec.arch} does not fit the memory with {len(batch)} x {height}x{width} pixels (height x "
                f"width) to see at once; take a smaller scale, such as --scale {height // 2}x{width // 2}"
            ) from error
        if not bool(torch.isfinite(probabilities.sum())):
            overflow = "; or its numbers overflow: train with train.precision=fp32" if self.precision != "fp32" else ""
            raise ModelError(
                f"{self.model.spec.arch} gives NaN in {self.precision}: its training may have diverged (a lower "
                f"train.lr helps){overflow}"
            )
        return [Mixture.of(small, photo.size) for small, photo in zip(probabilities, batch, strict=True)]

    def _probabilities(self, batch: Sequence[Prepared]) -> Tensor:
        images = torch.from_numpy(np.stack([photo.image for photo in batch])).to(self.device)
        with autocast(self.device, self.precision):
            logits = self.model(images.permute(0, 3, 1, 2))  # the memory stays as it is: this is channels_last
        probabilities: Tensor = logits.float().sigmoid()[:, 0]
        return probabilities

    @property
    def scale(self) -> str | tuple[int, int]:
        """(height, width) at which the network sees photos, or "native" for their own size."""
        return self.size or "native"

    def settings(self) -> dict[str, Any]:
        """All that decides a mask besides the weights and the photo, as JSON-able values."""
        return {"scale": self.scale, "threshold": self.threshold, "precision": self.precision}

    @cached_property
    def weights_digest(self) -> str:
        """What the weights are known by in manifests: a digest of every tensor, its name, and what the model is."""
        spec = self.model.spec.model_dump(mode="json", include={"arch", "options", "mean", "std"})
        hasher = hashlib.blake2b(digest(spec).encode(), digest_size=16)
        for name, tensor in sorted(self.model.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            hasher.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            hasher.update(values.flatten().view(torch.uint8).numpy())
        return hasher.hexdigest()

    @property
    def _batch_pixels(self) -> int:
        # A CPU gains nothing from larger batches; a GPU needs them to fill up.
        return 2**17 if self.device.type == "cpu" else 2**21


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # A CPU's allocator raises a bare RuntimeError: the first words are those of Linux and macOS, then those of Windows.
    return any(words in str(error) for words in ("can't allocate memory", "not enough memory"))
