"""Runs a comparison: starts worker processes, shows their progress, and writes the leaderboard after each of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

import torch

from carvana.data.check.masks import mean_best_dice
from carvana.errors import CarvanaError
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.plan import ComparisonPlan, Trial
from carvana.leaderboard.progress import EVALUATING, FITTING, MEASURING, ComparisonProgress
from carvana.leaderboard.provenance import commit
from carvana.leaderboard.ranking import NetworkResult, rank, read_cost, read_result, seen_at
from carvana.leaderboard.records import FAILED, Header, Row
from carvana.leaderboard.worker_pool import WorkerExit, WorkerJob, WorkerMessage, run_jobs
from carvana.utils.devices import describe, devices_named, resolve_device
from carvana.utils.version import __version__

_STAGES = {"fit_network": FITTING, "evaluate_finished": EVALUATING, "measure": MEASURING}
"""The functions of jobs.py, and the stage that each of them is."""


class Executor:
    """Does what a plan still lacks.

    Args:
        plan: The comparison.
        device: auto, cpu, cuda or cuda:N.
        memory_gb: The limit of a network's process; None sets none.
        progress: Shows what happens.
    """

    def __init__(
        self, plan: ComparisonPlan, *, device: str, memory_gb: float | None, progress: ComparisonProgress
    ) -> None:
        self._plan = plan
        self._samples = plan.split.val
        self._progress = progress
        self._memory_gb = memory_gb
        self._devices = devices_named(device)
        self._failures: dict[Trial, str] = {}
        self._unmeasured: dict[Trial, str] = {}
        self._header = _header(plan, self._devices)
        self._limits = self._resolution_limits()
        self._results = {name: self._read(trials) for name, trials in plan.trials.items()}

    def run(self) -> Leaderboard:
        """Do what is missing; returns the whole leaderboard."""
        missing = [trial for trial in self._plan.all_trials if not trial.done]
        fits = sum(trial.config is not None for trial in missing)
        try:
            self._progress.begin(
                [result.row for result in self._results.values()],
                fits=fits, minutes=self._plan.config.train.minutes, devices=len(self._devices),
            )  # fmt: skip
            self._save()
            self._work({self._job(trial): trial for trial in missing}, self._devices)
            # One at a time, each in a process of its own, so that neither time nor memory is another network's.
            self._work({self._cost_job(trial): trial for trial in self._to_measure()}, self._devices[:1])
            return self._save(pictures=True)
        except KeyboardInterrupt as stopped:
            done = sum(trial.done for trial in self._plan.all_trials)
            total = len(self._plan.all_trials)
            stopped.args = (f"{done} of {total} fits are done, in {self._plan.out}; the same command continues",)
            raise
        finally:
            self._progress.close()

    def _work(self, jobs: dict[WorkerJob, Trial], devices: Sequence[str]) -> None:
        begun: set[WorkerJob] = set()
        with closing(run_jobs(list(jobs), devices, stopping=self._announce_stop)) as events:
            for event in events:
                job, trial = event.job, jobs[event.job]
                if job not in begun:
                    begun.add(job)
                    self._progress.stage(job.name, _stage(job), trial.seed if len(self._plan.seeds) > 1 else None)
                if isinstance(event, WorkerMessage):
                    self._show(event)
                else:
                    self._update(event, trial)

    def _show(self, message: WorkerMessage) -> None:
        if message.kind == "epoch":
            self._progress.epoch(message.job.name, *message.values)
        elif message.kind in ("info", "warn"):
            self._progress.message(message.job.name, message.kind, *message.values)
        elif message.kind in ("start", "advance", "finish"):
            self._progress.progress(message.job.name, message.kind, message.values)

    def _update(self, ended: WorkerExit, trial: Trial) -> None:
        """Read what a worker left of its network, and write the leaderboard."""
        if ended.reason is not None:
            self._progress.message(ended.job.name, "warn", f"failed; the output of its process is in {ended.job.log}")
            if _stage(ended.job) == MEASURING:
                self._unmeasured[trial] = ended.reason
            elif not trial.done:  # a worker may also fail after its work is done
                self._failures[trial] = ended.reason
        result = self._results[ended.job.name] = self._read(self._plan.trials[ended.job.name])
        self._save()
        self._progress.row(result.row)

    def _job(self, trial: Trial) -> WorkerJob:
        if trial.config is not None:
            return self._make("fit_network", trial, config=trial.config, run=trial.run)
        return self._make("evaluate_finished", trial, run=trial.run, result=trial.result, samples=self._samples)

    def _cost_job(self, trial: Trial) -> WorkerJob:
        return self._make(
            "measure", trial, run=trial.run, image=self._samples[0].image, out=trial.cost, key=self._cost_key()
        )

    def _make(self, function: str, trial: Trial, **arguments: Any) -> WorkerJob:
        return WorkerJob(
            name=trial.entry.name, function=f"carvana.leaderboard.jobs:{function}", arguments=arguments, log=trial.log,
            targets=self._plan.targets, memory_gb=self._memory_gb,
        )  # fmt: skip

    def _to_measure(self) -> Iterator[Trial]:
        """The first trial of each network that has scores, and no cost measured by this version on this machine."""
        for name, (trial, *_) in self._plan.trials.items():
            cost = read_cost(trial.cost)
            if self._results[name].row.ok and {key: cost.get(key) for key in self._cost_key()} != self._cost_key():
                yield trial

    def _cost_key(self) -> dict[str, Any]:
        """The entries of a cost file by which an outdated measurement is recognised."""
        return {"carvana": __version__, "measured_on": self._header.machine}

    def _announce_stop(self) -> None:
        self._progress.reporter.info("what is under way is saved; Ctrl-C again ends at once")

    def _resolution_limits(self) -> dict[Any, float]:
        """The best Dice possible at each training size: computed before the fits, since it takes all cores."""
        sizes = {seen_at(trial.trained_with) for trial in self._plan.all_trials}
        return {
            (size, target): mean_best_dice(self._samples, size, target=target)
            for size, target in sizes
            if not isinstance(size, str)
        }

    def _read(self, trials: Sequence[Trial]) -> NetworkResult:
        try:
            return read_result(
                trials, self._samples, failures=self._failures, unmeasured=self._unmeasured, limits=self._limits
            )
        except CarvanaError as error:  # a damaged file of one network must not cost the others their rows
            entry = trials[0].entry
            return NetworkResult(Row(entry.name, status=f"{FAILED}{error}", arch=entry.arch))

    def _save(self, *, pictures: bool = False) -> Leaderboard:
        """Write the leaderboard as it stands; pictures of images take seconds, so they are drawn at the end."""
        rows, pairs, images = rank(list(self._results.values()), self._samples)
        samples = self._samples if pictures else ()
        board = Leaderboard(self._header, rows, pairs, images, path=self._plan.out, samples=samples)
        board.save()
        return board


def _stage(job: WorkerJob) -> str:
    return _STAGES[job.function.partition(":")[2]]


def _header(plan: ComparisonPlan, devices: Sequence[str]) -> Header:
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
        config={key: value for key, value in plan.given_config.model_dump(mode="json").items() if key != "arch"},
        config_name=plan.config_name,
        budget=plan.budget,
        seeds=plan.seeds,
        version=__version__,
        commit=commit(),
        machine=f"{many}{describe(device)}, torch {torch.__version__}{threads}",
    )
