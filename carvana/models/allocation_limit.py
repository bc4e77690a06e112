"""A bound on what a network may take while it is built, for sizes that a file names and nobody vouches for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.errors import ModelError


class AllocationLimit(TorchDispatchMode):
    """Refuses, before memory is taken, what makes more numbers than ``most`` in all while the block lasts.

    It counts tensors that are made by their size, as parameters and buffers are. What comes of other tensors is not
    counted, nor is what is on the device "meta", which has no memory.

    >>> with AllocationLimit(1000, "a model"):
    ...     torch.empty(20, 20, 20)
    Traceback (most recent call last):
    ...
    carvana.errors.ModelError: a model would have more than 1,000 numbers
    """

    def __init__(self, most: int, what: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most
        self._what = what
        self._made = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count, then do it."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], list | tuple | torch.Size) and kwargs.get("device") != torch.device("meta"):
            sides = [side for side in args[0] if isinstance(side, int)]
            if len(sides) == len(args[0]):  # and not a list of tensors
                self._made += math.prod(sides)
                if self._made > self._most:
                    raise ModelError(f"{self._what} would have more than {self._most:,} numbers")
        return func(*args, **kwargs)
