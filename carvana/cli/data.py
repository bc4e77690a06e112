"""``carvana data ...``: the commands about data folders."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make and look at data folders.")


@app.callback()
def data() -> None:
    """Make and look at data folders."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where train/ and train_masks/ are made.")],
    cars: Annotated[int, typer.Option(min=1, help="How many cars, each from 16 angles.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Other cars for another number.")] = 0,
) -> None:
    """Draw studio cars with exact masks, 1918x1280, in Carvana's own layout."""
    from carvana.cli.display import make_reporter
    from carvana.data.demo import write_demo

    write_demo(folder, cars=cars, seed=seed, reporter=make_reporter())
    typer.echo(str(folder))
