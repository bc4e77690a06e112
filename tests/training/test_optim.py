from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from carvana.config import TrainConfig
from carvana.data.dataset import SegmentationDataset
from carvana.data.samples import find_samples
from carvana.errors import ConfigError
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.training.optim import (
    Duration,
    QuickDepthwise,
    freeze_encoder,
    make_optimizer,
    rate_factor,
    refresh_statistics,
    train_mode,
)
from carvana.training.trainer import Trainer


@pytest.fixture
def encoder_model() -> Segmenter:
    return create_model("unet/resnet18", decoder_channels=[16, 8, 8, 4, 4])


def test_every_trainable_parameter_is_in_one_group_with_its_own_rate(encoder_model: Segmenter) -> None:
    settings = TrainConfig(lr=0.1, encoder_lr=0.01, weight_decay=0.3)
    groups = make_optimizer(encoder_model, settings).param_groups
    seen = [id(p) for group in groups for p in group["params"]]
    assert sorted(seen) == sorted(id(p) for p in encoder_model.parameters() if p.requires_grad)
    encoder = {id(p) for p in encoder_model.encoder_parameters()}
    for group in groups:
        for parameter in group["params"]:
            assert group["base_lr"] == (0.01 if id(parameter) in encoder else 0.1)
            assert group["weight_decay"] == (0.3 if parameter.ndim > 1 else 0)


def test_what_a_training_froze_moves_in_the_next_one(tiny_data: Path, encoder_model: Segmenter) -> None:
    data = SegmentationDataset(find_samples(tiny_data), (32, 32))
    settings: dict[str, Any] = {"train": data, "epochs": 1, "batch_size": 10, "workers": 0}
    before = [value.clone() for value in encoder_model.encoder_parameters()]
    kept = Trainer(encoder_model, freeze_encoder=True, ema=0.9, **settings).fit()
    for network in (encoder_model, kept):
        assert all(torch.equal(*pair) for pair in zip(before, network.encoder_parameters(), strict=True))
        Trainer(network, encoder_lr=1e-3, **settings).fit()
        assert not any(torch.equal(*pair) for pair in zip(before, network.encoder_parameters(), strict=True))


def test_sgd_is_nesterovs() -> None:
    optimizer = make_optimizer(create_model("unet-ref", width=2), TrainConfig(optimizer="sgd"))
    assert isinstance(optimizer, torch.optim.SGD)
    assert optimizer.defaults["nesterov"]


def test_a_frozen_encoder_keeps_weights_and_statistics(encoder_model: Segmenter) -> None:
    freeze_encoder(encoder_model)
    encoder = encoder_model.network.get_submodule("encoder")
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    optimizer = make_optimizer(encoder_model, TrainConfig(lr=0.1))
    train_mode(encoder_model)
    images = torch.rand(2, 3, 64, 64)
    encoder_model(images).square().mean().backward()
    optimizer.step()
    refresh_statistics(encoder_model, [images], nullcontext)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())


def test_an_architecture_without_encoder_cannot_freeze_it() -> None:
    model = Segmenter(nn.Conv2d(3, 1, 1), ModelSpec(arch="mine"))
    with pytest.raises(ConfigError, match="freeze_encoder"):
        freeze_encoder(model)


def test_the_rate_rises_then_follows_its_schedule() -> None:
    rates = [rate_factor(i / 100, warmup=0.1, schedule="cosine") for i in range(101)]
    assert rates[:11] == pytest.approx([i / 10 for i in range(11)])
    assert all(later <= earlier for earlier, later in pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0)
    assert rate_factor(0.9, warmup=0.1, schedule="constant") == 1
    assert rate_factor(0.0, warmup=0.0, schedule="cosine") == 1


def test_refreshed_statistics_are_the_average_of_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.rand(4, 3, 8, 8, generator=generator) * (i + 1) for i in range(3)]
    layer = nn.BatchNorm2d(3, momentum=0.01)
    layer(torch.rand(4, 3, 8, 8) * 50)  # a past that must not count
    refresh_statistics(layer, batches, nullcontext)
    means = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    variances = torch.stack([batch.var((0, 2, 3)) for batch in batches]).mean(0)
    torch.testing.assert_close(layer.running_mean, means)
    torch.testing.assert_close(layer.running_var, variances)
    assert layer.momentum == 0.01
    assert not layer.training


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_epochs_are_counted_in_steps() -> None:
    duration = Duration(TrainConfig(epochs=3, accumulate=2, warmup=0.0), 5)
    assert [duration.ends_with(epochs) for epochs in range(5)] == [False, False, False, True, True]
    assert duration.length == 15
    rates = []
    for step in range(9):  # three steps an epoch, the last of one batch
        duration.step = step
        rates.append(duration.rate_factor)
    assert [duration.done(*place) for place in ((0, 0), (0, 1), (2, 5))] == [0, 1, 15]
    assert all(later < earlier for earlier, later in pairwise(rates))
    assert 0 < rates[-1] < 0.1
    assert not duration.spent


def test_the_first_step_of_some_minutes_has_an_effect() -> None:
    duration = Duration(TrainConfig(minutes=1.0, warmup=0.1), 5)
    assert duration.rate_factor == pytest.approx(0.01)
    duration.seen = 3
    assert duration.rate_factor == pytest.approx(0.5)


def test_minutes_count_training_time_alone() -> None:
    clock = Clock()
    duration = Duration(TrainConfig(minutes=1.0, schedule="cosine", warmup=0.0), 5, clock=clock)
    assert duration.length == 60
    duration.start()
    clock.now += 30
    duration.seen = duration.seconds
    assert duration.rate_factor == pytest.approx(0.5)
    assert duration.done(0, 3) == 30
    duration.stop()
    clock.now += 1000  # a validation
    assert duration.seconds == 30
    assert not duration.spent
    duration.start()
    clock.now += 29.5
    duration.seen = duration.seconds
    assert duration.done(0, 4) == 59
    clock.now += 0.5
    duration.seen = duration.seconds
    assert duration.spent
    assert duration.ends_with(1)
    assert duration.seconds == 60
    clock.now += 30
    duration.seen = duration.seconds
    assert duration.done(0, 5) == duration.length == 60  # the last batch may take longer


def gradients(conv: nn.Conv2d, images: Tensor, backward: object, *, autocast: bool = True) -> Iterator[Tensor]:
    """Value and gradients of a convolution under bf16 autocast, its backward pass within a context."""
    conv.zero_grad()
    own = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = conv(own)
    loss = (value.float() * torch.linspace(-1, 1, value.numel()).view_as(value)).sum()
    with backward:  # type: ignore[attr-defined]
        loss.backward()
    assert own.grad is not None
    yield from (value, own.grad, *(parameter.grad for parameter in conv.parameters() if parameter.grad is not None))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_gradients_are_at_least_as_near_as_torchs(stride: int, kernel: int, bias: bool) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(24, 24, kernel, stride=stride, padding=kernel // 2, groups=24, bias=bias)
    images = torch.randn(2, 24, 19, 26).contiguous(memory_format=torch.channels_last)
    quick = list(gradients(conv, images, QuickDepthwise()))
    usual = list(gradients(conv, images, torch.enable_grad()))
    exact = list(gradients(conv, images, torch.enable_grad(), autocast=False))
    assert torch.equal(quick[0], usual[0])
    for mine, theirs, true in zip(quick[1:], usual[1:], exact[1:], strict=True):
        assert mine.dtype == theirs.dtype
        error, usual_error = ((g - true).norm() / true.norm() for g in (mine, theirs))
        assert error < 0.01
        assert error < 1.5 * usual_error


def computed(**shape: Any) -> list[torch.dtype]:
    """The precisions in which a convolution's gradients are computed, in the order of the calls."""
    found = []

    class Noted(QuickDepthwise):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            def noted(*inner: Any, **more: Any) -> Any:
                if "convolution_backward" in str(func):
                    found.append(inner[1].dtype)
                return func(*inner, **more)

            noted.default = noted  # type: ignore[attr-defined]
            same = func is torch.ops.aten.convolution_backward.default
            with pytest.MonkeyPatch.context() as patch:
                if same:
                    patch.setattr(torch.ops.aten.convolution_backward, "default", noted)
                return super().__torch_dispatch__(noted, types, args, kwargs)

    kernel = torch.randn(shape.pop("kernel"), requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=shape.pop("autocast", True)):
        value = F.conv2d(torch.randn(1, 8, 12, 12, requires_grad=True), kernel, **shape)
    with Noted():  # type: ignore[no-untyped-call]
        value.float().sum().backward()
    return found


def test_only_bf16_gradients_of_depthwise_convolutions_are_computed_in_fp32() -> None:
    half, single = torch.bfloat16, torch.float32
    assert computed(kernel=(8, 1, 3, 3), groups=8) == [half, single]  # of the images, of the kernel
    assert computed(kernel=(8, 1, 3, 3), groups=8, stride=2) == [single, single]
    assert computed(kernel=(8, 1, 3, 3), groups=8, padding="same") == [half, single]
    assert computed(kernel=(16, 1, 3, 3), groups=8) == [half]  # two outputs a channel
    assert computed(kernel=(4, 8, 3, 3)) == [half]
    assert computed(kernel=(8, 1, 3, 3), groups=8, autocast=False) == [single]
