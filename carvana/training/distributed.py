"""Exchange between the processes of a training; with one process it costs nothing."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor

from carvana.training.failures import translate_errors
from carvana.utils.devices import Precision


def make_accelerator(device: torch.device, precision: Precision) -> Accelerator:
    """The Accelerator of this process, on its device, connected with the processes that torchrun started."""
    # Accelerate keeps its settings for the whole process and refuses another precision later. They are reset, since a
    # process may train twice; the connection to other processes stays.
    AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with translate_errors():
        return Accelerator(cpu=device.type == "cpu", mixed_precision={"fp32": "no"}.get(precision, precision))


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
