"""``carvana.compare``: from the names of networks to a leaderboard."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from carvana.config import FitConfig, load_config
from carvana.data.splits import write_split
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.leaderboard.board import LEADERBOARD, Leaderboard
from carvana.leaderboard.entries import NetworkName, make_entries
from carvana.leaderboard.executor import Executor
from carvana.leaderboard.plan import ComparisonPlan, make_plan
from carvana.run import exclusive
from carvana.training.setup import check_alone
from carvana.utils.deprecated import parameters
from carvana.utils.progress import Reporter, default_reporter

QUICK = ("unet-ref", "unet/resnet18", "linknet/resnet18", "fpn/resnet18")
"""The networks of a quick comparison."""

QUICK_CONFIG = "compare-quick"


@parameters(recipe_name="config_name")
def compare(
    names: NetworkName | Sequence[NetworkName] = (),
    config: FitConfig | None = None,
    *,
    quick: bool = False,
    seeds: int = 1,
    settings: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory_gb: float | None = None,
    config_name: str | None = None,
    reporter: Reporter | None = None,
) -> Leaderboard:
    """Fit networks with one config, evaluate all on the same images at full size, and rank them.

    Each network is fitted in a process of its own, as many at a time as there are GPUs. If it fails (an error, a crash,
    no memory), its row gives the reason. The leaderboard is written after every row. A second call with the same
    ``out`` continues with what is missing, and refits networks whose config or images have changed.

    Args:
        names: Architectures, folders of finished runs, ``LABEL=NAME`` of either, or
            :class:`carvana.leaderboard.entries.NetworkEntry`. A finished run is only evaluated, and refused if it was
            trained on a validation group.
        config: The config that all fits share; its ``arch`` is ignored. If it names no data folder and finished runs
            are compared, the validation images of the first one are taken.
        quick: Without names, compare some small networks; without a config, take ``compare-quick``: minutes on two
            cores.
        seeds: How many times to fit each network, with the config's seed and those after it.
        settings: ``NAME:model.key=value``, for the network of that name alone.
        out: The folder; by default ``runs/compare``, or ``runs/compare-quick``.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs.
        memory_gb: The limit of a network's process, in GB of 10^9 bytes (of its data, on the CPU); None sets none.
        config_name: The name of the config in the leaderboard.
        reporter: Receives the progress.

    Returns:
        The leaderboard, which is also written to ``out``.

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
        raise ConfigError(f"memory_gb = {memory_gb:g}: expected the limit of a process in GB, above 0")
    if memory_gb is not None and find_spec("resource") is None:
        raise ConfigError("memory_gb: this system cannot limit the memory of a process; leave it out (--memory)")
    if quick and config is None:
        config, config_name = load_config(QUICK_CONFIG), config_name or QUICK_CONFIG
    folder = Path(out) if out is not None else Path("runs") / ("compare-quick" if quick else "compare")
    _check_free(folder)
    entries = make_entries(names or QUICK, settings)
    reporter = reporter or default_reporter()
    plan = make_plan(
        entries, config,
        out=folder, seeds=seeds, config_name=config_name or _name_of(config), device=device, reporter=reporter,
    )  # fmt: skip
    refusal = f"{folder}: another comparison is running in it; wait for it, or name another folder"
    with exclusive(folder / ".lock", refusal):
        _warn_of_dropped_rows(plan, reporter)
        write_split(plan.out / "split.csv", plan.split)
        return Executor(plan, memory_gb=memory_gb, reporter=reporter).run()


def _name_of(config: FitConfig | None) -> str:
    neutral = {"arch": "unet-ref", "data.root": None}
    return "default" if config is None or config.replace(neutral) == load_config().replace(neutral) else "its own"


def _check_free(out: Path) -> None:
    """Refuse a folder that holds anything but a comparison, whose files might be overwritten."""
    ours = (out / ".lock").exists() or (out / LEADERBOARD).exists()
    if not ours and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunError(f"{out}: exists already and is not the folder of a comparison; name another one with --out")


def _warn_of_dropped_rows(plan: ComparisonPlan, reporter: Reporter) -> None:
    with suppress(CarvanaError):  # there is none yet, or it is damaged and will be written anew
        gone = [row.name for row in Leaderboard.load(plan.out).rows if row.name not in plan.trials]
        if gone:
            reporter.warn(
                f"the leaderboard in {plan.out} loses the rows of {', '.join(gone)}; the runs are kept: name them too "
                "to have the rows back"
            )
