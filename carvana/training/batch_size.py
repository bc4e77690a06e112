"""``train.batch_size: auto``: the largest batch that fits into memory and leaves an epoch enough steps."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, UntypedStorage

from carvana.config import TrainConfig
from carvana.data.dataset import SegmentationDataset
from carvana.losses import Loss
from carvana.models.segmenter import Segmenter
from carvana.training.distributed import all_of
from carvana.utils.devices import Precision, autocast, free_memory, release_memory

STEPS_AN_EPOCH = 16
"""An epoch has at least this many steps: with fewer, larger batches cost more images than they teach."""

LARGEST = 1024
MEMORY_SHARE = 0.6
"""The share of the free main memory that a batch may take; readers and system need some, too."""


def choose_batch_size(
    model: Segmenter,
    train: SegmentationDataset,
    settings: TrainConfig,
    *,
    loss: Loss,
    accelerator: Accelerator,
    precision: Precision,
) -> int:
    """``settings.batch_size``; where it is auto, the largest batch that fits into the memory of every process."""
    if settings.batch_size != "auto":
        return settings.batch_size
    images = len(train) // (accelerator.num_processes * settings.accumulate)
    size, device = train.largest_size, accelerator.device
    fits = largest_batch(model, size, images=images, loss=loss, device=device, precision=precision)
    return min(map(int, all_of(accelerator, fits)))


def largest_batch(
    model: Segmenter, size: tuple[int, int], *, images: int, loss: Loss, device: torch.device, precision: Precision
) -> int:
    """The largest power of two that fits, and with which an epoch has :data:`STEPS_AN_EPOCH` steps; at least 2.

    On an NVIDIA GPU, training steps of growing batches are run until one does not fit. On a CPU or an Apple GPU, which
    use main memory, the system would kill the process; there the bytes that one image keeps for the backward pass are
    counted instead.

    Args:
        model: The network, on its device; a copy of it is tried.
        size: (height, width) of the images in training.
        images: Training images, divided by the number of processes and by ``train.accumulate``.
        loss: The loss.
        device: The device.
        precision: The precision, resolved.
    """
    wanted = 2
    while wanted * 2 <= min(LARGEST, images // STEPS_AN_EPOCH):
        wanted *= 2
    trial = copy.deepcopy(model).train()

    def loss_of_noise(count: int) -> Tensor:
        pixels = torch.randint(0, 256, (count, 3, *size), dtype=torch.uint8, device=device)
        with autocast(device, precision):
            logits = trial(pixels.contiguous(memory_format=torch.channels_last))
        targets = torch.rand(count, logits.shape[1], *size, device=device)
        return loss(logits.float(), targets / targets.sum(1, keepdim=True).clamp(min=1))

    largest = _largest_tried if device.type == "cuda" else _largest_counted
    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # the training's numbers stay the same
        return largest(trial, loss_of_noise, wanted)


def _largest_tried(model: Segmenter, loss_of_noise: Callable[[int], Tensor], wanted: int) -> int:
    fits = 2
    try:
        while fits < wanted:
            torch.autograd.backward(loss_of_noise(2 * fits))
            # AdamW keeps two more numbers for each weight; they must fit beside the batch.
            kept = [torch.empty_like(parameter) for parameter in model.parameters() for _ in range(2)]
            del kept
            fits *= 2
    except torch.OutOfMemoryError:
        pass
    finally:
        model.zero_grad()
        release_memory(next(model.parameters()).device)
    return fits


def _largest_counted(model: Segmenter, loss_of_noise: Callable[[int], Tensor], wanted: int) -> int:
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, UntypedStorage] = {}  # for the backward pass; shared memory is counted once

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        loss_of_noise(2)
    each = sum(storage.nbytes() for storage in kept.values()) / 2
    # Gradients, the two moments of AdamW, and a moving average.
    room = MEMORY_SHARE * free_memory() - 4 * sum(parameter.nbytes for parameter in model.parameters())
    fits = wanted
    while fits > 2 and fits * each > room:
        fits //= 2
    return fits
