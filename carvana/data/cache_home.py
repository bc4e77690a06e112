"""The folder in which this library keeps what it can make again: drawn cars and photos at training size."""

from __future__ import annotations

import os
from pathlib import Path


def cache_home() -> Path:
    """``$CARVANA_CACHE``, or else ``carvana`` in the user's cache folder (``$XDG_CACHE_HOME``, by default ~/.cache)."""
    own = os.environ.get("CARVANA_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carvana"
