"""YAML files of settings, and on which line each key stands, so that a mistake can be pointed at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from carvana.errors import ConfigError

Lines = dict[tuple[str, ...], int]
"""Where each key stands: its path from the outside in, and the line, counted from 1."""

LARGEST_FILE = 10**6
"""Bytes; settings take a few thousand."""

MOST_VALUES = 10**5
"""Values of a file, each counted as often as aliases bring it in."""


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """The values of a file, and the lines of its keys. Only plain values are made; nothing is executed.

    Raises:
        ConfigError: it cannot be read, is no YAML, is too large, holds no keys, or holds one twice.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ConfigError(f"{path}: larger than {LARGEST_FILE} bytes, which no settings are; name another file")
        text = data.decode("utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is None or node.tag == "tag:yaml.org,2002:null":
            return {}, {}
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{path}: expected keys and values, as `carvana fit --print-config` shows")
        if _count(node, {}) > MOST_VALUES:
            raise ConfigError(f"{path}: its aliases make more than {MOST_VALUES} values of it; write out what is meant")
        lines = _lines(node, path)
        values: dict[str, Any] = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}no readable YAML: {error.problem}") from error
    except RecursionError:
        raise ConfigError(f"{path}: no readable YAML: it is nested too deeply") from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: no readable YAML: {' '.join(str(error).split())}") from error
    return values, lines


def _count(node: yaml.Node, known: dict[int, float]) -> float:
    """How many values a node stands for once its aliases are written out; infinite where it holds itself."""
    if id(node) not in known:
        known[id(node)] = float("inf")  # what is met again before it is counted holds itself
        inner: list[yaml.Node] = []
        if isinstance(node, yaml.MappingNode):
            inner = [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            inner = node.value
        known[id(node)] = 1 + sum(_count(part, known) for part in inner)
    return known[id(node)]


def _lines(root: yaml.MappingNode, path: Path) -> Lines:
    lines: Lines = {}
    for key, line, own in _keys(root, (), set()):
        if not own:
            lines.setdefault(key, line)
            continue
        if key in lines:
            raise ConfigError(
                f"{path}: line {line}, {'.'.join(key)}: stands there twice, first on line {lines[key]}; keep one"
            )
        lines[key] = line
    return lines


def _keys(
    node: yaml.Node, above: tuple[str, ...], seen: set[int], own: bool = True
) -> Iterator[tuple[tuple[str, ...], int, bool]]:
    """Each key with its line, and whether it stands there itself or is merged in (``<<``), which comes after those.

    A node that aliases bring in again is not walked again, or a short file could take for ever.
    """
    if not isinstance(node, yaml.MappingNode) or id(node) in seen:
        return
    seen.add(id(node))
    merged: list[yaml.Node] = []
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            merged += value.value if isinstance(value, yaml.SequenceNode) else [value]
            continue
        where = (*above, _text(key))
        yield where, key.start_mark.line + 1, own
        yield from _keys(value, where, seen, own)
    for part in merged:
        yield from _keys(part, above, seen, False)


def _text(key: yaml.Node) -> str:
    """The key as pydantic names it: ``on`` is read as True."""
    if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:str":
        return str(yaml.safe_load(key.value))
    return str(key.value)
