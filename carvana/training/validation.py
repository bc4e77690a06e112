"""The numbers of an epoch, at the training size: quick, and only there to choose the best epoch by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from carvana.losses import Loss
from carvana.training.loader import timed


@dataclass(frozen=True)
class Validation:
    """Averages over the validation photos, both sides cut at one half."""

    loss: float
    dice: float
    accuracy: float


@torch.no_grad()
def validate(model: nn.Module, batches: Any, *, loss: Loss, accelerator: Accelerator) -> Validation:
    """Loss, mean Dice per photo and pixel accuracy of a network as it stands; it is left in evaluation mode."""
    model.eval()
    rows = []
    for (images, targets), _ in timed(batches):
        with accelerator.autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        losses = torch.stack([loss(logits[i : i + 1], targets[i : i + 1]) for i in range(len(logits))])
        rows.append(accelerator.gather_for_metrics(torch.stack([losses, *_agreement(logits, targets)], dim=1)))
    return Validation(*torch.cat(rows).double().mean(0).tolist())


def _agreement(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Dice and pixel accuracy of each photo."""
    predicted, true = (logits > 0).flatten(1), (targets > 0.5).flatten(1)
    both, either = (predicted & true).sum(1), predicted.sum(1) + true.sum(1)
    dice = torch.where(either > 0, 2 * both / either.clamp(min=1), torch.ones_like(both, dtype=torch.float32))
    return dice, (predicted == true).float().mean(1)
