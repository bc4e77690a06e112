"""The random generators of a process as plain values: a training that goes on must draw what it would have drawn."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, and of the GPU's, as JSON-able values."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - augmentations of a user's own may draw from it
    kind, keys, place, has_gauss, cached = legacy
    states: dict[str, Any] = {
        "python": [version, list(words), gauss],
        "numpy": [kind, keys.tolist(), place, has_gauss, cached],
        "torch": bytes(torch.get_rng_state().tolist()).hex(),
    }
    if device.type == "cuda":
        states["cuda"] = bytes(torch.cuda.get_rng_state(device).tolist()).hex()
    return states


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`generator_states`; the GPU's generator is left alone if the states are of a training without one."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), place, has_gauss, cached))  # noqa: NPY002 - see above
    torch.set_rng_state(_bytes(states["torch"]))
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(_bytes(states["cuda"]), device)


def _bytes(hexadecimal: str) -> torch.Tensor:
    return torch.tensor(list(bytes.fromhex(hexadecimal)), dtype=torch.uint8)
