"""Pillow's own guard against pictures that claim to be huge, brought in line with this library's limit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


class _PillowLimit:
    """Lets Pillow, which refuses 179 million pixels and warns from 89 on, read what our own limit allows.

    Its limit is one variable of the process. It is raised while any thread reads, to the largest limit among those
    threads, and then put back. It is never lifted: some formats allocate the picture before anybody can see its size.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._before: int | None = None

    @contextmanager
    def __call__(self, limit: int) -> Iterator[None]:
        with self._lock:
            if not self._limits:
                self._before = Image.MAX_IMAGE_PIXELS
            self._limits.append(limit)
            Image.MAX_IMAGE_PIXELS = max(self._limits)
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(limit)
                Image.MAX_IMAGE_PIXELS = max(self._limits) if self._limits else self._before


pillow_limit = _PillowLimit()
