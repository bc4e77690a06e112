"""``carvana fit``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli import complete
from carvana.cli.cross_validation import fit_folds, is_folds, resume_folds
from carvana.cli.find_lr import find_lr as test_rates
from carvana.cli.options import CONFIG

if TYPE_CHECKING:
    from carvana.run import Run


def fit(
    arch: Annotated[
        str | None, typer.Option(help="The architecture, as `carvana archs` lists them.", autocompletion=complete.archs)
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data folder; without one, demo cars are drawn.")] = None,
    config: CONFIG = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key: --set train.epochs=8")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this run or model folder.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run folder; by default runs/ARCH.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Resume an interrupted run; --set train.epochs=N makes it longer."),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="With --resume: where the run's data folder is now, if it has moved.")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Cross-validate: fit N networks, each without one fold of groups, and evaluate it on that fold.",
        ),
    ] = None,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Test learning rates, suggest one, and stop.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the whole config and stop.")] = False,
) -> None:
    """Train a network on labelled images; writes a run folder with model, masks, pictures and numbers."""
    if resume is not None:
        asked = {"--arch": arch, "--data": data, "--config": config, "--init": init, "--out": out, "--folds": folds}
        given = [
            name
            for name, value in (asked | {"--find-lr": find_lr or None, "--print-config": print_config or None}).items()
            if value is not None
        ]
        if is_folds(resume):
            resume_folds(
                resume, [*given, *(f"--set {setting}" for setting in settings or [])], root=root, device=device
            )
        else:
            print_result(resumed(resume, settings or [], given, root, device))
        return

    from carvana.config import load_config, parse_settings
    from carvana.errors import ConfigError

    if root is not None:
        raise ConfigError(f"--root {root}: needs --resume RUN; name the data folder of a new training with --data")
    changes: dict[str, Any] = parse_settings(settings or [])
    if arch is not None:
        changes["arch"] = arch
    if data is not None:
        changes["data.root"] = str(data)
    wanted = load_config(config, changes)
    if print_config:
        typer.echo(wanted.to_yaml(), nl=False)
        return

    if find_lr and folds is not None:
        raise ConfigError("--find-lr with --folds: these do not go together; find the rate first, then fit the folds")
    if find_lr:
        test_rates(wanted, out=out, init=init, device=device)
        return
    if folds is not None:
        fit_folds(wanted, folds=folds, out=out, init=init, device=device)
        return

    from carvana.cli.display import make_reporter
    from carvana.training.fit import fit as run_fit

    run = run_fit(wanted, out=out, init=init, device=device, reporter=make_reporter())
    print_result(run)


def resumed(path: Path, settings: list[str], given: list[str], root: Path | None, device: str) -> Run:
    """Resume a run by its own config; of all settings only the length can change."""
    from carvana.cli.display import make_reporter
    from carvana.config import parse_settings
    from carvana.errors import ConfigError
    from carvana.training.fit import resume

    changes = parse_settings(settings)
    refused = [*given, *(f"--set {key}" for key in changes if key not in ("train.epochs", "train.minutes"))]
    if refused:
        moved = "; where its data folder has moved, name it with --root" if "--data" in refused else ""
        raise ConfigError(
            f"--resume {path} with {', '.join(refused)}: a run is resumed with its own config; only more epochs can "
            f"be asked for (--set train.epochs=N), other changes need a new run (--init){moved}"
        )
    longer = {key.partition(".")[2]: value for key, value in changes.items()}
    return resume(path, root=root, **longer, device=device, reporter=make_reporter())


def print_result(run: Run) -> None:
    """Print the numbers of a run and its paths; of several processes, only the first one prints."""
    from carvana.cli.tables import evaluation_table, show
    from carvana.utils.devices import process_number

    if process_number():
        return
    show(evaluation_table(run.read_evaluation(), title=str(run.path)))
    typer.echo(f"model     {run.model_path}")
    typer.echo(f"masks     {run.masks_path}")
    typer.echo(f"pictures  {run.pictures_path}")
