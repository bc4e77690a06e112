"""What the processes of a training tell one another after each batch, so that all of them decide alike."""

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
    """One batch, all processes together.

    Attributes:
        batch: Its number within the epoch.
        loss: The sum of its images' losses.
        stop: Whether a process was asked to stop.
        save: Whether the first process wants the state saved.
        seconds: The first process's training time: clocks differ, and a budget of minutes must end for all at once.
    """

    batch: int
    loss: float
    stop: bool
    save: bool
    seconds: float


class StepSync:
    """Shares a batch's numbers; on a GPU they are looked at a batch later, since asking at once would hold it up."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._lag = 1 if accelerator.device.type == "cuda" else 0
        self._unread: deque[tuple[int, Tensor]] = deque()

    def beat(self, batch: int, loss: Tensor, *, stop: bool, save: bool, seconds: float) -> list[StepFlags]:
        """Send this process's numbers; returns the beats that have arrived.

        Args:
            batch: Its number within the epoch.
            loss: The sum of this process's losses, a scalar.
            stop: Whether this process was asked to stop.
            save: Whether the first process wants the state saved; that of others does not count.
            seconds: Training time; likewise.
        """
        first = self._accelerator.is_main_process
        told = torch.tensor([stop, save and first, seconds if first else 0.0], dtype=torch.float64)
        exact = float64_device(loss.device)
        values = torch.cat([loss.to(exact).double().reshape(1), told.to(exact)])
        self._unread.append((batch, add_up(self._accelerator, values)))
        return self._read(self._lag)

    def rest(self) -> list[StepFlags]:
        """Wait for all beats that have not been looked at."""
        return self._read(0)

    def _read(self, left: int) -> list[StepFlags]:
        beats = []
        while len(self._unread) > left:
            batch, values = self._unread.popleft()
            loss, stop, save, seconds = values.tolist()
            beats.append(StepFlags(batch, loss, stop > 0, save > 0, seconds))
        return beats


def agree(accelerator: Accelerator, *, stop: bool, save: bool) -> tuple[bool, bool]:
    """Whether any process was asked to stop, and whether the first one wants the state saved: the same for all."""
    exact = float64_device(accelerator.device)
    wishes = torch.tensor([stop, save and accelerator.is_main_process], dtype=torch.float64, device=exact)
    stop, save = (add_up(accelerator, wishes) > 0).tolist()
    return stop, save
