"""Architectures that a script registered, and how other processes find them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from carvana.entry import Entry as Registered
from carvana.errors import ConfigError
from carvana.registry import registry


def importable_archs(names: Iterable[str]) -> dict[str, str]:
    """Where other processes import those of some architectures from that no plugin brings: name to "module:attribute".

    Raises:
        ConfigError: one is a function that only this process has.
    """
    entries = {name: registry.archs.entry(name) for name in names}
    return {name: _place(entry) for name, entry in entries.items() if entry.source == "script"}


def _place(entry: Registered) -> str:
    target = entry.target
    if isinstance(target, str):
        return target
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", "?")
    if module != "__main__" and "<" not in name and _finds(module, name, target):
        return f"{module}:{name}"
    raise ConfigError(
        f"the architecture '{entry.name}' is built by {module}.{name}, which other processes cannot import: put the "
        'function into a module of its own and register it as "module:function"'
    )


def _finds(module: str, name: str, target: object) -> bool:
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is target
