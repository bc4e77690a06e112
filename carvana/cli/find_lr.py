"""``carvana fit --find-lr``: tests learning rates and suggests one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from carvana.config import FitConfig


def find_lr(config: FitConfig, *, out: Path | None, init: Path | None, device: str) -> None:
    """Test learning rates, plot the losses and print a suggestion."""
    from carvana.cli.display import make_reporter
    from carvana.run import Run
    from carvana.training.find_lr import find_lr as run_test

    folder = Run.choose(out, arch=f"{config.arch}-lr").path  # before the work: the folder may exist
    test = run_test(config, init=init, device=device, reporter=make_reporter())
    picture = folder / "lr.png"
    test.plot(picture)
    typer.echo(f"suggestion  {test.suggestion:g}, where the loss falls most steeply")
    typer.echo(f"also usual  {test.tenth_of_lowest:g}, a tenth of the rate where it is lowest")
    typer.echo(f"plot        {picture}")
    elsewhere = " (and another --out)" if out is not None else ""
    typer.echo(f"to use it   the same command with --set train.lr={test.suggestion:g} in place of --find-lr{elsewhere}")
