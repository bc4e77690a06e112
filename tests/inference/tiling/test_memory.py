from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from carvana.inference.tiling.memory import RESERVE, budget_bytes, bytes_per_pixel

CPU = torch.device("cpu")


class Known(nn.Module):
    """Makes features of known sizes: 8 numbers a pixel, then 4 beside them, then drops the first, then 16 beside 4."""

    def forward(self, images: Tensor) -> Tensor:
        first = images.float().mean(1, keepdim=True).repeat(1, 8, 1, 1)
        second = first.new_zeros(1, 4, *images.shape[2:])
        del first
        third = second.repeat(1, 4, 1, 1)
        return third[:, :1] + second[:, :1]


def test_the_largest_set_of_features_alive_at_a_time_counts() -> None:
    assert bytes_per_pixel(Known(), 64, CPU) == pytest.approx(RESERVE * 4 * (16 + 4 + 1))


def test_views_and_what_happens_in_place_take_nothing() -> None:
    def network(images: Tensor) -> Tensor:
        features = images.float()
        features.relu_()
        return features.flatten(2).view(1, 3, 64, 64)[:, :1]

    assert bytes_per_pixel(network, 64, CPU) == pytest.approx(RESERVE * 4 * 3)


def test_the_budget_is_what_is_asked_for_or_a_share_of_what_is_free() -> None:
    assert budget_bytes(CPU, 1.5) == 1.5e9
    with open("/proc/meminfo") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal"))
    assert 0 < budget_bytes(CPU) < total


SCRIPT = """
import torch
from carvana.models.segmenter import create_model
from carvana.utils.devices import PeakMemory
from carvana.inference.tiling.memory import bytes_per_pixel
model = create_model("unet/resnet18").eval()
with torch.inference_mode():
    each = bytes_per_pixel(model, 256, torch.device("cpu"))
    images = torch.zeros(1, 3, 1280, 1920, dtype=torch.uint8)
    with PeakMemory(torch.device("cpu")) as before:
        pass
    with PeakMemory(torch.device("cpu")) as peak:
        model(images)
    print(each * 1280 * 1920, 1e6 * (peak.megabytes - before.megabytes))
"""


@pytest.mark.slow
def test_a_small_picture_tells_what_a_process_takes_for_a_large_one() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    told, taken = map(float, done.stdout.split())
    assert 0.8 < told / taken < 2
