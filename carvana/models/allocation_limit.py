"""A bound on the memory that building a network takes, for sizes from an untrusted file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from carvana.errors import ModelError


class AllocationLimit(TorchDispatchMode):
    """Refuses tensors once more than ``most`` numbers are made within the block, before their memory is taken.

    It counts tensors that are made from a size, as parameters and buffers are. Results computed from other tensors are
    not counted, nor are tensors on the device "meta", which take no memory.

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
        """Count, then run the operation."""
        kwargs = kwargs or {}
        if args and isinstance(args[0], list | tuple | torch.Size) and kwargs.get("device") != torch.device("meta"):
            sides = [side for side in args[0] if isinstance(side, int)]
            if len(sides) == len(args[0]):  # and not a list of tensors
                self._made += math.prod(sides)
                if self._made > self._most:
                    raise ModelError(f"{self._what} would have more than {self._most:,} numbers")
        return func(*args, **kwargs)
