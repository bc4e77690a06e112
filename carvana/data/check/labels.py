"""The values of label files: how frequent each is, which are rare, and the task that they suggest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from carvana.data.check.files import Problem
from carvana.data.io.labels import FEW_VALUES, suggest_task
from carvana.errors import DataError
from carvana.task import Task

RARE = 0.001, 0.05
"""A class is rare below this share of the pixels, or in less than this share of the images, or in one image alone."""

_MOST_CLASSES = 256  # distinct values; more are numbers of objects


@dataclass(frozen=True)
class LabelValue:
    """A value of label files.

    Attributes:
        value: the value.
        share: the share of all pixels of label files that have it.
        images: the number of label files that have it.
        name: its class; None without a task, or if no class has it.
    """

    value: int
    share: float
    images: int
    name: str | None = None


class ValueTally:
    """Adds up the values of label files, one after the other.

    Args:
        task: What the values are; None if it is not known.
    """

    def __init__(self, task: Task | None) -> None:
        self.task = task
        self._files = self._numbered = 0
        self._pixels, self._images = Counter[int](), Counter[int]()
        self._names: dict[int, str | None] = {}
        self._named = Counter[str]()  # images of each class

    def add(self, values: Mapping[int, int]) -> None:
        """Add a file, as :func:`carvana.data.io.labels.count_values` counts it; nothing, if it could not be read."""
        if not values:
            return
        self._files += 1
        self._numbered += list(values) == list(range(len(values)))
        self._pixels.update(values)
        self._images.update(values.keys())
        for value in values.keys() - self._names.keys():
            self._names[value] = self._name(value)
        self._named.update({name for name in map(self._names.get, values) if name is not None})

    def values(self) -> tuple[LabelValue, ...]:
        """All values, sorted."""
        total = self._pixels.total()
        return tuple(
            LabelValue(value, pixels / total, self._images[value], self._names[value])
            for value, pixels in sorted(self._pixels.items())
        )

    def suggest(self) -> dict[str, Any] | None:
        """The task, or else the one that the values suggest, as values of a config; None if there are none."""
        if not self._files:
            return None
        if self.task is not None:
            return self.task.model_dump(mode="json")
        return suggest_task(sorted(self._pixels), instances=self._are_instances())

    def notes(self, folder: str) -> list[Problem]:
        """Notes about classes, or values, that are absent or rare; ``folder`` is that of the label files."""
        found: dict[str, tuple[int, int]] = {}  # pixels, images
        if self.task is not None and self._files:
            pixels = Counter[str]()
            for value, count in self._pixels.items():
                pixels[self._names[value] or ""] += count
            found = {f"the class {name}": (pixels[name], self._named[name]) for name in self.task.names}
        elif not self._are_instances():
            void = (self.suggest() or {}).get("ignore", ())
            values = (value for value in sorted(self._pixels) if value not in void)
            found = {f"the value {value}": (self._pixels[value], self._images[value]) for value in values}
        absent = [Problem("absent", folder, f"no label file has {what}") for what, (_, n) in found.items() if not n]
        rare = []
        for what, (count, images) in found.items():
            share = count / self._pixels.total()
            if images == 1 or 0 < images < RARE[1] * self._files or 0 < share < RARE[0]:
                where = "one image alone" if images == 1 else f"{images:,} of {self._files:,} images"
                rare.append(Problem("rare", folder, f"{what} has {100 * share:.2g}% of the pixels, and is in {where}"))
        return absent + rare

    def _are_instances(self) -> bool:
        """Whether the values number the objects of each image: many, and in most files without gaps."""
        many = len(self._pixels)
        return many > FEW_VALUES and (self._numbered > self._files / 2 or many > _MOST_CLASSES)

    def _name(self, value: int) -> str | None:
        if self.task is not None:
            with suppress(DataError):  # no class has the value
                index = int(self.task.encode(np.array([[value]]))[0, 0]) - (self.task.kind == "binary")
                if 0 <= index < len(self.task.classes):
                    return self.task.names[index]
        return None
