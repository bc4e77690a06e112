"""The Accelerator of a training: its processes and what they exchange, and the batch size that fits its memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor, UntypedStorage

from carvana.data.dataset import SegmentationDataset
from carvana.errors import ConfigError, plural
from carvana.losses import Loss
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.training.signals import translate_errors
from carvana.utils.devices import Precision, autocast, free_memory, release_memory

STEPS_AN_EPOCH = 16
"""An epoch has at least this many steps: with fewer, larger batches cost more images than they teach."""

LARGEST = 1024
MEMORY_SHARE = 0.6
"""The share of the free main memory that a batch may take; readers and system need some, too."""


def as_segmenter(model: torch.nn.Module, train: SegmentationDataset) -> Segmenter:
    """A network as a Segmenter with the data's task and its training size in the spec.

    Raises:
        ConfigError: it has another number of channels than the task has classes.
    """
    task = train.task
    if not isinstance(model, Segmenter):
        # Most encoders halve five times, so 32 fits nearly every network that was not written for this library.
        name = f"custom:{type(model).__name__}"
        model = Segmenter(model, ModelSpec(arch=name, task=task, stride=32, min_size=32, package="script"))
    if model.spec.classes != len(task.classes):
        raise ConfigError(
            f"{model.spec.arch} gives {plural(model.spec.classes, 'channel')}, and the data has "
            f"{len(task.classes)} class{'es' * (len(task.classes) > 1)}: make it with create_model(..., task=data.task)"
        )
    changes = {} if model.spec.task == task else {"task": task}
    return model.with_spec(trained_size=train.shown_size, **changes)


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """The Accelerator of this process, on its device, connected with the processes that torchrun started."""
    # Accelerate keeps its settings for the whole process and refuses another precision later. They are reset, since a
    # process may train twice; the connection to other processes stays.
    AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with translate_errors():
        return Accelerator(cpu=device.type == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))


def unwrap(model: torch.nn.Module) -> None:
    """Remove what Accelerate and the compiler put around a network, so that it can be used or trained again."""
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        model.__dict__.pop(name, None)
    model._compiled_call_impl = None


def add_up(accelerator: Accelerator, values: Tensor) -> Tensor:
    """The sum over all processes; with one process this and the functions below cost nothing."""
    if accelerator.num_processes == 1:
        return values
    with translate_errors():
        total: Tensor = accelerator.reduce(values, reduction="sum")
    return total


def average_buffers(accelerator: Accelerator, module: torch.nn.Module) -> None:
    """Average buffers over the processes: BatchNorm's statistics, which each process took over its own images."""
    for buffer in module.buffers() if accelerator.num_processes > 1 else ():
        if buffer.is_floating_point():
            buffer.copy_(add_up(accelerator, buffer.clone()) / accelerator.num_processes)


def all_of(accelerator: Accelerator, value: Any) -> list[Any]:
    """A value of each process, in the order of their numbers."""
    if accelerator.num_processes == 1:
        return [value]
    with translate_errors():
        gathered: list[Any] = gather_object([value])
    return gathered


def largest_batch(
    model: Segmenter, size: tuple[int, int], *, images: int, loss: Loss, device: torch.device, precision: Precision
) -> int:
    """``train.batch_size: auto``: the largest power of two that fits and leaves an epoch enough steps; at least 2.

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
    trial, ignores = copy.deepcopy(model).train(), model.spec.task is not None and model.spec.task.ignore

    def loss_of_noise(count: int) -> Tensor:
        pixels = torch.randint(0, 256, (count, len(model.spec.channels), *size), dtype=torch.uint8, device=device)
        with autocast(device, precision):
            logits = trial(pixels.contiguous(memory_format=torch.channels_last))
        targets = torch.rand(count, logits.shape[1], *size, device=device)
        valid = [torch.ones(count, 1, *size, device=device)] if ignores else []
        return loss(logits.float(), targets / targets.sum(1, keepdim=True).clamp(min=1), *valid)

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
