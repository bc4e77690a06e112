"""``carvana.compare``: from the names of networks to a leaderboard, written anew after each job of a process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from carvana.config import FitConfig, load_config
from carvana.data.check.masks import mean_best_dice
from carvana.data.demo import class_names, kept_scenes
from carvana.data.splits import write_split
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.leaderboard.board import LEADERBOARD, Leaderboard
from carvana.leaderboard.entries import NetworkName, make_entries
from carvana.leaderboard.plan import ComparisonPlan, Trial, make_plan, other_task
from carvana.leaderboard.ranking import NetworkResult, rank, read_cost, read_result, seen_at
from carvana.leaderboard.records import FAILED, Row
from carvana.leaderboard.worker_pool import (
    Executor,
    LocalExecutor,
    MachineLostError,
    WorkerExit,
    WorkerJob,
    WorkerMessage,
)
from carvana.run import exclusive
from carvana.task import Task
from carvana.training.setup import check_alone
from carvana.utils import __version__
from carvana.utils.deprecated import parameters
from carvana.utils.progress import METRICS, Reporter, default_reporter, describe_epoch

QUICK = ("unet-ref", "unet/resnet18", "linknet/resnet18", "fpn/resnet18")
"""The networks of a quick comparison."""

QUICK_CONFIG = "compare-quick"

FITTING, EVALUATING, MEASURING = "fitting", "evaluating", "measuring"

_APPEARS = 60.0
"""Seconds until a file that another machine wrote is seen here: network file systems keep what they saw for a while."""

_FUNCTIONS = {FITTING: "fit_network", EVALUATING: "evaluate_finished", MEASURING: "measure"}
"""The stages of a network, and the function of jobs.py that each of them is."""


@parameters(recipe_name="config_name")
def compare(
    names: NetworkName | Sequence[NetworkName] = (),
    config: FitConfig | None = None,
    *,
    quick: bool = False,
    classes: int | None = None,
    seeds: int = 1,
    settings: Sequence[str] = (),
    out: str | os.PathLike[str] | None = None,
    device: str = "auto",
    memory_gb: float | None = None,
    config_name: str | None = None,
    columns: Sequence[str] = (),
    ray: str | None = None,
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
        classes: Of a quick comparison without images: on drawn scenes of so many classes, 2 to 150, not on drawn cars.
        seeds: How many times to fit each network, with the config's seed and those after it.
        settings: ``NAME:model.key=value``, for the network of that name alone.
        out: The folder; by default ``runs/compare``, or ``runs/compare-quick``.
        device: auto, cpu, cuda, cuda:N or mps; auto and cuda take all GPUs.
        memory_gb: The limit of a network's process, in GB of 10^9 bytes (of its data, on the CPU); None sets none.
        config_name: The name of the config in the leaderboard.
        columns: Names of classes whose scores are columns of the table; the page shows those of all classes.
        ray: The address of a Ray cluster on whose nodes the processes run, as many at once as there is room for, such
            as "10.0.0.1:6379"; "local" starts one on this machine. All nodes see the images and ``out`` at the same
            place. Needs the extra ``carvana[ray]``.
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
    if classes is not None:
        config = _with_scenes(classes, config, quick=quick, reporter=reporter)
    plan = make_plan(
        entries, config,
        out=folder, seeds=seeds, config_name=config_name or _name_of(config), columns=columns, device=device,
        elsewhere=ray is not None, reporter=reporter,
    )  # fmt: skip
    refusal = f"{folder}: another comparison is running in it; wait for it, or name another folder"
    with exclusive(folder / ".lock", refusal):
        _warn_of_dropped_rows(plan, reporter)
        write_split(plan.out / "split.csv", plan.split, test=plan.test)
        with _executor(plan, ray, memory_gb, reporter) as executor:
            return _Execution(plan, executor, memory_gb=memory_gb, reporter=reporter).run()


@contextmanager
def _executor(plan: ComparisonPlan, ray: str | None, memory_gb: float | None, reporter: Reporter) -> Iterator[Executor]:
    """Where the jobs run."""
    if ray is None:
        yield LocalExecutor(plan.devices, plan.header.machine)
        return
    from carvana.leaderboard.ray_pool import RayExecutor

    with closing(RayExecutor(ray, plan, memory_gb=memory_gb, reporter=reporter)) as executor:
        yield executor


def _with_scenes(classes: int, config: FitConfig | None, *, quick: bool, reporter: Reporter) -> FitConfig:
    """The config of a quick comparison on drawn scenes."""
    if not quick or config is None or config.data.root is not None or config.task.classes is not None:
        raise ConfigError(
            f"classes = {classes}: is for a quick comparison of drawn scenes; with a data folder name its classes in "
            "task.classes"
        )
    if classes == 1:
        return config
    return config.replace(
        {"task.classes": class_names(classes), "data.root": str(kept_scenes(classes, reporter=reporter))}
    )


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


class _Execution:
    """Does what a plan still lacks.

    Args:
        plan: The comparison.
        executor: Where the processes run.
        memory_gb: The limit of a network's process; None sets none.
        reporter: Receives what happens: the messages and tasks of each process with the network's name.
    """

    def __init__(
        self, plan: ComparisonPlan, executor: Executor, *, memory_gb: float | None, reporter: Reporter
    ) -> None:
        self._plan = replace(plan, header=replace(plan.header, machine=executor.machine))
        self._executor = executor
        self._samples = plan.split.val
        self._reporter = reporter
        self._memory_gb = memory_gb
        self._warned: set[str] = set()
        self._open: dict[str, WorkerJob] = {}  # tasks under way
        self._failures: dict[Trial, str] = {}
        self._unmeasured: dict[Trial, str] = {}
        # Computed before the fits, since it takes all cores.
        seen = {seen_at(trial.config) for trial in plan.all_trials}
        self._task = task = Task(**plan.header.task)
        self._limits = {
            (size, target): mean_best_dice(self._samples, size, target=target, task=task)
            for size, target in seen
            if task.kind == "binary" and not isinstance(size, str)
        }
        self._results = {name: self._read(trials) for name, trials in plan.trials.items()}

    def run(self) -> Leaderboard:
        """Do what is missing; returns the whole leaderboard."""
        plan = self._plan
        missing = [trial for trial in plan.all_trials if not self._is_done(trial)]
        try:
            self._save()
            self._work([(trial, FITTING if trial.is_fit else EVALUATING) for trial in missing])
            measured = False
            while not measured:
                self._executor.prepare()
                self._plan = replace(self._plan, header=replace(self._plan.header, machine=self._executor.machine))
                # One at a time, each in a process of its own, so that neither time nor memory is another network's.
                with suppress(MachineLostError):
                    self._work([(trial, MEASURING) for trial in self._to_measure()], alone=True)
                    measured = True
            return self._save(pictures=True)
        except KeyboardInterrupt as stopped:
            done, total = sum(map(self._is_done, plan.all_trials)), len(plan.all_trials)
            stopped.args = (f"{done} of {total} fits are done, in {plan.out}; the same command continues",)
            raise
        finally:
            self._finish_tasks()

    def _work(self, stages: Sequence[tuple[Trial, str]], *, alone: bool = False) -> None:
        jobs = {self._job(trial, stage): (trial, stage) for trial, stage in stages}
        begun: set[WorkerJob] = set()
        with closing(self._executor.run(list(jobs), alone=alone, stopping=self._announce_stop)) as events:
            for event in events:
                job, (trial, stage) = event.job, jobs[event.job]
                if job not in begun:
                    begun.add(job)
                    several = trial.is_fit and len(self._plan.header.seeds) > 1
                    seed = f", seed {trial.config.train.seed}" if several else ""
                    self._reporter.info(f"{job.name}: {stage}{seed} ({len(begun)} of {len(jobs)})")
                if isinstance(event, WorkerExit):
                    self._finish_tasks(job)
                    self._update(trial, stage, event.reason)
                else:
                    self._show(event)

    def _show(self, message: WorkerMessage) -> None:
        kind, values = message.kind, message.values
        if kind == "epoch":
            self._reporter.info(f"{message.job.name}: {describe_epoch(values[0])}")
            return
        if kind == "warn":  # all networks have the same images; what is odd about them is said once
            if values[0] in self._warned:
                return
            self._warned.add(values[0])
        words = f"{message.job.name}: {values[0]}"
        if kind == "start":
            if words in self._open:  # a job that began anew on another node
                self._reporter.finish(words)
            self._open[words] = message.job
        elif kind == "finish":
            self._open.pop(words, None)
        getattr(self._reporter, kind)(words, *values[1:], **message.numbers)

    def _finish_tasks(self, job: WorkerJob | None = None) -> None:
        """Finish what a process left open, or all processes: it may have been killed."""
        for task in [task for task, other in self._open.items() if job in (None, other)]:
            del self._open[task]
            self._reporter.finish(task)

    def _update(self, trial: Trial, stage: str, reason: str | None) -> None:
        """Read what a worker left of its network, and write the leaderboard."""
        name = trial.entry.name
        until = time.monotonic() + _APPEARS
        while reason is None and not self._is_there(trial, stage) and time.monotonic() < until:
            time.sleep(0.5)
        if reason is not None:
            self._reporter.warn(f"{name}: failed; the output of its process is in {trial.log}")
            if stage == MEASURING:
                self._unmeasured[trial] = reason
            elif not trial.done:  # a worker may also fail after its work is done
                self._failures[trial] = reason
        self._results[name] = self._read(self._plan.trials[name])
        self._save()
        row = self._results[name].row
        if row.failed:
            self._reporter.warn(f"{name} {row.status}")
        elif row.score is not None and row.latency_ms is None:
            interval = "" if row.score_ci95 is None else f" ({row.score_ci95[0]:.5f} .. {row.score_ci95[1]:.5f})"
            self._reporter.info(f"{name}: {METRICS[row.metric]} {row.score:.5f}{interval}")

    @staticmethod
    def _is_done(trial: Trial) -> bool:
        """Whether a trial needs no work: it is done, or its record is damaged, as the row of its network will say."""
        try:
            return trial.done
        except RunError:
            return True

    def _is_there(self, trial: Trial, stage: str) -> bool:
        return trial.done if stage != MEASURING else self._cost_key().items() <= read_cost(trial.cost).items()

    def _job(self, trial: Trial, stage: str) -> WorkerJob:
        task = None if trial.is_fit else other_task(trial.run, self._task)
        arguments = {
            FITTING: {"config": trial.config, "run": trial.run, "group": self._plan.out.resolve().name},
            EVALUATING: {
                "run": trial.run, "result": trial.result, "samples": self._samples, "task": task,
            },
            MEASURING: {
                "run": trial.run, "image": self._samples[0].image, "page": self._samples[0].spec.page,
                "out": trial.cost, "key": self._cost_key(),
            },
        }[stage]  # fmt: skip
        function = f"carvana.leaderboard.jobs:{_FUNCTIONS[stage]}"
        return WorkerJob(trial.entry.name, function, arguments, trial.log, self._plan.targets, self._memory_gb)

    def _to_measure(self) -> Iterator[Trial]:
        """The first trial of each network that has scores, and no cost measured by this version on this machine."""
        for name, (trial, *_) in self._plan.trials.items():
            if self._results[name].row.ok and not self._is_there(trial, MEASURING):
                yield trial

    def _cost_key(self) -> Mapping[str, Any]:
        """The entries of a cost file by which an outdated measurement is recognised."""
        return {"carvana": __version__, "measured_on": self._plan.header.machine}

    def _announce_stop(self) -> None:
        self._reporter.info("what is under way is saved; Ctrl-C again ends at once")

    def _read(self, trials: Sequence[Trial]) -> NetworkResult:
        try:
            return read_result(
                trials,
                self._samples,
                failures=self._failures,
                unmeasured=self._unmeasured,
                limits=self._limits,
                cost_key=self._cost_key(),
            )
        except CarvanaError as error:  # a damaged file of one network must not cost the others their rows
            entry = trials[0].entry
            return NetworkResult(Row(entry.name, status=f"{FAILED}{error}", arch=entry.arch))

    def _save(self, *, pictures: bool = False) -> Leaderboard:
        """Write the leaderboard as it stands; pictures of images take seconds, so they are drawn at the end."""
        rows, pairs, images = rank(list(self._results.values()), self._samples)
        samples = self._samples if pictures else ()
        board = Leaderboard(self._plan.header, rows, pairs, images, path=self._plan.out, samples=samples)
        board.save()
        return board
