"""Out-of-fold evaluation: all images of some folds, each by the network that was not trained on its group."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample
from carvana.evaluation.evaluate import Evaluation, count_images, summarise
from carvana.evaluation.plots import worst_images
from carvana.evaluation.samples import read_run_split
from carvana.evaluation.spool import Spool, mask_path
from carvana.evaluation.thresholds import ImageCounts, best_threshold
from carvana.folds import Folds
from carvana.inference.predictor import Predictor
from carvana.utils.progress import Reporter, default_reporter


def evaluate_folds(
    folds: Folds,
    *,
    root: str | os.PathLike[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate finished folds on all images at full size, out of fold, and write the results into their folder.

    The counts of the folds are pooled: the best threshold is chosen on all images, each image is scored at one chosen
    on other groups, and the interval is over all groups. Written are ``evaluation.json`` (the keys of a run, and each
    fold's Dice with their mean and standard deviation), ``masks/`` of all images at the pooled threshold, and
    ``pictures/worst.png``. The models of the folds keep their own thresholds.

    Args:
        folds: the folder; ``dice_as_predicted`` is at each fold's own threshold.
        root: where the data folder lies now, if it has moved.
        device: auto, cpu or cuda.
        workers: threads that read, and as many that count.
        reporter: receives the progress.

    Raises:
        RunError: a fold is not finished.
        DataError: an image is gone or cannot be read.
    """
    reporter = reporter or default_reporter()
    runs = folds.finished_runs()
    parts = [read_run_split(run, root=root, reporter=reporter).val for run in runs]
    samples = [sample for part in parts for sample in part]
    counts: list[ImageCounts] = []
    own_thresholds: list[float] = []
    started = time.perf_counter()
    with Spool.opened(folds.masks_path, samples) as spool:
        assert spool is not None
        for run, part in zip(runs, parts, strict=True):  # one network at a time in memory
            predictor = Predictor.from_pretrained(run.path, device=device)
            counts += count_images(predictor, part, spool=spool, workers=workers, reporter=reporter)
            own_thresholds += [predictor.threshold] * len(part)
        threshold = best_threshold(counts)
        spool.write_masks(samples, threshold, workers, reporter)
    evaluation = summarise(
        samples,
        counts,
        threshold=threshold,
        own_thresholds=own_thresholds,
        scale=predictor.scale,  # folds share their config
        seconds=time.perf_counter() - started,
    )
    _draw_worst(folds, evaluation, samples)
    folds.write_evaluation(evaluation.to_json() | _each_fold(folds))
    return evaluation


def _each_fold(folds: Folds) -> dict[str, Any]:
    kept = ("images", "groups", "dice", "threshold")
    each = []
    for run in folds.runs:
        numbers = run.read_evaluation()
        each.append({"run": run.path.name} | {key: numbers[key] for key in kept})
    dice = [fold["dice"] for fold in each]
    return {"folds": each, "folds_dice_mean": float(np.mean(dice)), "folds_dice_std": float(np.std(dice, ddof=1))}


def _draw_worst(folds: Folds, evaluation: Evaluation, samples: Sequence[Sample]) -> None:
    worst_images(
        evaluation,
        samples,
        lambda sample: read_mask(mask_path(folds.masks_path, sample)),
        path=folds.pictures_path / "worst.png",
    )
