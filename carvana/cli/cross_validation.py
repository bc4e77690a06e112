"""``carvana fit --folds``: fits or resumes folds and prints their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from carvana.config import FitConfig
    from carvana.folds import Folds


def fit_folds(config: FitConfig, *, folds: int, out: Path | None, init: Path | None, device: str) -> None:
    """Fit all folds and print their numbers."""
    from carvana.cli.display import make_reporter
    from carvana.training.cross_validation import fit_folds as run_folds

    print_folds(run_folds(config, folds=folds, out=out, init=init, device=device, reporter=make_reporter()))


def is_folds(path: Path) -> bool:
    """Whether a folder holds folds."""
    from carvana.folds import Folds

    return Folds(path).exists


def resume_folds(path: Path, given: Sequence[str], *, root: Path | None, device: str) -> None:
    """Resume interrupted folds and print their numbers; options of new folds are refused."""
    from carvana.cli.display import make_reporter
    from carvana.errors import ConfigError
    from carvana.training.cross_validation import resume_folds as run_folds

    if given:
        raise ConfigError(
            f"--resume {path} with {', '.join(given)}: folds are resumed with their own config; leave it out, or fit "
            "other folds"
        )
    print_folds(run_folds(path, root=root, device=device, reporter=make_reporter()))


def print_folds(folds: Folds) -> None:
    """Print the numbers of each fold and of all images together, and the paths."""
    from carvana.cli.tables import evaluation_table, show

    numbers = folds.read_evaluation()
    show(folds_table(numbers))
    title = f"{folds.path}: all images, each by the network that was not trained on it"
    show(evaluation_table(numbers, title=title, threshold="best on all images; each fold's model keeps its own"))
    typer.echo(f"folds     {folds.table_path}")
    typer.echo(f"masks     {folds.masks_path}")
    typer.echo(f"pictures  {folds.pictures_path}")
    typer.echo(f"together  carvana predict {folds.path} IMAGES --out MASKS")


def folds_table(numbers: Mapping[str, Any]) -> Table:
    """The Dice of each fold, then their mean and standard deviation.

    Args:
        numbers: the folds' ``evaluation.json``.
    """
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table(box=SIMPLE)
    for name, justify in (("fold", "left"), ("images", "right"), ("groups", "right"), ("Dice", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    table.add_column("threshold", justify="right")
    for fold in numbers["folds"]:
        counts = str(fold["images"]), str(fold["groups"])
        table.add_row(fold["run"], *counts, f"{fold['dice']:.5f}", f"{fold['threshold']:.3f}")
    spread = f"{numbers['folds_dice_mean']:.5f} ± {numbers['folds_dice_std']:.5f}"
    table.add_section()
    table.add_row("mean ± std. deviation", "", "", spread, "")
    return table
