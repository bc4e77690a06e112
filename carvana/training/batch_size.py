"""``train.batch_size: auto``: the largest batch that fits into memory and leaves an epoch enough steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

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
    device: torch.device,
    precision: Precision,
) -> int:
    """``settings.batch_size``; where it is auto, the largest batch that fits into the memory of every process."""
    if settings.batch_size != "auto":
        return settings.batch_size
    together = accelerator.num_processes * settings.accumulate
    fits = largest_batch(
        model, train.largest_size, images=len(train) // together, loss=loss, device=device, precision=precision
    )
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
    trial = _Trial(copy.deepcopy(model).train(), size, loss, device, precision)
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):  # the training's random numbers stay the same
        return trial.largest_tried(wanted) if on_gpu else trial.largest_counted(wanted)


class _Trial:
    """Training steps of a copy of the network on noise."""

    def __init__(
        self, model: Segmenter, size: tuple[int, int], loss: Loss, device: torch.device, precision: Precision
    ) -> None:
        self._model = model
        self._size = size
        self._loss = loss
        self._device = device
        self._precision = precision

    def largest_tried(self, wanted: int) -> int:
        fits = 2
        try:
            while fits < wanted:
                self._step(2 * fits)
                fits *= 2
        except torch.OutOfMemoryError:
            pass
        finally:
            self._model.zero_grad()
            release_memory(self._device)
        return fits

    def largest_counted(self, wanted: int) -> int:
        room = MEMORY_SHARE * free_memory() - self._weights_bytes()
        each = self._bytes_kept(2) / 2
        fits = wanted
        while fits > 2 and fits * each > room:
            fits //= 2
        return fits

    def _step(self, count: int) -> None:
        images = torch.randint(0, 256, (count, 3, *self._size), dtype=torch.uint8, device=self._device)
        targets = torch.rand(count, 1, *self._size, device=self._device)
        with autocast(self._device, self._precision):
            logits = self._model(images.contiguous(memory_format=torch.channels_last))
        loss: Tensor = self._loss(logits.float(), targets)
        torch.autograd.backward(loss)
        # AdamW keeps two more numbers for each weight; they must fit beside the batch.
        kept = [torch.empty_like(parameter) for parameter in self._model.parameters() for _ in range(2)]
        del kept

    def _bytes_kept(self, count: int) -> int:
        """Bytes that the forward pass keeps for the backward pass; shared memory is counted once."""
        own = {parameter.untyped_storage().data_ptr() for parameter in self._model.parameters()}
        kept: dict[int, tuple[Any, int]] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:
                kept[storage.data_ptr()] = (storage, storage.nbytes())
            return tensor

        images = torch.randint(0, 256, (count, 3, *self._size), dtype=torch.uint8).to(self._device)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            with autocast(self._device, self._precision):
                logits = self._model(images.contiguous(memory_format=torch.channels_last))
            self._loss(logits.float(), torch.rand(count, 1, *self._size).to(self._device))
        return sum(size for _, size in kept.values())

    def _weights_bytes(self) -> int:
        """Bytes of gradients, of the two moments of AdamW, and of a moving average."""
        return 4 * sum(parameter.nbytes for parameter in self._model.parameters())
