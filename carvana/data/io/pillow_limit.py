"""Adapts Pillow's own limits on the size of pictures to this library's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, PngImagePlugin


class _PillowLimit:
    """Lets Pillow, which refuses 179 million pixels and warns from 89 on, read what our own limit allows.

    Its limit is one variable of the process. It is raised while any thread reads, to the largest limit among those
    threads, and then put back. It is never removed: some formats allocate the picture before its size can be checked.

    Meanwhile a text in a PNG may have 64 MiB, where Pillow stops at 1: cameras and editors keep whole histories there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._before: tuple[int | None, int] = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK

    @contextmanager
    def __call__(self, limit: int) -> Iterator[None]:
        with self._lock:
            if not self._limits:
                self._before = Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK
                PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
            self._limits.append(limit)
            Image.MAX_IMAGE_PIXELS = max(self._limits)
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(limit)
                if self._limits:
                    Image.MAX_IMAGE_PIXELS = max(self._limits)
                else:
                    Image.MAX_IMAGE_PIXELS, PngImagePlugin.MAX_TEXT_CHUNK = self._before


pillow_limit = _PillowLimit()
