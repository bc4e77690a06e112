"""Accelerate around the network of a training, and what its processes exchange; with one process that costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor

from carvana.data.dataset import SegmentationDataset
from carvana.errors import ConfigError, plural
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.training.signals import translate_errors
from carvana.utils.devices import Precision


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
            f"{plural(len(task.classes), 'class')}: make it with create_model(..., task=data.task)"
        )
    changes = {} if model.spec.task == task else {"task": task}
    return model.with_spec(trained_size=train.size if train.mode == "resize" else None, **changes)


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
    """The sum over all processes."""
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
