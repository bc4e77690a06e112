"""What there is to do for a comparison, and where each piece of it lies: decided before anything is trained.

The folder of a comparison::

    split.csv                    which photos train and which judge, the same for all
    runs/<name>-<digest>/        a run for each network and seed
    judged/<name>-<digest>/      evaluation.json and masks of runs that were finished before
    costs/<name>-<digest>.json   what predicting costs
    logs/<name>-<digest>.log     all that a network's process printed
    leaderboard.json, .csv, .md, .html

A digest stands for all that decides the result: the recipe, the split, the bytes of the photos, first weights. So a
second call finds what is done, does what is missing, and fits anew, beside the old run, what has changed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from carvana.compare.entries import Entry
from carvana.compare.leaks import refuse_known_cars
from carvana.config import FitConfig, load_config
from carvana.data.content import content_digest
from carvana.data.pairs import check_sizes
from carvana.data.splits import Split, make_split, write_split
from carvana.errors import ConfigError
from carvana.evaluation.choose import read_run_split
from carvana.files import digest, file_digest
from carvana.progress import Reporter
from carvana.run import Run
from carvana.training.recipe import check, with_data

_DIGITS = 8


@dataclass(frozen=True, eq=False)
class Trial:
    """One network to fit (or one finished run to read) and to judge.

    Attributes:
        entry: The network.
        config: The recipe of its fit; None for a finished run.
        run: Its run folder.
        result: The folder that evaluation.json and masks/ are in once it is judged: the run's own, if it is fitted.
        cost: The file of what it costs.
        log: What its process prints.
    """

    entry: Entry
    config: FitConfig | None
    run: Run
    result: Run
    cost: Path
    log: Path

    @property
    def seed(self) -> int | None:
        """The seed of its fit."""
        return None if self.config is None else self.config.train.seed

    @property
    def judged(self) -> bool:
        """Whether it is fitted and evaluated."""
        return self.result.evaluation_path.is_file()


@dataclass(frozen=True)
class Plan:
    """A whole comparison.

    Attributes:
        out: Its folder.
        recipe: What was asked for.
        config: The recipe that the fits share, with this comparison's split.
        recipe_name: What the recipe is called.
        split: Which photos train and which judge.
        split_digest: Of their names, cars and sides.
        content: Of their bytes.
        seeds: Of the refits.
        trials: For each network its trials, in the order that they were named.
    """

    out: Path
    recipe: FitConfig
    config: FitConfig
    recipe_name: str
    split: Split
    split_digest: str
    content: str
    seeds: tuple[int, ...]
    trials: dict[str, list[Trial]]

    @property
    def all_trials(self) -> list[Trial]:
        """Those of all networks."""
        return [trial for trials in self.trials.values() for trial in trials]

    @property
    def budget(self) -> str:
        """How long each network may train."""
        train = self.config.train
        count, unit = (train.epochs, "epoch") if train.minutes is None else (train.minutes, "minute")
        return f"{count:g} {unit}{'' if count == 1 else 's'}"


def make_plan(
    entries: Sequence[Entry],
    config: FitConfig | None,
    *,
    out: str | os.PathLike[str],
    seeds: int,
    recipe_name: str,
    device: str,
    reporter: Reporter,
) -> Plan:
    """Decide everything, and find all mistakes that can be found before a training.

    Args:
        entries: The networks.
        config: The recipe; without one finished runs are compared on the validation photos of the first of them.
        out: The folder of the comparison.
        seeds: How many times each network is fitted.
        recipe_name: What the recipe is called.
        device: auto, cpu, cuda or cuda:N.
        reporter: Told of what is drawn and read.

    Raises:
        ConfigError, DataError, RunError: the recipe, the photos or a run cannot be used.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: expected 1 or more fits of each network")
    runs = [Run(entry.run) for entry in entries if entry.run is not None]
    if config is None and runs:
        first = runs[0].read_config()
        config = load_config().replace({"data": first.data.model_dump(), "split": first.split.model_dump()})
        split = read_run_split(runs[0])
    else:
        config = with_data(config or load_config(), reporter=reporter)
        split = make_split(config.data, config.split)
    check(config, device=device)
    check_sizes(split.train + split.val)
    _tell_of_split(config, split, reporter)
    cars = {sample.group for sample in split.val}
    for run in runs:
        refuse_known_cars(run, cars, reporter=reporter)
    folder, recipe = Path(out), config
    if config.split.file is None or not config.split.file.is_dir():
        config = config.replace({"split.file": str((folder / "split.csv").resolve())})
    sides = (("train", split.train), ("val", split.val))
    split_digest = digest([[sample.name, sample.group, side] for side, samples in sides for sample in samples])
    content = content_digest(split.train + split.val, reporter=reporter)
    numbers = tuple(config.train.seed + number for number in range(seeds))
    trials = {entry.name: _trials(entry, config, folder, numbers, split_digest + content) for entry in entries}
    return Plan(folder, recipe, config, recipe_name, split, split_digest, content, numbers, trials)


def write_plan(plan: Plan) -> None:
    """Make the folder, and write the split that all fits take."""
    write_split(plan.out / "split.csv", plan.split)


def _trials(entry: Entry, config: FitConfig, out: Path, seeds: Sequence[int], data: str) -> list[Trial]:
    if entry.run is not None:
        run = Run(entry.run)
        key = f"{entry.slug}-{digest(file_digest(run.model_path / 'model.safetensors'), data)[:_DIGITS]}"
        return [_trial(entry, None, run, Run(out / "judged" / key), out, key)]
    trials = []
    for seed in seeds:
        own = config.replace({"arch": entry.arch, "train.seed": seed, **entry.changes})
        key = f"{entry.slug}-{_fit_digest(own, data)[:_DIGITS]}"
        run = Run(out / "runs" / key)
        trials.append(_trial(entry, own, run, run, out, key))
    return trials


def _trial(entry: Entry, config: FitConfig | None, run: Run, result: Run, out: Path, key: str) -> Trial:
    return Trial(entry, config, run, result, cost=out / "costs" / f"{key}.json", log=out / "logs" / f"{key}.log")


def _fit_digest(config: FitConfig, data: str) -> str:
    """All that decides what a fit gives; where the photos lie and how they are read does not."""
    values = config.model_dump(mode="json")
    weights = Path(config.model.encoder_weights)
    first = file_digest(weights) if weights.is_file() else ""
    shown = {key: values["data"][key] for key in ("size", "mode", "target", "augment")}
    return digest({**values, "data": shown, "split": data}, first)


def _tell_of_split(config: FitConfig, split: Split, reporter: Reporter) -> None:
    leaking = len(split.shared_groups())
    if leaking:
        reporter.warn(
            f"{leaking} cars are on both sides of the split: all numbers read too high; take split.by=group unless "
            "this is meant"
        )
