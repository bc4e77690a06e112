"""Files that somebody else could send: links, giant claims, pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras2
import numpy as np
import pytest
import torch
from carvana.errors import ModelError
from carvana.models.unet_ref import UNetRef
from keras2 import old_file

from carvana_keras.weights import read_keras


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


class Trap:
    """Makes an empty folder where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def torch_file(code: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save({"head.weight": torch.zeros(2), "x": code}, buffer)
    return buffer.getvalue()


def keras_archive(trap: Trap) -> bytes:
    """An archive with a layer of Python code, the pickle in it and in an array's attribute."""
    code = pickle.dumps(trap)
    weights, archive = io.BytesIO(), io.BytesIO()
    with h5py.File(weights, "w") as file:
        values = file.create_group("layers/lambda/vars")
        values.create_dataset("0", data=np.frombuffer(code, np.uint8)).attrs["function"] = np.void(code)
    layer = {"class_name": "Lambda", "config": {"name": "lambda", "function": {"code": code.hex()}}, "name": "lambda"}
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        file.writestr("config.json", json.dumps({"class_name": "Functional", "config": {"layers": [layer]}}))
        file.writestr("model.weights.h5", weights.getvalue())
    return archive.getvalue()


def keras_h5(trap: Trap) -> bytes:
    code = pickle.dumps(trap)
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = ["lambda"]
        group.create_group("lambda").attrs["weight_names"] = ["lambda/function:0"]
        group.create_dataset("lambda/lambda/function:0", data=np.void(code))
        layer = {"class_name": "Lambda", "name": "lambda", "config": {"name": "lambda", "function": code.hex()}}
        file.attrs["model_config"] = json.dumps({"class_name": "Functional", "config": {"layers": [layer]}})
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", [".keras", ".h5", ".pt"])
@pytest.mark.parametrize("make", [pickle.dumps, torch_file, keras_archive, keras_h5])
def test_no_pickle_is_read(make: Callable[[Trap], bytes], suffix: str, tmp_path: Path) -> None:
    trap = Trap(tmp_path / "marker")
    pickle.loads(pickle.dumps(trap))  # it would
    trap.marker.rmdir()
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(make(trap))
    with pytest.raises(ModelError) as caught:
        read_keras(path)
    assert "\n" not in str(caught.value)
    assert not trap.marker.exists()
