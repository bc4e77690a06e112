from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from carvana.models.fuse import for_inference
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec


def lively(model: Segmenter) -> Segmenter:
    """With BatchNorm statistics as a training leaves them: as they begin, folding would change nothing."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 10)
            for tensor in (module.running_var, module.weight.data):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("unet-ref", 0),
        ("unet/resnet18", 0),
        ("unet/tu-mobilenetv3_small_050", 0),  # timm's norms, with an activation inside
        ("linknet/resnet18", 5),  # behind transposed convolutions
        ("deeplabv3plus/resnet18", 0),
        ("unet/tu-densenet121", None),  # most of its norms come before the convolution
    ],
)
def test_a_folded_network_gives_what_it_gave_with_fewer_norms(name: str, left: int | None) -> None:
    torch.manual_seed(0)
    model = lively(create_model(name, options={"width": 4} if name == "unet-ref" else {}))
    before = norms(model)
    folded = for_inference(model)
    images = torch.rand(2, 3, 160, 96)
    with torch.no_grad():
        expected = model(images)
        torch.testing.assert_close(folded(images), expected, rtol=0, atol=2e-4 * float(expected.abs().max()))
    assert norms(folded) < before
    assert left is None or norms(folded) == left
    assert norms(model) == before
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_weights_in_the_type_of_autocast_give_its_bits() -> None:
    torch.manual_seed(0)
    model = lively(create_model("unet-ref", width=4))
    images = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        plain, cast = for_inference(model)(images), for_inference(model, torch.bfloat16)(images)
    assert torch.equal(plain, cast)


class Twice(nn.Module):
    """Uses one convolution for two norms: neither can be folded into it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return self.head(self.one(features) + self.two(features))


class Sum(Twice):
    """Needs the convolution's own output besides."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return self.head(self.one(features) + features)


@pytest.mark.parametrize("kind", [Twice, Sum])
def test_what_cannot_be_folded_stays_as_it_is(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model = lively(Segmenter(kind(), ModelSpec(arch="mine")))
    images = torch.rand(1, 3, 20, 20)
    with torch.no_grad():
        torch.testing.assert_close(for_inference(model)(images), model(images))


def normed(norm: Callable[[nn.Module], nn.Module]) -> Segmenter:
    network = nn.Sequential(norm(nn.Conv2d(3, 4, 3, padding=1)), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 1, 1))
    model = Segmenter(network, ModelSpec(arch="mine"))
    model(torch.rand(2, 3, 8, 8)).sum().backward()  # leaves a history in weights that are made of others
    return model.eval()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
    ],
)
def test_weights_that_are_made_of_others_are_left_alone(
    norm: Callable[[nn.Module], nn.Module], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    model, images = normed(norm), torch.rand(1, 3, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        torch.testing.assert_close(for_inference(model, dtype)(images), model(images))


def test_later_changes_do_not_reach_the_copy() -> None:
    model = lively(create_model("unet-ref", width=4))
    folded = for_inference(model)
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = folded(images)
        model.network.head.bias.add_(1)
        assert torch.equal(folded(images), before)


def test_it_is_folded_within_autocast_too() -> None:
    torch.manual_seed(0)
    model = lively(create_model("unet/tu-tf_efficientnet_lite0", encoder_weights="none"))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        folded = for_inference(model, torch.bfloat16)
    assert norms(folded) == 0
