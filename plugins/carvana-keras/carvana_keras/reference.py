"""Compares a file with the notebook's network as Keras describes it, and names the first layer that differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from carvana.errors import ModelError

from carvana_keras.file import ARRAYS, KerasFile, KerasLayer, short

_EPSILON = 1e-3

# The reference's settings first, and behind them what computes the same.
_LAST = {"data_format": ("channels_last",)}
_SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Conv2D": {
        "padding": ("same",), "strides": ((1, 1),), "dilation_rate": ((1, 1),), "groups": (1,),
        "activation": ("linear",), **_LAST,
    },
    "head": {
        "padding": ("same", "valid"), "strides": ((1, 1),), "dilation_rate": ((1, 1),), "groups": (1,),
        "activation": ("sigmoid", "linear"), **_LAST,
    },
    "BatchNormalization": {"axis": (-1, 3, (-1,), (3,))},
    "Activation": {"activation": ("relu",)},
    "ReLU": {"max_value": (None,), "negative_slope": (0, None), "threshold": (0, None)},
    "MaxPooling2D": {"pool_size": ((2, 2),), "strides": ((2, 2), None), "padding": ("valid", "same"), **_LAST},
    "UpSampling2D": {"size": ((2, 2),), "interpolation": ("nearest",), **_LAST},
    "Concatenate": {"axis": (-1, 3)},
}  # fmt: skip


def match_reference(file: KerasFile) -> tuple[dict[str, Any], list[KerasLayer]]:
    """The options that make ``unet-ref`` the network of a file, and the file's layers with arrays, in order.

    Raises:
        ModelError: it is another network; the first layer that differs is named.
    """
    width = _width(file.layers)
    difference = _first_difference(file, width)
    if difference is None:
        options: dict[str, Any] = {} if width == 64 else {"width": width}
        epsilon, difference = _epsilon(file.layers)
        if difference is None:
            options |= {} if epsilon == _EPSILON else {"bn_eps": epsilon}
            return options, [layer for layer in file.layers if layer.arrays]
    raise ModelError(f"is not the reference U-Net: {difference}")


def input_size(file: KerasFile) -> tuple[int, int] | None:
    """(height, width) that the network was built for, if the file has it."""
    settings = file.layers[0].settings or {}
    shape = settings.get("batch_shape", settings.get("batch_input_shape"))
    if isinstance(shape, list) and len(shape) == 4 and all(isinstance(side, int) and side > 0 for side in shape[1:3]):
        return shape[1], shape[2]
    return None


@dataclass(frozen=True)
class _Layer:
    """A layer of the reference: its class, the positions of its inputs, the shapes of its arrays."""

    kind: str
    inputs: tuple[int, ...]
    shapes: Mapping[str, tuple[int, ...]]


def _reference(width: int) -> list[_Layer]:
    """The layers of the notebook's summary, in its order."""
    layers = [_Layer("InputLayer", (), {})]

    def add(kind: str, skip: tuple[int, ...] = (), **shapes: tuple[int, ...]) -> None:
        layers.append(_Layer(kind, (*skip, len(layers) - 1), shapes))

    def convolve(inputs: int, outputs: int, count: int) -> None:
        for index in range(count):
            add("Conv2D", kernel=(3, 3, outputs if index else inputs, outputs), bias=(outputs,))
            add("BatchNormalization", **dict.fromkeys(ARRAYS["BatchNormalization"], (outputs,)))
            add("Activation")

    widths = [width * 2**stage for stage in range(5)]
    skips = []
    for stage, (inputs, outputs) in enumerate(zip([3, *widths], widths, strict=False)):
        if stage:
            skips.append(len(layers) - 1)
            add("MaxPooling2D")
        convolve(inputs, outputs, 2)
    for outputs, skip in zip(reversed(widths[:-1]), reversed(skips), strict=True):
        add("UpSampling2D")
        add("Concatenate", (skip,))
        convolve(3 * outputs, outputs, 3)
    add("Conv2D", kernel=(1, 1, width, 1), bias=(1,))
    return layers


def _width(layers: Sequence[KerasLayer]) -> int:
    """Channels of the first convolution; 64 where there is none, to compare with."""
    for layer in layers:
        if layer.arrays:
            kernel = layer.arrays.get("kernel")
            return int(kernel.shape[3]) if kernel is not None and kernel.ndim == 4 and kernel.shape[3] else 64
    return 64


def _first_difference(file: KerasFile, width: int) -> str | None:
    """The first layer that differs from the reference, in a line; None if none does."""
    wanted = [layer for layer in _reference(width) if layer.shapes or file.has_settings]
    of_width = f"unet-ref{'' if width == 64 else f' (of width {width})'}"
    names = [layer.name for layer in file.layers]
    for position, (layer, expected) in enumerate(zip_longest(file.layers, wanted), start=1):
        if layer is None:
            return f"it ends after {len(names)} layers, where {of_width} has a {expected.kind} next"
        place = f"layer {position}, {short(layer.name)}," if file.has_settings else f"layer {short(layer.name)}"
        if expected is None:
            return f"{place} comes after the last layer of {of_width}"
        difference = next(_differences(layer, expected, names), None)
        if difference:
            return f"{place} {difference[0]}, {of_width} has {difference[1]} there"
    return None


def _differences(layer: KerasLayer, expected: _Layer, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What a layer is or has, and what the reference has there."""
    same = layer.kind == expected.kind or (layer.kind, expected.kind) == ("ReLU", "Activation")
    if layer.kind is not None and not same:
        yield f"is of class {short(layer.kind)}", short(expected.kind)
    if layer.settings is not None:
        is_head = expected.shapes.get("kernel", ())[:2] == (1, 1)
        for name, allowed in _SETTINGS.get("head" if is_head else str(layer.kind), {}).items():
            value = _plain(layer.settings.get(name, allowed[0]))
            if value not in allowed:
                yield f"has {name} {repr(value)[:60]}", repr(allowed[0])
        read = [names[index] for index in expected.inputs]
        if list(layer.inputs) != read:
            yield f"reads {_listed(layer.inputs)}", _listed(read)
    for name, shape in expected.shapes.items():
        if name not in layer.arrays:
            yield f"holds {_listed(layer.arrays)}", _listed(expected.shapes)
        elif layer.arrays[name].shape != shape:
            yield f"has a {name} of shape {layer.arrays[name].shape}", str(shape)
    if len(layer.arrays) != len(expected.shapes):
        yield f"holds {_listed(layer.arrays)}", _listed(expected.shapes)


def _plain(value: Any) -> Any:
    """A setting that can be compared: tuples for lists, the name of a function that is written as an object."""
    if isinstance(value, dict):
        value = value.get("config", value.get("class_name"))
    return tuple(value) if isinstance(value, list) else value


def _listed(names: Any) -> str:
    shown = [short(name) for name in names]
    return " and ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "") or "nothing"


def _epsilon(layers: Sequence[KerasLayer]) -> tuple[float, str | None]:
    """BatchNorm's epsilon, which is the same in all layers of ``unet-ref``, and what is wrong with it."""
    first = None
    for layer in layers:
        if layer.settings is not None and layer.kind == "BatchNormalization":
            value = layer.settings.get("epsilon", _EPSILON)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
                return 0, f"layer {short(layer.name)} has epsilon {repr(value)[:60]}, unet-ref has {_EPSILON}"
            first = value if first is None else first
            if value != first:
                return 0, f"layer {short(layer.name)} has epsilon {value}, the BatchNorms before it have {first}"
    return first or _EPSILON, None
