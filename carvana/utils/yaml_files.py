"""Reads YAML files of settings: plain values only, no duplicate keys, limited size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.composer import ComposerError

from carvana.errors import ConfigError

LARGEST_FILE = 10**6
"""Bytes of a config; usual ones have a few thousand."""

BAD_YAML = yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError
"""What PyYAML raises, also for tags whose values do not fit them (``!!int ''``) and for great depth."""

MOST_VALUES = 10**5
"""Values of a config, those of aliases counted each time."""


def read_yaml(path: Path) -> dict[str, Any]:
    """The values of a file. Only plain values are made; nothing is executed.

    Raises:
        ConfigError: it cannot be read, is not YAML, is too large, has no keys, or has one twice.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_FILE + 1)
        if len(data) > LARGEST_FILE:
            raise ValueError(f"it has more than {LARGEST_FILE} bytes, too many for settings")
        values = parse_yaml(data.decode("utf-8"))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigError(f"{path}: {where}not readable as YAML: {error.problem}") from error
    except RecursionError:
        raise ConfigError(f"{path}: not readable as YAML: it is nested too deeply") from None
    except (*BAD_YAML, OSError) as error:
        raise ConfigError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected keys and values, as `carvana fit --print-config` shows")
    return values


def parse_yaml(text: str) -> Any:
    """The value of a text; what is wrong with it is one of :data:`BAD_YAML`."""
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a subclass of the safe one


class _Loader(yaml.SafeLoader):
    """A loader that refuses a key that is there twice, and aliases whose values grow without bound."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0  # so far, those of aliases counted each time
        self._sizes: dict[yaml.Node, int] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        before, is_alias = self._values, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        assert node is not None
        self._values += self._sizes.get(node, MOST_VALUES) if is_alias else 1  # without a size: it contains itself
        if self._values > MOST_VALUES:
            problem = f"its aliases expand to more than {MOST_VALUES} values; write them out"
            raise ComposerError(None, None, problem, node.start_mark)
        if not is_alias:
            self._sizes[node] = self._values - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise ComposerError(None, None, f"the key {key.value!r} is there twice; keep one", key.start_mark)
                seen.add(key.value)
        return node
