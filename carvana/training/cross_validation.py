"""Cross-validation: a run for each fold of groups; each image is evaluated by the network that did not train on it."""

from __future__ import annotations

import os
import shutil

from carvana.config import FitConfig
from carvana.data.check.masks import check_sizes
from carvana.data.objects import check_categories
from carvana.data.splits import Split, config_samples, split_folds, without_test, write_split
from carvana.errors import CarvanaError, ConfigError, RunError
from carvana.evaluation.report import evaluate_folds
from carvana.evaluation.samples import read_run_split, with_data_root
from carvana.folds import Folds
from carvana.inference.inputs import refuse_equal_stems
from carvana.run import Run
from carvana.training.callbacks import Callback
from carvana.training.fit import fit, resume
from carvana.training.setup import check, check_alone, check_new, lasting_path, with_data
from carvana.training.signals import TrainingInterrupted
from carvana.utils.files import check_folder
from carvana.utils.progress import METRICS, Reporter, default_reporter


def fit_folds(
    config: FitConfig,
    *,
    folds: int = 5,
    out: str | os.PathLike[str] | None = None,
    init: str | os.PathLike[str] | None = None,
    device: str = "auto",
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter | None = None,
) -> Folds:
    """Train a network for each fold on the groups of the other folds, and evaluate all images out of fold.

    Each fold is a run with the same config, seed and first weights; its split is given by file. Where ``out`` holds
    unfinished folds of the same arguments, they are resumed, and finished ones are kept.

    Args:
        config: The config. ``split.by`` and ``split.seed`` decide the folds; ``split.val`` is not used.
        folds: How many, at least 2.
        out: The folder; by default ``runs/<architecture>-folds`` with a free number.
        init: A run or model folder to take all weights from before each training.
        device: auto, cpu, cuda or cuda:N.
        callbacks: Called during every training.
        reporter: Shows progress.

    Raises:
        ConfigError, DataError, ModelError, RunError: one line that says what is wrong; each of them is a ValueError.

    Example:
        >>> folds = fit_folds(FitConfig(data={"root": "images"}), folds=5)  # doctest: +SKIP
        >>> folds.read_evaluation()["dice"]  # doctest: +SKIP
        0.985
    """
    reporter = reporter or default_reporter()
    if config.split.file is not None:
        raise ConfigError(
            f"split.file = {str(config.split.file)!r}: --folds makes its own splits; leave it out, or fit without "
            "--folds"
        )
    check_alone("folds are fitted")
    config = check(config, device=device, reporter=reporter)
    config = with_data(config, reporter=reporter)
    first_weights = lasting_path(init)
    if out is not None and Folds(out).exists:
        _check_same(Folds(out), config, folds, first_weights)
        Folds(out).keep(config)
        return resume_folds(out, device=device, callbacks=callbacks, reporter=reporter)
    check_new(config)
    check_folder(Run.choose(out, arch=f"{config.arch}-folds").path)
    splits = _split(config, folds, reporter)
    made = Folds.create(out, config, folds=folds, init=first_weights)
    try:
        _write(made, splits)
        return _fit_all(made, config, device=device, callbacks=callbacks, reporter=reporter)
    except CarvanaError:
        if not any(run.path.exists() for run in made.runs):  # the error came before the first training
            shutil.rmtree(made.path, ignore_errors=True)
        raise


def resume_folds(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    callbacks: tuple[Callback, ...] = (),
    reporter: Reporter | None = None,
) -> Folds:
    """Resume interrupted folds, by their own config: finished folds are kept, an unfinished one is resumed.

    Args:
        path: The folder of folds.
        root: Where their data folder is now, if it has moved; see :func:`carvana.resume`.
        device: auto, cpu, cuda or cuda:N.
        callbacks: Called during every training that is left.
        reporter: Shows progress.

    Raises:
        RunError: not a folder of folds, or a state cannot be read.
        DataError: the images are missing or changed.
    """
    reporter = reporter or default_reporter()
    check_alone("folds are fitted")
    made = Folds.open(path)
    if made.is_evaluated:
        reporter.info(f"{made.path}: all {made.count} folds are fitted and evaluated; nothing is left to do")
        return made
    config = with_data_root(made.read_config(), root, name=made.path)
    if not made.table_path.is_file():  # killed before the folds were written
        _write(made, _split(config, made.count, reporter))
    return _fit_all(made, config, root=root, device=device, callbacks=callbacks, reporter=reporter)


def _check_same(made: Folds, config: FitConfig, folds: int, init: str | None) -> None:
    if made.is_evaluated:
        raise RunError(f"{made.path}: exists already and is never overwritten; name another folder with --out")
    kept = made.read_config().with_neutral(config)
    if (kept, made.count, made.init) != (config, folds, init):
        raise RunError(
            f"{made.path}: holds folds of another config; `carvana fit --resume {made.path}` goes on with that one, "
            "and --out names another folder"
        )


def _split(config: FitConfig, folds: int, reporter: Reporter) -> list[Split]:
    samples = without_test(config_samples(config.data, config.data.root, reporter=reporter))
    if any(sample.subset == "val" for sample in samples):
        reporter.info(f"{config.data.root}: folds divide its train and its val part, {len(samples)} images, anew")
    check_categories(samples, config.task.task())
    splits = split_folds(samples, folds=folds, seed=config.split.seed, by=config.split.by, task=config.task.task())
    refuse_equal_stems([sample.image for sample in samples], [sample.stem for sample in samples])
    check_sizes(samples)
    return splits


def _write(made: Folds, splits: list[Split]) -> None:
    for number, split in enumerate(splits, start=1):
        write_split(made.split_path(number), split)
    rows = [(sample.name, sample.group, n) for n, split in enumerate(splits, start=1) for sample in split.val]
    made.write_table(rows)  # last: where it is there, all splits are


def _fit_all(
    made: Folds,
    config: FitConfig,
    *,
    root: str | os.PathLike[str] | None = None,
    device: str,
    callbacks: tuple[Callback, ...],
    reporter: Reporter,
) -> Folds:
    begun = next((run for run in made.runs if run.split_path.is_file()), None)
    if root is not None and begun is not None:
        read_run_split(begun, root=root, reporter=reporter)  # those of the other folds are the same images
    for number, run in enumerate(made.runs, start=1):
        name = f"fold {number} of {made.count}"
        if run.is_done:
            reporter.info(f"{name}: fitted already")
        else:
            reporter.info(f"{name}: {run.path}")
            own = config.replace({"split.file": str(made.split_path(number).resolve())})
            try:
                if run.config_path.is_file():
                    run.write_config(run.read_config().with_neutral(config))
                    resume(run.path, root=root, device=device, callbacks=callbacks, reporter=reporter)
                else:
                    fit(
                        own, out=run.path, init=made.init, device=device, callbacks=callbacks,
                        group=made.path.resolve().name, reporter=reporter,
                    )  # fmt: skip
            except TrainingInterrupted as stopped:
                raise TrainingInterrupted(
                    f"stopped in {name}; continue with carvana fit --resume {made.path}",
                    signal_number=stopped.exit_code - 128,
                ) from stopped
        numbers = run.read_evaluation()
        metric = numbers.get("metric", "dice")  # earlier versions knew no other
        reporter.info(f"{name}: {METRICS[metric]} {numbers[metric]:.5f} at full size")
    evaluate_folds(made, root=root, device=device, reporter=reporter)
    return made
