"""Files that list classes: codes.txt, class_dict.csv and labelmap.txt, read as values of ``task.classes``."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from carvana.errors import ConfigError

COLOR_FILES = "class_dict.csv", "labelmap.txt"
"""The usual names of those that list colours."""

_HEADER = ["name", "r", "g", "b"]
_LABELMAP = re.compile(r"(?P<name>[^#:][^:]*):(?P<color>[^:]*):[^:]*:[^:]*")


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
    classes: list[str] | dict[str, int | str]
    delimiter = next((each for each in ";\t" if each in rows[0][1]), ",")
    if [cell.strip().lower() for cell in next(csv.reader([rows[0][1]], delimiter=delimiter))] == _HEADER:
        classes = _colors(_named_cells(rows[1:], path, delimiter), path)
    elif _LABELMAP.fullmatch(rows[0][1]):
        found = _colors(_labelmap(rows, path), path)
        classes = {name: found[name] for name in sorted(found, key=lambda name: name.lower() != "background")}
    else:
        classes = [_only_cell(number, line, path) for number, line in rows]
    if not classes:
        raise ConfigError(f"task.classes = {path}: lists no class below its header")
    return _without(classes, ignore)


def _only_cell(number: int, line: str, path: Path) -> str:
    cells = next(csv.reader([line]))
    if len(cells) != 1:
        raise ConfigError(
            f"task.classes = {path}, line {number}: {line!r:.80}: expected the name of a class in each line, as in "
            "codes.txt, or name,r,g,b with that header, as in class_dict.csv"
        )
    return cells[0].strip()


def _named_cells(rows: Iterable[tuple[int, str]], path: Path, delimiter: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in rows:
        cells = next(csv.reader([line], delimiter=delimiter))
        if len(cells) != len(_HEADER):
            raise ConfigError(f"task.classes = {path}, line {number}: {line!r:.80}: expected name,r,g,b")
        yield number, cells[0].strip(), cells[1:]


def _labelmap(rows: Iterable[tuple[int, str]], path: Path) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in rows:
        match = _LABELMAP.fullmatch(line)
        if match is None:
            raise ConfigError(
                f"task.classes = {path}, line {number}: {line!r:.80}: expected name:r,g,b:parts:actions, as in "
                "road:128,64,128::"
            )
        yield number, match["name"].strip(), match["color"].split(",")


def _colors(rows: Iterable[tuple[int, str, list[str]]], path: Path) -> dict[str, int | str]:
    """The colour of each name; a name that is there twice is an error."""
    found: dict[str, int | str] = {}
    for number, name, parts in rows:
        levels = [int(part) if re.fullmatch(r"\s*\d{1,3}\s*", part) else 256 for part in parts]
        if not name or len(levels) != 3 or max(levels) > 255:
            raise ConfigError(
                f"task.classes = {path}, line {number}: {name!r:.40} {','.join(parts)!r:.40}: expected a name and red, "
                "green and blue from 0 to 255"
            )
        if name in found:
            raise ConfigError(f"task.classes = {path}, line {number}: the class {name!r:.40} is there twice")
        red, green, blue = levels
        found[name] = f"#{red:02x}{green:02x}{blue:02x}"
    return found


def _without(
    classes: list[str] | dict[str, int | str], ignore: Sequence[Any]
) -> tuple[list[str] | dict[str, int | str], list[Any]]:
    """Take the classes out that are ignored, by their names or their colours."""
    values = classes if isinstance(classes, dict) else {name: value for value, name in enumerate(classes)}
    ignored = [each.lower() if re.fullmatch("#[0-9a-fA-F]{6}", str(each)) else each for each in ignore]
    names = [name for name in values if name in ignored]
    if isinstance(classes, list) and not names:
        return classes, list(ignore)
    ignored = [values[each] if each in names else each for each in ignored]
    kept = {name: value for name, value in values.items() if value not in ignored}
    return kept, ignored
