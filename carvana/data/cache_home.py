"""The cache folder of this library: drawn cars and images at training size, which can be made again."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from carvana.utils.files import expanded


def cache_home() -> Path:
    """``$CARVANA_CACHE``, or else ``carvana`` in the user's cache folder (``$XDG_CACHE_HOME``, by default ~/.cache).

    A user without a home folder, as in some containers, has one among the temporary files.
    """
    own = os.environ.get("CARVANA_CACHE")
    if own:
        return expanded(own)
    try:
        users = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        if sys.platform == "win32":
            return Path(tempfile.gettempdir(), "carvana")
        return Path(tempfile.gettempdir(), f"carvana-{os.getuid()}")  # all users share that folder
    return users / "carvana"
