"""Validation after an epoch, at the training size: quick, and only to choose the best epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from carvana.data.target import unpack
from carvana.losses import Loss
from carvana.metrics import mean_iou, overall_accuracy
from carvana.training.accelerator import add_up
from carvana.training.loader import Loader
from carvana.utils.deprecated import Attribute
from carvana.utils.devices import float64_device


@dataclass(frozen=True)
class Validation:
    """Scores of the validation images, and the images whose loss is not finite.

    Attributes:
        loss: The mean over images.
        score: By which the best epoch is chosen: the mean Dice over images, prediction and truth cut at 0.5; of classes
            that overlap the mean over classes, each over the images that hold it; of classes that exclude each other
            the mean IoU of all pixels together.
        accuracy: The share of pixels that are right; of classes that overlap, of pixels of each class.
        not_finite: The images whose loss is not finite.
    """

    loss: float
    score: float
    accuracy: float
    not_finite: tuple[int, ...] = ()

    dice = Attribute("score")


@torch.no_grad()
def validate(model: nn.Module, loader: Loader, *, loss: Loss, accelerator: Accelerator) -> Validation:
    """Measure a network on validation images at the training size; it is left in evaluation mode.

    For crops the Dice is that of all their pixels together: else crops with few pixels of the object, or none, would
    decide by chance which epoch is the best.

    Each process measures its share, and all get the same numbers.
    """
    model.eval()
    exact, task = float64_device(accelerator.device), loader.data.task
    classes = len(task.classes)
    columns = 2 if task.kind == "multiclass" else 2 + 3 * classes
    rows = torch.zeros(len(loader.data), columns, dtype=torch.float64, device=exact)
    matrix = torch.zeros(classes**2, dtype=torch.float64, device=exact)
    for number, ((images, packed), _) in enumerate(loader):
        images, targets = images.to(accelerator.device), unpack(packed.to(accelerator.device), task)
        with accelerator.autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last)).float()
        losses = [loss(*(part[i : i + 1] for part in (logits, *targets))) for i in range(len(logits))]
        indices, count = loader.batches.share(loader.batches.parts[number])
        rows[indices[:count], 0] = torch.stack(losses).to(exact).double()[:count]
        if task.kind == "multiclass":
            matrix += _label_confusion(logits[:count], targets[0][:count]).to(exact)
        else:
            rows[indices[:count], 1:] = _agreement(*(part.to(exact) for part in (logits, *targets)))[:count]
    rows = add_up(accelerator, rows)
    not_finite = tuple(torch.nonzero(~torch.isfinite(rows[:, 0])).flatten().tolist())
    mean_loss, *_, accuracy = rows.mean(0).tolist()
    if task.kind == "multiclass":
        pooled = add_up(accelerator, matrix).reshape(classes, -1).cpu().numpy()
        if not pooled.any():  # all is void, as it may be in a few crops: JSON has no NaN
            return Validation(mean_loss, 0.0, 0.0, not_finite)
        return Validation(mean_loss, mean_iou(pooled), overall_accuracy(pooled), not_finite)
    if (void := rows[:, -1].isnan()).any():  # nothing counts in these images
        rows = rows[~void]
        accuracy = rows[:, -1].mean().nan_to_num().item()
    counts = rows[:, 1:-1].sum(0, keepdim=True) if loader.data.mode == "crop" else rows[:, 1:-1]
    both, predicted, true = counts.T.split(classes)
    either = predicted + true
    dice = torch.where(either > 0, 2 * both / either.clamp(min=1), 1.0)
    if task.kind == "multilabel":  # over all images a network that predicts nothing would be best where a class is rare
        present = true > 0
        dice = (dice * present).sum(1)[present.any(1)] / present.sum(1)[present.any(1)]
    return Validation(mean_loss, dice.mean().nan_to_num().item(), accuracy, not_finite)


def _agreement(logits: Tensor, targets: Tensor, valid: Tensor | None = None) -> Tensor:
    """For each image (N, 3 K + 1): of each class the pixels in both masks, then those of the predicted one, and of the
    true one, and the pixel accuracy, not a number where nothing counts.
    """
    predicted, true = (logits > 0).flatten(2), (targets > 0.5 * (1 if valid is None else valid)).flatten(2)
    right = (predicted == true).flatten(1)
    if valid is None:
        accuracy = right.double().mean(1)
    else:
        counts = (valid > 0.5).expand_as(targets).flatten(2)
        accuracy = (right & counts.flatten(1)).sum(1).double() / counts.sum((1, 2))
        predicted, true = predicted & counts, true & counts
    sums = (each.sum(2).double() for each in (predicted & true, predicted, true))
    return torch.cat([*sums, accuracy[:, None]], dim=1)


def _label_confusion(logits: Tensor, targets: Tensor) -> Tensor:
    """Pixels of each true and each predicted class, of the pixels of which at least half counts: (K * K,), float64."""
    counts = targets.sum(1) > 0.5
    pairs = targets.argmax(1)[counts] * logits.shape[1] + logits.argmax(1)[counts]
    return torch.bincount(pairs, minlength=logits.shape[1] ** 2).double()
