"""``train.batch_size: auto``: the largest batch that fits the memory and still leaves an epoch enough steps."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from carvana.losses import Loss
from carvana.models.segmenter import Segmenter
from carvana.utils.devices import Precision, autocast, free_memory, release_memory

STEPS_AN_EPOCH = 16
"""An epoch keeps at least so many steps: with fewer, each sees more images than it learns from."""

LARGEST = 1024
MEMORY_SHARE = 0.6
"""The share of a computer's free memory that a batch may take; the readers and the system want some, too."""


def largest_batch(
    model: Segmenter, size: tuple[int, int], *, images: int, loss: Loss, device: torch.device, precision: Precision
) -> int:
    """The largest power of two that fits, and with which an epoch has :data:`STEPS_AN_EPOCH` steps; at least 2.

    On an NVIDIA GPU whole training steps are tried, larger ones until one does not fit. Where the memory is the
    computer's own (a CPU, an Apple GPU) that would end in the system killing the process, so what one image keeps for
    the backward pass is counted.

    Args:
        model: The network, on its device; it stays as it is.
        size: (height, width) of the images in training.
        images: How many images train, divided by the processes and by the batches of a step.
        loss: The training's loss.
        device: Where it trains.
        precision: The arithmetic.
    """
    wanted = 2
    while wanted * 2 <= min(LARGEST, images // STEPS_AN_EPOCH):
        wanted *= 2
    trial = _Trial(copy.deepcopy(model).train(), size, loss, device, precision)
    on_gpu = device.type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):  # the training draws as if nothing had been tried
        return trial.largest_tried(wanted) if on_gpu else trial.largest_counted(wanted)


class _Trial:
    """Training steps on noise, by a copy of the network."""

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
        # AdamW keeps two more numbers a weight; they must fit beside the batch.
        kept = [torch.empty_like(parameter) for parameter in self._model.parameters() for _ in range(2)]
        del kept

    def _bytes_kept(self, count: int) -> int:
        """What the forward pass keeps for the backward pass, each piece of memory counted once."""
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
        """Gradients, the two moments of AdamW, and a moving average."""
        return 4 * sum(parameter.nbytes for parameter in self._model.parameters())
