"""Images and masks: reading, finding, splitting, augmenting, drawing, run lengths."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from carvana.data import io
    from carvana.data.io import rle

__all__ = ["io", "rle"]


def __getattr__(name: str) -> Any:
    if name in __all__:  # rle was here in the last release
        return importlib.import_module(f"carvana.data.{name}")
    raise AttributeError(f"module 'carvana.data' has no attribute {name!r}")
