"""``carvana new-plugin``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def new_plugin(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the architecture that it adds.")],
    out: Annotated[Path | None, typer.Option(help="The folder to make; by default carvana-NAME.")] = None,
) -> None:
    """Write a template of a package that adds an architecture, with tests that pass."""
    from carvana.plugins import write_plugin

    files = write_plugin(name, out)
    for path in files:
        typer.echo(str(path))
    folder = files[0].parent
    place = folder if folder.is_absolute() else f"./{folder}"  # else pip takes it for a package's name
    typer.echo(f"\nnow: pip install '{place}[test]' && pytest {folder}", err=True)
