"""``carvana evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from carvana.cli import options


def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or folds; with --data also a model folder.")],
    data: Annotated[Path | None, typer.Option(help="Other labelled images; all are evaluated.")] = None,
    root: Annotated[
        Path | None, typer.Option(help="Where the run's own data folder lies now, if it has moved.")
    ] = None,
    others: options.OTHERS = None,
    split: Annotated[
        Literal["val", "train", "all", "test"] | None,
        typer.Option(help="Which of the run's own images, by default val; test: the test part of its data folder."),
    ] = None,
    covering: options.Covering = options.Covering(),
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the numbers as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    device: options.DEVICE = "auto",
    engine: options.ENGINE = None,
) -> None:
    """Compare a run's masks with the true ones at full size; where fit ended before its evaluation, finish the run."""
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, evaluation_table, show_result
    from carvana.errors import ConfigError
    from carvana.folds import Folds
    from carvana.run import Run

    check_json_target(json, replace=replace)
    reporter = make_reporter()
    as_trained = covering == options.Covering() and engine in (None, "torch")
    runs = [run, *(others or [])]
    own_test = split == "test" and data is None and len(runs) == 1
    together = (len(runs) > 1 or Folds(run).exists) and not own_test
    if together:
        if root is not None:
            raise ConfigError(f"--root {root}: goes with one run, evaluated on its own images; leave it out")
        if data is None and not others and split in (None, "all") and as_trained:
            numbers = Folds(run).read_evaluation()
            title = f"{run}: each image by the network that was not trained on it"
            show_result(evaluation_table(numbers, title=title, threshold="best on all images"), json, numbers)
            return
        if data is None or split not in (None, "all"):
            raise ConfigError(
                f"{' --with '.join(map(str, runs))}: of the runs' own images each network has trained on some; "
                "name labelled images of other groups with --data, without --split"
            )
    elif data is None and split in (None, "val") and as_trained and Run(run).exists and not Run(run).is_evaluated:
        from carvana.evaluation.report import finish_run

        reporter.info(f"{run}: not evaluated yet; the numbers, masks and pictures are written into the run")
        numbers = finish_run(Run(run), root=root, device=device, reporter=reporter).to_json()
        show_result(evaluation_table(numbers, title=str(run)), json, numbers)
        return

    from carvana.evaluation.evaluate import evaluate as run_evaluate
    from carvana.evaluation.samples import choose_for_all, choose_samples, warn_of_known_groups
    from carvana.inference.base import thresholds_text
    from carvana.inference.ensemble import Ensemble, load_predictor, member_paths

    predictor = load_predictor(runs, **vars(covering), device=device, engine=engine, reporter=reporter)
    spec = predictor.image_specs[0]
    refining = [] if covering.refine_with is None else [covering.refine_with]
    if together:
        assert data is not None
        samples = choose_for_all([*member_paths(runs), *refining], data=data, spec=spec, reporter=reporter)
        whose = "the mean of the networks' own" if isinstance(predictor, Ensemble) else "that of the refining network"
    else:
        samples = choose_samples(run, data=data, split=split, root=root, spec=spec, reporter=reporter)
        warn_of_known_groups(refining, samples, reporter)
        whose = "the mean of the networks' own" if len(member_paths(runs)) > 1 else "the model's own"
    numbers = run_evaluate(predictor, samples, reporter=reporter).to_json()
    used = f"`carvana predict` uses {whose}, {thresholds_text(predictor.thresholds)}"
    threshold = f"best on these images; {used}; no row above is measured at that"
    if numbers.get("threshold") is not None and f"{numbers['threshold']:.3f}" == thresholds_text(predictor.thresholds):
        threshold = f"best on these images, and {whose}, which `carvana predict` uses"
    title = " with ".join(map(str, runs))
    show_result(evaluation_table(numbers, title=title, threshold=threshold), json, numbers)
