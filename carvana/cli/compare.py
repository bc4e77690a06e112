"""``carvana compare``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Annotated

import typer

from carvana.cli import options


def compare(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME|RUN]...",
            help="Architectures to fit (or LABEL=NAME), finished runs, models, and repositories of the hub.",
            autocompletion=options.complete_archs,
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small networks, half a minute each, on demo cars unless --data is given.")
    ] = False,
    classes: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="With --quick: on drawn scenes of N classes, not on cars.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="The data folder. Without one, demo cars are drawn.")] = None,
    config: options.CONFIG = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[NAME:]KEY=VALUE",
            help="Change a key for all networks, or one below model for the network NAME alone.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="N", help="Fit each network N times, with other seeds.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="The folder; finished parts in it are kept. By default runs/compare.")
    ] = None,
    columns: Annotated[
        str,
        typer.Option(
            metavar="CLASS,...", help='Classes whose scores are columns of the table; "A, B" in quotes is one class.'
        ),
    ] = "",
    json: Annotated[str | None, typer.Option(metavar="FILE|-", help="Write the rows as JSON; - is stdout.")] = None,
    replace: options.REPLACE = False,
    memory: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GB", help="Memory limit of a network's process; its row fails above it."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS|local", help="Run on a Ray cluster; local starts one here. Needs the extra ray."),
    ] = None,
    device: options.DEVICE = "auto",
) -> None:
    """Fit networks with one config, evaluate all on the same images at full size, and rank them, with costs.

    Each network has a process of its own. Run the command again to continue with what is missing.
    """
    from carvana.cli.display import make_reporter
    from carvana.cli.tables import check_json_target, leaderboard_table, show_result
    from carvana.config import load_config, parse_settings
    from carvana.errors import CarvanaError, ConfigError
    from carvana.leaderboard.compare import QUICK_CONFIG
    from carvana.leaderboard.compare import compare as run_comparison
    from carvana.leaderboard.entries import is_own_setting

    if not names and not quick:
        raise typer.BadParameter("name the networks to compare, or take --quick, which compares some small ones")
    if quick and config is not None:
        raise ConfigError(
            f"--quick with --config {config}: --quick takes the config {QUICK_CONFIG}; leave one of them out"
        )
    check_json_target(json, replace=replace)
    shared = [setting for setting in settings or [] if not is_own_setting(setting)]
    own = [setting for setting in settings or [] if is_own_setting(setting)]
    changes = parse_settings(shared)
    if data is not None:
        changes["data.root"] = str(data)
    if "arch" in changes:
        raise ConfigError("--set arch: the architectures are the names that are compared")
    source = QUICK_CONFIG if quick else config
    board = run_comparison(
        names or (),
        load_config(source, changes) if source or changes else None,
        quick=quick, classes=classes, seeds=seeds, settings=own, out=out, device=device, memory_gb=memory, ray=ray,
        config_name=" with ".join(filter(None, (source or "default", ", ".join(shared)))),
        columns=[name.strip() for name in next(csv.reader([columns], skipinitialspace=True), []) if name.strip()],
        reporter=make_reporter(),
    )  # fmt: skip
    show_result(leaderboard_table(board), json, board.to_json())
    if not board.ranked:
        raise CarvanaError(f"none of the networks could be compared; {board.rows[0].name} {board.rows[0].status}")
