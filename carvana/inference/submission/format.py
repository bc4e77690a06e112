"""The form of a table of masks: its columns, what stands in each row, the order of rows, and that of the pixels."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np

from carvana.data.io.rle import Order, check_order
from carvana.errors import ConfigError, DataError, did_you_mean
from carvana.task import Task
from carvana.utils.progress import Reporter

_OF_IMAGE, _OF_CLASS = ("image", "stem"), ("class", "number", "value")

_COLUMNS = {1: ("img",), 2: ("img", "class")}
_ROWS = {1: "{image}_{class}", 2: "{image},{class}"}
_RUNS = "{runs}"


@dataclass(frozen=True)
class TableFormat:
    """The form of a table, of which one column holds the runs.

    What is left out follows from the rest. The table of one object is the competition's, ``img,rle_mask``. Of several
    classes it is ``img,class,rle_mask``: programs read image and class without taking a name apart.

    Attributes:
        task: the classes.
        columns: the names of the columns, two or more.
        row: what stands in each row, with a comma between columns. ``{image}`` is the name of the image's file and
            ``{stem}`` the same without its suffix; ``{class}`` is the name of the class, ``{number}`` its place in
            ``classes``, from 1, and ``{value}`` its value in label files. ``{runs}`` is a column of its own, the last
            one if it is left out.
        order: whether pixels are numbered row after row or column after column.
        classes: the classes that get rows.

    Raises:
        ConfigError: a name is unknown, rows would be alike, or there is another number of columns than in ``row``.

    >>> steel = TableFormat(Task(classes=["scratch", "hole"]), row="{image}_{number}")
    >>> steel.name(Path("test/a.jpg"), "hole"), steel.columns
    ('a.jpg_2', ('img', 'rle_mask'))
    """

    task: Task
    columns: tuple[str, ...] = ()
    row: str = ""
    order: Order = "row"
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        several = self.task.kind != "binary"
        named = [field for field in self.row.split(",") if field != _RUNS] if self.row else []
        count = len(self.columns) - 1 if self.columns else len(named) or 1 + several
        usual = "{image}" if count == 1 and not several else _ROWS.get(count, "")
        object.__setattr__(self, "row", self.row or usual)
        if not self.columns and count in _COLUMNS:
            columns = list(_COLUMNS[count])
            columns.insert(self.runs_place, "rle_mask")
            object.__setattr__(self, "columns", tuple(columns))
        object.__setattr__(self, "classes", self.classes or tuple(self.task.names))
        check_order(self.order)
        self._check_row(len(named) or count)
        for index, name in enumerate(self.classes):
            self.task.index(name)
            if name in self.classes[:index]:
                raise ConfigError(f"--classes names {name} twice; expected each class once")

    def _check_row(self, count: int) -> None:
        if not self.row:
            raise ConfigError(
                f"--columns {','.join(self.columns)}: expected two names or three; of other tables state with --row "
                "what stands in the columns"
            )
        if len(self._fields) != len(self.columns):
            raise ConfigError(
                f"--row {self.row!r} fills {count} columns besides the runs, and the names of columns are "
                f"{','.join(self.columns) or 'not given'}; expected one more name than that, with --columns"
            )
        known = (*_OF_IMAGE, *_OF_CLASS, "runs")
        for part in sorted(self._parts):
            if part not in known:
                raise ConfigError(
                    f"--row {self.row!r}: {{{part}}} is not known; expected {{{'}, {'.join(known)}}}"
                    f"{did_you_mean(part, known)}"
                )
        stated = self.row.split(",").count(_RUNS)
        if stated > 1 or stated != self.row.count("{runs"):
            raise ConfigError(f"--row {self.row!r}: expected {{runs}} once, in a column of its own")
        if not self._parts.intersection(_OF_IMAGE):
            raise ConfigError(f"--row {self.row!r}: the rows of all images would be alike; add {{image}} or {{stem}}")
        if len(self.classes) > 1 and not self._parts.intersection(_OF_CLASS):
            raise ConfigError(
                f"--row {self.row!r}: the rows of all classes would be alike; add {{class}} or {{number}}"
            )

    @cached_property
    def _fields(self) -> list[str]:
        fields = self.row.split(",")
        return fields if _RUNS in fields else [*fields, _RUNS]

    @cached_property
    def _parts(self) -> set[str]:
        try:
            parts = {part for field in self._fields for _, part, _, _ in Formatter().parse(field) if part is not None}
            for field in self._fields:
                field.format_map({part: 1 if part in ("number", "value") else "" for part in parts})
        except (ValueError, LookupError, AttributeError) as error:
            raise ConfigError(
                f"--row {self.row!r}: {error}; expected text with parts such as {{image}} and {{class}}"
            ) from error
        return parts

    @cached_property
    def _of_class(self) -> dict[str, Mapping[str, Any]]:
        """What each part of a row is that a class decides."""
        codes = np.arange(len(self.task.classes), dtype=self.task.dtype) + (self.task.kind == "binary")
        values = dict(zip(self.task.names, self.task.decode(codes).tolist(), strict=True))
        return {
            name: {"class": name, "number": number, "value": values[name]}
            for number, name in enumerate(self.classes, start=1)
        }

    @property
    def header(self) -> bytes:
        """The first line, with its line break."""
        return _line(self.columns)

    @property
    def runs_place(self) -> int:
        """The place of the column of runs, from 0."""
        return self._fields.index(_RUNS)

    @property
    def numbered(self) -> bool:
        """Whether rows have the numbers of classes, which ``classes`` decides."""
        return "number" in self._parts

    def settings(self, classes: Sequence[str]) -> dict[str, Any]:
        """All that decides the table besides the masks, as JSON values; empty for the competition's own.

        Args:
            classes: those with rows, in the order of the rows.
        """
        if self.task.kind == "binary" and self == TableFormat(self.task):
            return {}
        named = [list(self._of_class[name].values()) for name in classes]
        return {"columns": list(self.columns), "row": self.row, "order": self.order, "classes": named}

    def name(self, image: Path, of_class: str) -> str:
        """The columns besides the runs, with commas between them."""
        fields = self._filled(image, of_class, "")
        del fields[self.runs_place]
        return ",".join(fields)

    def line(self, image: Path, of_class: str, runs: str) -> bytes:
        r"""The line of an image and a class, with its line break.

        Raises:
            DataError: a name holds a line break, which would be two lines.

        >>> form = TableFormat(Task.binary())
        >>> form.line(Path("car_01.jpg"), "object", "2 5 8 1"), form.line(Path("a,b.jpg"), "object", "")
        (b'car_01.jpg,2 5 8 1\n', b'"a,b.jpg",\n')
        """
        return _line(self._filled(image, of_class, runs))

    def _filled(self, image: Path, of_class: str, runs: str) -> list[str]:
        parts = {"image": image.name, "stem": image.stem, "runs": runs, **self._of_class[of_class]}
        return [field.format_map(parts) for field in self._fields]


def refuse_equal(images: Sequence[Path], form: TableFormat) -> None:
    """Refuse names that no row can hold, and those that two rows would have, before any work.

    Lines are compared by their hashes, since there may be very many.

    Raises:
        DataError: there are such names, or no images.
    """
    if not images:
        raise DataError("no images; name a folder of image files")

    def rows() -> Iterator[tuple[bytes, Path]]:
        return ((form.line(image, name, ""), image) for image in images for name in form.classes)

    hashes = np.sort(np.fromiter((hash(line) for line, _ in rows()), np.int64))
    twice = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    known: dict[bytes, Path] = {}
    for line, image in rows() if twice else ():
        if hash(line) in twice:
            if line in known:
                raise DataError(f"{image} and {known[line]} would be two rows of one name; rename one of them")
            known[line] = image


def in_order(
    images: Sequence[Path], names: Sequence[str] | None, form: TableFormat, reporter: Reporter
) -> tuple[list[Path], list[str]]:
    """The images in the order of their rows, and the classes that each of them has rows of, in their order.

    Raises:
        DataError: a row that is wanted is not among those of the images, or rows are not in such an order.
    """
    if names is None:
        return sorted(images, key=lambda image: image.name), list(form.classes)
    places = {name: place for place, name in enumerate(names)}
    found: dict[int, tuple[int, str]] = {}
    for (number, image), of_class in itertools.product(enumerate(images), form.classes):
        place = places.get(form.name(image, of_class))
        if place is not None:
            found[place] = number, of_class
    missing = [name for place, name in enumerate(names) if place not in found]
    if missing:
        what = "images" if len(form.classes) == 1 else "rows"
        raise DataError(
            f"{len(missing)} of the {len(names)} {what} that the sample names are not there, the first: {missing[0]}; "
            f"name the folder that holds them all, or other names with --row: {form.row} makes "
            f"{form.name(images[0], form.classes[0])}"
        )
    wanted = dict.fromkeys(found[place][0] for place in range(len(names)))
    others = [image.name for number, image in enumerate(images) if number not in wanted]
    if others:
        reporter.info(f"{len(others)} images that the sample does not name are left out, the first: {others[0]}")
    classes = list(dict.fromkeys(found[place][1] for place in range(len(names))))
    _refuse_absent(form, classes, reporter)
    for place, (number, of_class) in enumerate(itertools.product(wanted, classes)):
        if found.get(place) != (number, of_class):
            raise DataError(
                f"line {place + 2} of the sample is {names[place] if place < len(names) else 'not there'}, and "
                f"{form.name(images[number], of_class)} was expected: rows of an image stand together, and all images "
                "have the same classes in the same order; leave out --against to write such a table in the order of "
                "names"
            )
    return [images[number] for number in wanted], classes


def _refuse_absent(form: TableFormat, classes: Sequence[str], reporter: Reporter) -> None:
    """Report classes without any row in the sample; refuse them where they were chosen or count."""
    absent = [name for name in form.classes if name not in classes]
    if not absent:
        return
    counted = f"{len(absent)} of {len(form.classes)} classes have no row in the sample"
    if form.numbered or len(form.classes) < len(form.task.classes):
        raise DataError(
            f"{counted}, the first: {absent[0]}; name with --classes those that have, in the order of their numbers"
        )
    reporter.info(f"{counted} and get none, the first: {absent[0]}")


def _line(fields: Sequence[str]) -> bytes:
    return os.fsencode(",".join(map(_quoted, fields)) + "\n")


def _quoted(field: str) -> str:
    if "\n" in field or "\r" in field:
        raise DataError(f"{field!r} has a line break in its name; rename it")
    return '"' + field.replace('"', '""') + '"' if "," in field or '"' in field else field
