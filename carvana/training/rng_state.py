"""The states of a process's random generators, so that a resumed training draws the same numbers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def generator_states(device: torch.device) -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's generators, and of the GPU's, as JSON-able values."""
    version, words, gauss = random.getstate()
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - a user's augmentations may draw from it
    kind, keys, place, has_gauss, cached = legacy
    states: dict[str, Any] = {
        "python": [version, _hex(np.array(words, np.uint32)), gauss],
        "numpy": [kind, _hex(keys), place, has_gauss, cached],
        "torch": _hex(torch.get_rng_state().numpy()),
    }
    if device.type != "cpu":
        states[device.type] = _hex(torch.get_device_module(device).get_rng_state(device).numpy())
    return states


def restore_generators(states: dict[str, Any], device: torch.device) -> None:
    """Undo :func:`generator_states`; the GPU's generator is left as it is if there is no state of it."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(_array(words, np.uint32).tolist()), gauss))
    kind, keys, place, has_gauss, cached = states["numpy"]
    np.random.set_state((kind, _array(keys, np.uint32), place, has_gauss, cached))  # noqa: NPY002 - see above
    torch.set_rng_state(torch.from_numpy(_array(states["torch"], np.uint8)))
    if device.type != "cpu" and device.type in states:
        state = torch.from_numpy(_array(states[device.type], np.uint8))
        torch.get_device_module(device).set_rng_state(state, device)


def _hex(values: Any) -> str:
    return values.astype(values.dtype.newbyteorder("<")).tobytes().hex()  # type: ignore[no-any-return]


def _array(text: str, dtype: Any) -> Any:
    little = np.dtype(dtype).newbyteorder("<")
    return np.frombuffer(bytes.fromhex(text), little).astype(dtype)  # a copy, since torch wants to write
