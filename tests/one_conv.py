"""``one-conv``: a network of one convolution and its norm, for tests of all that goes on around a network."""

from __future__ import annotations

from torch import Tensor, nn

import carvana

NAME = "one-conv"


class OneConv(nn.Module):
    """(N, channels, H, W) to (N, classes, H, W)."""

    def __init__(self, classes: int, width: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.conv(images)).relu())
        return logits


def network(*, classes: int = 1, width: int = 8, channels: int = 3) -> nn.Module:
    return OneConv(classes, width, channels)


def rgb_network(*, classes: int = 1, width: int = 8) -> nn.Module:
    return OneConv(classes, width, 3)


def register() -> None:
    carvana.register_arch(NAME, f"{__name__}:network", replace=True)
