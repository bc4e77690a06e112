"""``carvana plugins``: the packages that add to this library, and what failed."""

from __future__ import annotations

import shutil
import sys
import textwrap
from typing import Annotated

import typer

from carvana.registry import Plugin, registry

_PLURALS = {
    "archs": "architectures", "losses": "losses", "augments": "augmentations", "layouts": "data layouts",
    "commands": "commands",
}  # fmt: skip


def plugins(
    json: Annotated[
        bool, typer.Option("--json", help="Write JSON to stdout: name, package, version, adds, error.")
    ] = False,
) -> None:
    """List the plugins: package, version, what it adds, and what failed and why."""
    from carvana.plugins import VARIABLE
    from carvana.plugins import plugins as loaded

    found = loaded()
    if json:
        _print_json(found)
        return
    width = max(len(_package(plugin)) for plugin in found)
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000  # what is piped is not folded
    room = max(columns - width - 2, 32)
    for plugin in found:
        lines = [line for text in _adds(plugin) for line in textwrap.wrap(text, room, subsequent_indent="  ")]
        for label, line in zip([_package(plugin), *[""] * len(lines)], lines, strict=False):
            typer.echo(f"{label.ljust(width)}  {line}")
    if len(found) == 1:
        typer.echo(
            f"\nNo other package adds anything here (entry points carvana.plugins; {VARIABLE} chooses among them)."
        )


def _package(plugin: Plugin) -> str:
    """What is installed; the entry point too, where a package has several or another name for it."""
    if not plugin.package:
        return plugin.name
    return f"{plugin.package} {plugin.version}".rstrip()


def _adds(plugin: Plugin) -> list[str]:
    if plugin.error:
        return [f"failed ({plugin.name}): {plugin.error}"]
    lines = [
        f"{registry.catalogs[kind].kind if len(names) == 1 else _PLURALS[kind]}: {', '.join(names)}"
        for kind, names in plugin.adds.items()
    ]
    return lines or ["nothing"]


def _print_json(found: list[Plugin]) -> None:
    import json

    typer.echo(json.dumps([vars(plugin) for plugin in found], indent=2))
