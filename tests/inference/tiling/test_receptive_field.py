from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from carvana.errors import ModelError
from carvana.inference.tiling.receptive_field import exact_halo
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
        ("manet/resnet18", "Softmax"),
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
