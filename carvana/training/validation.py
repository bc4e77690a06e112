"""Validation after an epoch, at the training size: quick, and only to choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from carvana.losses import Loss
from carvana.training.accelerator import add_up
from carvana.training.loader import Loader
from carvana.utils.devices import float64_device


@dataclass(frozen=True)
class Validation:
    """Averages over the validation images, prediction and truth cut at 0.5; and the images whose loss is not finite."""

    loss: float
    dice: float
    accuracy: float
    not_finite: tuple[int, ...] = ()


@torch.no_grad()
def validate(model: nn.Module, loader: Loader, *, loss: Loss, accelerator: Accelerator) -> Validation:
    """Loss, mean Dice per image and pixel accuracy of a network; it is left in evaluation mode.

    For crops the Dice is that of all their pixels together: else crops with few pixels of the object, or none, would
    decide by chance which epoch is the best.

    Each process measures its share, and all get the same numbers.
    """
    model.eval()
    exact = float64_device(accelerator.device)
    rows = torch.zeros(len(loader.data), 4, dtype=torch.float64, device=exact)
    for number, ((images, targets), _) in enumerate(loader):
        images, targets = images.to(accelerator.device), targets.to(accelerator.device)
        with accelerator.autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        losses = torch.stack([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
        indices, count = loader.batches.share(loader.batches.parts[number])
        numbers = [losses.to(exact).double(), *_agreement(logits.to(exact), targets.to(exact))]
        rows[indices[:count]] = torch.stack(numbers, dim=1)[:count]
    rows = add_up(accelerator, rows)
    not_finite = torch.nonzero(~torch.isfinite(rows[:, 0])).flatten()
    both, either = rows[:, 1:3].sum(0, keepdim=True).T if loader.data.mode == "crop" else rows[:, 1:3].T
    dice = torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0).mean()
    mean_loss, *_, accuracy = rows.mean(0).tolist()
    return Validation(mean_loss, dice.item(), accuracy, tuple(not_finite.tolist()))


def _agreement(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each image: the pixels in both masks, the sum of the pixels of each mask, and the pixel accuracy."""
    predicted, true = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
    both, either = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
    return both.double(), either.double(), (predicted == true).double().mean(1)
