"""The contract of everything that a package registers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from carvana.plugins import VARIABLE, canonical, plugins
from carvana.registry import has_wildcards, registry
from carvana.testing.data import check_augment, check_layout, expect
from carvana.testing.network import check_arch, check_loss

_ANSWER = "carvana.testing imported:"
_LISTING = f"""
import sys
from carvana.registry import registry
for catalog in registry.catalogs.values():
    catalog.registered()
heavy = sorted(set("torch timm segmentation_models_pytorch albumentations cv2".split()) & set(sys.modules))
print("\\n{_ANSWER}", *heavy, flush=True)
"""


def check_plugin(
    package: str,
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    folders: Mapping[str, str | os.PathLike[str]] | None = None,
) -> None:
    """Check that an installed package registers without a fault, and all that it registers.

    Args:
        package: The distribution, or the name of its entry point.
        options: Options for architectures by name, such as a small width that makes the check fast. Of a family of
            names (``mine/*``) the concrete ones here are checked, or else the first of its listing.
        folders: For layouts by name, a data folder that is laid out so.

    Raises:
        AssertionError: what is broken, in one line.

    Example:
        >>> import carvana.testing
        >>> carvana.testing.check_plugin("carvana-mine", options={"mine": {"width": 4}})  # doctest: +SKIP
    """
    found = [plugin for plugin in plugins() if canonical(package) in map(canonical, (plugin.package, plugin.name))]
    expect(found, f"no installed package '{package}' has an entry point in the group carvana.plugins")
    for plugin in found:
        expect(plugin.error is None, f"the plugin '{plugin.name}' of {plugin.package} is broken: {plugin.error}")
    adds = {kind: [name for plugin in found for name in plugin.adds.get(kind, ())] for kind in registry.catalogs}
    expect(any(adds.values()), f"'{package}' registers nothing")
    for kind, names in adds.items():
        for entry in registry.catalogs[kind].registered():
            described = entry.summary or entry.name not in names
            expect(described, f"'{entry.name}' has no summary, which listings show: register it with summary=")
    _check_listing(package)
    for name in adds["archs"]:
        _check_archs(name, options or {})
    for name in adds["losses"]:
        check_loss(name)
    for name in adds["augments"]:
        check_augment(name)
    for name in adds["layouts"]:
        check_layout(name, (folders or {}).get(name))
    for name in adds["commands"]:
        _python(f"the command '{name}' has no help", "-m", "carvana", name, "--help")


def _check_listing(package: str) -> None:
    """In another process, since this one has imported torch already."""
    printed = _python(f"'{package}' cannot be listed", "-c", _LISTING, selection=package)
    answers = [line for line in printed.splitlines() if line.startswith(_ANSWER)]  # modules may print as well
    expect(answers, f"'{package}' cannot be listed: Python ended without a message")
    imported = answers[-1].removeprefix(_ANSWER).strip()
    expect(
        not imported,
        f"'{package}' imports {imported} when names are listed, which takes seconds:"
        ' register "module:attribute" strings instead of objects',
    )


def _python(otherwise: str, *words: str, selection: str | None = None) -> str:
    """What another interpreter prints; an AssertionError that begins with ``otherwise`` if it fails."""
    environment = os.environ | ({} if selection is None else {VARIABLE: selection})
    done = subprocess.run(  # noqa: S603 - this interpreter, and our own words
        [sys.executable, *words], env=environment, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        lines = [text for line in done.stderr.splitlines() if (text := line.strip("╭─╮│╰╯ "))]  # typer draws boxes
        raise AssertionError(f"{otherwise}: {lines[-1] if lines else 'Python ended without a message'}")
    return done.stdout


def _check_archs(name: str, options: Mapping[str, Mapping[str, Any]]) -> None:
    if not name.endswith("/*"):
        check_arch(name, options=options.get(name))
        return
    chosen = [known for known in options if known.startswith(name[:-1])]
    listed = (known for known in registry.archs.names(name) if not has_wildcards(known))
    first = next(listed, None)
    family = name.removesuffix("/*")
    expect(chosen or first, f"'{name}' lists no name that could be tried: pass options={{'{family}/NAME': {{}}}}")
    for known in chosen or [str(first)]:
        check_arch(known, options=options.get(known))
