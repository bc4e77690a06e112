"""``carvana evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Subset(StrEnum):
    """Parts of a run's photos."""

    val = "val"
    train = "train"
    all = "all"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run; with --data a model folder serves.")],
    data: Annotated[Path | None, typer.Option(help="Other labelled photos: all of them count.")] = None,
    split: Annotated[Subset | None, typer.Option(help="Part of the run's own photos; val if not given.")] = None,
    scale: Annotated[str, typer.Option(help="How large the network sees photos: trained, native or HxW.")] = "trained",
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Measure a run's masks against the true ones, at full size."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import evaluation_table, show, write_json_result
    from carvana.evaluation.choose import choose_samples
    from carvana.evaluation.evaluate import evaluate as run_evaluate
    from carvana.inference.predictor import Predictor

    reporter = make_reporter()
    predictor = Predictor.from_pretrained(run, scale=scale, device=device)
    samples = choose_samples(run, data=data, split=None if split is None else split.value, reporter=reporter)
    numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
    if json is not None:
        write_json_result(json, numbers)
    if json != "-":
        show(evaluation_table(numbers, title=str(run)))
