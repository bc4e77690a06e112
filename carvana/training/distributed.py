"""Exchange between the processes of a training; with one process it costs nothing."""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object
from torch import Tensor

from carvana.training.signals import translate_errors
from carvana.utils.devices import Precision, float64_device


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


class StepFlags(NamedTuple):
    """One batch, summed over all processes.

    Attributes:
        batch: Its number within the epoch.
        loss: The sum of its images' losses.
        stop: Above 0 if a process was asked to stop.
        save: Above 0 if the first process wants the state saved.
        seconds: The first process's training time: clocks differ, and a training of some minutes must end for all at
            once.
    """

    batch: int
    loss: float
    stop: float
    save: float
    seconds: float


class StepSync:
    """Adds up each batch's loss and flags over the processes, so that all decide alike.

    On a GPU the sums are read one batch later: reading them at once would make the GPU wait.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._lag = 1 if accelerator.device.type == "cuda" else 0
        self._unread: deque[tuple[int, Tensor]] = deque()

    def send(self, batch: int, loss: Tensor, *, stop: bool, save: bool, seconds: float) -> list[StepFlags]:
        """Add this process's numbers to the sum; returns the batches whose sums can be read now.

        Args:
            batch: Its number within the epoch.
            loss: The sum of this process's losses, a scalar.
            stop: Whether this process was asked to stop.
            save: Whether the first process wants the state saved; that of others does not count.
            seconds: Training time; likewise.
        """
        first = self._accelerator.is_main_process
        flags = torch.tensor([stop, save and first, seconds if first else 0.0], dtype=torch.float64)
        exact = float64_device(loss.device)
        values = torch.cat([loss.to(exact).double().reshape(1), flags.to(exact)])
        self._unread.append((batch, add_up(self._accelerator, values)))
        return self.flush(self._lag)

    def flush(self, left: int = 0) -> list[StepFlags]:
        """Wait for the batches that were not read yet, except the last ``left``."""
        batches = []
        while len(self._unread) > left:
            batch, values = self._unread.popleft()
            batches.append(StepFlags(batch, *values.tolist()))
        return batches
