"""Networks for a comparison to survive; registered by name, since other processes import them from here."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from carvana.registry import registry

PLACE = "broken_networks"


class Plain(nn.Module):
    """One convolution: a network that works."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.conv(images)


class Killed(Plain):
    """Kills its own process in the first step, as the system does where memory runs out."""

    def forward(self, images: Tensor) -> Tensor:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(images)


class Aborts(Plain):
    """Ends as a failed assertion in C++ does."""

    def forward(self, images: Tensor) -> Tensor:
        os.abort()


class Raises(Plain):
    """Has a mistake in Python."""

    def forward(self, images: Tensor) -> Tensor:
        raise IndexError("a mistake\nof two lines")


class Greedy(Plain):
    """Takes 40 GB in its first step."""

    def forward(self, images: Tensor) -> Tensor:
        self.hoard = [torch.zeros(250_000_000) for _ in range(40)]
        return super().forward(images)


class Leaves(Plain):
    """Ends the process without a word."""

    def forward(self, images: Tensor) -> Tensor:
        os._exit(7)


def plain(**_: object) -> nn.Module:
    return Plain()


def killed(**_: object) -> nn.Module:
    return Killed()


def aborts(**_: object) -> nn.Module:
    return Aborts()


def raises(**_: object) -> nn.Module:
    return Raises()


def greedy(**_: object) -> nn.Module:
    return Greedy()


def leaves(**_: object) -> nn.Module:
    return Leaves()


def once(marker: str = "", **_: object) -> nn.Module:
    """Breaks the first time that it is built, and is in order from then on."""
    if not Path(marker).exists():
        Path(marker).touch()
        raise OSError("the first time")
    return Plain()


def register(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register all of them for the time of a test."""
    entries = {entry.name: entry for entry in registry.archs.registered()}
    monkeypatch.setattr(registry.archs, "_entries", entries)
    for name in ("plain", "killed", "aborts", "raises", "greedy", "leaves", "once"):
        registry.archs.register(name, f"{PLACE}:{name}")
