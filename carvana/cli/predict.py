"""``carvana predict`` and ``carvana submit``: masks of images, as files or as a competition's table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from carvana.cli import options

if TYPE_CHECKING:
    from carvana.data.io.rle import Order
    from carvana.inference.base import BasePredictor
    from carvana.utils.progress import Reporter

MAX_PIXELS = Annotated[
    int, typer.Option(min=1, help="Images with more pixels are refused: small files may claim any size.")
]
CLEAN = Annotated[
    bool,
    typer.Option(
        "--clean",
        help="Remove parts smaller than 1/20 of the largest, fill holes smaller than 1/10,000 of it; not in prob.",
    ),
]


def predict(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, a model folder, folds, or an exported file.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|DIR...", help="Images, or folders of them.")],
    out: Annotated[Path, typer.Option(help="The folder to write into.")],
    others: options.OTHERS = None,
    save: Annotated[
        str, typer.Option(help="What to write, comma-separated: mask, prob, cutout, overlay, coco.")
    ] = "mask",
    clean: CLEAN = False,
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
    max_pixels: MAX_PIXELS = 300_000_000,
    device: options.DEVICE = "auto",
    engine: options.ENGINE = "auto",
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Overwrite files that predict did not write, or that have changed since."),
    ] = False,
) -> None:
    """Write masks of images at the images' own size; run again, it continues with what is missing."""
    kinds = _listed(save)
    if of_class is not None and "cutout" not in kinds:
        raise typer.BadParameter(f"--class {of_class} is for cut-outs, and none is saved: add cutout to --save")

    from carvana.cli.display import make_reporter
    from carvana.inference.inputs import collect_images
    from carvana.inference.outputs.cutout import parse_background
    from carvana.inference.outputs.files import check_kinds
    from carvana.inference.outputs.postprocess import Cleaning
    from carvana.inference.predict_folder import predict_folder

    check_kinds(kinds)  # before the networks are loaded
    reporter = make_reporter()
    behind = None if background is None else parse_background(background)
    found = collect_images(images, out=out, reporter=reporter)
    predictor = _load_networks(
        run, others, covering, max_pixels=max_pixels, device=device, engine=engine, reporter=reporter
    )
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


def submit(
    context: typer.Context,
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="A run, a model folder, folds, or an exported file.")
    ] = None,
    images: Annotated[Path | None, typer.Argument(metavar="DIR", help="The folder of the images.")] = None,
    out: Annotated[Path | None, typer.Option(help="The table to write; compressed if it ends in .gz.")] = None,
    check: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Check this table instead of writing one; needs --against.")
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The competition's sample: its columns, and its rows in its order."),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="Names of the columns; by default those of the sample, else img,rle_mask, of several classes "
            "img,class,rle_mask.",
        ),
    ] = None,
    row: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="What stands in a row, with a comma between columns: text with {image}, {stem}, {class}, {number} (of "
            "the class, from 1), {value} (of the class in label files), and {runs}, which come last if left out.",
        ),
    ] = None,
    order: Annotated[
        str, typer.Option(help="row: pixels are numbered row after row; column: column after column.")
    ] = "row",
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="The classes that get rows, in the order of their numbers; by default all."),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="HxW", help="Height and width of the images of a checked table.")
    ] = "1280x1918",
    others: options.OTHERS = None,
    clean: CLEAN = False,
    covering: options.Covering = options.Covering(),
    max_pixels: MAX_PIXELS = 300_000_000,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that read images; 0 reads in threads; by default one a core.")
    ] = None,
    device: options.DEVICE = "auto",
    engine: options.ENGINE = None,
) -> None:
    """Write the masks of a folder as a competition's table, or check such a table; run again, it continues."""
    if check is not None:
        if needless := sorted(options.given(context) - {"check", "against", "size"}):
            raise typer.BadParameter(f"--check reads a table and writes none: leave out {', '.join(needless)}")
        if against is None:
            raise typer.BadParameter("--check needs the competition's sample; name it with --against")
        _check(check, against, size)
        return
    if "size" in options.given(context):
        raise typer.BadParameter("--size goes with --check: written tables take the images' own sizes")
    if run is None or images is None or out is None:
        raise typer.BadParameter("expected RUN, DIR and --out, or --check FILE --against SAMPLE")

    from carvana.cli.display import make_reporter
    from carvana.errors import DataError, plural
    from carvana.inference.inputs import collect_images
    from carvana.inference.outputs.postprocess import Cleaning
    from carvana.inference.submission.format import TableFormat
    from carvana.inference.submission.table import read_header, read_names
    from carvana.inference.submission.write import CHUNK, refuse_existing, write_submission

    reporter = make_reporter()
    refuse_existing(out)
    names = None if against is None else read_names(against)
    header = None if against is None else read_header(against)
    named = _listed(columns) or (() if header is None else header.columns)
    found = collect_images([images], reporter=reporter)
    predictor = _load_networks(
        run, others, covering, max_pixels=max_pixels, device=device, engine=engine, reporter=reporter
    )
    form = TableFormat(
        predictor.task, columns=named, row=row or "", order=cast("Order", order), classes=_listed(classes)
    )
    if header is not None and header.runs != form.runs_place:
        raise DataError(
            f"{against}: has runs in column {header.runs + 1}, {header.columns[header.runs]}, and the table would have "
            f"them in column {form.runs_place + 1}; put {{runs}} in its place with --row"
        )
    done = write_submission(
        predictor,
        found,
        out=out,
        names=names,
        form=form,
        cleaning=Cleaning() if clean else None,
        workers=workers,
        reporter=reporter,
    )
    if done.failed:
        image, _ = done.failed[0]
        failed = f"{len(done.failed)} of {plural(done.images, 'image')}"
        raise DataError(
            f"{failed} could not be read, the first: {image}; replace them and run the same command again: "
            f"what is done is kept, but for the chunks of {CHUNK} images that they are in"
        )
    if done.complete:
        typer.echo(f"{plural(done.rows, 'row')} in {out}, {done.written} of them made now")
    else:
        typer.echo(f"{plural(done.written, 'row')} made now; {out} is joined by the process that ends last")


def _listed(names: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def _check(path: Path, against: Path, size: str) -> None:
    from carvana.cli.display import make_reporter
    from carvana.errors import DataError, plural, printable
    from carvana.inference.submission.table import SHOWN, check_submission

    report = check_submission(path, against, size=options.parse_size(size), reporter=make_reporter())
    if report.ok:
        typer.echo(f"{path}: {plural(report.rows, 'row')}, no problem")
        return
    for line in report.first:
        typer.echo(printable(line))
    total = sum(report.counts.values())
    if total > SHOWN:
        typer.echo(f"... and {total - SHOWN} more")
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.counts.most_common())
    raise DataError(f"{path}: {plural(total, 'problem')} in {plural(report.rows, 'row')}: {kinds}")


def _load_networks(
    run: Path, others: Sequence[Path] | None, covering: options.Covering, *, reporter: Reporter, **settings: Any
) -> BasePredictor:
    """The predictor of one run, or of several; the reporter says where several networks work together."""
    from carvana.errors import plural
    from carvana.inference.ensemble import Ensemble, load_predictor
    from carvana.inference.refiner import Refiner

    predictor = load_predictor([run, *(others or [])], reporter=reporter, **vars(covering), **settings)
    if isinstance(predictor, Ensemble):
        note = _threshold_note(predictor, "the mean of their thresholds")
        scales = covering.scale.split(",")
        networks = plural(len(predictor.members) // len(scales), "network")
        reporter.info(f"mean of {networks}{f' at {len(scales)} scales' if len(scales) > 1 else ''}{note}")
    if isinstance(predictor, Refiner):
        by, note = covering.refine_with or run, _threshold_note(predictor, "that network's")
        reporter.info(f"low-confidence regions are refined by {by}{note}")
    return predictor


def _threshold_note(predictor: BasePredictor, whose: str) -> str:
    """The thresholds and where they are from, as the end of a line; classes that exclude each other have none."""
    from carvana.inference.base import thresholds_text

    return f", threshold {thresholds_text(predictor.thresholds)} ({whose})" if predictor.thresholds else ""
