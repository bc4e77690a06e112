"""Adaptive average pooling for exported graphs, valid for images of any size.

Which pixels belong to each pooled cell depends on the image's size. Torch's decomposition fixes those of one size in
the graph; here pooling is a product with a matrix that the graph computes from the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

_POOLS: tuple[Any, ...] = (torch.ops.aten.adaptive_avg_pool2d.default, torch.ops.aten._adaptive_avg_pool2d.default)


def pool_at_any_size(program: ExportedProgram) -> ExportedProgram:
    """The same program, with adaptive average pooling that is valid for every height and width."""
    if not any(node.target in _POOLS and list(node.args[1]) != [1, 1] for node in program.graph.nodes):
        return program
    pooled: ExportedProgram = program.run_decompositions(dict.fromkeys(_POOLS, adaptive_average))
    return pooled


def adaptive_average(features: Tensor, output_size: Sequence[int]) -> Tensor:
    """The same as ``torch.nn.functional.adaptive_avg_pool2d``, as two matrix products.

    Args:
        features: float (..., H, W).
        output_size: (height, width).

    Returns:
        (..., height, width).

    >>> features = torch.rand(1, 2, 5, 7)
    >>> torch.allclose(adaptive_average(features, (2, 3)), torch.nn.functional.adaptive_avg_pool2d(features, (2, 3)))
    True
    """
    height, width = output_size
    return (
        _pool_weights(features.shape[-2], height, features)
        @ features
        @ _pool_weights(features.shape[-1], width, features).T
    )


def _pool_weights(size: int, parts: int, like: Tensor) -> Tensor:
    """The weight of each of ``size`` pixels in each of the parts, which overlap where ``parts`` does not divide it."""
    pixel = torch.arange(size, device=like.device)
    part = torch.arange(parts, device=like.device)[:, None]
    begin = part * size // parts
    end = ((part + 1) * size + parts - 1) // parts
    inside = (pixel >= begin) & (pixel < end)
    return inside.to(like.dtype) / (end - begin).to(like.dtype)
