"""What a user may name: ``carvana archs``, ``configs`` and ``plugins`` list it, ``new-plugin`` begins an addition."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from carvana.cli.options import complete_archs
from carvana.errors import UnknownNameError, did_you_mean
from carvana.models.smp_encoders import DPT_EXAMPLE
from carvana.registry import Entry, Plugin, has_wildcards, registry

_PLURALS = {
    "archs": "architectures", "losses": "losses", "augments": "augmentations", "layouts": "data layouts",
    "commands": "commands",
}  # fmt: skip


def archs(
    pattern: Annotated[
        str | None,
        typer.Argument(
            help="Names to list, with wildcards: 'unet/*', '*mobilenet*', 'unet/tu-convnext*'.",
            autocompletion=complete_archs,
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout: name, summary, source, version.")] = False,
) -> None:
    """List the architectures: an overview of all, or the names that match a pattern."""
    if json:
        entries = registry.archs.entries() if pattern is None else matching(pattern)
        keys = ("name", "summary", "source", "version")
        _print_json([{key: getattr(entry, key) for key in keys} for entry in entries])
    elif pattern is not None:
        for entry in matching(pattern):
            print(entry.name)
    else:
        families = [(entry.name, *_encoders(entry), entry.summary) for entry in registry.archs.registered()]
        _print_rows([("architecture", "encoders", "for example", "what it is"), *families])
        print("\ncarvana archs 'unet/*' lists a family, 'unet/tu-*' timm's encoders for it, --json everything.")
        broken = [plugin.name for plugin in registry.plugins if plugin.error]
        if broken:
            print(f"Broken plugins, left out: {', '.join(broken)} (see carvana plugins).")


def matching(pattern: str) -> list[Entry]:
    """The entries that match: by wildcards, or else by name, by family, or by a part of the name.

    Raises:
        UnknownNameError: none match.
    """
    attempts = [pattern]
    if not has_wildcards(pattern):
        attempts += [f"{pattern}/*", f"*{pattern}*"]
    for attempt in attempts:
        found = registry.archs.entries(attempt)
        if found:
            return found
    hint = did_you_mean(pattern, registry.archs.names()) or "; carvana archs, without a pattern, shows an overview"
    raise UnknownNameError(f"no architecture matches '{pattern}'{hint}")


def configs() -> None:
    """List the configs that --config takes by name."""
    from carvana.config import configs as shipped
    from carvana.config import describe

    _print_rows([(name, describe(path)) for name, path in shipped().items()])
    print("\ncarvana fit --config NAME --print-config prints the whole of one; --config also takes a YAML file.")


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
        _print_json([vars(plugin) for plugin in found])
        return
    rows = []
    for plugin in found:
        label = f"{plugin.package} {plugin.version}".rstrip() if plugin.package else plugin.name
        rows += [(label if not number else "", text) for number, text in enumerate(_adds(plugin))]
    _print_rows(rows)
    if len(found) == 1:
        print(f"\nNo other package adds anything here (entry points carvana.plugins; {VARIABLE} chooses among them).")


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the architecture that it adds.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make; by default carvana-NAME.")] = None,
) -> None:
    """Write a template of a package that adds an architecture, with tests that pass."""
    from carvana.plugins import write_plugin

    files = write_plugin(name, out)
    for path in files:
        print(path)
    folder = files[0].parent
    place = folder if folder.is_absolute() else f"./{folder}"  # else pip takes it for a package's name
    typer.echo(f"\nnow: pip install '{place}[test]' && pytest {folder}", err=True)


def _encoders(entry: Entry) -> tuple[str, str]:
    """How many encoders a family has, and an example of a whole name."""
    if not entry.name.endswith("/*"):
        return "", ""
    names = registry.archs.names(entry.name)
    rules = [name for name in names if has_wildcards(name)]
    own = [name for name in names if name not in rules]
    prefix = entry.name.removesuffix("*")
    usual = prefix + "resnet34"
    example = usual if usual in own else DPT_EXAMPLE if DPT_EXAMPLE.startswith(prefix) else next(iter(own), entry.name)
    count = [str(len(own))] * bool(own) + ["timm's"] * bool(rules)
    return " + ".join(count), example


def _adds(plugin: Plugin) -> list[str]:
    if plugin.error:
        return [f"failed ({plugin.name}): {plugin.error}"]
    lines = [
        f"{registry.catalogs[kind].kind if len(names) == 1 else _PLURALS[kind]}: {', '.join(names)}"
        for kind, names in plugin.adds.items()
    ]
    return lines or ["nothing"]


def _print_rows(rows: Sequence[tuple[str, ...]]) -> None:
    """Columns, the last of which is folded in a terminal. Rich would take a fifth of the command's time to import."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000  # what is piped is not folded
    widths = [max(map(len, cells)) + 2 for cells in zip(*rows, strict=True)][:-1]
    indent = " " * (sum(widths) + 2)
    for *cells, text in rows:
        before = "".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        width = max(columns, len(before) + 32)
        print(textwrap.fill(text, width, initial_indent=before, subsequent_indent=indent) or before)


def _print_json(records: list[dict[str, Any]]) -> None:
    import json

    print(json.dumps(records, indent=2))
