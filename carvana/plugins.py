"""Other packages' architectures, losses, augmentations and layouts, found by entry point.

A package names a function in its pyproject.toml, and the function fills the registry::

    [project.entry-points."carvana.plugins"]
    segnet = "carvana_segnet:register"

    def register(registry):
        registry.archs.register("segnet", "carvana_segnet.net:build", summary="SegNet")

What this library brings itself comes through the same door, first and always. The environment variable CARVANA_PLUGINS
chooses which others are loaded: names of entry points or packages, separated by commas; empty means none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from carvana.entry import Plugin, quietly, told
from carvana.errors import CarvanaError
from carvana.registry import Registry, registry

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "carvana.plugins"
VARIABLE = "CARVANA_PLUGINS"


def plugins() -> list[Plugin]:
    """The plugins of this process, the library's own first, then by package and name; broken ones are listed too.

    >>> plugins()[0].name
    'carvana'
    """
    return list(registry.plugins)


def load_plugins(
    registry: Registry, entry_points: Iterable[EntryPoint] | None = None, selection: str | None = None
) -> list[Plugin]:
    """Let every selected plugin fill ``registry``. A broken one is undone, logged and listed, and harms nothing else.

    Args:
        registry: What to fill.
        entry_points: The plugins to choose from; by default what is installed.
        selection: What CARVANA_PLUGINS would say; by default what it says. None selects all.
    """
    selection = os.environ.get(VARIABLE) if selection is None else selection
    points, unreadable = _installed() if entry_points is None else (entry_points, [])
    found = sorted(
        (point for point in points if not _is_own(point)), key=lambda point: (_package(point), point.name, point.value)
    )
    loaded = [_load("carvana", "carvana", _own_version(), "carvana.builtins:register", registry), *unreadable]
    if selection is not None:
        wanted = [name.strip() for name in selection.split(",") if name.strip() and canonical(name) != "carvana"]
        found, missing = _select(found, wanted)
        loaded += [
            Plugin(name, "", "", error=f"{VARIABLE} names it, but no installed package brings it") for name in missing
        ]
    loaded += [_load(point.name, _package(point), _version(point), point, registry) for point in found]
    return loaded


def canonical(name: str) -> str:
    """The form in which names of distributions are compared (PEP 503).

    >>> canonical("Carvana_SegNet")
    'carvana-segnet'
    """
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _installed() -> tuple[list[EntryPoint], list[Plugin]]:
    """The entry points of all installed packages, and the packages whose entry points cannot be read."""
    from importlib.metadata import distributions, entry_points  # 20 ms that a process without a look-up saves

    with contextlib.suppress(Exception):  # one damaged package is enough
        return list(entry_points(group=GROUP)), []
    points: dict[str, list[EntryPoint]] = {}
    broken: dict[str, Plugin] = {}
    for distribution in distributions():
        name = str(distribution.name)
        if name in points or name in broken:  # the first on the path is the one that is imported
            continue
        try:
            points[name] = list(distribution.entry_points.select(group=GROUP))
        except Exception as error:  # whatever its text leads to
            line = f"its entry points cannot be read: {told(error)}"
            logging.getLogger("carvana").warning("the package %s is broken: %s", name, line)
            broken[name] = Plugin(name, name, "", error=line)
    return [point for own in points.values() for point in own], list(broken.values())


def _select(points: list[EntryPoint], wanted: list[str]) -> tuple[list[EntryPoint], list[str]]:
    known = [{canonical(point.name), canonical(_package(point))} for point in points]
    names = {canonical(name) for name in wanted}
    chosen = [point for point, own in zip(points, known, strict=True) if own & names]
    return chosen, [name for name in wanted if not any(canonical(name) in own for own in known)]


def _load(name: str, package: str, version: str, target: str | EntryPoint, registry: Registry) -> Plugin:
    try:
        with registry.registering(package, version) as adds, quietly():
            _function(target)(registry)
    except KeyboardInterrupt:  # nothing tells it from Ctrl-C
        raise
    except BaseException as error:  # whatever a stranger's module does on import
        line = told(error)
        logging.getLogger("carvana").warning("the plugin '%s' of %s is broken: %s", name, package or "?", line)
        return Plugin(name, package, version, error=line)
    return Plugin(name, package, version, adds=adds)


def _function(target: str | EntryPoint) -> Callable[[Registry], Any]:
    if isinstance(target, str):
        from importlib.metadata import EntryPoint

        target = EntryPoint(name="carvana", value=target, group=GROUP)
    if not target.pattern.match(target.value):
        raise CarvanaError(f"the entry point '{target.value}' must have the form 'module:function'")
    function = target.load()
    if not callable(function):
        raise CarvanaError(f"the entry point '{target.value}' is not a function that takes the registry")
    return function  # type: ignore[no-any-return]


def _is_own(point: EntryPoint) -> bool:
    return point.value == "carvana.builtins:register"


def _package(point: EntryPoint) -> str:
    return (point.dist.name or "") if point.dist else ""  # None where its metadata name none


def _version(point: EntryPoint) -> str:
    return (point.dist.version or "") if point.dist else ""


def _own_version() -> str:
    """The version of this library; empty in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("carvana")
    except PackageNotFoundError:
        return ""
