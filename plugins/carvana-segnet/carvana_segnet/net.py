"""SegNet: the convolutions of VGG16, and a mirrored decoder that unpools to the positions of the encoder's maxima.

Badrinarayanan, Kendall, Cipolla: SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image Segmentation.
IEEE TPAMI 39(12), 2017, https://doi.org/10.1109/TPAMI.2016.2644615. Where the paper is not specific, this follows
the released model: the decoder has biases, BatchNorm and ReLU like the encoder, and its thirteenth convolution is the
classifier.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import carvana
import torch
from carvana.errors import ConfigError
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64
"""Channels of the first stage in the paper, and in all published weights."""

MULTIPLES = (1, 2, 4, 8, 8)
"""The widths of the five stages, as multiples of the first."""

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""The number of convolutions in each stage."""


class SegNet(nn.Module):
    """Five stages down and five up, connected by the bottleneck and the positions of maxima, without skip connections.

    Args:
        classes: Channels of the logits.
        width: Channels of the first stage.

    >>> sum(parameter.numel() for parameter in SegNet().parameters())
    29443585
    """

    def __init__(self, classes: int = 1, *, width: int = WIDTH) -> None:
        super().__init__()
        widths = [width * multiple for multiple in MULTIPLES]
        self.encoder = nn.ModuleList(
            _stage([before, *[own] * count])
            for before, own, count in zip([3, *widths], widths, CONVOLUTIONS, strict=False)
        )
        self.decoder = nn.ModuleList(
            _stage([*[own] * count, after])
            for own, after, count in reversed(list(zip(widths[1:], widths, CONVOLUTIONS[1:], strict=False)))
        )
        self.decoder.append(nn.Sequential(*_stage([width, width]), nn.Conv2d(width, classes, 3, padding=1)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels as in He et al. 2015 (fan-in); zero biases, BatchNorm as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), H and W multiples of 32, to logits (N, classes, H, W)."""
        features = images
        maxima: list[Tensor] = []
        for stage in self.encoder:
            features, indices = functional.max_pool2d(stage(features), 2, return_indices=True)
            maxima.append(indices)
        for stage, indices in zip(self.decoder, reversed(maxima), strict=True):
            features = stage(unpool(features, indices))
        return features


def unpool(features: Tensor, indices: Tensor) -> Tensor:
    """Write each value to the position of the maximum in its 2x2 window, and zeros elsewhere.

    Args:
        features: (N, C, H, W).
        indices: (N, C, H, W), from ``torch.nn.functional.max_pool2d(..., 2, return_indices=True)``: flat positions in
            the plane of 2H x 2W pixels.

    Returns:
        (N, C, 2H, 2W), in the precision of the features.

    >>> unpool(torch.tensor([[[[7.0]]]]), torch.tensor([[[[2]]]]))
    tensor([[[[0., 0.],
              [7., 0.]]]])
    """
    if not torch.compiler.is_exporting():
        return functional.max_unpool2d(features, indices, (2, 2))
    # The same in operations that ONNX has: each position is compared with the index of its window.
    height, width = 2 * features.shape[-2], 2 * features.shape[-1]
    places = torch.arange(height * width, device=features.device).view(height, width)
    return torch.where(_doubled(indices) == places, _doubled(features), 0)


def build(*, classes: int = 1, encoder_weights: str | None = None, width: int = WIDTH) -> carvana.Network:
    """Build SegNet with the values of a config's ``model``.

    Args:
        classes: Channels of the logits.
        encoder_weights: None, "imagenet", "auto" or a file of the weights of torchvision's ``vgg16_bn``.
        width: Channels of the first stage; pretrained weights exist for 64 only.

    Raises:
        ConfigError: the width is not a positive whole number, or it is not 64 and pretrained weights are given.
        ModelError: the weights are not available or do not fit.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ConfigError(f"segnet's width must be a whole number of at least 1, got {width!r}")
    if width != WIDTH and encoder_weights not in (None, "auto"):
        raise ConfigError(
            f"segnet cannot start from '{encoder_weights}' at width {width}: VGG16 has {WIDTH}; leave the width at"
            f" {WIDTH}, or take encoder_weights none"
        )
    network = SegNet(classes, width=width)
    made = carvana.Network(
        network, stride=32, min_size=32, encoder=network.encoder
    )  # the defaults of mean and std are VGG16's
    if encoder_weights is None:
        return made
    if width != WIDTH:
        return replace(made, init=f"auto: random (weights are published for width {WIDTH} alone)")
    vgg = carvana.create_encoder("vgg16_bn", weights=encoder_weights)
    if not vgg.is_random:
        pretrained = vgg.module.get_submodule("features").state_dict()
        tensors = zip(network.encoder.state_dict(), pretrained.values(), strict=True)
        network.encoder.load_state_dict(dict(tensors))
    return replace(made, init=vgg.init, mean=vgg.mean, std=vgg.std)


def _stage(widths: list[int]) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        for inputs, outputs in pairwise(widths):
            yield nn.Conv2d(inputs, outputs, 3, padding=1)
            yield nn.BatchNorm2d(outputs)
            yield nn.ReLU(inplace=True)

    return nn.Sequential(*layers())


def _doubled(features: Tensor) -> Tensor:
    """Repeat each pixel 2x2 times."""
    return features.repeat_interleave(2, dim=-2).repeat_interleave(2, dim=-1)
