"""The notebook's U-Net, layer by layer.

Twenty-three convolutions with bias, BatchNorm between convolution and ReLU, two convolutions a step down, nearest
upsampling, the skip before the upsampled features, three convolutions a step up, a 1x1 head. Initialised as Keras does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from carvana.errors import ConfigError
from carvana.models.spec import Network


class UNetRef(nn.Module):
    """The U-Net of the notebook's summary: 34,527,041 trained parameters and 13,696 BatchNorm statistics by default.

    Args:
        classes: Channels of the logits.
        channels: Of an image.
        width: Channels of the first stage; each of the four below doubles them.
        bn_momentum: Share of a new batch in BatchNorm's running statistics, as PyTorch counts it: 0.01 is Keras's 0.99.
            A short training wants more, such as 0.1: with 0.01 the statistics lag hundreds of steps behind.
        bn_eps: Added to BatchNorm's variance; 1e-3 is Keras's.

    >>> sum(parameter.numel() for parameter in UNetRef().parameters())
    34527041
    """

    def __init__(
        self, classes: int = 1, *, channels: int = 3, width: int = 64, bn_momentum: float = 0.01, bn_eps: float = 1e-3
    ) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(5)]
        inputs = [channels, *widths]
        self.down = nn.ModuleList(_stage(inputs[i], widths[i], 2, bn_momentum, bn_eps) for i in range(5))
        self.up = nn.ModuleList(
            _stage(widths[i] + widths[i + 1], widths[i], 3, bn_momentum, bn_eps) for i in reversed(range(4))
        )
        self.head = nn.Conv2d(width, classes, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the kernels as Keras does: Glorot uniform, zero biases, BatchNorm as the identity."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()

    def forward(self, images: Tensor) -> Tensor:
        """Map images (N, channels, H, W), H and W multiples of 16, to logits (N, classes, H, W)."""
        features = images
        skips: list[Tensor] = []
        for index, stage in enumerate(self.down):
            features = stage(functional.max_pool2d(features, 2) if index else features)
            skips.append(features)
        for stage, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            upsampled = functional.interpolate(features, scale_factor=2, mode="nearest")
            features = stage(torch.cat([skip, upsampled], dim=1))
        logits: Tensor = self.head(features)
        return logits


def build(
    *, classes: int = 1, channels: int = 3, width: int = 64, bn_momentum: float = 0.01, bn_eps: float = 1e-3
) -> Network:
    """Make the reference network; see ``UNetRef`` for the options.

    The notebook does not say how it scaled its images, and BatchNorm after the first convolution cancels a constant
    factor: pixels in [0, 1] are not normalised.

    Raises:
        ConfigError: an option is out of its range.
    """
    if isinstance(width, bool) or not isinstance(width, int) or width < 1:
        raise ConfigError(f"unet-ref's width must be a whole number of at least 1, got {width!r}")
    for option, value in (("bn_momentum", bn_momentum), ("bn_eps", bn_eps)):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"unet-ref's {option} must be a number, got {value!r}")
    if not 0 < bn_momentum <= 1:
        raise ConfigError(f"unet-ref's bn_momentum must be above 0 and at most 1, got {bn_momentum!r}")
    if bn_eps <= 0:
        raise ConfigError(f"unet-ref's bn_eps must be above 0, got {bn_eps!r}")
    network = UNetRef(classes, channels=channels, width=width, bn_momentum=bn_momentum, bn_eps=bn_eps)
    # 32, not 16: at 16 px the deepest stage is one pixel, and BatchNorm cannot train on one value.
    return Network(network, stride=16, min_size=32, mean=(0.0,) * channels, std=(1.0,) * channels, encoder=network.down)


def _stage(inputs: int, outputs: int, convolutions: int, momentum: float, eps: float) -> nn.Sequential:
    def layers() -> Iterator[nn.Module]:
        for index in range(convolutions):
            yield nn.Conv2d(outputs if index else inputs, outputs, 3, padding=1)
            yield nn.BatchNorm2d(outputs, eps=eps, momentum=momentum)
            yield nn.ReLU(inplace=True)

    return nn.Sequential(*layers())
