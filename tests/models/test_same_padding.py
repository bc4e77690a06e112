from __future__ import annotations

import copy

import pytest
import timm
import torch
from timm.layers import AvgPool2dSame, Conv2dSame, ScaledStdConv2dSame, StdConv2dSame
from timm.layers.pool2d_same import MaxPool2dSame
from torch import Tensor, nn

from carvana.models.same_padding import ConstantPad, make_padding_constant
from carvana.models.segmenter import create_model


def padded(network: nn.Module) -> list[nn.Module]:
    """The layers that pad by a constant."""
    return [
        layer
        for layer in network.modules()
        if any(isinstance(hook, ConstantPad) for hook in layer._forward_pre_hooks.values())
    ]


def dynamic(network: nn.Module) -> list[str]:
    return [
        type(layer).__name__
        for layer in network.modules()
        if type(layer).__name__ in ("Conv2dSame", "MaxPool2dSame", "AvgPool2dSame") or getattr(layer, "same_pad", False)
    ]


def results(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The output and all gradients."""
    network.zero_grad()
    found = network(images)
    features = found if isinstance(found, list) else [found]
    sum(feature.square().mean() for feature in features).backward()
    gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
    return [*features, *gradients]


@pytest.mark.parametrize(
    ("name", "stride"),
    [
        ("tf_efficientnet_lite0", 32),
        ("tf_mobilenetv3_small_minimal_100", 32),
        ("tf_efficientnetv2_b0", 32),
        pytest.param("dm_nfnet_f0", 32, marks=pytest.mark.slow),  # standardised weights
    ],
)
def test_networks_of_timm_give_the_same_bits_at_every_multiple_of_their_stride(name: str, stride: int) -> None:
    torch.manual_seed(0)
    network = timm.create_model(name, pretrained=False, features_only=True).eval()
    twin = copy.deepcopy(network)
    assert dynamic(network)
    make_padding_constant(network, stride=stride, min_size=2 * stride)
    assert not dynamic(network)
    assert network.state_dict().keys() == twin.state_dict().keys()
    for height, width in ((64, 96), (160, 64)):
        images = torch.rand(1, 3, height, width)
        for one, other in zip(results(network, images), results(twin, images), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize(
    "layer",
    [
        Conv2dSame(3, 4, 3, stride=2),
        Conv2dSame(3, 4, (5, 2), stride=(2, 4), dilation=(2, 1)),
        Conv2dSame(3, 4, 1, stride=2),
        StdConv2dSame(3, 4, 3, stride=2),
        ScaledStdConv2dSame(3, 4, 3, stride=2, padding="same"),
        MaxPool2dSame(3, stride=2),
        AvgPool2dSame(3, stride=2),
    ],
)
def test_each_layer_gives_the_same_bits(layer: nn.Module) -> None:
    twin = copy.deepcopy(layer)
    make_padding_constant(layer, stride=8, min_size=8)
    assert not dynamic(layer)
    for size in ((8, 8), (16, 40)):
        images = torch.randn(2, 3, *size)
        assert torch.equal(layer(images), twin(images))


def test_a_layer_that_sees_sizes_which_its_stride_does_not_divide_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 2), Conv2dSame(4, 4, 3, stride=2), Conv2dSame(4, 4, 3, stride=2))
    make_padding_constant(network, stride=4, min_size=4)  # the first layer takes a row off, which the second pads to 2
    assert dynamic(network) == ["Conv2dSame"]
    assert padded(network) == [network[2]]


def test_a_network_that_needs_its_values_for_its_sizes_stays_as_it_is() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = Conv2dSame(3, 1, 3, stride=2)

        def forward(self, images: Tensor) -> Tensor:
            return self.layer(images[..., : int(images.sum()) + 4])

    network = Odd()
    make_padding_constant(network, stride=2, min_size=4)
    assert dynamic(network) == ["Conv2dSame"]


def test_a_model_of_the_registry_is_built_with_constant_padding() -> None:
    model = create_model("unet/tu-tf_efficientnet_lite0", decoder_channels=[32, 16, 8, 8, 8])
    assert len(padded(model)) == 5
    assert not dynamic(model)
