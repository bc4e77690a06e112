from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.export import Dim

from carvana.inference.engines.onnx_pooling import adaptive_average, pool_at_any_size


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (6, 6), (13, 7), (48, 50)])
@pytest.mark.parametrize("parts", [(1, 1), (2, 2), (3, 5), (6, 6)])
def test_it_is_torchs_pooling_where_parts_divide_the_size_and_where_not(
    size: tuple[int, int], parts: tuple[int, int]
) -> None:
    features = torch.rand(2, 3, *size, dtype=torch.float64)
    torch.testing.assert_close(adaptive_average(features, parts), nn.functional.adaptive_avg_pool2d(features, parts))


@pytest.mark.parametrize("network", [nn.AdaptiveAvgPool2d(3), nn.Upsample((4, 5), mode="area")])
def test_a_program_pools_at_sizes_that_it_was_not_traced_at(network: nn.Module) -> None:
    class Pool(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network(images)

    free = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    program = torch.export.export(Pool(), (torch.rand(1, 2, 20, 30),), dynamic_shapes=free)
    graph = pool_at_any_size(program)
    assert not [node for node in graph.graph.nodes if "adaptive" in str(node.target)]
    for size in ((20, 30), (11, 64)):
        images = torch.rand(1, 2, *size)
        torch.testing.assert_close(graph.module()(images), network(images))


def test_a_program_without_pyramids_stays_as_it_is() -> None:
    program = torch.export.export(nn.AdaptiveAvgPool2d(1), (torch.rand(1, 2, 8, 8),))
    assert pool_at_any_size(program) is program
