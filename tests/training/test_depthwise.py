from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carvana.training.depthwise import QuickDepthwise


def gradients(conv: nn.Conv2d, images: Tensor, backward: object, *, autocast: bool = True) -> Iterator[Tensor]:
    """Value and gradients of a convolution under bf16 autocast, its backward pass within a context."""
    conv.zero_grad()
    own = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = conv(own)
    loss = (value.float() * torch.linspace(-1, 1, value.numel()).view_as(value)).sum()
    with backward:  # type: ignore[attr-defined]
        loss.backward()
    assert own.grad is not None
    yield from (value, own.grad, *(parameter.grad for parameter in conv.parameters() if parameter.grad is not None))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_at_least_as_near_as_torchs(stride: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 24, kernel, stride=stride, padding=kernel // 2, groups=24, bias=bias)
    images = torch.randn(2, 24, 19, 26).contiguous(memory_format=torch.channels_last)
    quick = list(gradients(conv, images, QuickDepthwise()))
    usual = list(gradients(conv, images, torch.enable_grad()))
    exact = list(gradients(conv, images, torch.enable_grad(), autocast=False))
    assert torch.equal(quick[0], usual[0])
    for mine, theirs, true in zip(quick[1:], usual[1:], exact[1:], strict=True):
        assert mine.dtype == theirs.dtype
        error, usual_error = ((g - true).norm() / true.norm() for g in (mine, theirs))
        assert error < 0.01
        assert error < 1.5 * usual_error


def computed(**shape: Any) -> list[torch.dtype]:
    """The precisions in which a convolution's gradients are computed, in the order of the calls."""
    found = []

    class Noted(QuickDepthwise):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            def noted(*inner: Any, **more: Any) -> Any:
                if "convolution_backward" in str(func):
                    found.append(inner[1].dtype)
                return func(*inner, **more)

            noted.default = noted  # type: ignore[attr-defined]
            same = func is torch.ops.aten.convolution_backward.default
            with pytest.MonkeyPatch.context() as patch:
                if same:
                    patch.setattr(torch.ops.aten.convolution_backward, "default", noted)
                return super().__torch_dispatch__(noted, types, args, kwargs)

    kernel = torch.randn(shape.pop("kernel"), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=shape.pop("autocast", True)):
        value = F.conv2d(torch.randn(1, 8, 12, 12, requires_grad=True), kernel, **shape)
    with Noted():  # type: ignore[no-untyped-call]
        value.float().sum().backward()
    return found


def test_only_bf16_gradients_of_depthwise_convolutions_are_computed_in_fp32() -> None:
    half, single = torch.bfloat16, torch.float32
    assert computed(kernel=(8, 1, 3, 3), groups=8) == [half, single]  # of the images, of the kernel
    assert computed(kernel=(8, 1, 3, 3), groups=8, stride=2) == [single, single]
    assert computed(kernel=(8, 1, 3, 3), groups=8, padding="same") == [half, single]
    assert computed(kernel=(16, 1, 3, 3), groups=8) == [half]  # two outputs a channel
    assert computed(kernel=(4, 8, 3, 3)) == [half]
    assert computed(kernel=(8, 1, 3, 3), groups=8, autocast=False) == [single]
