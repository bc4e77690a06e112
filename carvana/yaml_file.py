"""YAML files of settings, and on which line each key stands, so that a mistake can be pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from carvana.errors import ConfigError

Lines = dict[tuple[str, ...], int]
"""Where each key stands: its path from the outside in, and the line, counted from 1."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The values of a file, and the lines of its keys. Only plain values are made; nothing is executed.

    Raises:
        ConfigError: it cannot be read, is no YAML, holds no keys, or holds one twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None:
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected keys and values, as `carvana fit --print-config` shows")
        lines = _lines(node, path)
        values: dict[str, Any] = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}no readable YAML: {error.problem}") from error
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no readable YAML: {' '.join(str(error).split())}") from error
    return values, lines


def _lines(root: yaml.MappingNode, path: Path) -> Lines:
    lines: Lines = {}
    for key, line in _keys(root, ()):
        if key in lines:
            raise ConfigError(
                f"{path}: line {line}, {'.'.join(key)}: stands there twice, first on line {lines[key]}; keep one"
            )
        lines[key] = line
    return lines


def _keys(node: yaml.MappingNode, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], int]]:
    for key, value in node.value:
        where = (*above, str(key.value))
        yield where, key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode) and len(where) < 8:  # a recipe is not deep; an alias may be endless
            yield from _keys(value, where)
