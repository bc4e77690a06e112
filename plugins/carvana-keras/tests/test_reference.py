from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from carvana.errors import ModelError
from carvana.models.unet_ref import UNetRef
from keras2 import old_file

from carvana_keras.weights import read_keras

SETTINGS = [
    ("conv2d_5", "strides", [2, 2], r"layer 16, 'conv2d_5', has strides \(2, 2\), .* has \(1, 1\) there"),
    ("conv2d_5", "padding", "valid", "has padding 'valid', .* has 'same'"),
    ("conv2d_5", "dilation_rate", [2, 2], r"has dilation_rate \(2, 2\)"),
    ("conv2d_5", "activation", "relu", "has activation 'relu', .* has 'linear'"),
    ("conv2d_23", "activation", "tanh", "has activation 'tanh', .* has 'sigmoid'"),
    ("conv2d_1", "data_format", "channels_first", "has data_format 'channels_first'"),
    ("activation_3", "activation", "elu", "layer 11, 'activation_3', has activation 'elu', .* has 'relu'"),
    ("max_pooling2d_2", "pool_size", [3, 3], r"has pool_size \(3, 3\), .* has \(2, 2\)"),
    ("up_sampling2d_1", "size", [4, 4], r"has size \(4, 4\), .* has \(2, 2\)"),
    ("concatenate_1", "axis", 1, "has axis 1, .* has -1"),
    ("batch_normalization_2", "axis", 1, "has axis 1, .* has -1"),
    ("batch_normalization_2", "epsilon", 0.5, "has epsilon 0.5, the BatchNorms before it have 0.001"),
    ("batch_normalization_1", "epsilon", "small", "has epsilon 'small'"),
]


@pytest.fixture(scope="module")
def network() -> UNetRef:
    torch.manual_seed(1)
    return UNetRef(width=1).eval()


def settings_of(config: dict[str, Any], name: str) -> dict[str, Any]:
    return next(layer["config"] for layer in config["config"]["layers"] if layer["name"] == name)


@pytest.mark.parametrize(("layer", "key", "value", "line"), SETTINGS)
def test_a_setting_that_is_not_the_references_is_told(
    tmp_path: Path, network: UNetRef, layer: str, key: str, value: Any, line: str
) -> None:
    path = old_file(
        tmp_path / "x.h5", network, change=lambda config: settings_of(config, layer).__setitem__(key, value)
    )
    with pytest.raises(ModelError, match=line):
        read_keras(path)


@pytest.mark.parametrize(
    ("layer", "key", "value"),
    [
        ("conv2d_23", "activation", "linear"),
        ("conv2d_23", "padding", "valid"),
        ("conv2d_1", "groups", 1),
        ("batch_normalization_1", "axis", [3]),
        ("up_sampling2d_1", "interpolation", "nearest"),
        ("activation_1", "activation", {"class_name": "function", "config": "relu"}),
    ],
)
def test_a_setting_that_computes_the_same_is_taken(
    tmp_path: Path, network: UNetRef, layer: str, key: str, value: Any
) -> None:
    path = old_file(
        tmp_path / "x.h5", network, change=lambda config: settings_of(config, layer).__setitem__(key, value)
    )
    assert read_keras(path).layers == 45


@pytest.mark.parametrize("first", [1, 24, 980])
def test_names_may_begin_at_any_number(tmp_path: Path, network: UNetRef, first: int) -> None:
    """Listed by HDF5, conv2d_1000 comes before conv2d_980."""
    model = read_keras(old_file(tmp_path / "x.h5", network, first=first)).model
    images = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(model(images), network(images), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda arrays: arrays["conv2d_7"].pop("bias"),
            r"layer 23, 'conv2d_7', holds 'kernel', .* and 'bias'",
        ),
        (lambda arrays: arrays.pop("conv2d_7"), r"layer 23, 'conv2d_7', holds nothing, .* 'kernel' and 'bias'"),
        (lambda arrays: arrays["conv2d_7"].update(mask=np.ones(1)), "holds 'kernel' and 'bias' and 'mask'"),
        (lambda arrays: arrays.update(activation_1={"alpha": np.ones(1)}), "'activation_1', holds 'alpha', .* nothing"),
        (lambda arrays: arrays["conv2d_7"].update(bias=np.ones(8, int)), "bias of layer 'conv2d_7' is of type int64"),
        (lambda arrays: arrays["conv2d_7"]["bias"].fill(np.nan), "bias of layer 'conv2d_7' holds values that"),
    ],
)
def test_arrays_that_are_not_the_references_are_told(
    tmp_path: Path, network: UNetRef, change: Callable[[Any], object], line: str
) -> None:
    with pytest.raises(ModelError, match=line):
        read_keras(old_file(tmp_path / "x.h5", network, arrays=change))


def test_half_and_double_precision_are_read(tmp_path: Path, network: UNetRef) -> None:
    for precision in (np.float16, np.float64):

        def convert(arrays: dict[str, dict[str, np.ndarray]], precision: type = precision) -> None:
            for values in arrays.values():
                values |= {name: array.astype(precision) for name, array in values.items()}

        state = read_keras(old_file(tmp_path / "x.h5", network, arrays=convert)).model.network.state_dict()
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(state[name], tensor, rtol=1e-3, atol=1e-6)
                assert state[name].dtype == torch.float32
