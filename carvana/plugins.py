"""Architectures, losses, augmentations and layouts that other packages and the user's own scripts add.

A script or a notebook calls one of the ``register_*`` functions. Its target is the object itself, or where it is
(``"module:attribute"``), imported when it is first used. Commands that start processes of their own
(``carvana compare``, torchrun) know what a script registered only if they can import it.

A package names a function in its pyproject.toml, and the function fills the registry::

    [project.entry-points."carvana.plugins"]
    segnet = "carvana_segnet:register"

    def register(registry):
        registry.archs.register("segnet", "carvana_segnet.net:build", summary="SegNet")

What this library brings itself is registered in the same way, first and always. The environment variable
CARVANA_PLUGINS chooses which packages are loaded: names of entry points or packages, separated by commas; empty means
none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from carvana.errors import CarvanaError
from carvana.registry import Plugin, Registry, Target, registry
from carvana.utils.imports import error_line, stdout_to_stderr

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


def register_arch(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add an architecture, which everything that takes ``unet-ref`` then takes as well.

    Args:
        name: What users write: letters, digits and ``- _ . /``.
        target: A factory ``build(*, classes=1, **options)`` that returns a :class:`carvana.Network`, or a bare
            ``nn.Module``: normalised float images (N, 3, H, W) to logits (N, classes, H, W). If it has an argument
            ``encoder_weights``, it gets the value of the config's ``model.encoder_weights``.
        summary: One line for ``carvana archs``.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: the name is taken and ``replace`` is not set, or it is not a name, or ``target`` is not a target.

    Example:
        >>> import carvana
        >>> from torch import nn
        >>> carvana.register_arch("one-layer", lambda *, classes: nn.Conv2d(3, classes, 3, padding=1))
        >>> carvana.create_model("one-layer").spec.package
        'script'
    """
    registry.archs.register(name, target, summary=summary, replace=replace)


def register_loss(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add a loss, which ``train.loss`` then takes, alone or in a sum: ``bce + 0.5*mine``.

    Args:
        name: Letters, digits, ``-`` and ``_``, a letter first.
        target: A factory without arguments. What it returns is called as ``loss(logits, targets)``: both
            (N, classes, H, W), targets float in [0, 1], the share of each pixel that the object covers; it gives a
            scalar to minimise.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def squared():
        ...     return lambda logits, targets: (logits.sigmoid() - targets).square().mean()
        >>> carvana.register_loss("squared", squared)
        >>> carvana.load_config(changes={"train.loss": "bce + squared"}).train.loss
        'bce + squared'
    """
    registry.losses.register(name, target, summary=summary, replace=replace)


def register_augment(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add an augmentation, which ``data.augment`` then takes.

    Args:
        name: See :func:`register_arch`.
        target: A factory without arguments. What it returns is called as ``augment(image=..., mask=...)``, image uint8
            (H, W, 3) and mask float32 (H, W) in [0, 1], and gives a mapping with the same two keys. For
            albumentations' ``Compose`` pass ``mask_interpolation=cv2.INTER_LINEAR``: its default destroys coverage, and
            is refused.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def upside_down():
        ...     return lambda image, mask: {"image": image[::-1].copy(), "mask": mask[::-1].copy()}
        >>> carvana.register_augment("upside-down", upside_down)
    """
    registry.augments.register(name, target, summary=summary, replace=replace)


def register_layout(name: str, target: Target, *, summary: str = "", replace: bool = False) -> None:
    """Add a reader of a layout of data folders; ``data.root``, ``find_samples`` and ``carvana data`` then know it.

    Args:
        name: See :func:`register_arch`.
        target: A function of the data folder (a Path). It returns None where the folder is not laid out so, a pair
            (folder of images, folder of masks) whose files are matched by name, or any iterable of
            :class:`carvana.Sample`. The layout that was registered last is asked first, the built-in ones last.
        summary: One line for listings.
        replace: Take the place of an entry of the same name.

    Raises:
        CarvanaError: see :func:`register_arch`.

    Example:
        >>> import carvana
        >>> def voc(root):
        ...     folders = root / "JPEGImages", root / "SegmentationClass"
        ...     return folders if folders[0].is_dir() else None
        >>> carvana.register_layout("voc", voc)
    """
    registry.layouts.register(name, target, summary=summary, replace=replace)


def load_plugins(
    registry: Registry, entry_points: Iterable[EntryPoint] | None = None, selection: str | None = None
) -> list[Plugin]:
    """Let every selected plugin fill ``registry``. A broken one is undone, logged and listed; the others are loaded.

    Args:
        registry: What to fill.
        entry_points: The plugins to choose from; by default what is installed.
        selection: The value of CARVANA_PLUGINS; by default that of the environment. None selects all.
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
    from importlib.metadata import distributions, entry_points  # takes 20 ms, which a process without a look-up saves

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
        except Exception as error:  # a damaged file may raise anything
            line = f"its entry points cannot be read: {error_line(error)}"
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
        with registry.registering(package, version) as adds, stdout_to_stderr():
            _function(target)(registry)
    except KeyboardInterrupt:  # the same as Ctrl-C
        raise
    except BaseException as error:  # a module may raise anything on import, SystemExit too
        line = error_line(error)
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
