"""The plan of a comparison: which fits and evaluations it needs, and in which folders their results lie.

The folder of a comparison::

    split.csv                    the training and the validation images, the same for all networks
    runs/<name>-<digest>/        a run for each network and seed
    judged/<name>-<digest>/      evaluation.json and masks of runs that were finished before
    costs/<name>-<digest>.json   the cost of prediction
    logs/<name>-<digest>.log     everything that a network's process printed
    leaderboard.json, .csv, .md, .html

A digest covers everything that decides the result: the config, the split, the bytes of the images, first weights. So a
second call finds what is done, does what is missing, and refits, beside the old run, what has changed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import torch

from carvana.config import DataConfig, FitConfig, SplitConfig, load_config
from carvana.data.check.masks import check_sizes
from carvana.data.digest import content_digest
from carvana.data.samples import Sample
from carvana.data.split import named_samples
from carvana.data.splits import Split, config_samples, make_split, tell_of_leak, without_test
from carvana.errors import CarvanaError, ConfigError, DataError, did_you_mean, plural, shortened
from carvana.evaluation.samples import read_run_split
from carvana.leaderboard.entries import NetworkEntry, refuse_known_groups
from carvana.leaderboard.records import Header
from carvana.leaderboard.worker_pool import ScriptTargets, script_targets
from carvana.models import weight_files
from carvana.models.serialization import CONFIG, WEIGHTS, locate, read_spec
from carvana.registry import registry
from carvana.run import Run, numbered
from carvana.task import Task
from carvana.training.setup import check, check_new, in_full, measured, packages_with_versions, with_data
from carvana.training.trackers import tracker_names
from carvana.utils import __version__
from carvana.utils.devices import describe, devices_named, resolve_device
from carvana.utils.files import digest, expanded, file_digest
from carvana.utils.progress import Reporter

_DIGITS = 8

_PLACES = ("root", "images", "masks", "mask_suffix", "layout", "group", "workers", "cache_gb")
"""Keys of data that decide which images there are, of which a digest is made, or only how fast they are read."""

_SCORED = {
    "binary": "mean Dice per image at full size, thresholds chosen on other groups",
    "multilabel": "mean over classes and images of Dice at full size, a threshold a class, chosen on other groups",
    "multiclass": "mean IoU of the classes in the true labels, pixels counted over all images at full size",
}
"""How images are scored, by kind of task."""


@dataclass(frozen=True, eq=False)
class Trial:
    """One fit of a network with one seed, or one finished run to evaluate.

    Attributes:
        entry: The network.
        config: The config of the fit, or that of the finished run.
        run: The run folder.
        result: The folder of evaluation.json and masks/: the run itself if it is fitted here.
        cost: The file with the cost of prediction.
        log: The file that receives what its processes print.
    """

    entry: NetworkEntry
    config: FitConfig
    run: Run
    result: Run
    cost: Path
    log: Path

    @property
    def is_fit(self) -> bool:
        """Whether the run is fitted here."""
        return self.entry.run is None

    @property
    def done(self) -> bool:
        """Whether it is fitted to its end and evaluated."""
        return self.run.is_done if self.is_fit else self.result.is_evaluated


@dataclass(frozen=True)
class ComparisonPlan:
    """A whole comparison.

    Attributes:
        out: The folder.
        header: What all rows share.
        split: The training and the validation images.
        test: The images that a table of the user's keeps for a test.
        devices: On each of which a worker process runs at a time.
        device: The device as it was named: "auto" and "cuda" are any GPU.
        trials: The trials of each network, in the order in which the networks were named.
        targets: Names that a script registered, which worker processes must register as well.
    """

    out: Path
    header: Header
    split: Split
    test: tuple[Sample, ...]
    devices: list[str]
    device: str
    trials: dict[str, list[Trial]]
    targets: ScriptTargets

    @property
    def all_trials(self) -> list[Trial]:
        """The trials of all networks."""
        return [trial for trials in self.trials.values() for trial in trials]


def make_plan(
    entries: Sequence[NetworkEntry],
    config: FitConfig | None,
    *,
    out: str | os.PathLike[str],
    seeds: int,
    config_name: str,
    columns: Sequence[str] = (),
    device: str,
    elsewhere: bool = False,
    reporter: Reporter,
) -> ComparisonPlan:
    """Plan a comparison, and raise every error that can be found before a fit.

    Args:
        entries: The networks.
        config: The config that the fits share. Without a data folder, the networks are evaluated on the validation
            images of the first finished run.
        out: The folder of the comparison.
        seeds: How many times each network is fitted.
        config_name: The name of the config.
        columns: Names of classes whose scores are columns of the table.
        device: auto, cpu, cuda or cuda:N.
        elsewhere: Whether the fits run on other machines, so that this one needs no such device.
        reporter: Receives what is drawn and read.

    Raises:
        ConfigError, DataError, RunError: the config, the images or a run cannot be used.
    """
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}: expected 1 or more fits of each network")
    fits = any(entry.run is None for entry in entries)
    if seeds > 1 and not fits:
        raise ConfigError(f"seeds = {seeds}: is for networks that are fitted here, and all of these are finished")
    runs = [Run(entry.run) for entry in entries if entry.run is not None]
    if runs and (config is None or config.data.root is None):
        known = next((run for run in runs if run.split_path.is_file()), None)
        if known is None:
            raise ConfigError(f"{runs[0].path}: a model does not list its images; name a data folder with --data")
        config = _on_images_of(known, config)
        split = read_run_split(known)
        reporter.info(f"no --data given: networks are evaluated on the validation images of {known.path}")
    else:
        config = with_data(config or load_config(), reporter=reporter)
        if fits or config.split != SplitConfig() or any(run.split_path.is_file() for run in runs):
            split = make_split(config.data, config.split, in_full(config).task.task(), reporter=reporter)
        else:  # models alone are judged on all images
            split = Split((), without_test(config_samples(config.data, config.data.root, reporter=reporter)))
    config = check(config, device=None if elsewhere else device)
    if fits:
        tracker_names(config.train.log_to)
    config, split, _ = measured(config, split, reporter=reporter)
    task = in_full(config).task.task()
    _check_columns(columns, task)
    for run in runs:
        _check_classes(run, task)
    check_sizes(split.train + split.val)
    tell_of_leak(split, reporter)
    is_folder = config.split.file is not None and config.split.file.is_dir()
    shared = split.shared_groups() if split.is_given or is_folder else set()
    for entry in entries:
        if entry.run is not None and not Run(entry.run).split_path.is_file():
            reporter.warn(
                f"{entry.name}: its training images are not known; if some of them are evaluated here, its score is "
                "too high"
            )
    for run in runs:
        if not run.split_path.is_file():
            continue
        refuse_known_groups(run, split.val, group=config.data.group, shared=shared, reporter=reporter)
    folder, given = Path(out), config
    table, test = config.split.file, list[Sample]()
    if fits and table is not None and table.is_file():
        used = {sample.name for sample in split.train + split.val}
        with suppress(DataError):  # without a data folder it is the table of a run, and may have changed since
            named = named_samples(table, config_samples(config.data, config.data.root))
            test = [sample for sample, subset in named if subset == "test" and sample.name not in used]
    if not is_folder:
        config = config.replace({"split.file": str((folder / "split.csv").resolve())})
    sides = (("train", split.train), ("val", split.val))
    split_digest = digest([[sample.name, sample.group, side] for side, samples in sides for sample in samples])
    content = content_digest(split.train + split.val, reporter=reporter)
    numbers = tuple(config.train.seed + number for number in range(seeds)) if fits else ()
    trials = {entry.name: _trials(entry, config, task, folder, numbers, split_digest + content) for entry in entries}
    if any(not trial.run.config_path.is_file() for found in trials.values() for trial in found if trial.is_fit):
        check_new(config)
    devices = devices_named("auto" if elsewhere else device)
    header = Header(
        data=str(config.data.root),
        images=len(split.val),
        groups=len({sample.group for sample in split.val}),
        train_images=len(split.train),
        train_groups=len({sample.group for sample in split.train}),
        split=split_digest[:12],
        content=content[:12],
        config=_shared([given] if fits else [run.read_config() for run in runs if run.config_path.is_file()]),
        config_name=config_name if fits else "",
        budget=_budget(config) if fits else "",
        seeds=numbers,
        version=__version__,
        commit=_commit(Path(__file__).resolve().parents[2]),
        machine=machine_line(devices),
        scored=_SCORED[task.kind],
        task=task.model_dump(mode="json"),
        columns=tuple(dict.fromkeys(columns)),
        finished=tuple(entry.name for entry in entries if entry.run is not None),
    )
    targets = script_targets(trial.config.arch for each in trials.values() for trial in each)
    return ComparisonPlan(folder, header, split, tuple(test), devices, device, trials, targets)


def _on_images_of(run: Run, config: FitConfig | None) -> FitConfig:
    """The config with the images and the split of a finished run."""
    if config is not None and config.split != SplitConfig():
        raise ConfigError(
            f"split: without a data folder the split of {run.path} is taken; to split its images in another way, name "
            "their folder with --data"
        )
    theirs, settings, usual = run.read_config(), config or load_config(), DataConfig()
    where = ("root", "images", "masks", "mask_suffix", "layout", "group", "channels", "range", "nodata", "pages")
    data = {f"data.{key}": getattr(theirs.data, key) for key in where}
    for key in where:
        if getattr(settings.data, key) not in (getattr(usual, key), getattr(theirs.data, key)):
            raise ConfigError(
                f"data.{key}: without a data folder the images of {run.path} are read as it read them; leave this key "
                f"at {getattr(usual, key)!r}, or name their folder with --data"
            )
    if not settings.task.classes:
        data["task"] = theirs.task.model_dump()
    return settings.replace({**data, "split": theirs.split.model_dump()})


def _config_of(run: Run, task: Task) -> FitConfig:
    """The config of a run; of a model what its record says, with the label files of the comparison."""
    if run.config_path.is_file():
        return run.read_config()
    spec = read_spec(locate(run.path))
    config = FitConfig(
        arch=spec.arch, data={"mode": "crop"} if spec.trained_size is None else {"size": spec.trained_size}
    )
    named = spec.task or Task.binary()
    if named.is_unnamed:
        return config.replace({"task": task.model_dump(mode="json")}) if task.kind == "binary" else config
    values = dict(zip(task.names, task.classes, strict=True))
    classes = [values.get(each.name, each).model_dump(mode="json") for each in named.classes]
    return config.replace({"task": {"kind": named.kind, "classes": classes, "ignore": list(task.ignore)}})


def other_task(run: Run, task: Task) -> Task | None:
    """The task by which the truth of a run or a model is read, if its own names other values of label files."""
    task = _config_of(run, task).task.task() if task.is_unnamed else task
    if run.config_path.is_file():  # else of several classes: `_check_classes` has seen that their values are the same
        values = run.read_config().task.task().classes[0].value
        return task if task.kind == "binary" and values != task.classes[0].value else None
    own = read_spec(locate(run.path)).task
    return task if own is not None and own != task else None


def _check_classes(run: Run, task: Task) -> None:
    """Refuse a run of other classes, or of other labels of the same: it would be scored on another truth."""
    own = _config_of(run, task).task.task()
    binary = own.kind == task.kind == "binary"  # of which the name says nothing
    if not binary and (own.kind, own.names) != (task.kind, task.names):
        theirs, ours = (f"{each.kind}, {shortened(', '.join(each.names), 200)}" for each in (own, task))
        raise ConfigError(
            f"{run.path}: has the classes of another task ({theirs}), expected those of this comparison ({ours}): "
            "networks are ranked on the same classes"
        )
    values = [tuple(each.value) for each in own.classes], tuple(own.ignore)
    if binary and not (own.classes[0].value and task.classes[0].value):  # masks may be those of the named value
        values = [tuple(task.classes[0].value)], tuple(own.ignore)
    if values != ([tuple(each.value) for each in task.classes], tuple(task.ignore)):
        raise ConfigError(
            f"{run.path}: reads or ignores other values of label files than this comparison does; the same pixels "
            "must count for all networks"
        )


def _check_columns(columns: Sequence[str], task: Task) -> None:
    """Refuse columns that are no class of several."""
    for name in columns:
        if len(task.classes) < 2 or name not in task.names:
            known = did_you_mean(name, task.names) if len(task.classes) > 1 else "; there is one class alone"
            raise ConfigError(f"columns: {name!r} is not one of the classes{known}")


def _trials(
    entry: NetworkEntry, config: FitConfig, task: Task, out: Path, seeds: Sequence[int], data: str
) -> list[Trial]:
    if entry.run is not None:
        run = Run(entry.run)
        model = [file_digest(locate(run.path) / name) for name in (WEIGHTS, CONFIG)]
        config = _config_of(run, task)
        other = other_task(run, task)
        read = [] if other is None else [other.model_dump(mode="json")]
        key = f"{entry.slug}-{digest(model, data, *read)[:_DIGITS]}"
        return [_trial(entry, config, run, Run(out / "judged" / key), out)]
    trials = []
    for seed in seeds:
        own = config.replace({"arch": entry.arch, "train.seed": seed, **entry.changes})
        weights = weights_path(own)
        if weights.is_file():
            own = own.replace({"model.encoder_weights": str(weights.resolve())})
        elif weights.suffix in weight_files.SUFFIXES and not _origin(own):  # plugins take what they like
            raise ConfigError(
                f"{entry.name}: model.encoder_weights: no such file '{weights}'; correct the path, or take auto or none"
            )
        run = _folder(out / "runs" / f"{entry.slug}-{_fit_digest(own, data)[:_DIGITS]}", own, data)
        trials.append(_trial(entry, own, run, run, out))
    return trials


def _trial(entry: NetworkEntry, config: FitConfig, run: Run, result: Run, out: Path) -> Trial:
    key = result.path.name
    return Trial(entry, config, run, result, cost=out / "costs" / f"{key}.json", log=out / "logs" / f"{key}.log")


def _folder(path: Path, config: FitConfig, data: str) -> Run:
    """The run of this config: the folder, or the next numbered one if that holds another training."""
    for run in map(Run, numbered(path)):
        if not run.config_path.exists():
            return run
        with suppress(CarvanaError):
            found = run.read_config()
            weights = config.model.encoder_weights  # the file of a folder with this digest; it may have moved
            if weights_path(config).is_file() and not weights_path(found).is_file():
                found = found.replace({"model.encoder_weights": weights})
            if config.train.batch_size == "auto":  # has become a number in the run
                found = found.replace({"train.batch_size": "auto"})
            if _fit_digest(found, data) == _fit_digest(config, data):
                return run
    raise AssertionError(path)


def weights_path(config: FitConfig) -> Path:
    """Where the first weights lie, if they are a file."""
    return expanded(config.model.encoder_weights)


def _fit_digest(config: FitConfig, data: str) -> str:
    """A digest of everything that decides the result of a fit, but not of where images and weights lie."""
    values = config.digest_values()
    shown = {key: value for key, value in values["data"].items() if key not in _PLACES}
    weights = weights_path(config)
    if weights.is_file():
        values["model"]["encoder_weights"] = file_digest(weights)
    plugin = _origin(config)
    plugin += [word for each in sorted(packages_with_versions(config).items()) for word in each]
    return digest({**values, "data": shown, "split": data}, plugin)


def _origin(config: FitConfig) -> list[str]:
    """The package of the architecture and its version, unless it is this one."""
    entry = registry.archs.entry(config.arch) if config.arch in registry.archs else None
    return [entry.source, entry.version] if entry is not None and entry.source != "carvana" else []


def _shared(configs: Sequence[FitConfig]) -> dict[str, dict[str, Any]]:
    """The keys, by section, that have the same value in all configs."""
    if not configs:
        return {}
    first, *others = (each.model_dump(mode="json", exclude={"arch"}) for each in configs)
    return {
        section: {key: value for key, value in keys.items() if all(each[section][key] == value for each in others)}
        for section, keys in first.items()
    }


def _budget(config: FitConfig) -> str:
    """How long each network may train."""
    train = config.train
    count, unit = (train.epochs, "epoch") if train.minutes is None else (train.minutes, "minute")
    return f"{count:g} {unit}{'' if count == 1 else 's'}"


def machine_line(devices: Sequence[str]) -> str:
    """The machine of these devices in one line, with what else decides times."""
    device = resolve_device(devices[0])
    many = f"{len(devices)} x " if len(devices) > 1 else ""
    threads = f", {plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else ""
    return f"{many}{describe(device)}, torch {torch.__version__}{threads}"


def _commit(folder: Path) -> str | None:
    """The commit of the source, 12 digits, with "+" where tracked files are changed; None if it is not known.

    An installation from a version-control address records its commit (PEP 610); else the folder above the package may
    be a git checkout.
    """
    with suppress(PackageNotFoundError):
        recorded = json.loads(distribution("carvana").read_text("direct_url.json") or "{}")
        if found := recorded.get("vcs_info", {}).get("commit_id"):
            return str(found)[:12]
    if not (folder / ".git").exists():  # a folder further up may be the checkout of something else
        return None
    words = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--abbrev=12", "--dirty=+"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=True)  # noqa: S603 - our words
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
