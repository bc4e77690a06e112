"""Measures the memory that a network takes for a pixel, and the memory that is free."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from carvana.utils.devices import free_memory, is_out_of_memory

SHARE = 0.6
"""The share of the free memory that one forward pass may take; images, masks and other programs need the rest."""

RESERVE = 1.25
"""Factor on the measured memory, since libraries keep scratch memory of their own."""


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


def bytes_per_pixel(network: Callable[[Tensor], Any], side: int, device: torch.device) -> float:
    """The memory that a network takes at once for each pixel: the largest set of features that are alive together.

    Attention over all pixels grows faster than the image, so for such networks the result is too small.

    Args:
        network: uint8 images (1, 3, h, w) to logits.
        side: of the image to try, in pixels; the network must take it, and some 256 are enough.
        device: where it runs.

    Returns:
        Bytes; infinite where even this image does not fit.
    """
    images = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=device)
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
