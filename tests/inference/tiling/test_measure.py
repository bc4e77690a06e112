from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from carvana.errors import ModelError
from carvana.inference.tiling.measure import RESERVE, budget_bytes, bytes_per_pixel, exact_halo
from carvana.inference.tiling.tiled import tiled
from carvana.models.segmenter import create_model


def halo_of(name: str, **options: object) -> int:
    torch.manual_seed(0)
    model = create_model(name, **options).eval()
    return exact_halo(model, stride=model.spec.stride, min_size=model.spec.min_size)


@pytest.mark.parametrize("padding", [0, 1, 4, 11])
def test_the_reach_of_a_convolution_is_half_its_kernel(padding: int) -> None:
    network = nn.Conv2d(3, 1, 2 * padding + 1, padding=padding)
    assert exact_halo(network) == padding
    assert exact_halo(network, stride=8) == -(-padding // 8) * 8


def test_the_longer_of_two_sides_counts() -> None:
    assert exact_halo(nn.Conv2d(3, 1, (3, 15), padding=(1, 7))) == 7
    assert exact_halo(nn.Conv2d(3, 1, (21, 3), padding=(10, 1))) == 10
    assert exact_halo(nn.Sequential(nn.ZeroPad2d((12, 0, 0, 0)), nn.Conv2d(3, 1, (1, 13)))) == 12


def test_no_halo_below_the_one_found_would_do() -> None:
    """In double precision, with positive weights, that nothing cancels: what is exact differs by rounding alone."""
    torch.manual_seed(0)
    model = create_model("unet-ref", width=2).eval()
    halo = exact_halo(model, stride=16, min_size=32)
    for parameter in model.double().parameters():
        parameter.data.abs_()
    photo = torch.rand(1, 3, 32, 2 * halo + 96, dtype=torch.float64)
    with torch.no_grad():
        whole = model(photo)

        def error(halo: int) -> float:
            joined = tiled(model, photo, tile=(32, 2 * halo + 16), halo=halo, stride=16)
            return float((whole - joined).abs().max() / whole.abs().max())

        assert error(halo) < 1e-14
        assert error(halo - 16) > 1e-9


@pytest.mark.parametrize(
    "name", ["unet/resnet18", "linknet/resnet18", pytest.param("unetplusplus/resnet18", marks=pytest.mark.slow)]
)
def test_convolutional_decoders_have_one(name: str) -> None:
    assert halo_of(name) in range(200, 300)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("pspnet/resnet18", "AdaptiveAvgPool2d"),
        ("fpn/resnet18", "GroupNorm"),
        pytest.param("manet/resnet18", "Softmax", marks=pytest.mark.slow),
        ("unet/tu-mobilenetv3_small_050", "Conv2d"),  # squeeze and excitation
    ],
)
def test_what_sees_the_whole_picture_is_refused_with_the_layer(name: str, layer: str) -> None:
    with pytest.raises(ModelError, match=rf"its layer '.*' \({layer}\) on every value depends on the whole image"):
        halo_of(name)


def test_what_damage_does_not_show_the_check_does() -> None:
    class Corners(nn.Module):
        """Enlarges with its corners aligned, so that a pixel's place depends on the picture's size."""

        def forward(self, images: Tensor) -> Tensor:
            small = nn.functional.avg_pool2d(images, 4)
            return nn.functional.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=True)

    with pytest.raises(ModelError, match=r"tiles differ from the whole by \d\.\de-\d+ though they see"):
        exact_halo(Corners(), stride=4)


def test_what_says_the_same_of_all_is_no_network() -> None:
    with pytest.raises(ModelError, match="does not depend on its input"):
        exact_halo(torch.zeros_like)


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
from carvana.inference.tiling.measure import bytes_per_pixel
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
