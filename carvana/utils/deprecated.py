"""Public names of the last release that are called otherwise now: they work, with a warning, until the next one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def renamed(module: str, **names: str) -> Callable[[str], Any]:
    """A module's ``__getattr__`` that gives what has another name now: ``renamed(__name__, Old="New")``."""

    def attribute(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name}", f"{module}.{names[name]}")
        return getattr(sys.modules[module], names[name])

    return attribute


class Attribute:
    """An attribute that has another name now: ``photos = Attribute("images")`` in the class."""

    def __init__(self, new: str) -> None:
        self.new = new

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        warn(f"{owner.__name__}.{self.name}", f"{owner.__name__}.{self.new}")
        return getattr(owner if instance is None else instance, self.new)


def old_fields(owner: type[T]) -> type[T]:
    """A decorator for a dataclass that is made with the old names of its :class:`Attribute`, too."""
    names = {name: value.new for name, value in vars(owner).items() if isinstance(value, Attribute)}
    owner.__init__ = parameters(**names)(owner.__init__)  # type: ignore[method-assign]
    return owner


def parameters(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator for a function whose parameters have other names now: ``@parameters(old="new")``."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **settings: P.kwargs) -> R:
            for old in settings.keys() & names:
                if names[old] in settings:
                    raise TypeError(f"{function.__qualname__}: {old} and {names[old]} are one parameter; give one")
                warn(f"{function.__qualname__}({old}=...)", f"{function.__qualname__}({names[old]}=...)")
                settings[names[old]] = settings.pop(old)
            return function(*args, **settings)

        return call

    return decorate


def modules(moved: Mapping[str, str]) -> None:
    """Let modules be imported by their old names; called once, by ``import carvana``."""
    sys.meta_path.append(_Finder(moved))


class _Package(ModuleType):
    """An old package, which holds moved modules alone.

    An import of one of them hides the function of the package's name (``carvana.compare``), so a call goes there.
    """

    def __call__(self, *args: Any, **settings: Any) -> Any:
        package, _, name = self.__name__.rpartition(".")
        return sys.modules[package].__getattr__(name)(*args, **settings)


class _Finder:
    """Asked by the import system where no file of the name was found: the module of the new name is imported."""

    def __init__(self, moved: Mapping[str, str]) -> None:
        self.moved = moved
        self.packages = {name.rpartition(".")[0] for name in moved}

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name in self.moved or name in self.packages:
            return ModuleSpec(name, self, is_package=name in self.packages)  # type: ignore[arg-type]
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Package(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__
        if old in self.moved:
            warn(old, self.moved[old])
            sys.modules[old] = import_module(self.moved[old])


def warn(old: str, new: str) -> None:
    """Tell the caller's caller what something is called now."""
    warnings.warn(f"{old} is now {new}; the old name goes with the next release", DeprecationWarning, stacklevel=3)
