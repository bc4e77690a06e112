"""``carvana import-keras``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class InputRange(StrEnum):
    """What white was in the images that the weights were trained on."""

    auto = "auto"
    one = "1"
    bytes = "255"


def import_keras(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .weights.h5, .keras or .h5 file of Keras 2 or 3.")],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    input_range: Annotated[
        InputRange, typer.Option(help="White in the training images: 1, 255, or judged by the first BatchNorm.")
    ] = InputRange.auto,
) -> None:
    """Read the reference U-Net's weights out of a file of Keras, and write them as a model folder."""
    from carvana.cli.display import make_reporter
    from carvana.models.keras_weights import import_keras as run_import

    white = None if input_range is InputRange.auto else int(input_range)
    found = run_import(file, out, input_range=white, reporter=make_reporter())
    size = found.model.spec.trained_size
    assert size is not None
    untold = "" if found.has_settings else ", which do not tell what is between the convolutions: taken on trust"
    judged = f", since its images' mean pixel was {found.brightness:.3g}; --input-range changes it"
    typer.echo(f"read    {file}: {found.source}{untold}")
    typer.echo(f"layers  {found.layers} with weights, {found.parameters:,} parameters with BatchNorm's statistics")
    typer.echo(
        f"images  shrunk to {size[0]} x {size[1]}, pixels 0 to {found.input_range}{judged if white is None else ''}"
    )
    typer.echo(f"model   {out}")
    typer.echo(f"next    carvana predict {out} IMAGES --out masks")
