"""Errors of a training step as one line that says what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from carvana.config import TrainConfig
from carvana.data.reader_processes import ReaderKilledError
from carvana.errors import CarvanaError, ModelError
from carvana.run import Run
from carvana.training.state import Progress, has_state, peek_state
from carvana.utils.devices import is_out_of_memory
from carvana.utils.processes import tells_of_killed_reader

_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket Timeout", "Timed out")

FEWER_READERS = "take fewer with data.workers, or smaller train.batch_size; --resume goes on"
"""The advice where readers are killed."""


class LostProcessError(CarvanaError):
    """Another process of the same training has ended or cannot be reached."""


class NonFiniteLossError(CarvanaError):
    """The loss is infinite or not a number; the run keeps the last good state and the best network."""


def not_finite(
    loss: float, where: str, at: Progress, settings: TrainConfig, run: Run | None, *, step: int
) -> NonFiniteLossError:
    """The error for a loss that is not finite: where it arose, what to try, and what is kept."""
    or_precision = "" if settings.precision == "fp32" else " or take train.precision fp32"
    parts = [
        f"the loss became {loss} in epoch {at.epoch + 1}, step {step} (learning rate {at.rate:.3g}), {where}, or the "
        f"weights in the step before: look at the images, lower train.lr (now {settings.lr:g}){or_precision}"
    ]
    if run is not None and has_state(run.state_path):
        parts.append(f"the last good state, of step {peek_state(run.state_path)[0].step}, is in {run.state_path}")
    if run is not None and at.metrics:
        parts.append(
            f"the best network so far is in {run.model_path}, and --init {run.path} begins another training with it"
        )
    return NonFiniteLossError("; ".join(parts))


def some(names: Sequence[str], count: int = 16) -> str:
    """The first of many names.

    >>> some(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors about memory, the compiler, readers or other processes into one line; others pass unchanged."""
    try:
        yield
    except (RuntimeError, ModelError) as error:
        message = _explanation(error)
        if message is None:
            raise
        raise message from error


def _explanation(error: RuntimeError | ModelError) -> CarvanaError | None:
    words = str(error)
    if is_out_of_memory(error):
        return CarvanaError(
            "out of memory in a training step: lower train.batch_size (train.accumulate makes up for it), or data.size"
        )
    reason = words.strip().splitlines()[0] if words.strip() else type(error).__name__
    if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
        return CarvanaError(f"train.compile: the network cannot be compiled here ({reason}); set it to false")
    if tells_of_killed_reader(error):
        return ReaderKilledError(FEWER_READERS)
    if _is_lost_process(error):
        return LostProcessError(
            "another process of this training died or cannot be reached: see what it printed, then continue with "
            f"--resume ({reason})"
        )
    return None


def _is_lost_process(error: Exception) -> bool:
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return False
    return isinstance(error, torch.distributed.DistError) or any(words in str(error) for words in _LOST)
