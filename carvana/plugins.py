"""Architectures, losses, augmentations, layouts and commands that other packages and scripts add; and a new package.

A script or a notebook calls one of the ``register_*`` functions. Its target is the object itself, or where it is
(``"module:attribute"``), imported when it is first used. Commands that start processes of their own
(``carvana compare``, torchrun) know what a script registered only if they can import it.

A package names a function in its pyproject.toml, and the function fills the registry::

    [project.entry-points."carvana.plugins"]
    segnet = "carvana_segnet:register"

    def register(registry):
        registry.archs.register("segnet", "carvana_segnet.net:build", summary="SegNet")

``registry.losses``, ``augments``, ``layouts`` and ``commands`` are filled likewise; a command is a function whose
parameters have typer's annotations, and only packages can add one.

What this library brings itself is registered in the same way, first and always. The environment variable
CARVANA_PLUGINS chooses which packages are loaded: names of entry points or packages, separated by commas; empty means
none.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from carvana.errors import CarvanaError, error_line
from carvana.registry import Plugin, Registry, Target, registry
from carvana.utils import __version__

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "carvana.plugins"
VARIABLE = "CARVANA_PLUGINS"

_TEMPLATES = {
    "pyproject.toml": "pyproject.toml.in",
    "README.md": "README.md.in",
    "LICENSE": "LICENSE.in",
    "$module/__init__.py": "init.py.in",
    "$module/net.py": "net.py.in",
    "$module/py.typed": None,
    "tests/test_$file.py": "test.py.in",
}
"""The files of a new plugin, and the template of each in ``plugin_template/``, with ``$name`` and the like to fill."""


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
            ``encoder_weights``, it gets the value of the config's ``model.encoder_weights``; if it has an argument
            ``channels``, the number of an image's channels, else images have three.
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
        >>> def studio(root):
        ...     folders = root / "shots", root / "alpha"
        ...     return folders if folders[0].is_dir() else None
        >>> carvana.register_layout("studio", studio)
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
    from importlib.metadata import EntryPoint  # takes 20 ms, which a process without a look-up saves

    own = EntryPoint("carvana", "carvana.builtins:register", GROUP)
    loaded = [_load(own, "carvana", __version__, registry)]
    points, broken = _installed() if entry_points is None else (list(entry_points), [])
    points = [point for point in points if point.value != own.value]
    selection = os.environ.get(VARIABLE) if selection is None else selection
    if selection is not None:
        wanted = {canonical(name): name.strip() for name in selection.split(",") if name.strip()}
        names = [{canonical(point.name), canonical(_origin(point)[0])} for point in points]
        points = [point for point, known in zip(points, names, strict=True) if known & wanted.keys()]
        missing = wanted.keys() - {"carvana"}.union(*names)
        line = f"{VARIABLE} names it, but no installed package brings it"
        broken += [Plugin(name, "", "", error=line) for key, name in wanted.items() if key in missing]
    points.sort(key=lambda point: (_origin(point), point.name, point.value))
    return [*loaded, *broken, *(_load(point, *_origin(point), registry) for point in points)]


def canonical(name: str) -> str:
    """The form in which names of distributions are compared (PEP 503).

    >>> canonical("Carvana_SegNet")
    'carvana-segnet'
    """
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def write_plugin(name: str, folder: str | os.PathLike[str] | None = None) -> list[Path]:
    """Write a package ``carvana-NAME`` that adds the architecture ``NAME``, with its tests: all of it, or nothing.

    Args:
        name: Letters, digits, ``-`` and ``_``, a letter first.
        folder: Where; by default ``carvana-NAME`` in the current folder.

    Returns:
        The files, pyproject.toml first.

    Raises:
        CarvanaError: the name has another form, an architecture has it already, or the folder exists already.
        OSError: it cannot be written.
    """
    from carvana.utils.files import scratch_folder, write_text  # takes 30 ms, which listing names does without

    name = name.removeprefix("carvana-")
    if not re.fullmatch(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", name):
        raise CarvanaError(
            f"new-plugin {name!r}: expected letters, digits, - and _, a letter first and no sign last, such as my-net"
        )
    taken = [entry for entry in registry.archs.registered() if entry.name in (name, f"{name}/*")]
    if taken:
        source = taken[0].source
        raise CarvanaError(f"new-plugin {name!r}: an architecture of this name exists already (from {source})")
    file = re.sub(r"\W", "_", name).lower()
    places = {"name": name, "package": f"carvana-{name}", "module": f"carvana_{file}", "file": file}
    target = Path(folder or places["package"])
    if target.exists():
        raise CarvanaError(f"{target}: exists already; nothing was written: choose another name, or --out")
    templates = Path(__file__).with_name("plugin_template")
    with scratch_folder(target.parent) as scratch:  # beside it, and renamed when it is complete
        for path, template in _TEMPLATES.items():
            content = "" if template is None else (templates / template).read_text(encoding="utf-8")
            write_text(scratch / "new" / Template(path).substitute(places), Template(content).substitute(places))
        (scratch / "new").rename(target)
    return [target / Template(path).substitute(places) for path in _TEMPLATES]


def _installed() -> tuple[list[EntryPoint], list[Plugin]]:
    """The entry points of all installed packages, and the packages whose entry points cannot be read."""
    from importlib.metadata import distributions

    points: dict[str, list[EntryPoint]] = {}
    broken = []
    for number, distribution in enumerate(distributions()):
        try:
            found = list(distribution.entry_points.select(group=GROUP))
            if found:  # of a package that is installed twice, the first on the path is imported
                points.setdefault(distribution.name or f"package {number}", found)
        except Exception as error:  # a damaged file may raise anything
            name = f"package {number}"
            with contextlib.suppress(Exception):  # its metadata may be missing
                name = str(distribution.name)
            broken.append(_broken(name, name, "", f"its entry points cannot be read: {error_line(error)}"))
    return [point for own in points.values() for point in own], broken


def _load(point: EntryPoint, package: str, version: str, registry: Registry) -> Plugin:
    try:
        with registry.registering(package, version) as adds, contextlib.redirect_stdout(sys.stderr):
            if not point.pattern.match(point.value):
                raise CarvanaError(f"the entry point '{point.value}' must have the form 'module:function'")
            register = point.load()
            if not callable(register):
                raise CarvanaError(f"the entry point '{point.value}' is not a function that takes the registry")
            register(registry)
    except KeyboardInterrupt:  # the same as Ctrl-C
        raise
    except BaseException as error:  # a module may raise anything on import, SystemExit too
        return _broken(point.name, package, version, error_line(error))
    return Plugin(point.name, package, version, adds=adds)


def _broken(name: str, package: str, version: str, line: str) -> Plugin:
    logging.getLogger("carvana").warning("the plugin '%s' of %s is broken: %s", name, package or "?", line)
    return Plugin(name, package, version, error=line)


def _origin(point: EntryPoint) -> tuple[str, str]:
    """The distribution that brings a plugin, and its version; empty where the metadata have none."""
    return (point.dist.name or "", point.dist.version or "") if point.dist else ("", "")
