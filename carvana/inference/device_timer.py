"""How long a device computes, which runs ahead of the program that asks it to."""

from __future__ import annotations

import time
from types import TracebackType

import torch

from carvana.utils.devices import synchronize


class DeviceTimer:
    """Adds up the time of blocks: ``with clock: ...``, again and again.

    Args:
        device: where they compute; a GPU is waited for at both ends of a block.

    Attributes:
        seconds: the sum.

    >>> clock = DeviceTimer(torch.device("cpu"))
    >>> with clock:
    ...     total = sum(range(1000))
    >>> 0 < clock.seconds < 1
    True
    """

    def __init__(self, device: torch.device) -> None:
        self.seconds = 0.0
        self._device = device
        self._began = 0.0

    def __enter__(self) -> None:
        self._began = self._now()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds += self._now() - self._began

    def _now(self) -> float:
        synchronize(self._device)
        return time.perf_counter()
