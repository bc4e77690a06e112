"""The names that a user may write, and what stands behind them, without importing any of it.

A catalog maps names to targets such as ``"package.module:attribute"``; a target is imported when it is loaded, so that
listing every architecture costs milliseconds. ``registry`` is the one instance; the first look-up loads the plugins,
and what this library brings itself is the first of them (``carvana.plugins``).
"""

from __future__ import annotations

import fnmatch
import logging
import pkgutil
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

from carvana.errors import CarvanaError, UnknownNameError, did_you_mean, error_line

_source = ContextVar("_source", default=("script", ""))
"""The distribution that registers at the moment, and its version; what no plugin registers is a script's."""

_NAME = r"[^\s*?\[\],=]+(/\*)?", "letters, digits and - _ . /, and wildcards only as the '/*' of a family"
_WORD = r"[A-Za-z][\w-]*", "letters, digits, - and _, a letter first"

Target = str | Callable[..., Any]
"""A ``"module:attribute"`` string, imported when it is needed, or the object itself."""

NamesFunction = Callable[[str, str], Iterable[str]]
"""``names(family, pattern)``: the names in ``family`` ("unet/*") that may match ``pattern``.

A returned name may itself hold wildcards: it is then a rule, shown as it stands ("unet/tu-*"), and every name that fits
it is known. The function may raise UnknownNameError where it knows why a name cannot exist.
"""


def resolve(target: Any, what: str) -> Any:
    """The object at ``"module:attribute"``, imported if need be; anything but a string is returned as it is.

    Raises:
        CarvanaError: the module cannot be imported, whatever it raises, or lacks the attribute; the message begins
            with ``what``.
    """
    if not isinstance(target, str):
        return target
    try:
        with redirect_stdout(sys.stderr):  # a command's result is alone on stdout
            return pkgutil.resolve_name(target)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module may raise anything on import, SystemExit too
        raise CarvanaError(f"{what} cannot be loaded from '{target}': {error_line(error)}") from error


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name and what stands behind it.

    Attributes:
        name: What the user writes; a family as registered ends with ``/*``.
        target: Where the object is.
        summary: One line for listings.
        source: The distribution that registered it, ``"script"`` for the user's own code.
        version: The version of that distribution, empty for ``"script"``.
        family: The family that a concrete name belongs to, such as ``"unet/*"``; None for a name of its own.
        names: What lists the names of a family; None where any name with the prefix is right.
    """

    name: str
    target: Target
    summary: str = ""
    source: str = "script"
    version: str = ""
    family: str | None = None
    names: str | NamesFunction | None = None

    def load(self) -> Any:
        """Import the target and return it.

        Raises:
            CarvanaError: the module cannot be imported, whatever it raises, or lacks the attribute.
        """
        return resolve(self.target, f"'{self.name}' (from {self.source})")


@dataclass(frozen=True)
class Plugin:
    """One plugin, loaded or broken.

    Attributes:
        name: The name of its entry point.
        package: The distribution that brings it.
        version: The version of that distribution.
        adds: The names that it registered, by catalog (``{"archs": ("segnet",)}``); empty if broken.
        error: Why it is broken, in one line; None if it is not.
    """

    name: str
    package: str
    version: str
    adds: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str | None = None


class Catalog:
    """The names of one kind, such as architectures.

    >>> shapes = Catalog("shape")
    >>> shapes.register("circle", "math:tau", summary="a full turn")
    >>> round(shapes.load("circle"), 2)
    6.28
    >>> shapes.load("cirle")
    Traceback (most recent call last):
    ...
    carvana.errors.UnknownNameError: no shape is named 'cirle'; did you mean 'circle'?
    """

    def __init__(
        self, kind: str, before_use: Callable[[], None] = lambda: None, *, form: tuple[str, str] = _NAME
    ) -> None:
        self.kind = kind
        self.reserved: set[str] = set()  # names that nothing can be registered under
        self._form = form
        self._before_use = before_use
        self._entries: dict[str, Entry] = {}
        self._unlisted: set[str] = set()

    def register(
        self,
        name: str,
        target: Target,
        *,
        summary: str = "",
        names: str | NamesFunction | None = None,
        replace: bool = False,
    ) -> None:
        """Add ``name``; a name that ends with ``/*`` is a family of names.

        Args:
            name: What users will write. No spaces; wildcards only as the ``/*`` of a family.
            target: ``"module:attribute"`` or the object itself. The factory of a family is called with the whole
                concrete name first.
            summary: One line for listings.
            names: For a family, the function that lists its names (see ``NamesFunction``), or where it is.
            replace: Take the place of an entry of the same name.

        Raises:
            CarvanaError: the name is taken or not a name, the target has another form, or the summary is not text.
        """
        self._before_use()
        pattern, allowed = self._form
        if not isinstance(name, str) or not re.fullmatch(pattern, name):
            raise CarvanaError(f"{name!r} cannot be a name: use {allowed}")
        for where in (target, names):
            if where is not None:
                _check_target(where)
        if not isinstance(summary, str):
            raise CarvanaError(f"the summary of '{name}' must be a text of one line, got {summary!r:.60}")
        if name in self.reserved:
            raise CarvanaError(f"'{name}' is a {self.kind} of carvana itself: choose another name")
        taken = self._entries.get(name)
        if taken and not replace:
            owner = f"{taken.source} {taken.version}".rstrip()
            raise CarvanaError(
                f"the {self.kind} '{name}' is already registered by {owner}: choose another name, or pass replace=True"
            )
        source, version = _source.get()
        self._entries[name] = Entry(
            name=name, target=target, summary=summary, source=source, version=version, names=names
        )

    def registered(self) -> list[Entry]:
        """The entries in the order in which they were registered, a family as one."""
        self._before_use()
        return list(self._entries.values())

    def entry(self, name: str) -> Entry:
        """The entry that a concrete name stands for, of its own or of a family.

        Raises:
            UnknownNameError: there is none; the message holds the nearest names.
        """
        self._before_use()
        if not has_wildcards(name):
            if name in self._entries:
                return self._entries[name]
            families = [entry for entry in self._entries.values() if _fits(name, entry.name)]
            for family in sorted(families, key=lambda entry: -len(entry.name)):
                if any(known == name or _fits(name, known) for known in self._members(family, name)):
                    return replace(family, name=name, family=family.name)
        raise UnknownNameError(self._why_unknown(name))

    def load(self, name: str) -> Any:
        """Import what ``name`` stands for and return it.

        Raises:
            UnknownNameError: no such name.
            CarvanaError: its module cannot be imported.
        """
        return self.entry(name).load()

    def entries(self, pattern: str | None = None) -> list[Entry]:
        """The entries whose name matches ``pattern`` (shell wildcards; all by default), families written out.

        Natural order: resnet18 comes before resnet101.
        """
        self._before_use()
        wanted = pattern or "*"
        found: dict[str, Entry] = {}
        for entry in self._entries.values():
            if not entry.name.endswith("/*"):
                found[entry.name] = entry
                continue
            for name in self._members(entry, wanted):
                found.setdefault(name, replace(entry, name=name, family=entry.name))
        matching = [name for name in found if fnmatch.fnmatchcase(name, wanted)]
        return [found[name] for name in sorted(matching, key=_natural)]

    def names(self, pattern: str | None = None) -> list[str]:
        """The names that match ``pattern``; see ``entries``."""
        return [entry.name for entry in self.entries(pattern)]

    def __contains__(self, name: str) -> bool:
        try:
            self.entry(name)
        except UnknownNameError:
            return False
        return True

    def _members(self, family: Entry, pattern: str) -> Iterable[str]:
        if family.names is None:
            return [family.name]
        what = f"the names of '{family.name}' (from {family.source})"
        try:
            found = list(resolve(family.names, what)(family.name, pattern))
            if others := [name for name in found if not isinstance(name, str)]:
                raise TypeError(f"{others[0]!r} is not a name")
        except UnknownNameError:  # it says why one name cannot exist
            raise
        except (Exception, SystemExit) as error:  # from a plugin; the other names are listed all the same
            if what not in self._unlisted:  # one warning for each
                self._unlisted.add(what)
                logging.getLogger("carvana").warning("%s cannot be listed: %s", what, error_line(error))
            return [family.name]
        return found

    def _why_unknown(self, name: str) -> str:
        prefix = name.rstrip("/*")
        family = self._entries.get(f"{prefix}/*")
        if family:
            names = self.names(family.name)
            example = next((known for known in names if not has_wildcards(known)), names[0] if names else family.name)
            return f"'{name}' is a family of {self.kind}s and needs a second half, such as '{example}'"
        choices = self.names()
        hint = did_you_mean(name, choices)
        if not hint:
            listing = ", ".join(entry.name for entry in self.registered())
            hint = f"; there are {listing}" if choices else "; none are registered"
        return f"no {self.kind} is named '{name}'{hint}"


class Registry:
    """The catalogs ``archs``, ``losses``, ``augments``, ``layouts`` and ``commands``, and the plugins that filled them.

    Args:
        loader: A function, or where it is (``"module:function"``). It is called once, before the first look-up, to
            register what there is; what it returns is ``plugins``.
    """

    archs: Catalog
    """Architectures."""

    losses: Catalog
    """Losses."""

    augments: Catalog
    """Augmentations."""

    layouts: Catalog
    """Layouts of data folders."""

    commands: Catalog
    """Commands of plugins: functions whose parameters have typer's annotations, as those of ``carvana/cli`` do."""

    def __init__(self, loader: str | Callable[[Registry], Sequence[Plugin]] | None = None) -> None:
        self.catalogs: Mapping[str, Catalog] = {
            "archs": Catalog("architecture", self._load),
            "losses": Catalog("loss", self._load, form=_WORD),  # a config adds them up: bce + 0.5*mine
            "augments": Catalog("augmentation", self._load),
            "layouts": Catalog("data layout", self._load),
            "commands": Catalog("command", self._load, form=_WORD),
        }
        """The catalogs by the name of their attribute."""
        vars(self).update(self.catalogs)
        self._loader = loader
        self._ready = loader is None
        self._plugins: tuple[Plugin, ...] = ()
        self._lock = threading.RLock()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in vars(self).get("catalogs", ()):  # by a plugin
            raise AttributeError(f"registry.{name} cannot be replaced: register names in it")
        super().__setattr__(name, value)

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """What was loaded, the broken ones included."""
        self._load()
        return self._plugins

    @contextmanager
    def registering(self, source: str, version: str = "") -> Iterator[dict[str, tuple[str, ...]]]:
        """Mark what is registered in this block with its source; an error undoes all of it.

        Yields a mapping that holds, once the block has ended well, the new names by catalog.
        """
        self._load()  # what is undone must not be what a first look-up within the block loads
        added: dict[str, tuple[str, ...]] = {}
        before = {key: catalog._entries.copy() for key, catalog in self.catalogs.items()}
        token = _source.set((source, version))
        try:
            yield added
        except BaseException:
            for key, catalog in self.catalogs.items():
                catalog._entries = before[key]
            raise
        finally:
            _source.reset(token)
        for key, catalog in self.catalogs.items():
            new = tuple(name for name, entry in catalog._entries.items() if before[key].get(name) is not entry)
            if new:
                added[key] = new

    def _load(self) -> None:
        if self._ready:  # set after the last name is in, so that no thread sees half of them
            return
        with self._lock:  # others wait; a plugin that looks something up while it loads gets what is there
            if self._loader is None:
                return
            loader, self._loader = self._loader, None
            try:
                with self.registering("script"):
                    self._plugins = tuple(resolve(loader, "the loader of plugins")(self))
            except BaseException:  # an interrupt: the next look-up begins anew
                self._loader = loader
                raise
            self._ready = True


registry = Registry("carvana.plugins:load_plugins")  # a string, since plugins.py imports this module


def _check_target(target: Target) -> None:
    """Raise a CarvanaError for what cannot be a target."""
    if callable(target) or (isinstance(target, str) and re.fullmatch(r"[\w.]+:[\w.]+", target)):
        return
    raise CarvanaError(f"a target must be 'module:attribute' or a callable, got {target!r}")


def has_wildcards(name: str) -> bool:
    """Whether a name is a pattern: ``unet/*``, or a rule that a family lists, ``unet/tu-*``."""
    return any(sign in name for sign in "*?[")


def _fits(name: str, rule: str) -> bool:
    return rule.endswith("*") and len(name) >= len(rule) and name.startswith(rule[:-1])


def _natural(name: str) -> list[tuple[int, str]]:
    parts = re.split(r"(\d+)", name.lower())
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]
