"""Measures what tiling needs to know of a network: its receptive field, and the memory that it takes for a pixel.

The receptive field is the halo with which tiles give what the whole image gives. A NaN pixel makes every output that
depends on it NaN. So one half of an image is filled with NaN, its border on the stride's grid, where tiles end. How far
NaN spreads over the border is the halo that a tile needs around the pixels that are taken from it, for all phases of
the grid at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from carvana.errors import ModelError
from carvana.inference.tiling.tiled import tiled
from carvana.models.segmenter import padded_size, round_up
from carvana.utils.devices import free_memory, is_out_of_memory

LARGEST = 2048
"""Pixels; a network with a larger receptive field counts as seeing the whole image."""

TOLERANCE = 1e-4
"""How much the logits of tiles may differ from those of the whole, as a share of the largest one, at least 1."""

SHARE = 0.6
"""The share of the free memory that one forward pass may take; images, masks and other programs need the rest."""

RESERVE = 1.25
"""Factor on the measured memory, since libraries keep scratch memory of their own."""


def exact_halo(
    network: Callable[[Tensor], Tensor],
    *,
    stride: int = 1,
    min_size: int = 1,
    channels: int = 3,
    device: str | torch.device = "cpu",
) -> int:
    """The halo with which tiles of a network give what the whole image gives: measured, then checked on noise.

    Args:
        network: float32 images (N, channels, H, W) in [0, 1] to logits (N, K, H, W); in evaluation mode.
        stride: H and W are multiples of it.
        min_size: the smallest H and W that it takes.
        channels: of an image.
        device: where it is.

    Returns:
        Pixels, a multiple of the stride.

    Raises:
        ModelError: the network sees the whole image, or its tiles differ from the whole for another reason.

    >>> exact_halo(nn.Conv2d(3, 1, 5, padding=2), stride=4)
    4
    """
    narrow = padded_size(2 * stride, stride, min_size)  # what depends on whole columns does so in narrow images, too
    half = padded_size(max(256, 4 * stride), stride, min_size)

    def turned(images: Tensor) -> Tensor:
        return network(images.mT).mT

    with torch.inference_mode():
        seen = [_receptive_field(each, channels, narrow, half, device) for each in (network, turned)]
        halo = round_up(max(seen), stride)
        tile = padded_size(2 * halo + 2 * stride, stride, min_size)
        shape = (1, channels, narrow, tile + 3 * stride)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(0)).to(device)
        for each in (network, turned):  # NaN does not show, for one, a resize that depends on the size
            whole = each(noise).float()
            joined = tiled(each, noise, tile=(narrow, tile), halo=halo, stride=stride, min_size=min_size).float()
            difference = float((whole - joined).abs().max())
            if not difference <= TOLERANCE * max(1.0, float(whole.abs().max())):
                raise ModelError(
                    f"tiles differ from the whole by {difference:.1e} though they see {halo} pixels around"
                )
    return halo


def _receptive_field(
    network: Callable[[Tensor], Tensor], channels: int, height: int, half: int, device: str | torch.device
) -> int:
    """The columns, before or behind a border between two, from which outputs depend on what lies beyond it.

    Args:
        network: as for :func:`exact_halo`.
        channels: as for :func:`exact_halo`.
        height: of the images to try.
        half: half of their width, doubled until some outputs do not depend on what lies beyond the border.
        device: where the network is.
    """
    while half <= LARGEST:
        images = torch.zeros(2, channels, height, 2 * half, device=device)
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


def budget_bytes(device: torch.device, wanted_gb: float | None = None) -> float:
    """The memory that one forward pass may take on a device, in bytes.

    Args:
        device: where it runs.
        wanted_gb: in GB of 10^9 bytes; None measures what is free.
    """
    if wanted_gb is not None:
        return wanted_gb * 1e9
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return SHARE * float(free + kept)
    if device.type == "mps":  # the computer's own memory, of which the GPU may take a part
        return SHARE * min(free_memory(), torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    return SHARE * free_memory()


def bytes_per_pixel(network: Callable[[Tensor], Any], side: int, device: torch.device, *, channels: int = 3) -> float:
    """The memory that a network takes at once for each pixel: the largest set of features that are alive together.

    Attention over all pixels grows faster than the image, so for such networks the result is too small.

    Args:
        network: uint8 images (1, channels, h, w) to logits.
        side: of the image to try, in pixels; the network must take it, and some 256 are enough.
        device: where it runs.
        channels: of an image.

    Returns:
        Bytes; infinite where even this image does not fit.
    """
    images = torch.zeros(1, channels, side, side, dtype=torch.uint8, device=device)
    peak = _peak_on_gpu if device.type == "cuda" else _peak_of_tensors
    try:
        taken = peak(lambda: network(images), device)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return math.inf
    return max(1.0, RESERVE * taken / side**2)


def _peak_on_gpu(run: Callable[[], Any], device: torch.device) -> float:
    run()  # what is made once, such as the libraries' work spaces, does not grow with the image
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    return float(torch.cuda.max_memory_allocated(device) - before)


def _peak_of_tensors(run: Callable[[], Any], _: torch.device) -> float:
    watch = _Watch()
    with watch:
        run()
    return watch.peak


class _Watch(TorchDispatchMode):
    """Adds up the memory of all tensors that operations have made and that are still alive.

    Attributes:
        peak: the largest sum, in bytes.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak: float = 0.0
        self._alive: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self._alive = {key: kept for key, kept in self._alive.items() if not kept[0].expired()}
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in given:  # what is a view, or was there before, is no new memory
                    self._alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.peak = max(self.peak, sum(size for _, size in self._alive.values()))
        return result
