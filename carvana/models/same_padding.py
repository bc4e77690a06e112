"""Makes TensorFlow's padding "same" constant, where a network sees multiples of its stride only.

A layer with this padding pads its input so that ceil(size / stride) rows and columns come out. Where its stride divides
the size, that is the same number of pixels for every size. timm's layers work it out from the size of each input all
the same, and torch.export does so in symbols: eight minutes for one EfficientNet.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

_PLAIN: dict[str, type[nn.Module]] = {
    "Conv2dSame": nn.Conv2d,
    "MaxPool2dSame": nn.MaxPool2d,
    "AvgPool2dSame": nn.AvgPool2d,
}
"""timm's layers that pad in any case, by name, and what they are without that."""

_STANDARDISED = ("StdConv2dSame", "ScaledStdConv2dSame")
"""timm's convolutions of standardised weights, which pad if their ``same_pad`` says so."""


class ConstantPad:
    """A hook that pads what a layer gets.

    Args:
        around: pixels at the left, right, top and bottom.
        value: what they are filled with.
    """

    def __init__(self, around: tuple[int, int, int, int], value: float) -> None:
        self.around = around
        self.value = value

    def __call__(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """The padded input."""
        return nn.functional.pad(inputs[0], self.around, value=self.value)


def make_padding_constant(network: nn.Module, *, stride: int, min_size: int, channels: int = 3) -> None:
    """Make the padding of a network's layers constant, in place; results stay the same to the bit.

    Args:
        network: takes float images (N, channels, H, W).
        stride: H and W are multiples of it.
        min_size: the smallest H and W.
        channels: of an image.

    >>> from timm.layers import Conv2dSame
    >>> layer = Conv2dSame(3, 1, 3, stride=2)
    >>> make_padding_constant(layer, stride=2, min_size=2)
    >>> type(layer).__name__, layer(torch.ones(1, 3, 4, 6)).shape
    ('Conv2d', torch.Size([1, 1, 2, 3]))
    """
    layers: dict[str, Any] = {name: layer for name, layer in network.named_modules() if _pads(layer)}
    divided = _always_divided(network, list(layers), stride, min_size, channels) if layers else ()
    for name in divided:
        layer = layers[name]
        if hasattr(layer, "same_pad"):
            layer.same_pad = False
        else:
            layer.__class__ = _PLAIN[type(layer).__name__]
        (left, right), (top, bottom) = (_around(layer, axis) for axis in (1, 0))
        value = -torch.inf if isinstance(layer, nn.MaxPool2d) else 0.0
        if any((left, right, top, bottom)):
            layer.register_forward_pre_hook(ConstantPad((left, right, top, bottom), value))


def _pads(layer: nn.Module) -> bool:
    kind = type(layer)  # by name, so that timm is not imported where no layer is of it
    if not kind.__module__.startswith("timm.layers."):
        return False
    return kind.__name__ in _PLAIN or (kind.__name__ in _STANDARDISED and bool(layer.same_pad))


def _always_divided(network: nn.Module, names: list[str], stride: int, min_size: int, channels: int) -> set[str]:
    """The layers whose stride divides the size of their input, whatever multiple of the network's stride an image has.

    The size of a layer's input grows evenly with the image, so two sizes of images, one stride apart, show it.
    """
    twin = copy.deepcopy(network).to("meta").eval()
    found, failed = set[str](), set[str]()

    def look(name: str) -> Any:
        def hook(layer: Any, inputs: tuple[Tensor, ...]) -> None:
            sides = inputs[0].shape[-2:]
            divided = all(side % step == 0 for side, step in zip(sides, _pair(layer.stride), strict=True))
            (found if divided else failed).add(name)

        return hook

    for name in names:
        twin.get_submodule(name).register_forward_pre_hook(look(name))
    try:
        with torch.no_grad():
            for more in (0, stride):
                twin(torch.zeros(1, channels, min_size + more, min_size + more + stride, device="meta"))
    except Exception:  # a network that needs its values to compute sizes
        return set()
    return found - failed


def _around(layer: Any, axis: int) -> tuple[int, int]:
    """The pixels before and behind an input along an axis, where the stride divides its size."""
    kernel, stride = (_pair(value)[axis] for value in (layer.kernel_size, layer.stride))
    dilation = _pair(getattr(layer, "dilation", 1))[axis]
    padding = max((kernel - 1) * dilation + 1 - stride, 0)
    return padding // 2, padding - padding // 2


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else value
