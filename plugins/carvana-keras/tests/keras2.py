"""Files as Keras 2 wrote them, byte strings and all: it cannot be installed beside the torch of today.

``keras_models.py`` has Keras 3 load them, which still knows this layout.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

STEPS = (2, 2, 2, 2, 2, 3, 3, 3, 3)
"""Convolutions of the nine stages of the notebook's summary."""


def summary(first: int = 1) -> list[tuple[str, str, list[str]]]:
    """Class, name and inputs of the layers of the notebook's summary, in its order, counted from ``first``."""
    kinds = {
        "Conv2D": "conv2d", "BatchNormalization": "batch_normalization", "Activation": "activation",
        "MaxPooling2D": "max_pooling2d", "UpSampling2D": "up_sampling2d", "Concatenate": "concatenate",
    }  # fmt: skip
    counts = dict.fromkeys(kinds, first - 1)
    layers: list[tuple[str, str, list[str]]] = [("InputLayer", f"input_{first}", [])]

    def add(kind: str, *inputs: str) -> None:
        counts[kind] += 1
        layers.append((kind, f"{kinds[kind]}_{counts[kind]}", [*inputs, layers[-1][1]]))

    skips = []
    for stage, convolutions in enumerate(STEPS):
        if 1 <= stage <= 4:
            skips.append(layers[-1][1])
            add("MaxPooling2D")
        elif stage:
            add("UpSampling2D")
            add("Concatenate", skips.pop())
        for _ in range(convolutions):
            add("Conv2D")
            add("BatchNormalization")
            add("Activation")
    add("Conv2D")
    return layers


def configuration(
    layers: Sequence[tuple[str, str, list[str]]], arrays: Mapping[str, Any], size: tuple[int, int]
) -> dict[str, Any]:
    """The ``model_config`` of Keras 2.1.6, for pictures of one (height, width)."""
    last = layers[-1][1]

    def settings(kind: str, name: str) -> dict[str, Any]:
        if kind == "InputLayer":
            return {"batch_input_shape": [None, *size, 3], "dtype": "float32", "sparse": False}
        if kind == "Conv2D":
            *kernel, _, filters = arrays[name]["kernel"].shape
            return {
                "trainable": True, "filters": filters, "kernel_size": list(kernel), "strides": [1, 1],
                "padding": "same", "data_format": "channels_last", "dilation_rate": [1, 1],
                "activation": "sigmoid" if name == last else "linear", "use_bias": True,
            }  # fmt: skip
        return {
            "BatchNormalization": {"axis": -1, "momentum": 0.99, "epsilon": 0.001, "center": True, "scale": True},
            "Activation": {"activation": "relu"},
            "MaxPooling2D": {
                "pool_size": [2, 2], "padding": "valid", "strides": [2, 2], "data_format": "channels_last",
            },
            "UpSampling2D": {"size": [2, 2], "data_format": "channels_last"},  # interpolation came with 2.2.3
            "Concatenate": {"axis": -1},
        }[kind] | {"trainable": True}  # fmt: skip

    listed = [
        {
            "name": name,
            "class_name": kind,
            "config": {"name": name, **settings(kind, name)},
            "inbound_nodes": [[[source, 0, 0, {}] for source in inputs]] if inputs else [],
        }
        for kind, name, inputs in layers
    ]
    ends = {"input_layers": [[layers[0][1], 0, 0]], "output_layers": [[last, 0, 0]]}
    return {"class_name": "Model", "config": {"name": "model_1", "layers": listed, **ends}}


def name_arrays(
    layers: Sequence[tuple[str, str, list[str]]], weighted: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, Mapping[str, np.ndarray]]:
    """The arrays of each layer that has any, by the layer's name."""
    names = [name for kind, name, _ in layers if kind in ("Conv2D", "BatchNormalization")]
    return dict(zip(names, weighted, strict=True))


def write_keras2(
    path: Path,
    layers: Sequence[tuple[str, str, list[str]]],
    arrays: Mapping[str, Mapping[str, np.ndarray]],
    *,
    config: Mapping[str, Any] | None = None,
    chunks: int = 1,
) -> None:
    """Write what ``model.save`` wrote, or without ``config`` what ``model.save_weights`` wrote.

    Args:
        path: The file.
        layers: Class, name and inputs of each.
        arrays: By the layer's name.
        config: The model's configuration.
        chunks: Attributes in which the layers' names stand; long lists were split.
    """
    with h5py.File(path, "w") as file:
        root: Any = file
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
            root = file.create_group("model_weights")
            file.create_group("optimizer_weights").create_dataset("iterations:0", data=np.int64(5))
        for target in {file, root}:
            target.attrs["keras_version"] = b"2.1.6"
            target.attrs["backend"] = b"tensorflow"
        names = np.array([name.encode() for _, name, _ in layers])
        if chunks == 1:
            root.attrs["layer_names"] = names
        else:
            for index, part in enumerate(np.array_split(names, chunks)):
                root.attrs[f"layer_names{index}"] = part
        for _, name, _ in layers:
            group = root.create_group(name)
            inner = [f"{name}/{array}:0" for array in arrays.get(name, {})]
            group.attrs["weight_names"] = [weight.encode() for weight in inner]
            for weight, values in zip(inner, arrays.get(name, {}).values(), strict=True):
                group.create_dataset(weight, data=values)


def old_file(
    path: Path,
    network: torch.nn.Module,
    *,
    first: int = 1,
    change: Callable[[dict[str, Any]], object] = lambda config: None,
    arrays: Callable[[dict[str, dict[str, np.ndarray]]], object] = lambda arrays: None,
) -> Path:
    """A network of ours as Keras 2 would have written it.

    Args:
        path: The file.
        network: ``UNetRef``.
        first: The number that the layers' names begin with.
        change: Changes the configuration in place.
        arrays: Changes the arrays, by layer and name, in place.
    """
    weighted: list[dict[str, torch.Tensor]] = []
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):
            weighted.append({"kernel": module.weight.detach().permute(2, 3, 1, 0), "bias": module.bias.detach()})
        elif isinstance(module, torch.nn.BatchNorm2d):
            tensors = (module.weight.detach(), module.bias.detach(), module.running_mean, module.running_var)
            weighted.append(dict(zip(("gamma", "beta", "moving_mean", "moving_variance"), tensors, strict=True)))
    layers = summary(first)
    named = {
        name: {key: value.numpy().copy() for key, value in values.items()}
        for name, values in name_arrays(layers, weighted).items()
    }
    config = configuration(layers, named, (32, 48))
    change(config)
    arrays(named)
    write_keras2(path, layers, named, config=config)
    return path
