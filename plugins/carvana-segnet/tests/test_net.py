"""SegNet itself, compared with other sources: torchvision's VGG16, brute force, and sums by hand."""

import carvana
import pytest
import torch
from carvana.errors import ConfigError, ModelError
from safetensors.torch import save_file
from torch.nn import functional
from torchvision.models import vgg16_bn

from carvana_segnet.net import SegNet, unpool

# Input and output channels of the convolutions, from figure 2 of the paper and VGG's table 1 (column D), by hand.
ENCODER = [
    (3, 64), (64, 64),
    (64, 128), (128, 128),
    (128, 256), (256, 256), (256, 256),
    (256, 512), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 512),
]  # fmt: skip
DECODER = [
    (512, 512), (512, 512), (512, 512),
    (512, 512), (512, 512), (512, 256),
    (256, 256), (256, 256), (256, 128),
    (128, 128), (128, 64),
    (64, 64),
]  # fmt: skip


@pytest.fixture
def vgg() -> torch.nn.Module:
    """torchvision's VGG16, random, with BatchNorm statistics of its own."""
    torch.manual_seed(1)
    network = vgg16_bn().features
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def learned(network: torch.nn.Module, size: tuple[int, int] = (64, 96)) -> torch.nn.Module:
    """The network with BatchNorm statistics of noise, as after training."""
    network.train()
    with torch.no_grad():
        for _ in range(20):
            network(torch.randn(2, 3, *size))
    return network.eval()


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_it_has_the_layers_of_the_paper():
    network = SegNet()
    convolutions = [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in convolutions] == [*ENCODER, *DECODER, (64, 1)]
    assert {(layer.kernel_size, layer.padding, layer.stride) for layer in convolutions} == {((3, 3), (1, 1), (1, 1))}
    assert sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules()) == 25
    assert sum(isinstance(module, torch.nn.ReLU) for module in network.modules()) == 25


@pytest.mark.parametrize("classes", [1, 12])
def test_the_number_of_parameters_is_the_sum_over_its_layers(classes: int):
    with_norm = sum(9 * inputs * outputs + outputs + 2 * outputs for inputs, outputs in [*ENCODER, *DECODER])
    assert parameters(SegNet(classes)) == with_norm + 9 * 64 * classes + classes
    assert parameters(SegNet().encoder) == parameters(vgg16_bn().features) == 14_723_136


def test_the_encoder_is_torchvisions_vgg16(vgg: torch.nn.Module):
    network = SegNet().eval()
    network.encoder.load_state_dict(dict(zip(network.encoder.state_dict(), vgg.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 64, 96)
    features = images
    with torch.no_grad():
        for stage in network.encoder:
            features = functional.max_pool2d(stage(features), 2)
        torch.testing.assert_close(features, vgg(images), rtol=0, atol=0)


def test_the_whole_is_what_plain_loops_over_the_layers_give():
    torch.manual_seed(2)
    network = learned(SegNet(3, width=4))
    images = torch.rand(2, 3, 64, 96)
    pools, features = [], images
    with torch.no_grad():
        for stage in network.encoder:
            before = stage(features)
            features = functional.max_pool2d(before, 2)
            pools.append(before)
        for stage, before in zip(network.decoder, pools[::-1], strict=True):
            features = stage(by_hand(features, before))
        torch.testing.assert_close(network(images), features)


def by_hand(features: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """Unpooling, window by window: the value goes where ``before`` has its first maximum."""
    made = torch.zeros_like(before)
    for image, channel, row, column in torch.cartesian_prod(*(torch.arange(side) for side in features.shape)).tolist():
        window = before[image, channel, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten().tolist()
        place = window.index(max(window))
        made[image, channel, 2 * row + place // 2, 2 * column + place % 2] = features[image, channel, row, column]
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_values_are_put_where_the_maxima_were(dtype: torch.dtype, layout: torch.memory_format):
    torch.manual_seed(0)
    before = torch.randint(-3, 4, (2, 3, 8, 12)).to(dtype).relu().contiguous(memory_format=layout)  # with many ties
    _, indices = functional.max_pool2d(before, 2, return_indices=True)
    features = torch.randn(2, 3, 4, 6).to(dtype)
    assert torch.equal(unpool(features, indices), by_hand(features, before))


def test_an_exported_network_unpools_alike_at_other_sizes_too():
    class Unpooling(torch.nn.Module):
        def forward(self, features: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
            return unpool(features, indices)

    def example(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        before = torch.randn(2, 3, 2 * height, 2 * width)
        return torch.randn(2, 3, height, width), functional.max_pool2d(before, 2, return_indices=True)[1], before

    free = torch.export.Dim.DYNAMIC
    features, indices, _ = example(4, 6)
    program = torch.export.export(Unpooling(), (features, indices), dynamic_shapes=({2: free, 3: free},) * 2)
    assert not [node for node in program.graph.nodes if "max_unpool" in str(node.target)]  # it compares
    for height, width in ((4, 6), (7, 3), (1, 2)):
        features, indices, before = example(height, width)
        assert torch.equal(program.module()(features, indices), by_hand(features, before))


def test_gradients_come_from_where_the_maxima_were():
    features = torch.randn(1, 2, 2, 3, dtype=torch.float64, requires_grad=True)
    indices = functional.max_pool2d(torch.randn(1, 2, 4, 6), 2, return_indices=True)[1]
    assert torch.autograd.gradcheck(unpool, (features, indices))


def test_the_full_width_maps_an_image_of_any_size():
    model = carvana.create_model("segnet").eval()
    with torch.no_grad():
        assert model(torch.randint(0, 256, (1, 3, 70, 45), dtype=torch.uint8)).shape == (1, 1, 70, 45)
    assert (model.spec.stride, model.spec.min_size, model.spec.init) == (32, 32, "random")
    assert sum(parameter.numel() for parameter in model.encoder_parameters()) == 14_723_136


def test_random_weights_keep_the_size_of_signals():
    """He et al. 2015, equation 10: the variance of a kernel is 2 / (its area x input channels)."""
    torch.manual_seed(0)
    for layer in (module for module in SegNet().modules() if isinstance(module, torch.nn.Conv2d)):
        assert not layer.bias.any()
        expected = 2 / (9 * layer.in_channels)
        assert float(layer.weight.detach().var()) == pytest.approx(expected, rel=6 * (2 / layer.weight.numel()) ** 0.5)


def test_compiled_or_in_another_order_in_memory_it_is_the_same_network():
    torch.manual_seed(2)
    network = learned(SegNet(2, width=8)).double()  # rounding would move a maximum to its neighbour here and there
    images = torch.rand(2, 3, 64, 96).double()
    with torch.no_grad():
        expected = network(images)
        torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(images), expected)
        strided = images.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(network.to(memory_format=torch.channels_last)(strided), expected)


def test_in_bf16_it_is_nearly_the_same_network():
    torch.manual_seed(2)
    network = learned(SegNet(2, width=8))
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        halved = network(images)
    with torch.no_grad():
        expected = network(images)
    assert halved.dtype == torch.bfloat16
    both = torch.stack([halved.float().flatten(), expected.flatten()])
    assert float(torch.corrcoef(both)[0, 1]) > 0.7  # a maximum that moves takes its value with it


def test_it_trains_in_bf16():
    torch.manual_seed(0)
    network = SegNet(width=4)
    with torch.autocast("cpu", torch.bfloat16):
        network(torch.rand(2, 3, 32, 64)).square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in network.parameters())


def test_a_file_of_torchvisions_weights_starts_the_encoder(vgg: torch.nn.Module, tmp_path):
    save_file({f"features.{name}": tensor for name, tensor in vgg.state_dict().items()}, tmp_path / "vgg.safetensors")
    model = carvana.create_model("segnet", encoder_weights=tmp_path / "vgg.safetensors")
    assert model.spec.init == "file:vgg.safetensors"
    found = list(model.network.encoder.state_dict().values())
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, vgg.state_dict().values(), strict=True))


def test_auto_falls_back_to_random_weights_and_says_why(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = carvana.create_model("segnet", encoder_weights="auto").spec
    assert spec.init == "auto: random (HF_HUB_OFFLINE is set and they are not cached)"
    spec = carvana.create_model("segnet", encoder_weights="auto", width=4).spec
    assert spec.init == "auto: random (weights are published for width 64 alone)"
    with pytest.raises(ModelError, match="'imagenet' of vgg16_bn are not available"):
        carvana.create_model("segnet", encoder_weights="imagenet")


@pytest.mark.parametrize(
    ("options", "weights", "line"),
    [
        ({"width": 0}, None, "width must be a whole number of at least 1, got 0"),
        ({"width": 8.0}, None, "width must be a whole number of at least 1, got 8.0"),
        ({"width": True}, None, "width must be a whole number of at least 1, got True"),
        ({"width": 32}, "imagenet", "cannot start from 'imagenet' at width 32: VGG16 has 64"),
        ({"width": 32}, "vgg.pth", "cannot start from 'vgg.pth' at width 32"),
        ({"widht": 4}, None, "has no option 'widht'; did you mean 'width'"),
    ],
)
def test_what_it_does_not_take_is_one_clear_line(options: dict, weights: str | None, line: str):
    with pytest.raises(ConfigError, match=line) as caught:
        carvana.create_model("segnet", encoder_weights=weights, options=options)
    assert "\n" not in str(caught.value)
