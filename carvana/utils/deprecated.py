"""Public names of the last release that are called otherwise now: they work, with a warning, until the next one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODULES = {
    "carvana.compare": "carvana.leaderboard",
    "carvana.compare.records": "carvana.leaderboard.records",
    "carvana.data.rle": "carvana.data.io.rle",
    "carvana.inference.photos": "carvana.inference.inputs",
    "carvana.training.stopping": "carvana.training.signals",
}
"""Modules that have moved, and where to."""


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that gives what has another name now: ``renamed(__name__, Old="New")``."""

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        _warn(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(sys.modules[module], names[name])

    return attribute


def install() -> None:
    """Let the old names of modules be imported; called once, by ``import carvana``."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Moved(ModuleType):
    """A module under its old name."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        new = MODULES[self.__name__]
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # one is enough
            value = getattr(import_module(new), name)
        _warn(f"{self.__name__}.{name}", f"{new}.{getattr(value, '__name__', name)}")
        return value

    def __call__(self, *args: Any, **settings: Any) -> Any:
        """``carvana.compare`` is a function, also behind an import of ``carvana.compare.records``."""
        return import_module("carvana.leaderboard.compare").compare(*args, **settings)


class _Finder:
    """Asked by the import system where no file of the name was found."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name in MODULES else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Moved(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing runs: what is asked of the module is looked up in the new one."""


def _warn(old: str, new: str) -> None:
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=3)
