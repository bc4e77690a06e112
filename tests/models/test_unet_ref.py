from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from carvana.errors import ConfigError
from carvana.models.unet_ref import UNetRef, build

# Of the notebook's printed summary: output size, channels and parameters of its 23 convolutions, the parameters of the
# BatchNorm behind each (none behind the head), and the channels of its four concatenations.
CONVOLUTIONS = [
    (128, 64, 1_792, 256),
    (128, 64, 36_928, 256),
    (64, 128, 73_856, 512),
    (64, 128, 147_584, 512),
    (32, 256, 295_168, 1_024),
    (32, 256, 590_080, 1_024),
    (16, 512, 1_180_160, 2_048),
    (16, 512, 2_359_808, 2_048),
    (8, 1024, 4_719_616, 4_096),
    (8, 1024, 9_438_208, 4_096),
    (16, 512, 7_078_400, 2_048),
    (16, 512, 2_359_808, 2_048),
    (16, 512, 2_359_808, 2_048),
    (32, 256, 1_769_728, 1_024),
    (32, 256, 590_080, 1_024),
    (32, 256, 590_080, 1_024),
    (64, 128, 442_496, 512),
    (64, 128, 147_584, 512),
    (64, 128, 147_584, 512),
    (128, 64, 110_656, 256),
    (128, 64, 36_928, 256),
    (128, 64, 36_928, 256),
    (128, 1, 65, None),
]
CONCATENATIONS = {11: (16, 1536), 14: (32, 768), 17: (64, 384), 20: (128, 192)}  # by the convolution that reads them
SKIPS = {11: 8, 14: 6, 17: 4, 20: 2}  # the activation that each concatenation begins with


@pytest.fixture(scope="module")
def network() -> UNetRef:
    torch.manual_seed(0)
    return UNetRef().eval()


@pytest.fixture(scope="module")
def trace(network: UNetRef) -> list[tuple[nn.Module, torch.Tensor, torch.Tensor]]:
    """Every convolution, BatchNorm and ReLU with its input and output, in the order of the forward pass."""
    calls: list[tuple[nn.Module, torch.Tensor, torch.Tensor]] = []
    hooks = [
        module.register_forward_hook(
            lambda module, inputs, output: calls.append((module, inputs[0].clone(), output.clone()))
        )
        for module in network.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.ReLU)
    ]
    with torch.no_grad():
        network(torch.rand(1, 3, 128, 128))
    for hook in hooks:
        hook.remove()
    return calls


def count(module: nn.Module) -> int:
    values = [*module.parameters(), *(b for n, b in module.named_buffers() if not n.endswith("num_batches_tracked"))]
    return sum(value.numel() for value in values)


def test_every_layer_is_that_of_the_printed_summary(trace):
    convolutions = [(module, output) for module, _, output in trace if isinstance(module, nn.Conv2d)]
    norms = [module for module, _, _ in trace if isinstance(module, nn.BatchNorm2d)]
    found = [
        (output.shape[-1], output.shape[1], count(module), count(norms[i]) if i < len(norms) else None)
        for i, (module, output) in enumerate(convolutions)
    ]
    assert found == CONVOLUTIONS


def test_convolution_batchnorm_and_relu_alternate_and_the_head_stands_alone(trace):
    kinds = [type(module) for module, _, _ in trace]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 22 + [nn.Conv2d]
    assert trace[-1][0].kernel_size == (1, 1)


def test_a_concatenation_holds_the_skip_and_then_the_upsampled_features(trace):
    convolutions = [input_ for module, input_, _ in trace if isinstance(module, nn.Conv2d)]
    activations = [output for module, _, output in trace if isinstance(module, nn.ReLU)]
    for index, (size, channels) in CONCATENATIONS.items():
        joined, skip, below = convolutions[index - 1], activations[SKIPS[index] - 1], activations[index - 2]
        assert joined.shape[1:] == (channels, size, size)
        torch.testing.assert_close(joined[:, : skip.shape[1]], skip, rtol=0, atol=0)
        doubled = below.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        torch.testing.assert_close(joined[:, skip.shape[1] :], doubled, rtol=0, atol=0)


def test_pooling_takes_the_maximum_of_two_by_two(trace):
    convolutions = [input_ for module, input_, _ in trace if isinstance(module, nn.Conv2d)]
    activations = [output for module, _, output in trace if isinstance(module, nn.ReLU)]
    for index in (2, 4, 6, 8):
        activation = activations[index - 1]
        corners = [activation[..., y::2, x::2] for y in (0, 1) for x in (0, 1)]
        torch.testing.assert_close(convolutions[index], torch.stack(corners).amax(0), rtol=0, atol=0)


def test_the_totals_are_those_of_the_notebook(network):
    trained = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    statistics = count(network) - trained
    assert (trained, statistics, trained + statistics) == (34_527_041, 13_696, 34_540_737)


def test_it_starts_as_keras_starts(network):
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            area = math.prod(module.kernel_size)
            limit = math.sqrt(6 / (area * module.in_channels + area * module.out_channels))
            assert module.weight.abs().max() <= limit
            if module.weight.numel() > 1000:
                assert module.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)
            assert not module.bias.any()
        if isinstance(module, nn.BatchNorm2d):
            assert (module.eps, module.momentum) == (1e-3, 0.01)


def test_options_reach_every_batchnorm_and_width_scales_the_stages():
    built = build(classes=3, width=8, bn_momentum=0.1, bn_eps=1e-5)
    norms = [module for module in built.module.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-5)}
    assert [norm.num_features for norm in norms[:10:2]] == [8, 16, 32, 64, 128]
    assert built.module(torch.rand(2, 3, 32, 48)).shape == (2, 3, 32, 48)


@pytest.mark.parametrize(
    "option", [{"width": 0}, {"width": 2.5}, {"bn_momentum": 0}, {"bn_momentum": 2}, {"bn_eps": 0}]
)
def test_an_option_out_of_range_is_one_clear_line(option: dict):
    with pytest.raises(ConfigError, match=next(iter(option))):
        build(**option)
