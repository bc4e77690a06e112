"""``carvana predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from carvana.cli import options


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, a model folder, folds, or an exported file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    others: options.OTHERS = None,
    save: Annotated[str, typer.Option(help="What to write, comma-separated: mask, prob, cutout, overlay.")] = "mask",
    clean: options.CLEAN = False,
    background: Annotated[
        str | None,
        typer.Option(
            metavar="COLOUR|FILE",
            help="Background of cut-outs (then JPEG): a CSS colour name, #rrggbb, or a picture.",
        ),
    ] = None,
    of_class: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class to cut out, where there are several.")
    ] = None,
    covering: options.Covering = options.Covering(),
    max_pixels: options.MAX_PIXELS = 300_000_000,
    device: options.DEVICE = "auto",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Overwrite files that predict did not write, or that have changed since."),
    ] = False,
) -> None:
    """Write masks of images at the images' own size; run again, it continues with what is missing."""
    from carvana.cli.display import make_reporter
    from carvana.inference.inputs import collect_images
    from carvana.inference.outputs.cutout import parse_background
    from carvana.inference.outputs.postprocess import Cleaning
    from carvana.inference.predict_folder import predict_folder

    reporter = make_reporter()
    behind = None if background is None else parse_background(background)
    found = collect_images(images, out=out, reporter=reporter)
    predictor = options.load_networks(run, others, covering, max_pixels=max_pixels, device=device, reporter=reporter)
    kinds = [kind.strip() for kind in save.split(",") if kind.strip()]
    cleaning = Cleaning() if clean else None
    summary = predict_folder(
        predictor, found, out=out, save=kinds, cleaning=cleaning, background=behind, of_class=of_class,
        replace=replace, reporter=reporter,
    )  # fmt: skip
    done = f"{summary.written} written to {out}"
    there = f", {summary.skipped} there already" if summary.skipped else ""
    kept = ""
    if summary.kept:
        kept = f", {summary.kept} kept (changed since, or not written by predict; --replace overwrites)"
    failed = f", {len(summary.failed)} could not be read" if summary.failed else ""
    typer.echo(done + there + kept + failed)
    if summary.failed:
        raise typer.Exit(1)
