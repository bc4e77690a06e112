"""``carvana evaluate``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from carvana.cli import options

if TYPE_CHECKING:
    from rich.table import Table


class Subset(StrEnum):
    """Parts of a run's images."""

    val = "val"
    train = "train"
    all = "all"


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or folds; with --data a model folder serves.")],
    data: Annotated[Path | None, typer.Option(help="Other labelled images: all of them count.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the run's own data folder lies now, if it has moved.")
    ] = None,
    others: options.OTHERS = None,
    split: Annotated[Subset | None, typer.Option(help="Part of the run's own images; val if not given.")] = None,
    scale: options.SCALE = "trained",
    mode: options.MODE = "auto",
    refine_with: options.REFINE_WITH = None,
    band: options.BAND = (0.1, 0.9),
    margin: options.MARGIN = 8,
    tile: options.TILE = None,
    overlap: options.OVERLAP = None,
    join: options.JOIN = "blend",
    tta: options.TTA = False,
    memory: options.MEMORY = None,
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    device: options.DEVICE = "auto",
) -> None:
    """Measure a run's masks against the true ones, at full size; a run whose fit was interrupted is finished."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, evaluation_table
    from carvana.errors import ConfigError
    from carvana.folds import Folds
    from carvana.run import Run

    check_json_target(json, replace=replace)
    reporter = make_reporter()
    settings: dict[str, Any] = {
        "mode": mode,
        "refine_with": refine_with,
        "band": band,
        "margin": margin,
        "tile": tile,
        "overlap": overlap,
        "join": join,
        "tta": tta,
        "memory": memory,
    }
    as_trained = scale == "trained" and settings == options.COVER
    settings |= {"scale": scale, "device": device, "reporter": reporter}
    if others or Folds(run).exists:
        if root is not None:
            raise ConfigError(f"--root {root}: goes with one run, evaluated on its own images; leave it out")
        numbers, table = _evaluate_together([run, *(others or [])], data, split, settings, as_trained=as_trained)
        _give(numbers, table, json)
        return
    folder = Run(run)
    finishes = data is None and split in (None, Subset.val) and as_trained
    if finishes and folder.config_path.is_file() and not folder.is_evaluated:
        from carvana.evaluation.report import finish_run

        reporter.info(f"{run}: has no readable evaluation.json; this evaluation stays there, with masks and pictures")
        numbers = finish_run(folder, root=root, device=device, reporter=reporter).to_json()
        table = evaluation_table(numbers, title=str(run))
    else:
        from carvana.evaluation.evaluate import evaluate as run_evaluate
        from carvana.evaluation.samples import choose_samples, warn_of_known_groups
        from carvana.inference.load import load_predictor

        predictor = load_predictor(run, **settings)
        part: Literal["val", "train", "all"] | None = None if split is None else split.value
        samples = choose_samples(run, data=data, split=part, root=root, reporter=reporter)
        if refine_with is not None:
            warn_of_known_groups([refine_with], samples, reporter)
        numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
        note = f"best on these images; the model's own, {predictor.threshold:.3f}, is what `carvana predict` takes"
        table = evaluation_table(numbers, title=str(run), threshold=note)
    _give(numbers, table, json)


def _evaluate_together(
    runs: list[Path], data: Path | None, split: Subset | None, settings: dict[str, Any], *, as_trained: bool
) -> tuple[dict[str, Any], Table]:
    """The mean of several networks on images that none of them should know; or what a folder of folds holds already."""
    from carvana.cli.tables import evaluation_table
    from carvana.errors import ConfigError
    from carvana.evaluation.evaluate import evaluate as run_evaluate
    from carvana.evaluation.samples import choose_for_all
    from carvana.folds import Folds
    from carvana.inference.ensemble import Ensemble, member_paths
    from carvana.inference.load import load_predictor

    if data is None and len(runs) == 1 and split in (None, Subset.all) and as_trained:
        numbers = Folds(runs[0]).read_evaluation()
        title = f"{runs[0]}: each image by the network that was not trained on it"
        return numbers, evaluation_table(numbers, title=title, threshold="best on all images")
    if data is None or split not in (None, Subset.all):
        raise ConfigError(
            f"{' --with '.join(map(str, runs))}: of the runs' own images each network has trained on some; "
            "name labelled images of other groups with --data, without --split"
        )
    predictor, reporter = load_predictor(runs, **settings), settings["reporter"]
    known = [*member_paths(runs), *([settings["refine_with"]] if settings["refine_with"] else [])]
    samples = choose_for_all(known, data=data, reporter=reporter)
    numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
    whose = "the mean of the networks'" if isinstance(predictor, Ensemble) else "that of the network that looks again"
    note = f"best on these images; `carvana predict` takes {predictor.threshold:.3f}, {whose}"
    return numbers, evaluation_table(numbers, title=" with ".join(map(str, runs)), threshold=note)


def _give(numbers: dict[str, Any], table: Table, json: str | None) -> None:
    from carvana.cli.tables import show, write_json_result

    if json != "-":
        show(table)
    if json is not None:
        write_json_result(json, numbers)
