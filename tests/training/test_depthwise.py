from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carvana.training.depthwise import QuickDepthwise, depthwise_in

CPU = torch.device("cpu")


def gradients(conv: nn.Conv2d, images: Tensor, mode: object) -> Iterator[Tensor]:
    """Value and gradients of a convolution under bf16 autocast, within a context."""
    conv.zero_grad()
    own = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), mode:  # type: ignore[attr-defined]
        value = conv(own)
    (value.float() * torch.linspace(-1, 1, value.numel()).view_as(value)).sum().backward()
    assert own.grad is not None
    yield from (value, own.grad, *(parameter.grad for parameter in conv.parameters() if parameter.grad is not None))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_values_are_the_same_and_gradients_at_least_as_near(stride: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 24, kernel, stride=stride, padding=kernel // 2, groups=24, bias=bias)
    images = torch.randn(2, 24, 19, 26).contiguous(memory_format=torch.channels_last)
    quick = list(gradients(conv, images, QuickDepthwise()))
    usual = list(gradients(conv, images, torch.enable_grad()))
    exact = list(gradients(conv, images, torch.autocast("cpu", enabled=False)))
    assert torch.equal(quick[0], usual[0])
    for mine, theirs, true in zip(quick[1:], usual[1:], exact[1:], strict=True):
        assert mine.dtype == theirs.dtype
        error, usual_error = ((g - true).norm() / true.norm() for g in (mine, theirs))
        assert error < 0.01
        assert error < 1.5 * usual_error


def test_only_depthwise_convolutions_are_taken_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    original = torch.ops.aten.convolution

    def noted(images: Tensor, kernel: Tensor, *rest: object) -> Tensor:
        taken.append(len(kernel))
        return original(images, kernel, *rest)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.ops.aten, "convolution", noted)
    images = torch.randn(1, 8, 12, 12)
    with torch.autocast("cpu", torch.bfloat16), QuickDepthwise():
        F.conv2d(images, torch.randn(8, 1, 3, 3), groups=8)  # depthwise
        F.conv2d(images, torch.randn(8, 1, 3, 3), None, 1, "same", 1, 8)  # padding by a word is left to torch
        F.conv2d(images, torch.randn(16, 1, 3, 3), groups=8)  # two outputs a channel
        F.conv2d(images, torch.randn(4, 8, 3, 3))
        with torch.no_grad():
            F.conv2d(images, torch.randn(8, 1, 3, 3), groups=8)
    with QuickDepthwise():  # without autocast
        F.conv2d(images, torch.randn(8, 1, 3, 3), groups=8)
    assert taken == [8]


def test_it_is_used_where_it_helps() -> None:
    assert isinstance(depthwise_in(CPU, "bf16"), QuickDepthwise)
    assert not isinstance(depthwise_in(CPU, "fp32"), QuickDepthwise)
    assert not isinstance(depthwise_in(torch.device("cuda"), "bf16"), QuickDepthwise)
