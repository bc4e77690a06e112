"""What there is to do for a comparison, and where each piece of it lies: decided before anything is trained.

The folder of a comparison::

    split.csv                    which images train and which judge, the same for all
    runs/<name>-<digest>/        a run for each network and seed
    judged/<name>-<digest>/      evaluation.json and masks of runs that were finished before
    costs/<name>-<digest>.json   what predicting costs
    logs/<name>-<digest>.log     all that a network's process printed
    leaderboard.json, .csv, .md, .html

A digest stands for all that decides the result: the recipe, the split, the bytes of the images, first weights. So a
second call finds what is done, does what is missing, and fits anew, beside the old run, what has changed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from carvana.config import FitConfig, SplitConfig, load_config
from carvana.data.check.sizes import check_sizes
from carvana.data.digest import content_digest
from carvana.data.splits import Split, make_split, tell_of_leak, write_split
from carvana.errors import CarvanaError, ConfigError
from carvana.evaluation.samples import read_run_split
from carvana.leaderboard.entries import Entry
from carvana.leaderboard.leakage import refuse_known_groups
from carvana.registry import registry
from carvana.run import Run
from carvana.training.setup import check, with_data
from carvana.utils.files import digest, file_digest
from carvana.utils.progress import Reporter

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
        """Whether it is fitted to its end and evaluated.

        ``carvana evaluate`` judges an interrupted fit as well, but how long a fit took is noted at its end alone.
        """
        if not self.result.is_evaluated:
            return False
        return self.config is None or "fit_seconds" in self.run.read_record()


@dataclass(frozen=True)
class Plan:
    """A whole comparison.

    Attributes:
        out: Its folder.
        recipe: What was asked for.
        config: The recipe that the fits share, with this comparison's split.
        recipe_name: What the recipe is called.
        split: Which images train and which judge.
        split_digest: Of their names, groups and sides.
        content: Of their bytes.
        seeds: Of the refits; none if only finished runs are compared.
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
        """How long each network may train; nothing if none does."""
        if not self.seeds:
            return ""
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
        config: The recipe. Where it names no data folder, or there is none, and finished runs are compared, the
            validation images of the first of them judge.
        out: The folder of the comparison.
        seeds: How many times each network is fitted.
        recipe_name: What the recipe is called.
        device: auto, cpu, cuda or cuda:N.
        reporter: Told of what is drawn and read.

    Raises:
        ConfigError, DataError, RunError: the recipe, the images or a run cannot be used.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: expected 1 or more fits of each network")
    runs = [Run(entry.run) for entry in entries if entry.run is not None]
    if runs and (config is None or config.data.root is None):
        config = _on_images_of(runs[0], config)
        split = read_run_split(runs[0])
        reporter.info(f"the validation images of {runs[0].path} judge, since no --data is given")
    else:
        config = with_data(config or load_config(), reporter=reporter)
        split = make_split(config.data, config.split)
    check(config, device=device)
    check_sizes(split.train + split.val)
    tell_of_leak(split, reporter)
    for run in runs:
        refuse_known_groups(run, split.val, group=config.data.group, reporter=reporter)
    folder, recipe = Path(out), config
    if config.split.file is None or not config.split.file.is_dir():
        config = config.replace({"split.file": str((folder / "split.csv").resolve())})
    sides = (("train", split.train), ("val", split.val))
    split_digest = digest([[sample.name, sample.group, side] for side, samples in sides for sample in samples])
    content = content_digest(split.train + split.val, reporter=reporter)
    fits = any(entry.run is None for entry in entries)
    numbers = tuple(config.train.seed + number for number in range(seeds)) if fits else ()
    trials = {entry.name: _trials(entry, config, folder, numbers, split_digest + content) for entry in entries}
    return Plan(folder, recipe, config, recipe_name, split, split_digest, content, numbers, trials)


def write_plan(plan: Plan) -> None:
    """Make the folder, and write the split that all fits take."""
    write_split(plan.out / "split.csv", plan.split)


def _on_images_of(run: Run, config: FitConfig | None) -> FitConfig:
    """A recipe with the images and the split of a finished run."""
    if config is not None and config.split != SplitConfig():
        raise ConfigError(
            f"split: without a data folder the validation images of {run.path} judge, as that run divided them; name "
            "the folder with --data, too, to divide its images anew"
        )
    theirs = run.read_config()
    data = {f"data.{key}": getattr(theirs.data, key) for key in ("root", "images", "masks", "group")}
    return (config or load_config()).replace({**data, "split": theirs.split.model_dump()})


def _trials(entry: Entry, config: FitConfig, out: Path, seeds: Sequence[int], data: str) -> list[Trial]:
    if entry.run is not None:
        run = Run(entry.run)
        model = [file_digest(run.model_path / name) for name in ("model.safetensors", "config.json")]
        key = f"{entry.slug}-{digest(model, data)[:_DIGITS]}"
        return [_trial(entry, None, run, Run(out / "judged" / key), out)]
    trials = []
    for seed in seeds:
        own = config.replace({"arch": entry.arch, "train.seed": seed, **entry.changes})
        weights = Path(own.model.encoder_weights)
        if weights.is_file():
            own = own.replace({"model.encoder_weights": str(weights.resolve())})
        run = _folder(out / "runs" / f"{entry.slug}-{_fit_digest(own, data)[:_DIGITS]}", own, data)
        trials.append(_trial(entry, own, run, run, out))
    return trials


def _trial(entry: Entry, config: FitConfig | None, run: Run, result: Run, out: Path) -> Trial:
    key = result.path.name
    return Trial(entry, config, run, result, cost=out / "costs" / f"{key}.json", log=out / "logs" / f"{key}.log")


def _folder(path: Path, config: FitConfig, data: str) -> Run:
    """The run of this recipe: its folder, or the next number where somebody made another training of that one."""
    for number in itertools.count(1):
        run = Run(path if number == 1 else path.with_name(f"{path.name}-{number}"))
        if not run.config_path.exists():
            return run
        with suppress(CarvanaError):
            found = run.read_config()
            if config.train.batch_size == "auto":  # has become a number in the run
                found = found.replace({"train.batch_size": "auto"})
            if _fit_digest(found, data) == _fit_digest(config, data):
                return run
    raise AssertionError(path)


def _fit_digest(config: FitConfig, data: str) -> str:
    """All that decides what a fit gives; where images and weights lie, and how they are read, does not."""
    values = config.model_dump(mode="json")
    shown = {key: values["data"][key] for key in ("size", "mode", "target", "augment")}
    weights = Path(config.model.encoder_weights)
    if weights.is_file():
        values["model"]["encoder_weights"] = file_digest(weights)
    origin = registry.archs.entry(config.arch) if config.arch in registry.archs else None
    plugin = [origin.source, origin.version] if origin is not None and origin.source != "carvana" else []
    return digest({**values, "data": shown, "split": data}, plugin)
