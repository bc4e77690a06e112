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


@options.with_records
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or folds; with --data also a model folder.")],
    data: Annotated[Path | None, typer.Option(help="Other labelled images; all are evaluated.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the run's own data folder lies now, if it has moved.")
    ] = None,
    others: options.OTHERS = None,
    split: Annotated[Subset | None, typer.Option(help="Which of the run's own images; by default val.")] = None,
    covering: options.Covering = options.Covering(),
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    device: options.DEVICE = "auto",
) -> None:
    """Compare a run's masks with the true ones at full size; where fit ended before its evaluation, finish the run."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, evaluation_table
    from carvana.errors import ConfigError
    from carvana.folds import Folds
    from carvana.run import Run, is_run

    check_json_target(json, replace=replace)
    reporter = make_reporter()
    as_trained = covering == options.Covering()
    settings: dict[str, Any] = {**vars(covering), "device": device, "reporter": reporter}
    if others or Folds(run).exists:
        if root is not None:
            raise ConfigError(f"--root {root}: goes with one run, evaluated on its own images; leave it out")
        numbers, table = _evaluate_together([run, *(others or [])], data, split, settings, as_trained=as_trained)
        _give(numbers, table, json)
        return
    folder = Run(run)
    finishes = data is None and split in (None, Subset.val) and as_trained
    if finishes and is_run(run) and not folder.is_evaluated:
        from carvana.evaluation.report import finish_run

        reporter.info(f"{run}: not evaluated yet; the numbers, masks and pictures are written into the run")
        numbers = finish_run(folder, root=root, device=device, reporter=reporter).to_json()
        table = evaluation_table(numbers, title=str(run))
    else:
        from carvana.evaluation.evaluate import evaluate as run_evaluate
        from carvana.evaluation.samples import choose_samples, warn_of_known_groups
        from carvana.inference.ensemble import load_predictor

        predictor = load_predictor(run, **settings)
        part: Literal["val", "train", "all"] | None = None if split is None else split.value
        samples = choose_samples(run, data=data, split=part, root=root, reporter=reporter)
        if covering.refine_with is not None:
            warn_of_known_groups([covering.refine_with], samples, reporter)
        numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
        note = _note(predictor.threshold, "the model's own")
        table = evaluation_table(numbers, title=str(run), threshold=note)
    _give(numbers, table, json)


def _evaluate_together(
    runs: list[Path], data: Path | None, split: Subset | None, settings: dict[str, Any], *, as_trained: bool
) -> tuple[dict[str, Any], Table]:
    """Evaluate several networks together on images of groups unknown to them; or read the evaluation of folds."""
    from carvana.cli.tables import evaluation_table
    from carvana.errors import ConfigError
    from carvana.evaluation.evaluate import evaluate as run_evaluate
    from carvana.evaluation.samples import choose_for_all
    from carvana.folds import Folds
    from carvana.inference.ensemble import Ensemble, load_predictor, member_paths

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
    whose = "the mean of the networks' own" if isinstance(predictor, Ensemble) else "that of the refining network"
    note = _note(predictor.threshold, whose)
    return numbers, evaluation_table(numbers, title=" with ".join(map(str, runs)), threshold=note)


def _note(threshold: float, whose: str) -> str:
    return f"best on these images; `carvana predict` uses {whose}, {threshold:.3f}; no row above is measured at that"


def _give(numbers: dict[str, Any], table: Table, json: str | None) -> None:
    from carvana.cli.tables import show, write_json_result

    if json != "-":
        show(table)
    if json is not None:
        write_json_result(json, numbers)
