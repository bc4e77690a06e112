"""``carvana fit``: a run, folds of a cross-validation, or a test of learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from carvana.cli.options import CONFIG, DEVICE, complete_archs

if TYPE_CHECKING:
    from carvana.config import FitConfig
    from carvana.folds import Folds
    from carvana.run import Run


def fit(
    arch: Annotated[
        str | None, typer.Option(help="The architecture, as `carvana archs` lists them.", autocompletion=complete_archs)
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
    device: DEVICE = "auto",
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the whole config and stop.")] = False,
) -> None:
    """Train a network on labelled images; writes a run folder with model, masks, pictures and numbers."""
    from carvana.config import load_config, parse_settings
    from carvana.errors import ConfigError

    changes: dict[str, Any] = parse_settings(settings or [])
    if resume is not None:
        asked = {"--arch": arch, "--data": data, "--config": config, "--init": init, "--out": out, "--folds": folds}
        flags = {"--find-lr": find_lr or None, "--print-config": print_config or None}
        given = [name for name, value in (asked | flags).items() if value is not None]
        _resume(resume, changes, given, root=root, device=device)
        return
    if root is not None:
        raise ConfigError(f"--root {root}: needs --resume RUN; name the data folder of a new training with --data")
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
        _find_lr(wanted, out=out, init=init, device=device)
        return

    from carvana.cli.display import make_reporter
    from carvana.training.cross_validation import fit_folds
    from carvana.training.fit import fit as run_fit

    reporter = make_reporter()
    if folds is not None:
        print_folds(fit_folds(wanted, folds=folds, out=out, init=init, device=device, reporter=reporter))
    else:
        _print_run(run_fit(wanted, out=out, init=init, device=device, reporter=reporter))


def _resume(path: Path, changes: Mapping[str, Any], given: list[str], *, root: Path | None, device: str) -> None:
    """Resume a run or folds by their own config; of all settings only the length of a run can change."""
    from carvana.cli.display import make_reporter
    from carvana.errors import ConfigError
    from carvana.folds import Folds
    from carvana.training.cross_validation import resume_folds
    from carvana.training.fit import resume

    has_folds = Folds(path).exists
    lengths = () if has_folds else ("train.epochs", "train.minutes")
    if refused := [*given, *(f"--set {key}={value}" for key, value in changes.items() if key not in lengths)]:
        words = f"--resume {path} with {', '.join(refused)}"
        if has_folds:
            raise ConfigError(f"{words}: folds are resumed with their own config; leave it out, or fit other folds")
        moved = "; where its data folder has moved, name it with --root" if "--data" in refused else ""
        raise ConfigError(
            f"{words}: a run is resumed with its own config; only more epochs can be asked for "
            f"(--set train.epochs=N), other changes need a new run (--init){moved}"
        )
    if has_folds:
        print_folds(resume_folds(path, root=root, device=device, reporter=make_reporter()))
    else:
        longer = {key.partition(".")[2]: value for key, value in changes.items()}
        _print_run(resume(path, root=root, **longer, device=device, reporter=make_reporter()))


def _find_lr(config: FitConfig, *, out: Path | None, init: Path | None, device: str) -> None:
    """Test learning rates, plot the losses and print a suggestion."""
    from carvana.cli.display import make_reporter
    from carvana.run import Run
    from carvana.training.find_lr import find_lr

    folder = Run.choose(out, arch=f"{config.arch}-lr").path  # before the work: the folder may exist
    test = find_lr(config, init=init, device=device, reporter=make_reporter())
    picture = folder / "lr.png"
    test.plot(picture)
    typer.echo(f"suggestion  {test.suggestion:g}, where the loss falls most steeply")
    typer.echo(f"also usual  {test.tenth_of_lowest:g}, a tenth of the rate where it is lowest")
    typer.echo(f"plot        {picture}")
    elsewhere = " (and another --out)" if out is not None else ""
    typer.echo(f"to use it   the same command with --set train.lr={test.suggestion:g} in place of --find-lr{elsewhere}")


def _print_run(run: Run) -> None:
    """Print the numbers of a run and its paths; of several processes, only the first one prints."""
    from carvana.cli.tables import evaluation_table, show
    from carvana.utils.devices import process_number

    if process_number() == 0:
        show(evaluation_table(run.read_evaluation(), title=str(run.path)))
        typer.echo(f"model     {run.model_path}")
        typer.echo(f"masks     {run.masks_path}")
        typer.echo(f"pictures  {run.pictures_path}")


def print_folds(folds: Folds) -> None:
    """Print the numbers of all images together and of each fold, and the paths."""
    from carvana.cli.tables import evaluation_table, show

    numbers = folds.read_evaluation()
    title = f"{folds.path}: all images, each by the network that was not trained on it"
    show(evaluation_table(numbers, title=title, threshold="best on all images; each fold's model keeps its own"))
    typer.echo(f"folds     {folds.table_path}")
    typer.echo(f"masks     {folds.masks_path}")
    typer.echo(f"pictures  {folds.pictures_path}")
    typer.echo(f"together  carvana predict {folds.path} IMAGES --out MASKS")
