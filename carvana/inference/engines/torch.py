"""Runs a Segmenter with PyTorch, its BatchNorm folded into the convolutions."""

from __future__ import annotations

import hashlib
from functools import cached_property

import torch
from torch import Tensor

from carvana.inference.tiling.measure import bytes_per_pixel, exact_halo
from carvana.models.fuse import for_inference
from carvana.models.segmenter import Segmenter, padded_size
from carvana.utils.devices import autocast, resolve_device, resolve_precision
from carvana.utils.files import digest

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class TorchEngine:
    """Keeps :class:`carvana.inference.tiling.Engine` with PyTorch.

    The weights are copied at the first call; later changes of the model do not reach the copy.

    Args:
        model: moved to the device and set to evaluation mode, in place.
        device: auto, cpu, cuda or mps.
        precision: auto, fp32, bf16 or fp16.

    Raises:
        ConfigError: there is no such device or precision.
    """

    name = "torch"

    def __init__(self, model: Segmenter, *, device: str = "auto", precision: str = "auto") -> None:
        self.spec = model.spec
        self.device = resolve_device(device)
        self.precision = resolve_precision(precision, self.device)
        self._model = model.to(self.device).to(memory_format=torch.channels_last).eval()

    def __call__(self, images: Tensor) -> Tensor:
        """Map images to logits, in the engine's precision."""
        with autocast(self.device, self.precision):
            logits: Tensor = self.network(images.contiguous(memory_format=torch.channels_last))
        return logits

    @cached_property
    def network(self) -> Segmenter:
        """The folded copy that runs."""
        return for_inference(self._model, _DTYPES[self.precision])

    def receptive_field(self) -> int:
        """Measured in fp32: with fewer digits, results of tiles differ by more than what the network sees."""
        spec = self.spec
        return exact_halo(
            for_inference(self._model), stride=spec.stride, min_size=spec.min_size, channels=len(spec.channels),
            device=self.device,
        )  # fmt: skip

    def bytes_per_pixel(self) -> float:
        """Measured on a small image."""
        side = padded_size(256, self.spec.stride, self.spec.min_size)
        return bytes_per_pixel(self, side, self.device, channels=len(self.spec.channels))

    def digest(self) -> str:
        """A digest of every tensor, its name, the architecture, and how values become pixels, if not as usual."""
        spec = self.spec.model_dump(mode="json", include={"arch", "options", "mean", "std"})
        spec |= self.spec.model_dump(
            mode="json", include={"channels", "range", "nodata", "pages"}, exclude_defaults=True
        )
        hasher = hashlib.blake2b(digest(spec).encode(), digest_size=16)
        for name, tensor in sorted(self._model.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            hasher.update(f"{name} {values.dtype} {tuple(values.shape)} ".encode())
            hasher.update(values.flatten().view(torch.uint8).numpy())
        return hasher.hexdigest()
