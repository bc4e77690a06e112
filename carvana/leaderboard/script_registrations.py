"""What a script registered, and how other processes find it."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from contextlib import suppress

from carvana.errors import CarvanaError, ConfigError
from carvana.registry import Entry as Registered
from carvana.registry import registry
from carvana.utils.imports import resolve

Places = Mapping[str, Mapping[str, str]]
"""By catalog (``archs``, ``losses``, ...) the names that scripts registered, and their ``"module:attribute"``."""


def script_places(archs: Iterable[str]) -> Places:
    """Where other processes import from what no plugin brings.

    Args:
        archs: The architectures that they will need.

    Raises:
        ConfigError: one of these is a function that only this process has.
    """
    for name in archs:
        entry = registry.archs.entry(name) if name in registry.archs else None
        if entry is not None and entry.source == "script" and _place(entry) is None:
            where = getattr(entry.target, "__module__", "?"), getattr(entry.target, "__qualname__", entry.target)
            raise ConfigError(
                f"the architecture '{name}' is built by {'.'.join(map(str, where))}, which other processes cannot "
                'import: put the function into a module of its own and register it as "module:function"'
            )
    return {
        key: {
            entry.name: place for entry in catalog.registered() if entry.source == "script" and (place := _place(entry))
        }
        for key, catalog in registry.catalogs.items()
    }


def register_places(places: Places) -> None:
    """In another process: register the same, unless a module does so itself as soon as it is imported."""
    for key, targets in places.items():
        for name, target in targets.items():
            with suppress(CarvanaError):  # who needs it is told then
                resolve(target, f"'{name}' (from a script)")
            catalog = registry.catalogs[key]
            if name not in {entry.name for entry in catalog.registered()}:
                catalog.register(name, target)


def _place(entry: Registered) -> str | None:
    target = entry.target
    if isinstance(target, str):
        return None if target.startswith("__main__:") else target
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", "?")
    importable = module != "__main__" and "<" not in name and _finds(module, name, target)
    return f"{module}:{name}" if importable else None


def _finds(module: str, name: str, target: object) -> bool:
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is target
