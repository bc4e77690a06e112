"""Measures the receptive field of a network: the halo with which tiles give what the whole image gives.

A NaN pixel makes every output that depends on it NaN. So one half of an image is filled with NaN, its border on the
stride's grid, where tiles end. How far NaN spreads over the border is the halo that a tile needs around the pixels that
are taken from it, for all phases of the grid at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from carvana.errors import ModelError
from carvana.inference.tiling.tiled import tiled
from carvana.models.segmenter import padded_size, round_up

LARGEST = 2048
"""Pixels; a network with a larger receptive field counts as seeing the whole image."""

TOLERANCE = 1e-4
"""How much the logits of tiles may differ from those of the whole, as a share of the largest one, at least 1."""


@dataclass(frozen=True)
class _Grid:
    """The sizes that a network takes, see :class:`carvana.models.spec.ModelSpec`, and where it is."""

    stride: int
    min_size: int
    device: str | torch.device

    def up(self, length: int) -> int:
        """The smallest length that the network takes, from this one on."""
        return padded_size(length, self.stride, self.min_size)

    @property
    def narrow(self) -> int:
        """The height of the images: a network that depends on whole columns does so in narrow images, too."""
        return self.up(2 * self.stride)


def exact_halo(
    network: Callable[[Tensor], Tensor], *, stride: int = 1, min_size: int = 1, device: str | torch.device = "cpu"
) -> int:
    """The halo with which tiles of a network give what the whole image gives: measured, then checked on noise.

    Args:
        network: float32 images (N, 3, H, W) in [0, 1] to logits (N, K, H, W); in evaluation mode.
        stride: H and W are multiples of it.
        min_size: the smallest H and W that it takes.
        device: where it is.

    Returns:
        Pixels, a multiple of the stride.

    Raises:
        ModelError: the network sees the whole image, or its tiles differ from the whole for another reason.

    >>> exact_halo(nn.Conv2d(3, 1, 5, padding=2), stride=4)
    4
    """
    grid = _Grid(stride, min_size, device)

    def turned(images: Tensor) -> Tensor:
        return network(images.mT).mT

    with torch.inference_mode():
        halo = round_up(max(_receptive_field(each, grid) for each in (network, turned)), stride)
        for each in (network, turned):
            _check(each, grid, halo)
    return halo


def _receptive_field(network: Callable[[Tensor], Tensor], grid: _Grid) -> int:
    """The columns, before or behind a border between two, from which outputs depend on what lies beyond it."""
    half = grid.up(max(256, 4 * grid.stride))
    while half <= LARGEST:
        images = torch.zeros(2, 3, grid.narrow, 2 * half, device=grid.device)
        images[0, ..., half:] = torch.nan
        images[1, ..., :half] = torch.nan
        # One at a time: BatchNorm in evaluation would not mix them, but other layers might.
        behind, before = (network(image[None]).isnan().flatten(0, 2).any(0) for image in images)
        first, last = int(behind.int().argmax()), len(before) - 1 - int(before.flip(0).int().argmax())
        if not behind.any() or not before.any():
            raise ModelError("its output does not depend on its input")
        if first > 0 and last < 2 * half - 1:
            return max(half - first, last + 1 - half, 0)
        half *= 2
    raise ModelError(_first_global_layer(network, images[:1]))


def _check(network: Callable[[Tensor], Tensor], grid: _Grid, halo: int) -> None:
    """Compare tiles with the whole on noise: NaN does not show, for one, a resize that depends on the size."""
    tile = grid.up(2 * halo + 2 * grid.stride)
    shape = (1, 3, grid.narrow, tile + 3 * grid.stride)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(grid.device)
    whole = network(images).float()
    sizes = {"stride": grid.stride, "min_size": grid.min_size}
    joined = tiled(network, images, tile=(grid.narrow, tile), halo=halo, **sizes).float()
    difference = float((whole - joined).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(whole.abs().max())):
        raise ModelError(f"tiles differ from the whole by {difference:.1e} though they see {halo} pixels around")


def _first_global_layer(network: Callable[[Tensor], Tensor], image: Tensor) -> str:
    """The layer from which on every value depends on the whole image: the first whose output is all NaN."""
    found: list[str] = []

    def look(module: nn.Module, _: object, output: object) -> None:
        leaf = not list(module.children())
        if leaf and not found and isinstance(output, Tensor) and bool(output.isnan().all()):
            found.append(f"'{names[module]}' ({type(module).__name__})")

    names = {module: name for name, module in network.named_modules()} if isinstance(network, nn.Module) else {}
    hooks = [module.register_forward_hook(look) for module in names]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    where = f"from its layer {found[0]} on " if found else ""
    return f"{where}every value depends on the whole image"
