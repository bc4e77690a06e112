from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import h5py
import keras2
import numpy as np
import pytest
import torch
from keras2 import old_file

from carvana.errors import ModelError
from carvana.models.keras_weights import read_keras
from carvana.models.unet_ref import UNetRef


@pytest.fixture(scope="module")
def network() -> UNetRef:
    torch.manual_seed(1)
    return UNetRef(width=1).eval()


def test_an_array_is_read_neither_through_a_link_nor_from_another_file(tmp_path: Path, network: UNetRef) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["bias"] = np.ones(1, np.float32)
    np.ones(1, np.float32).tofile(tmp_path / "raw.bin")
    layout = h5py.VirtualLayout((1,), np.float32)
    layout[:] = h5py.VirtualSource(secret, "bias", (1,))
    tricks: dict[str, Callable[[h5py.Group], object]] = {
        "is a link": lambda group: group.__setitem__("bias:0", h5py.ExternalLink(str(secret), "bias")),
        "is a link to": lambda group: group.__setitem__("bias:0", h5py.SoftLink("/secret")),
        "lies in another file": lambda group: group.create_virtual_dataset("bias:0", layout),
        "in another": lambda group: group.create_dataset(
            "bias:0", (1,), np.float32, external=[(str(tmp_path / "raw.bin"), 0, 4)]
        ),
    }
    for line, trick in tricks.items():
        path = old_file(tmp_path / "x.h5", network)
        with h5py.File(path, "a") as file:
            group = file["model_weights/conv2d_1/conv2d_1"]
            del group["bias:0"]
            trick(group)
        with pytest.raises(ModelError, match=line):
            read_keras(path)


def test_a_small_file_that_claims_a_giant_network_costs_no_memory(tmp_path: Path, network: UNetRef) -> None:
    path, width = old_file(tmp_path / "x.h5", network), 2**20
    names = [name for kind, name, _ in keras2.summary() if kind in ("Conv2D", "BatchNormalization")]
    with h5py.File(path, "a") as file:
        for name in names:
            group = file[f"model_weights/{name}/{name}"]
            for key in list(group):
                shape = group[key].shape
                del group[key]
                grown = tuple(side * width if kept(key, name, axis) else side for axis, side in enumerate(shape))
                group.create_dataset(key, grown, np.float32, chunks=tuple(min(side, 64) for side in grown))
    assert path.stat().st_size < 2**22
    with pytest.raises(ModelError, match="kernel of layer 'conv2d_1' is not stored in full"):
        read_keras(path)


def kept(key: str, name: str, axis: int) -> bool:
    """Whether that axis of an array grows with the network's width."""
    if key != "kernel:0":
        return name != "conv2d_23"
    return axis == 2 if name == "conv2d_23" else axis == 3 or (axis == 2 and name != "conv2d_1")
