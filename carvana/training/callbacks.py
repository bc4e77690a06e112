"""Who listens to a training: a small protocol, and the listener for TensorBoard."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import Any, Protocol


class Callback(Protocol):
    """What :class:`carvana.Trainer` calls on its main process."""

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """An epoch is over; ``record`` is its line of metrics.jsonl."""

    def on_fit_end(self) -> None:
        """The training is over, also when it failed."""


class TensorBoard:
    """Writes every number of every epoch as a TensorBoard scalar."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._folder = str(folder)
        self._writer: Any = None

    @staticmethod
    def available() -> bool:
        """Whether the package tensorboard is installed."""
        return importlib.util.find_spec("tensorboard") is not None

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        """Write the epoch's numbers."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(self._folder)
        for name, value in record.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(name, value, record["step"])

    def on_fit_end(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
