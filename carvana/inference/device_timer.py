"""Measures the time that a device computes: a GPU runs asynchronously to the program."""

from __future__ import annotations

import time
from types import TracebackType

import torch

from carvana.utils.devices import synchronize


class DeviceTimer:
    """Adds up the time of blocks: ``with timer: ...``, any number of times.

    Args:
        device: where the blocks compute; a GPU is synchronized at both ends of a block.

    Attributes:
        seconds: the sum.

    >>> timer = DeviceTimer(torch.device("cpu"))
    >>> with timer:
    ...     total = sum(range(1000))
    >>> 0 < timer.seconds < 1
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
