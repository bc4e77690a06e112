"""The weights of the reference U-Net in a file of Keras, as a Segmenter or a model folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from carvana import Run, Segmenter, create_model
from carvana.errors import ConfigError
from carvana.utils.files import scratch_folder
from carvana.utils.progress import Reporter, default_reporter
from torch import Tensor, nn

from carvana_keras.file import open_keras, short, values_of
from carvana_keras.reference import input_size, match_reference

TRAINED_SIZE = (128, 128)
"""(height, width) that the notebook trained at, for files that do not have theirs."""
INPUT_RANGES = (1, 255)
"""What white may be in the pixels that the weights were trained on."""
_TENSORS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


@dataclass(frozen=True)
class KerasImport:
    """What came out of a file.

    Attributes:
        model: The network, in evaluation mode.
        source: What wrote the file, for people: "Keras 2.1.6 model".
        layers: How many layers with weights were read.
        parameters: How many numbers, BatchNorm's statistics among them.
        has_settings: Whether the file has the layers' settings; otherwise those of the reference are assumed.
        size: (height, width) of the images that the weights were trained on.
        brightness: The mean pixel of these images, estimated from the first BatchNorm.
        input_range: What white is in the pixels that the network gets: 1 or 255.
    """

    model: Segmenter
    source: str
    layers: int
    parameters: int
    has_settings: bool
    size: tuple[int, int]
    brightness: float
    input_range: int


def import_keras(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    input_range: int | None = None,
    reporter: Reporter | None = None,
) -> KerasImport:
    """Write the reference U-Net of a file of Keras as a model folder; see ``read_keras``.

    Args:
        path: The file.
        out: The model folder, which must not hold anything yet.
        input_range: See ``read_keras``.
        reporter: Where warnings go.

    Raises:
        RunError: ``out`` exists and is not empty.
        ModelError, ConfigError: see ``read_keras``.
    """
    folder = Run.choose(out, arch="unet-ref").path
    imported = read_keras(path, input_range=input_range, reporter=reporter)
    with scratch_folder(folder.parent) as scratch:  # all of it or nothing: what is there is never overwritten
        imported.model.save_pretrained(scratch / folder.name)
        if folder.is_dir():
            folder.rmdir()
        (scratch / folder.name).rename(folder)
    return imported


def read_keras(
    path: str | os.PathLike[str], *, input_range: int | None = None, reporter: Reporter | None = None
) -> KerasImport:
    """Read the reference U-Net, of any width, from a ``.weights.h5``, ``.keras`` or ``.h5`` file of Keras 2 or 3.

    Where a file has its layers' settings, all of them must be the reference's; BatchNorm's epsilon may be another.
    Where it has not, the arrays must be, and the settings are assumed to be the reference's.

    Args:
        path: The file.
        input_range: What white was in the images that the weights were trained on: 1 or 255. Without it, it is
            estimated from the first BatchNorm.
        reporter: Warned where the estimate is near neither.

    Raises:
        ModelError: the file cannot be read, or holds another network; the first layer that differs is named.
        ConfigError: the input range is neither 1 nor 255.
    """
    if input_range not in (None, *INPUT_RANGES):
        raise ConfigError(f"the input range must be 1 or 255 (white in the training images), got {input_range!r}")
    with open_keras(path) as file:
        options, layers = match_reference(file)
        values = [
            {name: values_of(array, f"the {name} of layer {short(layer.name)}") for name, array in layer.arrays.items()}
            for layer in layers
        ]
        size = input_size(file) or TRAINED_SIZE
    brightness = training_brightness(values[0]["kernel"], values[0]["bias"], values[1]["moving_mean"])
    white = input_range or _estimated_range(brightness, path, reporter or default_reporter())
    model = create_model("unet-ref", options=options).eval()
    model.network.load_state_dict(model.network.state_dict() | _state(values, model.network))
    model.with_spec(init=f"keras:{Path(path).name}", trained_size=size, std=(1 / white,) * 3)
    count = sum(array.size for arrays in values for array in arrays.values())
    return KerasImport(model, file.kind, len(layers), count, file.has_settings, size, brightness, white)


def training_brightness(kernel: np.ndarray, bias: np.ndarray, moving_mean: np.ndarray) -> float:
    """The mean pixel of the images that a network was trained on, estimated from its first BatchNorm.

    A convolution makes of an image of one colour m: m times the sum of its kernel, plus its bias. Images are nearly of
    one colour over three pixels, so m is the least-squares solution over all channels. 0 for untrained weights.

    Args:
        kernel: That of the first convolution, (H, W, in, out).
        bias: Its bias, (out,).
        moving_mean: The mean that the BatchNorm behind it keeps, (out,).

    >>> kernel = np.arange(8.0).reshape(1, 1, 4, 2)
    >>> round(training_brightness(kernel, np.ones(2), 0.7 * kernel.sum(axis=(0, 1, 2)) + 1), 3)
    0.7
    """
    sums = kernel.astype(float).sum(axis=(0, 1, 2))
    return float(sums @ (moving_mean.astype(float) - bias) / max(sums @ sums, 1e-12))


def _estimated_range(brightness: float, path: str | os.PathLike[str], reporter: Reporter) -> int:
    if brightness > 2:
        return 255
    if not 0.02 < brightness < 1:
        reporter.warn(
            f"{os.fspath(path)}: the first BatchNorm gives a mean pixel of {brightness:.3f}: these weights are"
            " untrained, or their images went neither from 0 to 1 nor from 0 to 255; 0 to 1 is assumed"
        )
    return 1


def _state(values: Sequence[Mapping[str, np.ndarray]], network: nn.Module) -> dict[str, Tensor]:
    """The arrays under the names of the network's tensors, kernels (H, W, in, out) as (out, in, H, W)."""
    modules = [name for name, part in network.named_modules() if isinstance(part, nn.Conv2d | nn.BatchNorm2d)]
    return {
        f"{module}.{_TENSORS[name]}": torch.from_numpy(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array)
        for module, arrays in zip(modules, values, strict=True)
        for name, array in arrays.items()
    }
