"""``carvana configs``: the configs that ship with the package."""

from __future__ import annotations

import typer


def configs() -> None:
    """List the configs that --config takes by name."""
    from carvana.config import configs as shipped
    from carvana.config import describe

    found = shipped()
    width = max(map(len, found))
    for name, path in found.items():
        typer.echo(f"{name.ljust(width)}  {describe(path)}")
    typer.echo("\ncarvana fit --config NAME --print-config prints the whole of one; --config also takes a YAML file.")
