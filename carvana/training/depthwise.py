"""Gradients of depthwise convolutions on CPUs: in fp32 where bf16 is the slow one.

oneDNN's bf16 kernels for the backward pass of depthwise convolutions are mostly 5 to 10 times slower than its fp32
ones, at worst 190 times: for the input's gradient where the stride is above 1, for the kernel's always, though less for
3 x 3 (tests/benchmarks/bench_depthwise.py measures both). They take half of the time of a training step of an
EfficientNet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class QuickDepthwise(TorchDispatchMode):
    """A context for a backward pass on a CPU, in which bf16 gradients of depthwise convolutions are computed in fp32.

    They are rounded less than torch's own. Everything else is left as it is.

    >>> with QuickDepthwise():  # doctest: +SKIP
    ...     loss.backward()
    """

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        backward = torch.ops.aten.convolution_backward.default
        if func is not backward or not _is_slow(*args[:3], groups=args[-2]):
            return func(*args, **(kwargs or {}))
        gradient, images, kernel, sizes, stride, *geometry, wanted = args
        wide = gradient.float(), images.float(), kernel.float()
        found: list[torch.Tensor | None] = [None, None, None]
        if wanted[0]:
            operands = wide if max(stride) > 1 else (gradient, images, kernel)
            found[0] = func(*operands, sizes, stride, *geometry, (True, False, False))[0].to(images.dtype)
        if wanted[1]:
            found[1] = func(*wide, sizes, stride, *geometry, (False, True, False))[1].to(kernel.dtype)
        if wanted[2]:
            found[2] = wide[0].sum((0, 2, 3)).to(gradient.dtype)
        return tuple(found)


def _is_slow(gradient: torch.Tensor, images: torch.Tensor, kernel: torch.Tensor, *, groups: int) -> bool:
    depthwise = 1 < groups == kernel.shape[0] == images.shape[1]
    return depthwise and images.ndim == 4 and gradient.device.type == "cpu" and images.dtype == torch.bfloat16
