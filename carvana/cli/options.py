"""Options that several commands share, word for word, and the networks that they ask for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli import complete

if TYPE_CHECKING:
    from carvana.inference.base import BasePredictor
    from carvana.utils.progress import Reporter

CONFIG = Annotated[
    str | None,
    typer.Option(
        help="A recipe: a name that `carvana configs` lists, or a YAML file.", autocompletion=complete.recipes
    ),
]
OTHERS = Annotated[
    list[Path] | None,
    typer.Option("--with", metavar="RUN", help="Average with this one, each at its own scale; may be repeated."),
]
SCALE = Annotated[str, typer.Option(help="How large the network sees images: trained, native or HxW.")]
MODE = Annotated[
    str,
    typer.Option(
        help="How it covers them: whole, tiles, auto (whole if it fits the memory, else tiles), or refine: at the "
        "scale first, then natively where that leaves doubt."
    ),
]
TILE = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Largest side of a tile in pixels; by default the cheapest tiles that fit."),
]
OVERLAP = Annotated[
    float | None,
    typer.Option(metavar="F", help="Share of a tile that its neighbours see too, 0 to 0.9; 0.25 with --tile."),
]
JOIN = Annotated[
    str, typer.Option(help="blend: tiles weighed by a gaussian; exact: what the whole image gives, where that can be.")
]
TTA = Annotated[bool, typer.Option("--tta", help="Average with the mirrored image, at twice the time.")]
MEMORY = Annotated[
    float | None,
    typer.Option(metavar="GB", help="What one pass of the network may take; by default a share of what is free."),
]
MAX_PIXELS = Annotated[
    int, typer.Option(min=1, help="Images with more pixels are refused: small files may claim any size.")
]
REPLACE = Annotated[bool, typer.Option("--replace", help="Overwrite the file to write, if it exists.")]
DEVICE = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")]
REFINE_WITH = Annotated[
    Path | None,
    typer.Option(metavar="RUN", help="The network that looks again at what is left unsure; implies --mode refine."),
]
BAND = Annotated[
    tuple[float, float],
    typer.Option(metavar="LOW HIGH", help="With refine: probabilities between which a pixel is looked at again."),
]
MARGIN = Annotated[int, typer.Option(metavar="N", help="With refine: pixels by which the unsure parts are widened.")]
CLEAN = Annotated[
    bool,
    typer.Option(
        "--clean",
        help="Take away parts below 1/20 of the largest one, fill holes below 1/10,000 of it; not in prob.",
    ),
]


def parse_size(text: str) -> tuple[int, int]:
    """The height and the width that an option ``--size`` names; wrong usage if it names none."""
    match = re.fullmatch(r"\s*([1-9]\d{0,5})\s*x\s*([1-9]\d{0,5})\s*", text)
    if match is None:
        raise typer.BadParameter(f"--size {text}: expected HEIGHTxWIDTH in pixels, such as 1280x1918")
    return int(match[1]), int(match[2])


def given(context: typer.Context) -> set[str]:
    """The names of the parameters that stand on the command line."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}


COVER = {
    "mode": "auto", "refine_with": None, "band": (0.1, 0.9), "margin": 8, "tile": None, "overlap": None,
    "join": "blend", "tta": False, "memory": None,
}  # fmt: skip
"""The defaults of the options that say how images are covered."""


def load_networks(
    run: Path, others: Sequence[Path] | None, *, reporter: Reporter, **settings: Any
) -> BasePredictor[Any]:
    """The network of a run, the mean of several, or one that another looks after; which of them is told."""
    from carvana.inference.ensemble import Ensemble
    from carvana.inference.load import load_predictor
    from carvana.inference.refiner import Refiner

    predictor = load_predictor([run, *(others or [])], reporter=reporter, **settings)
    if isinstance(predictor, Ensemble):
        count, threshold = len(predictor.members), predictor.threshold
        reporter.info(f"the mean of {count} networks, cut at {threshold:.3f}, the mean of their thresholds")
    if isinstance(predictor, Refiner):
        again, threshold = settings["refine_with"] or run, predictor.threshold
        reporter.info(f"what is unsure is looked at again by {again}, cut at {threshold:.3f}, that one's threshold")
    return predictor
