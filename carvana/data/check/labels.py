"""Values and colours of label files, and categories of objects: which are rare, and the task that they suggest."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from carvana.class_values import bounds, nearest_color
from carvana.data.check.files import PairSummary, Problem
from carvana.data.io.labels import FEW_VALUES, suggest_colors, suggest_task
from carvana.data.objects import suggest_classes
from carvana.errors import DataError
from carvana.task import Task

RARE = 0.001, 0.05
"""A class is rare below this share of the pixels, or in less than this share of the images, or in one image alone."""

_MOST_CLASSES = 256  # distinct values; more are numbers of objects


@dataclass(frozen=True)
class LabelValue:
    """A value or colour of label files, or a category of objects.

    Attributes:
        value: the value.
        share: the share of all pixels of label files, or of annotated images, that have it.
        images: the number of label files, or of images, that have it.
        name: its class, "(ignored)", or "(background)" of one class; None without a task, or if no class has it.
        objects: of a category the number of its objects.
        nearest: of a colour that no class has the nearest one that one has.
    """

    value: int | str
    share: float
    images: int
    name: str | None = None
    objects: int | None = None
    nearest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As JSON-able values."""
        values = asdict(self)
        return {key: value for key, value in values.items() if value is not None or key == "name"}


class ValueTally:
    """Adds up the values of label files, one after the other.

    Args:
        task: What the values are; None if it is not known.
    """

    def __init__(self, task: Task | None) -> None:
        self.task = task
        self._files = self._numbered = self._area = 0
        self._pixels, self._images, self._objects = Counter[int | str](), Counter[int | str](), Counter[int | str]()
        self._names: dict[int | str, str | None] = {}
        self._named = Counter[str]()  # images of each class

    def add(self, summary: PairSummary) -> None:
        """Add the labels, or the objects, of an image; nothing, if they could not be read."""
        values = summary.values
        if not summary.area:
            return
        self._files += 1
        self._area += summary.area
        self._objects.update(summary.objects)
        self._numbered += list(values) == list(range(len(values)))
        self._pixels.update(values)
        self._images.update(values.keys())
        for value in values.keys() - self._names.keys():
            self._names[value] = self._name(value)
        self._named.update({name for name in map(self._names.get, values) if name is not None})

    def values(self) -> tuple[LabelValue, ...]:
        """All values, sorted; colours and categories by the pixels that have them."""
        values: list[Any] = (
            [value for value, _ in self._pixels.most_common()] if self._named_values else sorted(self._pixels)
        )
        return tuple(
            LabelValue(
                value,
                self._pixels[value] / self._area,
                self._images[value],
                self._names[value],
                self._objects.get(value),
                self._nearest(value),
            )
            for value in values
        )

    def suggest(self, folder: Path) -> dict[str, Any] | None:
        """The task, or else the one that the values suggest, as values of a config; None if there are none.

        A file in the data folder that lists the colours of classes is taken for label files of colours.
        """
        if not self._pixels:
            return None
        if self.task is not None:
            return self.task.model_dump(mode="json")
        if self._objects:
            return suggest_classes(sorted(map(str, self._objects)))
        if self._named_values:
            frequent = [value for value, count in self._pixels.items() if count > RARE[0] * self._area]
            return suggest_colors(
                sorted(map(str, self._pixels if len(self._pixels) <= FEW_VALUES else frequent)), folder
            )
        numbers: list[Any] = sorted(self._pixels)
        return suggest_task(numbers, instances=self._are_instances())

    def notes(self, folder: str) -> list[Problem]:
        """Notes about classes, or values, that are absent or rare; ``folder`` is that of the label files."""
        found: dict[str, tuple[int, int]] = {}  # pixels, images
        if self.task is not None and self._files:
            pixels = Counter[str]()
            for value, count in self._pixels.items():
                pixels[self._names[value] or ""] += count
            found = {f"the class {name}": (pixels[name], self._named[name]) for name in self.task.names}
        elif not self._are_instances() and len(self._pixels) <= _MOST_CLASSES:
            what = "category" if self._objects else "colour" if self._named_values else "value"
            void = () if self._named_values else (self.suggest(Path()) or {}).get("ignore", ())
            values = (each.value for each in self.values() if each.value not in void)
            found = {f"the {what} {value}": (self._pixels[value], self._images[value]) for value in values}
        absent = [Problem("absent", folder, f"no label file has {what}") for what, (_, n) in found.items() if not n]
        rare = []
        for what, (count, images) in found.items():
            share = count / self._area
            if images == 1 or 0 < images < RARE[1] * self._files or 0 < share < RARE[0]:
                where = "one image alone" if images == 1 else f"{images:,} of {self._files:,} images"
                rare.append(Problem("rare", folder, f"{what} has {100 * share:.2g}% of the pixels, and is in {where}"))
        return absent + rare

    def _are_instances(self) -> bool:
        """Whether the values number the objects of each image: many, and in most files without gaps."""
        many = 0 if self._named_values else len(self._pixels)
        return many > FEW_VALUES and (self._numbered > self._files / 2 or many > _MOST_CLASSES)

    @property
    def _named_values(self) -> bool:
        """Whether the values are colours or categories."""
        return isinstance(next(iter(self._pixels), 0), str)

    def _name(self, value: int | str) -> str | None:
        if self.task is None:
            return None
        if isinstance(value, int):
            value_codes = np.array([[value]])
        elif value.startswith("#") and not self._objects:
            value_codes = np.array([bounds(value)[:1]])
        else:
            code = self.task.category_code(value)
            return self._class(code) if code is not None else None
        with suppress(DataError):  # no class has the value
            return self._class(int(self.task.encode(value_codes)[0, 0]))
        return None

    def _class(self, code: int) -> str | None:
        assert self.task is not None
        if code == self.task.void:
            return "(ignored)"
        index = code - (self.task.kind == "binary")
        return self.task.names[index] if index >= 0 else "(background)"

    def _nearest(self, value: int | str) -> str | None:
        if self.task is None or not self.task.reads_colors or self._names[value] or not isinstance(value, str):
            return None
        return nearest_color(value, [str(each) for one in self.task.classes for each in one.value])
