"""Gradients of depthwise convolutions on CPUs: in fp32 where bf16 is the slow one.

oneDNN's bf16 kernels for the backward pass of depthwise convolutions are mostly 5 to 10 times slower than its fp32
ones, at worst 190 times: for the input's gradient where the stride is above 1, for the kernel's always, though less for
3 x 3 (tests/benchmarks/bench_depthwise.py measures both). They take half of the time of a training step of an
EfficientNet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from carvana.utils.devices import Precision

Pair = tuple[int, int]


def depthwise_in(device: torch.device, precision: Precision) -> AbstractContextManager[object]:
    """The context for a training's forward pass: :class:`QuickDepthwise` where it helps."""
    return QuickDepthwise() if device.type == "cpu" and precision == "bf16" else nullcontext()


class QuickDepthwise(TorchFunctionMode):
    """A context with fast gradients of the depthwise convolutions that autocast runs in bf16 on a CPU.

    Their values are the same to the bit, their gradients are rounded less. Everything else is left as it is.

    >>> with torch.autocast("cpu", torch.bfloat16), QuickDepthwise():  # doctest: +SKIP
    ...     logits = model(images)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.conv2d and _applies(*args, **kwargs):
            return _quick(*args, **kwargs)
        return func(*args, **kwargs)


def _applies(input: Tensor, weight: Tensor, *rest: Any, groups: int = 1, **others: Any) -> bool:
    groups = rest[4] if len(rest) > 4 else groups
    padding = rest[2] if len(rest) > 2 else others.get("padding", 0)
    return (
        groups > 1
        and groups == weight.shape[0] == input.shape[1]
        and input.ndim == 4
        and not isinstance(padding, str)
        and input.device.type == "cpu"
        and torch.is_grad_enabled()
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


def _quick(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Pair = 1,
    padding: int | Pair = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
) -> Tensor:
    half = torch.bfloat16
    operands = (None if operand is None else operand.to(half) for operand in (input, weight, bias))
    result: Tensor = _Depthwise.apply(*operands, (_pair(stride), _pair(padding), _pair(dilation)))
    return result


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, images: Tensor, kernel: Tensor, bias: Tensor | None, geometry: tuple[Pair, Pair, Pair]
    ) -> Any:
        ctx.save_for_backward(images, kernel)
        ctx.geometry = *geometry, False, (0, 0), len(kernel)
        return torch.ops.aten.convolution(images, kernel, bias, *ctx.geometry)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        images, kernel = ctx.saved_tensors
        whole = gradient.float()
        for_images = for_kernel = for_bias = None
        if ctx.needs_input_grad[0]:
            slow = max(ctx.geometry[0]) > 1
            operands = (whole, images.float(), kernel.float()) if slow else (gradient, images, kernel)
            for_images = _backward(*operands, ctx.geometry, (True, False, False))[0].to(images.dtype)
        if ctx.needs_input_grad[1]:
            for_kernel = _backward(whole, images.float(), kernel.float(), ctx.geometry, (False, True, False))[1]
            for_kernel = for_kernel.to(kernel.dtype)
        if ctx.needs_input_grad[2]:
            for_bias = whole.sum((0, 2, 3)).to(gradient.dtype)
        return for_images, for_kernel, for_bias, None


def _backward(
    gradient: Tensor, images: Tensor, kernel: Tensor, geometry: tuple[Any, ...], wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    result: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, images, kernel, [0], *geometry, wanted
    )
    return result
