"""``carvana import-keras``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class InputRange(StrEnum):
    """The value of white in the images that the weights were trained on."""

    auto = "auto"
    one = "1"
    bytes = "255"


def import_keras(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .weights.h5, .keras or .h5 file of Keras 2 or 3.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    input_range: Annotated[
        InputRange,
        typer.Option(help="White in the training images: 1, 255, or auto (from the first BatchNorm)."),
    ] = InputRange.auto,
) -> None:
    """Read the reference U-Net's weights from a Keras file and write them as a model folder."""
    from carvana.cli.display import make_reporter

    from carvana_keras.weights import import_keras as run_import

    white = None if input_range is InputRange.auto else int(input_range)
    found = run_import(file, out, input_range=white, reporter=make_reporter())
    height, width = found.size
    assumed = "" if found.has_settings else "; the file has no layer settings, so those of the reference are assumed"
    estimated = f", estimated from a mean pixel of {found.brightness:.3g}; --input-range changes it"
    typer.echo(f"read    {file}: {found.source}{assumed}")
    typer.echo(f"layers  {found.layers} with weights, {found.parameters:,} parameters with BatchNorm's statistics")
    typer.echo(f"images  shrunk to {height} x {width}, pixels 0 to {found.input_range}{'' if white else estimated}")
    typer.echo(f"model   {out}")
    typer.echo(f"next    carvana predict {out} IMAGES --out masks")
