"""One class of a task, and its values in label files: numbers, ranges, colours, or names of categories.

A category is of polygons, or of a folder of masks. Files that list classes, such as class_dict.csv, are read as values
of ``task.classes``.
"""

from __future__ import annotations

import colorsys
import csv
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_serializer

from carvana.errors import ConfigError

if TYPE_CHECKING:  # configs do without them
    import numpy as np
    from numpy.typing import NDArray

MOST_CLASSES = 2**16 - 2
"""Classes of a task: their indices and two codes fit into 16 bits."""

_LOWEST, _HIGHEST = -(2**31), 2**31 - 1
_RANGE = re.compile(r"\s*(-?\d+)\s*-\s*(-?\d+)\s*")
_COLOR = re.compile(r"#[0-9a-fA-F]{6}")
_DIGITS = re.compile(r"\s*-?\d+\s*")

REST = "*"
"""The value for all that no class and no other value names."""

COLOR_FILES = "class_dict.csv", "labelmap.txt"
"""The usual names of files that list the colours of classes."""

_HEADER = ["name", "r", "g", "b"]
_LABELMAP = re.compile(r"(?P<name>[^#:][^:]*):(?P<color>[^:]*):[^:]*:[^:]*")

FIRST_COLOR = 2**31
"""Colours are numbers from here on, so that no value is taken for one."""

# Twenty colours of maximum contrast (Kelly 1965, Color Engineering 3(6)), without white and black.
_COLORS = [
    "#f3c300", "#875692", "#f38400", "#a1caf1", "#be0032", "#c2b280", "#008856", "#e68fac", "#0067a5", "#f99379",
    "#604e97", "#f6a600", "#b3446c", "#dcd300", "#882d17", "#8db600", "#654522", "#e25822", "#2b3d26", "#848482",
]  # fmt: skip


def as_values(value: Any) -> tuple[Any, ...]:
    """One value, or several, as a tuple."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def checked_value(value: Any) -> int | str:
    """A value of label files, of one of four kinds.

    A number; a range ``low-high``, of which ``3-3`` is short for 3; a colour ``#rrggbb``, which comes back in lower
    case; any other text is the name of a category, and ``*`` is all that is not named.

    Raises:
        ValueError: it is none of them.
    """
    if isinstance(value, bool) or not isinstance(value, int | str) or value == "":
        raise ValueError("expected a whole number, a range such as 1-20, a colour, the name of a category, or a list")
    if isinstance(value, str):
        match = _RANGE.fullmatch(value)
        if _COLOR.fullmatch(value):
            return value.lower()
        if value.startswith("#"):
            raise ValueError("expected a colour such as #ff8800")
        if _DIGITS.fullmatch(value):
            number = value.strip()
            raise ValueError(f"is a number in quotes; write {number} without them (of a category: as the class's name)")
        if match is None:
            return value
        low, high = int(match[1]), int(match[2])
        if low > high:
            raise ValueError(f"the range runs backwards; expected {high}-{low}")
        value = low if low == high else f"{low}-{high}"
    if not all(_LOWEST <= bound <= _HIGHEST for bound in bounds(value)):
        raise ValueError("expected values of 32 bits")
    found: int | str = value
    return found


def _name(name: Any) -> Any:
    if isinstance(name, bool):
        raise ValueError(f"is read by YAML as {name}, not as text; write the name in quotes")
    return str(name) if isinstance(name, int | float) else name


def _color(color: str | None) -> str | None:
    if color is not None and not _COLOR.fullmatch(color):
        raise ValueError("expected a colour such as #ff8800")
    return color


Value = Annotated[int | str, BeforeValidator(checked_value)]

Values = Annotated[tuple[Value, ...], BeforeValidator(as_values)]

ClassName = Annotated[str, BeforeValidator(_name), Field(min_length=1, max_length=200)]


class Record(BaseModel):
    """Frozen values, of which none may have an unknown name."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskClass(Record):
    """One class.

    Attributes:
        name: Its name.
        value: Its values in label files: numbers, ranges such as "1-20", colours such as "#ff8800", names of
            categories, or "*" for all that is not named. Without any, in a binary task: 1, or what
            :func:`carvana.read_mask` takes for the object.
        color: Its colour in pictures, "#rrggbb"; None for the first colour among its values, or one of the usual ones.
    """

    name: ClassName
    value: Values = ()
    color: Annotated[str | None, AfterValidator(_color)] = None

    @model_serializer
    def _serialize(self) -> dict[str, Any]:
        value = self.value[0] if len(self.value) == 1 else list(self.value)
        return {"name": self.name, "value": value} | ({} if self.color is None else {"color": self.color})

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of its categories: its values that are names, and its own name, as predictions have it."""
        return (*(str(each) for each in self.value if is_name(each) and each != self.name), self.name)

    @property
    def shown_color(self) -> str | None:
        """Its colour, or else the first one among its values."""
        return self.color or next((str(each) for each in self.value if is_color(each)), None)


def numbered(classes: Sequence[Any], ignore: Any) -> list[Any]:
    """Classes in full: a name that stands alone gets the next value from 0 on that nothing else has."""
    if len(classes) == 1 and not isinstance(classes[0], Mapping | TaskClass):
        return [{"name": classes[0]}]
    given = [each.get("value", ()) for each in classes if isinstance(each, Mapping)]
    given += [each.value for each in classes if isinstance(each, TaskClass)]
    named = [checked_value(value) for values in (ignore, *given) for value in as_values(values)]
    free = _without(sorted(bounds(value) for value in named if not is_name(value)))
    return [each if isinstance(each, Mapping | TaskClass) else {"name": each, "value": next(free)} for each in classes]


def _without(taken: Sequence[tuple[int, int]]) -> Iterator[int]:
    """Whole numbers from 0 on without those in ranges, which are sorted."""
    value = 0
    for low, high in taken:
        yield from range(value, low)
        value = max(value, high + 1)
    yield from itertools.count(value)


def refuse_exchanged(classes: Mapping[Any, Any]) -> None:
    """Refuse a table whose keys are values and whose values are names.

    Raises:
        ValueError: it is one.
    """
    if classes and all(
        isinstance(key, int) and not isinstance(key, bool) and isinstance(value, str) and is_name(value)
        for key, value in classes.items()
    ):
        key, value = next(iter(classes.items()))
        raise ValueError(f"names and values are exchanged; expected {{{value}: {key}, ...}}")


def is_color(value: int | str) -> bool:
    """Whether a value is a colour."""
    return isinstance(value, str) and _COLOR.fullmatch(value) is not None


def is_name(value: int | str) -> bool:
    """Whether a value is the name of a category: neither a number nor a range nor a colour."""
    return isinstance(value, str) and not _COLOR.fullmatch(value) and not _RANGE.fullmatch(value)


def bounds(value: int | str) -> tuple[int, int]:
    """The least and the largest number of a value that is not a name; both are the number of a colour."""
    if isinstance(value, int):
        return value, value
    if is_color(value):
        return (FIRST_COLOR + int(value[1:], 16),) * 2
    match = _RANGE.fullmatch(value)
    assert match is not None
    return int(match[1]), int(match[2])


def within(found: NDArray[Any], values: Iterable[int | str]) -> NDArray[np.bool_]:
    """Which numbers are among values; names of categories have none."""
    import numpy as np

    inside: NDArray[np.bool_] = np.zeros(len(found), bool)
    for low, high in (bounds(value) for value in values if not is_name(value)):
        inside |= (found >= low) & (found <= high)
    return inside


def refuse_doubles(given: Sequence[tuple[int | str, str]]) -> None:
    """Refuse values, each with the name of its class, of which two overlap.

    Raises:
        ValueError: two do.
    """
    owners = sorted((bounds(value), name) for value, name in given if not is_name(value))
    for ((_, last), one), ((first, _), other) in itertools.pairwise(owners):
        if first <= last:
            raise ValueError(f"the value {color_of(first)} belongs to {one!r} and to {other!r}; give it to one of them")
    named = sorted((str(value), name) for value, name in given if is_name(value))
    for (value, one), (same, other) in itertools.pairwise(named):
        if value == same:
            raise ValueError(f"the value {value!r} belongs to {one!r} and to {other!r}; give it to one of them")


def color_values(colors: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Colours (H, W, 3), RGB, as numbers (H, W) that :meth:`Task.encode` takes."""
    import numpy as np

    numbers: NDArray[np.uint32] = np.full(colors.shape[:2], FIRST_COLOR, np.uint32)
    for channel, bits in enumerate((16, 8, 0)):
        numbers |= colors[..., channel].astype(np.uint32) << np.uint32(bits)
    return numbers


def color_of(value: int) -> str:
    """The colour, "#rrggbb", of a number as :func:`color_values` makes it; other numbers as text."""
    return f"#{value - FIRST_COLOR:06x}" if value >= FIRST_COLOR else str(value)


def nearest_color(color: str, known: Iterable[str]) -> str | None:
    """The known colour at the least distance."""

    def distance(other: str) -> int:
        return sum((a - b) ** 2 for a, b in zip(rgb(color), rgb(other), strict=True))

    return min((each for each in known if is_color(each)), key=distance, default=None)


def run_lengths(values: NDArray[Any]) -> NDArray[np.int64]:
    """The lengths of runs of equal values, row after row.

    >>> import numpy as np
    >>> run_lengths(np.array([[4, 4, 7], [7, 7, 4]])).tolist()
    [2, 3, 1]
    """
    import numpy as np

    flat = values.ravel()
    ends = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    return np.diff(ends, prepend=0, append=flat.size)


def mapped(values: NDArray[Any], codes_of: Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """Put a code in the place of each value.

    Args:
        values: (H, W), whole numbers.
        codes_of: Gives the codes of distinct values, which are sorted, and of the number of pixels of each.
    """
    import numpy as np

    if values.dtype not in (np.uint8, np.uint16):  # sorting runs of equal values is 50 times as fast as sorting all
        lengths = run_lengths(values)
        found, places = np.unique(values.ravel()[np.cumsum(lengths) - lengths], return_inverse=True)
        counts = np.bincount(places, weights=lengths, minlength=len(found))
        return np.repeat(codes_of(found, counts)[places], lengths).reshape(values.shape)
    counts = np.bincount(values.ravel(), minlength=2 ** (8 * values.itemsize))
    found = np.flatnonzero(counts)
    codes = codes_of(found, counts[found])
    table = np.zeros(len(counts), codes.dtype)
    table[found] = codes
    coded: NDArray[Any] = table[values]
    return coded


def usual_colors() -> Iterable[str]:
    """Colours that differ, as many as are asked for: Kelly's, then hues that are a golden angle apart."""
    yield from _COLORS
    for number in range(MOST_CLASSES):
        lightness, saturation = (0.5, 0.65, 0.35)[number % 3], (0.9, 0.5)[number // 3 % 2]
        red, green, blue = colorsys.hls_to_rgb(number * 0.61803399 % 1, lightness, saturation)
        yield f"#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}"


def rgb(color: str) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255, of a colour."""
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def read_classes(path: Path, ignore: Sequence[Any] = ()) -> tuple[list[str] | dict[str, int | str], list[Any]]:
    """The classes that a file lists, and what is ignored.

    Three forms are known by their contents: a name in each line (``codes.txt``), whose values are 0, 1, ...;
    name,r,g,b under a header with these words (``class_dict.csv``); and CVAT's ``name:r,g,b:parts:actions``
    (``labelmap.txt``), of which a background comes first.

    Args:
        path: The file.
        ignore: Values of any kind. A class of the file whose name, or whose colour, is among them is none: its value
            is ignored.

    Returns:
        Names, or names with their values; and the values to ignore.

    Raises:
        ConfigError: the file cannot be read, lists no class, or has a line of another form, which is named.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"task.classes = {path}: cannot be read: {error}") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1)]
    rows = [(number, line) for number, line in lines if line and not line.startswith("#")]
    if not rows:
        raise ConfigError(f"task.classes = {path}: lists no class; expected the name of a class in each line")
    first = rows[0][1]
    delimiter = next((each for each in ";\t" if each in first), ",")
    if [cell.strip().lower() for cell in next(csv.reader([first], delimiter=delimiter))] == _HEADER:
        tables = ((number, line, next(csv.reader([line], delimiter=delimiter))) for number, line in rows[1:])
        split = [(number, line, cells if len(cells) == len(_HEADER) else []) for number, line, cells in tables]
        listed: list[str] | dict[str, int | str] = _listed_colors(path, split, "name,r,g,b")
    elif _LABELMAP.fullmatch(first):
        matches = ((number, line, _LABELMAP.fullmatch(line)) for number, line in rows)
        split = [(number, line, [at["name"], *at["color"].split(",")] if at else []) for number, line, at in matches]
        found = _listed_colors(path, split, "name:r,g,b:parts:actions, as in road:128,64,128::")
        listed = {name: found[name] for name in sorted(found, key=lambda name: name.lower() != "background")}
    else:
        cells = [next(csv.reader([line])) for _, line in rows]
        for (number, line), several in zip(rows, cells, strict=True):
            if len(several) != 1:
                raise ConfigError(
                    f"task.classes = {path}, line {number}: {line!r:.80}: expected the name of a class in each line, "
                    "as in codes.txt, or name,r,g,b with that header, as in class_dict.csv"
                )
        listed = [name.strip() for (name,) in cells]
    if not listed:
        raise ConfigError(f"task.classes = {path}: lists no class below its header")
    return _without_ignored(listed, ignore)


def _listed_colors(path: Path, rows: Iterable[tuple[int, str, list[str]]], expected: str) -> dict[str, int | str]:
    """The colour of each name, from lines and their cells, of which a line of another form has none."""
    found: dict[str, int | str] = {}
    for number, line, cells in rows:
        where = f"task.classes = {path}, line {number}:"
        if not cells:
            raise ConfigError(f"{where} {line!r:.80}: expected {expected}")
        name, parts = cells[0].strip(), cells[1:]
        levels = [int(part) if re.fullmatch(r"\s*\d{1,3}\s*", part) else 256 for part in parts]
        if not name or len(levels) != 3 or max(levels) > 255:
            raise ConfigError(
                f"{where} {name!r:.40} {','.join(parts)!r:.40}: expected a name and red, green and blue from 0 to 255"
            )
        if name in found:
            raise ConfigError(f"{where} the class {name!r:.40} is there twice")
        found[name] = "#{:02x}{:02x}{:02x}".format(*levels)
    return found


def _without_ignored(
    listed: list[str] | dict[str, int | str], ignore: Sequence[Any]
) -> tuple[list[str] | dict[str, int | str], list[Any]]:
    """Take the classes out that are ignored, by their names or their colours."""
    values = listed if isinstance(listed, dict) else {name: value for value, name in enumerate(listed)}
    ignored = [each.lower() if _COLOR.fullmatch(str(each)) else each for each in ignore]
    names = [name for name in values if name in ignored]
    if isinstance(listed, list) and not names:
        return listed, list(ignore)
    ignored = [values[each] if each in names else each for each in ignored]
    return {name: value for name, value in values.items() if value not in ignored}, ignored
