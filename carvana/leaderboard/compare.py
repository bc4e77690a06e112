"""Compare networks: fit or read each in a process of its own, judge all on the same images, measure, rank, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from carvana.config import FitConfig, load_config
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.leaderboard.board import LEADERBOARD, Leaderboard
from carvana.leaderboard.entries import Entry, make_entries
from carvana.leaderboard.executor import Executor
from carvana.leaderboard.plan import Plan, make_plan, write_plan
from carvana.leaderboard.progress import ComparisonProgress
from carvana.leaderboard.script_registrations import script_places
from carvana.training.setup import check_alone
from carvana.utils.files import lock
from carvana.utils.notebook import default_reporter
from carvana.utils.progress import Reporter

QUICK = ("unet-ref", "unet/resnet18", "linknet/resnet18", "fpn/resnet18")
"""The networks of a quick comparison."""

QUICK_RECIPE = "compare-quick"


def compare(
    names: str | os.PathLike[str] | Entry | Sequence[str | os.PathLike[str] | Entry] = (),
    config: FitConfig | None = None,
    *,
    quick: bool = False,
    seeds: int = 1,
    settings: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory_gb: float | None = None,
    recipe_name: str | None = None,
    reporter: Reporter | ComparisonProgress | None = None,
) -> Leaderboard:
    """Fit networks under one recipe, evaluate all on the same images at full size, and rank them.

    Each network is fitted in a process of its own, as many at a time as there are GPUs. Whatever happens to it (an
    error, a crash, no memory) becomes a row that says so. The leaderboard is written after every row. Called again
    with the same ``out``, it continues with what is missing and fits anew what the recipe or the images have changed.

    Args:
        names: Architectures, folders of finished runs, ``LABEL=ONE`` of either, or :class:`Entry`. A finished run is
            only evaluated, and refused if it was trained on a group that judges.
        config: The recipe that all fits share; its ``arch`` plays no part. Where it names no data folder and finished
            runs are compared, the validation images of the first of them judge.
        quick: Where no names are given, take some small networks; where no recipe is, ``compare-quick``: minutes on
            two cores.
        seeds: Fits of each network, with the recipe's seed and those after it.
        settings: ``NAME:model.key=value``, for the network of that name alone.
        out: The folder; by default ``runs/compare``, or ``runs/compare-quick``.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs.
        memory_gb: What the process of one network may take, in GB of 10^9 bytes (its data, on the CPU); None: no limit.
        recipe_name: What to call the recipe in the leaderboard.
        reporter: Where progress goes.

    Returns:
        The leaderboard, which also lies in ``out``.

    Raises:
        ConfigError, DataError, RunError, UnknownNameError: a mistake that was found before any fit, in one line.

    Example:
        >>> board = compare(["unet-ref", "unet/resnet34"], FitConfig(data={"root": "images"}))  # doctest: +SKIP
        >>> print(board)  # doctest: +SKIP
    """
    check_alone("networks are compared, each in a process of its own,")
    if not names and not quick:
        raise ConfigError("no networks to compare: name architectures (`carvana archs` lists them) or finished runs")
    if memory_gb is not None and memory_gb <= 0:
        raise ConfigError(f"memory_gb = {memory_gb:g}: expected what a process may take, in GB, above 0")
    if memory_gb is not None and find_spec("resource") is None:
        raise ConfigError("memory_gb: this system cannot limit what a process takes; leave it out (--memory)")
    if quick and config is None:
        config, recipe_name = load_config(QUICK_RECIPE), recipe_name or QUICK_RECIPE
    folder = Path(out) if out is not None else Path("runs") / ("compare-quick" if quick else "compare")
    _check_free(folder)
    entries = make_entries(names or QUICK, settings)
    watcher = (
        reporter if isinstance(reporter, ComparisonProgress) else ComparisonProgress(reporter or default_reporter())
    )
    plan = make_plan(
        entries, config,
        out=folder, seeds=seeds, recipe_name=recipe_name or _name_of(config), device=device, reporter=watcher.reporter,
    )  # fmt: skip
    places = script_places(
        trial.config.arch if trial.config is not None else trial.run.read_config().arch for trial in plan.all_trials
    )
    with _held(folder):
        _tell_of_rows_that_go(plan, watcher)
        write_plan(plan)
        return Executor(plan, device=device, memory_gb=memory_gb, places=places, watcher=watcher).run()


def _name_of(config: FitConfig | None) -> str:
    neutral = {"arch": "unet-ref", "data.root": None}
    return "default" if config is None or config.replace(neutral) == load_config().replace(neutral) else "its own"


def _check_free(out: Path) -> None:
    """Refuse a folder that holds something else, in which files of the same names may be worth something."""
    ours = (out / ".lock").exists() or (out / LEADERBOARD).exists()
    if not ours and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists already and is no comparison; name another folder with --out")


def _tell_of_rows_that_go(plan: Plan, watcher: ComparisonProgress) -> None:
    with suppress(CarvanaError):
        before = Leaderboard.load(plan.out) if (plan.out / LEADERBOARD).is_file() else None
        gone = [row.name for row in before.rows if row.name not in plan.trials] if before is not None else []
        if gone:
            watcher.reporter.warn(
                f"the leaderboard in {plan.out} had {', '.join(gone)} as well: name them too, and their rows are back "
                "at once, since what was fitted is kept"
            )


@contextmanager
def _held(out: Path) -> Iterator[None]:
    try:
        with lock(out / ".lock", wait=False):
            yield
    except BlockingIOError as error:
        raise RunError(f"{out}: another comparison is at work in it; wait for it, or name another folder") from error
