from __future__ import annotations

import re
import time

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import carvana
from carvana.evaluation.cost import count_gflops, count_parameters, describe_machine, measure_cost
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.utils.devices import PeakMemory


def test_the_reference_network_costs_what_its_layers_say() -> None:
    model = create_model("unet-ref")
    assert count_parameters(model) == 34_527_041
    assert count_gflops(model, (128, 128)) == pytest.approx(32.7, abs=0.05)
    assert count_gflops(model, (1280, 1918)) == pytest.approx(4901, abs=5)


def test_a_convolution_s_operations_are_two_for_each_weight_and_pixel() -> None:
    model = Segmenter(nn.Conv2d(3, 1, 5, padding=2), ModelSpec(arch="mine", stride=8))
    assert count_gflops(model, (30, 41)) == pytest.approx(2 * 75 * 32 * 48 / 1e9)


def test_what_needs_its_values_cannot_be_counted() -> None:
    class Asks(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images[:, :1] if bool(images.sum() > 0) else images[:, 1:2]

    assert count_gflops(Segmenter(Asks(), ModelSpec(arch="mine")), (16, 16)) is None


class Slow(nn.Module):
    """Takes a fiftieth of a second for each picture, whatever its size."""

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(0.02 * len(images))
        return images[:, :1]


def test_time_is_told_with_the_network_s_own_part() -> None:
    predictor = carvana.Predictor(Segmenter(Slow(), ModelSpec(arch="mine")), scale="native", mode="whole")
    cost = measure_cost(predictor, np.zeros((64, 96, 3), np.uint8), seconds=0.2)
    assert 20 <= cost.network_ms < 200
    assert cost.network_ms <= cost.ms < 400
    assert 1 < cost.images_per_s < 50
    assert 1 < cost.files_per_s < 50
    assert 0 <= cost.outside < 0.7
    assert (cost.mode, cost.scale, cost.tiles) == ("whole", "native", 1)


def test_tiles_cost_what_the_network_sees() -> None:
    model = create_model("unet-ref", width=2)
    photo = np.zeros((128, 256, 3), np.uint8)
    whole, tiles = (
        measure_cost(carvana.Predictor(model, scale="native", mode=mode, precision="fp32", **more), photo, seconds=0)
        for mode, more in (("whole", {}), ("tiles", {"tile": 128, "overlap": 0.5}))
    )
    assert (tiles.mode, tiles.tiles) == ("tiles", 3)
    assert tiles.gflops == pytest.approx(1.5 * whole.gflops)


def test_a_peak_is_forgotten_by_the_next_block() -> None:
    with PeakMemory(torch.device("cpu")) as large:
        np.ones(60_000_000)
    with PeakMemory(torch.device("cpu")) as small:
        pass
    assert large.megabytes - small.megabytes > 400


@pytest.mark.parametrize(("count", "of"), [(1, ""), (2, "s")])
def test_the_machine_is_named_with_its_cores_and_threads(count: int, of: str, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = carvana.Predictor(create_model("unet-ref", width=2), device="cpu")
    monkeypatch.setattr(torch, "get_num_threads", lambda: count)
    monkeypatch.setattr("carvana.utils.devices.cpu_count", lambda: count)
    named = describe_machine(predictor)
    assert re.search(rf"^{count} core{of} of .*, {count} thread{of}$", named)
    assert torch.__version__ in named
