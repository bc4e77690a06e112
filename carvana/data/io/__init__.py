"""Image and mask files: the one place that opens them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carvana.data.io import rle

__all__ = ["rle"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return importlib.import_module(f"carvana.data.io.{name}")
    raise AttributeError(f"module 'carvana.data.io' has no attribute {name!r}")
