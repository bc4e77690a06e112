"""docs/reference/config.md: every key of a config, from the models that read it, and the configs that are shipped."""

from __future__ import annotations

import types
import typing
from pathlib import Path
from typing import Any, Literal

from markup import GENERATED, code, item, prose, table
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from carvana.config import FitConfig, configs, describe

NAMES = {
    list: "a list",
    str: "text",
    int: "whole number",
    float: "number",
    bool: "true or false",
    Path: "path",
    dict: "mapping",
}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}

INTRODUCTION = """\
# Configs

A config is a YAML file of the keys below. A key that is not there keeps its default; an unknown key is an error that
names file, key and the nearest valid key.

`carvana fit --config NAME` takes a shipped config or a file; `--set train.epochs=8` changes a single key, written with
a dot; `--print-config` prints the whole config and ends. From Python:
`carvana.load_config("default", {"train.epochs": 8})`. How configs are used: [how to train](../how-to/train.md#configs).
"""


def page() -> str:
    """The whole page."""
    parts = [GENERATED, INTRODUCTION, "## Keys\n"]
    sections = [(name, field) for name, field in FitConfig.model_fields.items() if _is_section(field)]
    top = [(name, field) for name, field in FitConfig.model_fields.items() if not _is_section(field)]
    parts += [_keys(top)]
    for name, field in sections:
        section = typing.cast("type[BaseModel]", field.annotation)
        summary = prose((section.__doc__ or "").partition(": ")[2].strip())
        parts += [f"### {name}\n", summary[:1].upper() + summary[1:] + "\n", _keys(section.model_fields.items(), name)]
    parts += ["## Shipped configs\n", "`carvana configs` lists them.\n", _summaries()]
    for name, path in configs().items():
        parts += [f"### Config {name}\n", f"```yaml\n{path.read_text(encoding='utf-8').strip()}\n```\n"]
    return "\n".join(parts).rstrip() + "\n"


def _is_section(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def _keys(fields: Any, section: str = "") -> str:
    lines = []
    for name, field in fields:
        key = f"{section}.{name}" if section else name
        about = f"{_values(field)}; default {code(_yaml(field.default))}"
        lines.append(item(code(key), prose(field.description or ""), about=about))
    return "\n".join([*lines, ""])


def _values(field: FieldInfo) -> str:
    """What a key takes, in words: its type and its range."""
    return _words(field.annotation, _limits(field.metadata))


def _words(hint: Any, limits: str = "") -> str:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _words(inner[0], _limits(inner[1:]))
    if origin is Literal:
        *first, last = map(code, inner)
        return f"{', '.join(first)} or {last}" if first else last
    if isinstance(hint, types.UnionType) or origin is typing.Union:
        return " or ".join(code("null") if part is type(None) else _words(part, limits) for part in inner)
    if origin is tuple:
        assert len(set(inner)) == 1, hint
        return f"{_words(inner[0])}, or {len(inner)} such in brackets"
    return f"{NAMES[origin or hint]} {limits}".strip()


def _limits(metadata: Any) -> str:
    """The range that a key's values lie in, such as ``8 to 16384``."""
    found: dict[str, float] = {}
    for entry in metadata:
        for limit in entry.metadata if isinstance(entry, FieldInfo) else [entry]:
            found |= {name: getattr(limit, name) for name in SIGNS if getattr(limit, name, None) is not None}
    if {"ge", "le"} <= found.keys():
        return f"{found['ge']:g} to {found['le']:g}" if found["ge"] < found["le"] else f"{found['ge']:g}"
    return ", ".join(f"{SIGNS[name]} {value:g}" for name, value in found.items())


def _yaml(value: Any) -> str:
    """A default as it stands in a config."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _summaries() -> str:
    rows = [[f"[{name}](#config-{name})", prose(describe(path))] for name, path in configs().items()]
    return table(("config", "what it is for"), rows) + "\n"
