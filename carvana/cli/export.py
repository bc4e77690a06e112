"""``carvana export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carvana.cli.options import REPLACE

FORMATS = ("onnx",)


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a model folder.")],
    to: Annotated[str, typer.Option(help="The format: onnx.")],
    out: Annotated[Path, typer.Option(help="The file to write; its name ends in .onnx.")],
    replace: REPLACE = False,
) -> None:
    """Write a model as one file that runs without torch, and compare both at three image sizes."""
    from carvana.errors import ConfigError, ModelError, did_you_mean, shortened
    from carvana.folds import Folds

    if to not in FORMATS:
        raise ConfigError(f"--to {to!r} is unknown; expected {', '.join(FORMATS)}{did_you_mean(to, FORMATS)}")
    if Folds(run).exists:
        raise ModelError(f"{run}: holds folds, and a file holds one network; export one of them, such as {run}/fold-1")

    from carvana.cli.display import make_reporter
    from carvana.inference.engines.export import export_onnx
    from carvana.models.segmenter import Segmenter

    model = Segmenter.from_pretrained(run)
    made = export_onnx(model, out, replace=replace, reporter=make_reporter())
    sizes = ", ".join(f"{check.shape[0]} x {check.shape[2]}x{check.shape[3]}" for check in made.checks)
    typer.echo(f"file    {made.path}, {made.size / 1e6:.1f} MB")
    if model.spec.task is not None and model.spec.classes > 1:
        names = shortened(", ".join(model.spec.task.names), 80)
        typer.echo(f"classes {model.spec.classes}, {model.spec.task.kind}: {names}")
    typer.echo(f"checked within {made.difference:.1e} of PyTorch, with images of {sizes} pixels")
    typer.echo(f"next    carvana predict {made.path} IMAGES --out masks")
