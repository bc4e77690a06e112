"""Losses and networks that go wrong when they are told to, and small folders of images that are odd."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

import carvana
from carvana.losses import make_loss
from carvana.registry import registry

LOSS = "spoilt"
NETWORK = "nan-on-white"


class _InfiniteGradient(torch.autograd.Function):
    """What comes in goes out; the way back multiplies by infinity."""

    @staticmethod
    def forward(context: object, loss: Tensor) -> Tensor:
        return loss.clone()

    @staticmethod
    def backward(context: object, gradient: Tensor) -> Tensor:
        return gradient * float("inf")


@dataclass
class Spoilt:
    """``bce + dice`` that is another value in chosen batches of training, counted from 0.

    Attributes:
        value: ``nan``, ``inf`` or ``-inf``; or ``gradient``, which leaves the loss and makes its gradient infinite.
        batches: in which it is that.
        seen: how many batches there were.
    """

    value: str = ""
    batches: Sequence[int] = ()
    seen: int = 0
    sound: Callable[[Tensor, Tensor], Tensor] = field(default_factory=lambda: make_loss("bce + dice"))

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        loss = self.sound(logits, targets)
        if not logits.requires_grad:  # validation
            return loss
        self.seen += 1
        if not self.value or self.seen - 1 not in self.batches:
            return loss
        return _InfiniteGradient.apply(loss) if self.value == "gradient" else loss * 0 + float(self.value)


class NanOnWhite(nn.Module):
    """One convolution; NaN for each image that is white."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layer(images)
        white = images.amin(dim=(1, 2, 3), keepdim=True) > 2.0  # as ImageNet's mean and deviation make it
        return torch.where(white, float("nan"), logits)


@contextmanager
def registered(loss: Spoilt | None = None) -> Iterator[None]:
    """The loss and the network, by name, for the length of a block."""
    before = dict(registry.losses._entries), dict(registry.archs._entries)  # one block may lie in another
    if loss is not None:
        carvana.register_loss(LOSS, lambda: loss, replace=True)
    carvana.register_arch(NETWORK, lambda *, classes: NanOnWhite(), replace=True)
    try:
        yield
    finally:
        registry.losses._entries, registry.archs._entries = before


COMMAND = """
import sys
from carvana.cli import main
sys.path.insert(0, sys.argv.pop(1))
from faults.spoilt import Spoilt, registered
value, batches = sys.argv.pop(1), [int(batch) for batch in sys.argv.pop(1).split(",") if batch]
sys.argv[0] = "carvana"
with registered(Spoilt(value, batches)):
    main()
"""
"""The command in a script that registers both; before its words: the folder of tests, a value, the batches."""


def command(value: str = "", batches: str = "") -> tuple[object, ...]:
    """What stands for ``carvana`` where the loss and the network are registered."""
    return ("-c", COMMAND, Path(__file__).parents[1], value, batches)


def noise(number: int, size: tuple[int, int] = (40, 60)) -> np.ndarray:
    """An image that shows nothing, uint8 (H, W, 3)."""
    return np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)


def mask(*, top: int = 10, left: int = 15, height: int = 20, width: int = 25) -> np.ndarray:
    """A rectangle, uint8 (40, 60) of 0 and 255."""
    area = np.zeros((40, 60), np.uint8)
    area[top : top + height, left : left + width] = 255
    return area


EMPTY = mask(height=0)
FULL = np.full((40, 60), 255, np.uint8)


def write_pairs(root: Path, photos: Sequence[np.ndarray], masks: Sequence[np.ndarray], *, views: int = 2) -> Path:
    """A data folder; so many images show one group."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number, (photo, area) in enumerate(zip(photos, masks, strict=True)):
        stem = f"{number // views:012x}_{number % views + 1:02}"
        cv2.imwrite(str(root / "images" / f"{stem}.png"), photo)
        cv2.imwrite(str(root / "masks" / f"{stem}_mask.png"), area)
    return root


class _NanSoon(NanOnWhite):
    """Gives NaN from its fifth step on."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def forward(self, images: Tensor) -> Tensor:
        self.steps += self.training
        return super().forward(images) * (float("nan") if self.steps > 4 else 1.0)


def nan_soon(**_: object) -> nn.Module:
    """Its factory, where processes of a comparison find it."""
    return _NanSoon()


def noises(count: int) -> list[np.ndarray]:
    return [noise(number) for number in range(count)]
