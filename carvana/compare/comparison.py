"""Compare networks: fit or read each in a process of its own, judge all on the same photos, measure, rank, write."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

import carvana
from carvana.compare.crew import Ended, Job, Said, run_jobs
from carvana.compare.entries import Entry, make_entries
from carvana.compare.leaderboard import LEADERBOARD, Leaderboard
from carvana.compare.plan import Plan, Trial, make_plan, write_plan
from carvana.compare.ranking import Judged, rank, read_row, seen_at
from carvana.compare.records import WAITING, Header, Row
from carvana.compare.scripts import importable_archs
from carvana.compare.source import commit
from carvana.compare.watcher import FITTING, JUDGING, MEASURING, Watcher
from carvana.config import FitConfig, load_config
from carvana.data.ceiling import mean_best_dice
from carvana.devices import describe, devices_named, resolve_device
from carvana.errors import ConfigError, RunError
from carvana.files import lock
from carvana.progress import LogReporter, Reporter
from carvana.run import read_record
from carvana.training.recipe import check_alone

QUICK = ("unet-ref", "unet/resnet18", "linknet/resnet18", "fpn/resnet18")
"""The networks of a quick comparison."""

QUICK_RECIPE = "compare-quick"


def compare(
    names: Sequence[str | os.PathLike[str] | Entry] = (),
    config: FitConfig | None = None,
    *,
    quick: bool = False,
    seeds: int = 1,
    settings: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory_gb: float | None = None,
    recipe_name: str | None = None,
    reporter: Reporter | Watcher | None = None,
) -> Leaderboard:
    """Fit networks under one recipe, evaluate all on the same photos at full size, and rank them.

    Each network is fitted in a process of its own, as many at a time as there are GPUs. Whatever happens to it (an
    error, a crash, no memory) becomes a row that says so. The leaderboard is written after every row. Called again
    with the same ``out``, it continues with what is missing and fits anew what the recipe or the photos have changed.

    Args:
        names: Architectures, ``LABEL=ARCHITECTURE``, folders of finished runs, or :class:`Entry`; by default, with
            ``quick``, some small ones. A finished run is only evaluated, and refused if it was trained on a car that
            judges.
        config: The recipe that all fits share; its ``arch`` plays no part. Without one it is the default, or, where
            finished runs are named, the photos and the split of the first of these.
        quick: Take the recipe ``compare-quick``: demo cars unless ``config`` names data, minutes on two cores.
        seeds: Fits of each network, with the recipe's seed and those after it.
        settings: ``NAME:model.key=value``, for the network of that name alone.
        out: The folder; by default ``runs/compare``.
        device: auto, cpu, cuda or cuda:N; auto and cuda take all GPUs.
        memory_gb: What the process of one network may take, in GB of 10^9 bytes (its data, on the CPU); None: no limit.
        recipe_name: What to call the recipe in the leaderboard.
        reporter: Where progress goes.

    Returns:
        The leaderboard, which also lies in ``out``.

    Raises:
        ConfigError, DataError, RunError, UnknownNameError: a mistake that was found before any fit, in one line.

    Example:
        >>> board = compare(["unet-ref", "unet/resnet34"], FitConfig(data={"root": "photos"}))  # doctest: +SKIP
        >>> print(board)  # doctest: +SKIP
    """
    check_alone("networks are compared, each in a process of its own,")
    if not names and not quick:
        raise ConfigError("no networks to compare: name architectures (`carvana archs` lists them) or finished runs")
    if quick and config is None:
        config, recipe_name = load_config(QUICK_RECIPE), recipe_name or QUICK_RECIPE
    entries = make_entries(names or QUICK, settings)
    watcher = reporter if isinstance(reporter, Watcher) else Watcher(reporter or LogReporter())
    plan = make_plan(
        entries, config,
        out=out if out is not None else Path("runs") / ("compare-quick" if quick else "compare"),
        seeds=seeds, recipe_name=recipe_name or "default", device=device, reporter=watcher.reporter,
    )  # fmt: skip
    archs = importable_archs(entry.arch for entry in entries if entry.run is None)
    with _held(plan.out):
        write_plan(plan)
        return _Comparison(plan, device, memory_gb, archs, watcher).run()


class _Comparison:
    """A comparison under way: what has failed, and what is known of each network."""

    def __init__(
        self, plan: Plan, device: str, memory_gb: float | None, archs: dict[str, str], watcher: Watcher
    ) -> None:
        self._plan = plan
        self._watcher = watcher
        self._memory_gb = memory_gb
        self._devices = devices_named(device)
        self._archs = archs
        self._failures: dict[Trial, str] = {}
        self._ceilings: dict[Any, float] = {}
        self._header = _header(plan, self._devices)
        self._known: dict[str, Judged | Row] = {name: self._read(name) for name in plan.trials}

    def run(self) -> Leaderboard:
        """Do what is missing; returns the whole leaderboard."""
        try:
            self._watcher.begin([_row(known) for known in self._known.values()], self._plan.config.train.minutes)
            self._save()
            self._work([self._job(trial) for trial in self._plan.all_trials if not trial.judged], self._devices)
            # Alone on the machine, each in a process of its own, whose memory is nobody else's.
            self._work([self._cost_job(trial) for trial in self._unmeasured()], self._devices[:1])
            return self._save(pictures=True)
        except KeyboardInterrupt as stopped:
            done = sum(trial.judged for trial in self._plan.all_trials)
            total = len(self._plan.all_trials)
            stopped.args = (f"{done} of {total} fits are done, in {self._plan.out}; the same command goes on",)
            raise
        finally:
            self._watcher.close()

    def _work(self, jobs: Sequence[tuple[Job, Trial, str]], devices: Sequence[str]) -> None:
        by_job = {id(job): (trial, stage) for job, trial, stage in jobs}
        told: set[int] = set()
        with closing(run_jobs([job for job, _, _ in jobs], devices)) as events:
            for event in events:
                trial, stage = by_job[id(event.job)]
                if id(event.job) not in told:
                    told.add(id(event.job))
                    several = len(self._plan.seeds) > 1 and stage == FITTING
                    self._watcher.stage(event.job.name, stage, trial.seed if several else None)
                if isinstance(event, Said):
                    self._hear(event)
                else:
                    self._end(event, trial, stage)

    def _hear(self, said: Said) -> None:
        if said.kind == "epoch":
            self._watcher.epoch(said.job.name, *said.values)
        elif said.kind in ("info", "warn"):
            self._watcher.message(said.job.name, said.kind, *said.values)
        elif said.kind in ("start", "advance", "finish"):
            self._watcher.progress(said.job.name, said.kind, said.values)

    def _end(self, ended: Ended, trial: Trial, stage: str) -> None:
        name = ended.job.name
        if ended.reason is not None and stage == MEASURING:
            self._watcher.message(name, "warn", f"cannot be measured: {ended.reason}; see {ended.job.log}")
        elif ended.reason is not None:
            self._failures[trial] = ended.reason
            self._watcher.message(name, "warn", f"failed; all that it printed is in {ended.job.log}")
        self._known[name] = self._read(name)
        self._save()
        self._watcher.row(_row(self._known[name]))

    def _job(self, trial: Trial) -> tuple[Job, Trial, str]:
        if trial.config is not None:
            work = {"config": trial.config, "run": trial.run}
            return self._make("fit_network", trial, work), trial, FITTING
        work = {"run": trial.run, "result": trial.result, "samples": self._plan.split.val}
        return self._make("judge_run", trial, work), trial, JUDGING

    def _cost_job(self, trial: Trial) -> tuple[Job, Trial, str]:
        work = {
            "run": trial.run,
            "photo": self._plan.split.val[0].image,
            "out": trial.cost,
            "key": self._cost_key(),
        }
        return self._make("measure", trial, work), trial, MEASURING

    def _make(self, function: str, trial: Trial, work: dict[str, Any]) -> Job:
        return Job(
            name=trial.entry.name, function=f"carvana.compare.tasks:{function}", arguments=work, log=trial.log,
            archs=self._archs, memory_gb=self._memory_gb,
        )  # fmt: skip

    def _unmeasured(self) -> Iterator[Trial]:
        for name, trials in self._plan.trials.items():
            if isinstance(self._known[name], Judged):
                found = read_record(trials[0].cost) if trials[0].cost.is_file() else {}
                if {key: found.get(key) for key in self._cost_key()} != self._cost_key():
                    yield trials[0]

    def _cost_key(self) -> dict[str, Any]:
        """What makes a measurement out of date."""
        return {"carvana": carvana.__version__, "measured_on": self._header.machine}

    def _read(self, name: str) -> Judged | Row:
        trials = self._plan.trials[name]
        if all(trial.judged for trial in trials):
            config = trials[0].config or trials[0].run.read_config()
            seen = size, target = seen_at(config)
            if seen not in self._ceilings and not isinstance(size, str):
                self._ceilings[seen] = mean_best_dice(self._plan.split.val, size, target=target)
        return read_row(trials, self._plan.split.val, failures=self._failures, ceilings=self._ceilings)

    def _save(self, *, pictures: bool = False) -> Leaderboard:
        """Write the leaderboard as it stands; pictures of photos take seconds, and come at the end."""
        judged = [known for known in self._known.values() if isinstance(known, Judged)]
        others = [known for known in self._known.values() if isinstance(known, Row)]
        waiting = [row for row in others if row.status == WAITING]
        rows, pairs, photos = rank(
            judged, [row for row in others if row not in waiting] + waiting, self._plan.split.val
        )
        board = Leaderboard(self._header, rows, pairs, photos, path=self._plan.out, samples=self._plan.split.val)
        board.save()
        return board


def _row(known: Judged | Row) -> Row:
    return known.row if isinstance(known, Judged) else known


def _header(plan: Plan, devices: Sequence[str]) -> Header:
    split = plan.split
    device = resolve_device(devices[0])
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return Header(
        data=str(plan.config.data.root),
        photos=len(split.val),
        cars=len({sample.group for sample in split.val}),
        train_photos=len(split.train),
        train_cars=len({sample.group for sample in split.train}),
        split=plan.split_digest[:12],
        content=plan.content[:12],
        recipe={key: value for key, value in plan.recipe.model_dump(mode="json").items() if key != "arch"},
        recipe_name=plan.recipe_name,
        budget=plan.budget,
        seeds=plan.seeds,
        version=carvana.__version__,
        commit=commit(),
        machine=f"{many}{describe(device)}, torch {torch.__version__}{threads}",
    )


@contextmanager
def _held(out: Path) -> Iterator[None]:
    held = out / ".lock"
    if (
        out.exists()
        and (not out.is_dir() or any(out.iterdir()))
        and not (held.exists() or (out / LEADERBOARD).exists())
    ):
        raise RunError(f"{out}: exists already and is no comparison; name another folder with --out")
    try:
        with lock(held, wait=False):
            yield
    except BlockingIOError as error:
        raise RunError(f"{out}: another comparison is at work in it; wait for it, or name another folder") from error
