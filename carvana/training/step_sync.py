"""Per-batch all-reduce of the loss and of the stop and save flags, so that all processes decide alike."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from carvana.training.distributed import add_up
from carvana.utils.devices import float64_device


@dataclass(frozen=True)
class StepFlags:
    """One batch, summed over all processes.

    Attributes:
        batch: Its number within the epoch.
        loss: The sum of its images' losses.
        stop: Whether a process was asked to stop.
        save: Whether the first process wants the state saved.
        seconds: The first process's training time: clocks differ, and a training of some minutes must end for all at
            once.
    """

    batch: int
    loss: float
    stop: bool
    save: bool
    seconds: float


class StepSync:
    """Adds up a batch's numbers over the processes.

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
        return self._read(self._lag)

    def flush(self) -> list[StepFlags]:
        """Wait for the batches that were not read yet."""
        return self._read(0)

    def _read(self, left: int) -> list[StepFlags]:
        batches = []
        while len(self._unread) > left:
            batch, values = self._unread.popleft()
            loss, stop, save, seconds = values.tolist()
            batches.append(StepFlags(batch, loss, stop > 0, save > 0, seconds))
        return batches


def agree(accelerator: Accelerator, *, stop: bool, save: bool) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and whether the first one wants the state saved: the same for all."""
    exact = float64_device(accelerator.device)
    flags = torch.tensor([stop, save and accelerator.is_main_process], dtype=torch.float64, device=exact)
    stop, save = (add_up(accelerator, flags) > 0).tolist()
    return stop, save
