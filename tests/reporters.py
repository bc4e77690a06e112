"""A reporter for tests."""

from __future__ import annotations

from carvana.utils.progress import SilentReporter


class Lines(SilentReporter):
    """Keeps messages and warnings."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    warn = info
