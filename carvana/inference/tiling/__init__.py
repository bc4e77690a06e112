"""Images larger than the network takes at once: tiles, windows, receptive fields, memory.

The engine that runs a network keeps the protocol below; carvana/inference/engines has those there are.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from carvana.models.spec import ModelSpec
from carvana.utils.devices import Precision


@runtime_checkable
class Engine(Protocol):
    """A network on a device.

    Attributes:
        name: torch, onnx or openvino.
        spec: how to feed the network.
        device: where it runs.
        precision: of its arithmetic.
    """

    name: str
    spec: ModelSpec
    device: torch.device
    precision: Precision

    def __call__(self, images: Tensor) -> Tensor:
        """Map images, uint8 (N, 3, H, W) of any size on the device, to logits (N, classes, H, W).

        Raises:
            MemoryError, RuntimeError: the memory is too small: see :func:`carvana.utils.devices.is_out_of_memory`.
        """

    def receptive_field(self) -> int:
        """How many pixels on each side an output depends on: the halo with which tiles join exactly.

        Raises:
            ModelError: every output depends on the whole image, or it is unknown; the message says which.
        """

    def bytes_per_pixel(self) -> float:
        """The memory that the network takes at once for each pixel of its input."""

    def digest(self) -> str:
        """A digest of the weights and of what else decides the logits."""
