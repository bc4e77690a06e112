"""``carvana configs``: the recipes that there are."""

from __future__ import annotations

import typer


def configs() -> None:
    """List the recipes that --config takes by name, with a line each."""
    from carvana.config import configs as shipped
    from carvana.config import describe

    recipes = shipped()
    width = max(map(len, recipes))
    for name, path in recipes.items():
        typer.echo(f"{name.ljust(width)}  {describe(path)}")
    typer.echo(
        "\ncarvana fit --config NAME --print-config shows the whole of one; a YAML file of your own serves as well."
    )
