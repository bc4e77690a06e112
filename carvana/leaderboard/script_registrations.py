"""Names that a script registered, and how worker processes import what is behind them."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from contextlib import suppress

from carvana.errors import CarvanaError, ConfigError
from carvana.registry import Entry as Registered
from carvana.registry import registry
from carvana.utils.imports import resolve

ScriptTargets = Mapping[str, Mapping[str, str]]
"""By catalog (``archs``, ``losses``, ...): names that scripts registered, each with its ``"module:attribute"``."""


def script_targets(archs: Iterable[str]) -> ScriptTargets:
    """The ``"module:attribute"`` of everything that scripts, not plugins, have registered.

    Args:
        archs: The architectures that they need.

    Raises:
        ConfigError: one of these is a function that cannot be imported elsewhere.
    """
    for name in archs:
        entry = registry.archs.entry(name) if name in registry.archs else None
        if entry is not None and entry.source == "script" and _target(entry) is None:
            where = getattr(entry.target, "__module__", "?"), getattr(entry.target, "__qualname__", entry.target)
            raise ConfigError(
                f"the architecture '{name}' is built by {'.'.join(map(str, where))}, which other processes cannot "
                'import: put the function into a module of its own and register it as "module:function"'
            )
    return {
        key: {
            entry.name: target
            for entry in catalog.registered()
            if entry.source == "script" and (target := _target(entry))
        }
        for key, catalog in registry.catalogs.items()
    }


def register_targets(targets: ScriptTargets) -> None:
    """Register the same names in a worker process, except those that an import registers by itself."""
    for key, named in targets.items():
        for name, target in named.items():
            with suppress(CarvanaError):  # using the name raises it again
                resolve(target, f"'{name}' (from a script)")
            catalog = registry.catalogs[key]
            if name not in {entry.name for entry in catalog.registered()}:
                catalog.register(name, target)


def _target(entry: Registered) -> str | None:
    target = entry.target
    if isinstance(target, str):
        return None if target.startswith("__main__:") else target
    module, name = getattr(target, "__module__", "?"), getattr(target, "__qualname__", "?")
    importable = module != "__main__" and "<" not in name and _is_importable(module, name, target)
    return f"{module}:{name}" if importable else None


def _is_importable(module: str, name: str, target: object) -> bool:
    try:
        found = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return False
    return found is target
