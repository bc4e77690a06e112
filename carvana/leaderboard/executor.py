"""A comparison under way: processes are started and heard, and after each of them the leaderboard is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch

from carvana.data.check.resolution_limit import mean_best_dice
from carvana.errors import CarvanaError
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.plan import Plan, Trial
from carvana.leaderboard.progress import FITTING, JUDGING, MEASURING, ComparisonProgress
from carvana.leaderboard.provenance import commit
from carvana.leaderboard.ranking import Scored, rank, read_cost, read_row, seen_at
from carvana.leaderboard.records import FAILED, WAITING, Header, Row
from carvana.leaderboard.script_registrations import Places
from carvana.leaderboard.worker_pool import Ended, Job, Said, run_jobs
from carvana.utils.devices import describe, devices_named, resolve_device
from carvana.utils.version import __version__


class Executor:
    """What has failed so far, and what is known of each network.

    Args:
        plan: What there is to do.
        device: auto, cpu, cuda or cuda:N.
        memory_gb: What a network's process may take.
        places: What scripts registered.
        watcher: Who is told.
    """

    def __init__(
        self, plan: Plan, *, device: str, memory_gb: float | None, places: Places, watcher: ComparisonProgress
    ) -> None:
        self._plan = plan
        self._samples = plan.split.val
        self._watcher = watcher
        self._memory_gb = memory_gb
        self._devices = devices_named(device)
        self._places = places
        self._failures: dict[Trial, str] = {}
        self._unmeasured: dict[Trial, str] = {}
        self._header = _header(plan, self._devices)
        self._ceilings = self._find_ceilings()
        self._known: dict[str, Scored | Row] = {name: self._read(name) for name in plan.trials}

    def run(self) -> Leaderboard:
        """Do what is missing; returns the whole leaderboard."""
        missing = [trial for trial in self._plan.all_trials if not trial.judged]
        fits = sum(trial.config is not None for trial in missing)
        try:
            self._watcher.begin(
                list(map(_row, self._known.values())),
                fits=fits, minutes=self._plan.config.train.minutes, devices=len(self._devices),
            )  # fmt: skip
            self._save()
            self._work({self._job(trial): trial for trial in missing}, self._devices)
            # Alone on the machine, each in a process of its own, whose memory is nobody else's.
            self._work({self._cost_job(trial): trial for trial in self._to_measure()}, self._devices[:1])
            return self._save(pictures=True)
        except KeyboardInterrupt as stopped:
            done = sum(trial.judged for trial in self._plan.all_trials)
            total = len(self._plan.all_trials)
            stopped.args = (f"{done} of {total} fits are done, in {self._plan.out}; the same command goes on",)
            raise
        finally:
            self._watcher.close()

    def _work(self, jobs: dict[Job, Trial], devices: Sequence[str]) -> None:
        begun: set[Job] = set()
        with closing(run_jobs(list(jobs), devices, stopping=self._tell_of_stopping)) as events:
            for event in events:
                if event.job not in begun:
                    begun.add(event.job)
                    self._watcher.stage(event.job.name, _stage(event.job), self._seed_to_tell(jobs[event.job]))
                if isinstance(event, Said):
                    self._hear(event)
                else:
                    self._end(event, jobs[event.job])

    def _hear(self, said: Said) -> None:
        if said.kind == "epoch":
            self._watcher.epoch(said.job.name, *said.values)
        elif said.kind in ("info", "warn"):
            self._watcher.message(said.job.name, said.kind, *said.values)
        elif said.kind in ("start", "advance", "finish"):
            self._watcher.progress(said.job.name, said.kind, said.values)

    def _end(self, ended: Ended, trial: Trial) -> None:
        name, reason = ended.job.name, ended.reason
        if reason is not None:
            self._watcher.message(name, "warn", f"failed; all that its process printed is in {ended.job.log}")
            if _stage(ended.job) == MEASURING:
                self._unmeasured[trial] = reason
            elif not trial.judged:  # it may have been through with its work, and failed in what comes behind
                self._failures[trial] = reason
        self._known[name] = self._read(name)
        self._save()
        self._watcher.row(_row(self._known[name]))

    def _job(self, trial: Trial) -> Job:
        if trial.config is not None:
            return self._make("fit_network", trial, config=trial.config, run=trial.run)
        return self._make("judge_run", trial, run=trial.run, result=trial.result, samples=self._samples)

    def _cost_job(self, trial: Trial) -> Job:
        return self._make(
            "measure", trial, run=trial.run, image=self._samples[0].image, out=trial.cost, key=self._cost_key()
        )

    def _make(self, function: str, trial: Trial, **work: Any) -> Job:
        return Job(
            name=trial.entry.name, function=f"carvana.leaderboard.jobs:{function}", arguments=work, log=trial.log,
            places=self._places, memory_gb=self._memory_gb,
        )  # fmt: skip

    def _to_measure(self) -> Iterator[Trial]:
        for name, trials in self._plan.trials.items():
            if isinstance(self._known[name], Scored):
                found = read_cost(trials[0].cost)
                if {key: found.get(key) for key in self._cost_key()} != self._cost_key():
                    yield trials[0]

    def _cost_key(self) -> dict[str, Any]:
        """What makes a measurement out of date."""
        return {"carvana": __version__, "measured_on": self._header.machine}

    def _seed_to_tell(self, trial: Trial) -> int | None:
        return trial.seed if len(self._plan.seeds) > 1 else None

    def _tell_of_stopping(self) -> None:
        self._watcher.reporter.info("what is under way is saved; Ctrl-C again ends at once")

    def _find_ceilings(self) -> dict[Any, float]:
        """The best Dice possible at each size that networks are trained at: now, since it takes all cores."""
        configs = [trial.config or trial.run.read_config() for trial in self._plan.all_trials]
        sizes = {seen_at(config) for config in configs}
        return {
            (size, target): mean_best_dice(self._samples, size, target=target)
            for size, target in sizes
            if not isinstance(size, str)
        }

    def _read(self, name: str) -> Scored | Row:
        trials = self._plan.trials[name]
        try:
            return read_row(
                trials, self._samples,
                failures=self._failures, unmeasured=self._unmeasured, ceilings=self._ceilings,
            )  # fmt: skip
        except CarvanaError as error:  # a damaged file of one network is no reason to lose the others
            return Row(name, status=f"{FAILED}{error}", arch=trials[0].entry.arch)

    def _save(self, *, pictures: bool = False) -> Leaderboard:
        """Write the leaderboard as it stands; pictures of images take seconds, and come at the end."""
        judged = [known for known in self._known.values() if isinstance(known, Scored)]
        others = [known for known in self._known.values() if isinstance(known, Row)]
        rows, pairs, images = rank(judged, sorted(others, key=lambda row: row.status == WAITING), self._samples)
        samples = self._samples if pictures else ()
        board = Leaderboard(self._header, rows, pairs, images, path=self._plan.out, samples=samples)
        board.save()
        return board


def _stage(job: Job) -> str:
    stages = {"fit_network": FITTING, "judge_run": JUDGING, "measure": MEASURING}
    return stages[job.function.partition(":")[2]]


def _row(known: Scored | Row) -> Row:
    return known.row if isinstance(known, Scored) else known


def _header(plan: Plan, devices: Sequence[str]) -> Header:
    split = plan.split
    device = resolve_device(devices[0])
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    return Header(
        data=str(plan.config.data.root),
        images=len(split.val),
        groups=len({sample.group for sample in split.val}),
        train_images=len(split.train),
        train_groups=len({sample.group for sample in split.train}),
        split=plan.split_digest[:12],
        content=plan.content[:12],
        recipe={key: value for key, value in plan.recipe.model_dump(mode="json").items() if key != "arch"},
        recipe_name=plan.recipe_name,
        budget=plan.budget,
        seeds=plan.seeds,
        version=__version__,
        commit=commit(),
        machine=f"{many}{describe(device)}, torch {torch.__version__}{threads}",
    )
