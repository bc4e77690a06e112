"""``carvana archs``: lists the architectures without importing them."""

from __future__ import annotations

from typing import Annotated

import typer

from carvana.cli.options import complete_archs
from carvana.errors import UnknownNameError, did_you_mean
from carvana.models.smp_encoders import DPT_EXAMPLE
from carvana.registry import Entry, has_wildcards, registry


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
        _print_json(registry.archs.entries() if pattern is None else matching(pattern))
    elif pattern is None:
        _print_overview()
    else:
        for entry in matching(pattern):
            print(entry.name)


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


def _print_json(entries: list[Entry]) -> None:
    import json

    records = [
        {"name": entry.name, "summary": entry.summary, "source": entry.source, "version": entry.version}
        for entry in entries
    ]
    print(json.dumps(records, indent=2))


def _print_overview() -> None:
    """A block of text for each entry. Without rich, whose import would take a fifth of the command's time."""
    import shutil
    import textwrap

    rows = [("architecture", "encoders", "for example")]
    rows += [(entry.name, *_encoders(entry)) for entry in registry.archs.registered()]
    summaries = ["what it is", *(entry.summary for entry in registry.archs.registered())]
    widths = [max(len(row[column]) for row in rows) + 2 for column in range(3)]
    room = shutil.get_terminal_size((200, 24)).columns - sum(widths)
    for row, summary in zip(rows, summaries, strict=True):
        lines = textwrap.wrap(summary, max(room, 32)) or [""]
        print("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + lines[0])
        for line in lines[1:]:
            print(" " * sum(widths) + line)
    print("\ncarvana archs 'unet/*' lists a family, 'unet/tu-*' timm's encoders for it, --json everything.")
    broken = [plugin.name for plugin in registry.plugins if plugin.error]
    if broken:
        print(f"Broken plugins, left out: {', '.join(broken)} (see carvana plugins).")


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
