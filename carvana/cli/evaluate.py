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
    """Measure a run's masks against the true ones, at full size; a run whose fit was interrupted is finished."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, evaluation_table, show, write_json_result
    from carvana.run import Run

    check_json_target(json)
    reporter = make_reporter()
    folder = Run(run)
    finishes = data is None and split in (None, Subset.val) and scale == "trained"
    if finishes and folder.config_path.is_file() and not folder.evaluation_path.exists():
        from carvana.evaluation.report import finish_run

        reporter.info(f"{run}: has no evaluation.json yet; this evaluation stays there, with masks and pictures")
        numbers = finish_run(folder, device=device, reporter=reporter).to_json()
        table = evaluation_table(numbers, title=str(run))
    else:
        from carvana.evaluation.choose import choose_samples
        from carvana.evaluation.evaluate import evaluate as run_evaluate
        from carvana.inference.predictor import Predictor

        predictor = Predictor.from_pretrained(run, scale=scale, device=device)
        samples = choose_samples(run, data=data, split=None if split is None else split.value, reporter=reporter)
        numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
        note = f"best on these photos; the model's own, {predictor.threshold:.3f}, is what `carvana predict` takes"
        table = evaluation_table(numbers, title=str(run), threshold=note)
    if json != "-":
        show(table)
    if json is not None:
        write_json_result(json, numbers)
