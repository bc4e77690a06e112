"""From evaluations to ranked rows, with a test of every two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.config import FitConfig
from carvana.data.samples import Sample
from carvana.errors import DataError, RunError
from carvana.evaluation.statistics import LEVEL, bootstrap_interval, pairwise_p
from carvana.leaderboard.plan import Trial
from carvana.leaderboard.records import FAILED, OK, WAITING, Pair, Row, ScoredImage, SeedRun
from carvana.run import read_record

WORST = 0.01
"""The share of the images, those with the lowest Dice, whose mean is a column of its own."""


@dataclass(frozen=True)
class NetworkResult:
    """One network before it is ranked.

    Attributes:
        row: Its row, without what depends on other networks.
        dice: (N,), its Dice on each image, the mean over its seeds; None if it is not evaluated.
    """

    row: Row
    dice: NDArray[np.float64] | None = None


def read_result(
    trials: Sequence[Trial],
    samples: Sequence[Sample],
    *,
    failures: Mapping[Trial, str],
    unmeasured: Mapping[Trial, str],
    limits: Mapping[Any, float],
) -> NetworkResult:
    """Read what the trials of a network have left on disk: its scores once all of them are done.

    Args:
        trials: The trials of one network.
        samples: The validation images.
        failures: Why trials failed; a network with one failed trial has no scores.
        unmeasured: Why measurements failed.
        limits: The best Dice possible, by :func:`seen_at`.
    """
    first, config = trials[0], trials[0].config
    row = Row(first.entry.name, arch=config.arch)
    failed = [trial for trial in trials if trial in failures]
    if failed:
        which = f"seed {failed[0].config.train.seed}: " if len(trials) > 1 else ""
        return NetworkResult(replace(row, status=f"{FAILED}{which}{failures[failed[0]]}"))
    if not all(trial.done for trial in trials):
        return NetworkResult(row)
    evaluations = [trial.result.read_evaluation() for trial in trials]
    dice = np.mean([_dice_column(trial, each, samples) for trial, each in zip(trials, evaluations, strict=True)], 0)
    refits = tuple(map(_seed_run, trials, evaluations))
    means = [refit.dice for refit in refits]
    seconds = [refit.fit_seconds for refit in refits if refit.fit_seconds is not None]
    size, _ = seen = seen_at(config)
    cost = read_cost(first.cost)
    row = replace(
        row,
        status=f"{FAILED}measuring: {unmeasured[first]}" if first in unmeasured else OK,
        dice=float(dice.mean()),
        dice_ci95=bootstrap_interval(dice, [sample.group for sample in samples]),
        dice_spread=max(means) - min(means) if len(means) > 1 else None,
        boundary_dice=float(np.mean([each["boundary_dice"] for each in evaluations])),
        dice_worst=float(np.sort(dice)[: max(1, round(WORST * len(dice)))].mean()),
        threshold=refits[0].threshold,
        size=size,
        ceiling=limits.get(seen),
        params=cost.get("params"),
        gflops=cost.get("gflops"),
        latency_ms=cost.get("ms"),
        images_per_s=cost.get("images_per_s"),
        peak_memory_mb=cost.get("peak_memory_mb"),
        fit_seconds=float(np.mean(seconds)) if seconds else None,
        init=first.run.read_record().get("init"),
        run=str(first.run.path),
        masks=str(first.result.masks_path),
        refits=refits,
    )
    return NetworkResult(row, dice)


def rank(
    results: Sequence[NetworkResult], samples: Sequence[Sample]
) -> tuple[tuple[Row, ...], tuple[Pair, ...], tuple[ScoredImage, ...]]:
    """Order networks by Dice, and compare each two of them.

    Args:
        results: Of all networks, in the order in which they were named.
        samples: The validation images.

    Returns:
        The rows (ranked networks first, then those that failed, then those that wait), the pairs from the largest gap
        on, and the images with the scores of all networks.
    """
    scored = [(result.row, result.dice) for result in results if result.dice is not None]
    others = [result.row for result in results if result.dice is None]
    scored.sort(key=lambda each: -float(each[1].mean()))  # equal means stay in the order of their names: it is stable
    groups = [sample.group for sample in samples]
    scores = np.array([dice for _, dice in scored]).reshape(len(scored), len(samples))
    means = [float(dice.mean()) for _, dice in scored]
    p = pairwise_p(scores, groups) if scored else np.ones((0, 0))
    rows = [
        replace(
            row,
            rank=1 + sum(other > means[index] for other in means),
            p_best=float(p[0, index]),
            tied_with_best=bool(p[0, index] > LEVEL),
        )
        for index, (row, _) in enumerate(scored)
    ]
    pairs = []
    for a, b in combinations(range(len(rows)), 2):
        interval = bootstrap_interval(scores[a] - scores[b], groups)
        pairs.append(Pair(rows[a].name, rows[b].name, means[a] - means[b], interval, float(p[a, b])))
    images = []
    for index, sample in enumerate(samples):
        masks = tuple(map(str, sample.masks))
        mask = masks if len(masks) > 1 else "".join(masks)
        dice = {row.name: float(column[index]) for row, column in scored}
        images.append(ScoredImage(sample.name, sample.group, sample.view, dice, str(sample.image), mask))
    others.sort(key=lambda row: row.status == WAITING)
    return (*rows, *others), tuple(sorted(pairs, key=lambda pair: -pair.gap)), tuple(images)


def seen_at(config: FitConfig) -> tuple[tuple[int, int] | str, str]:
    """The size at which a network of this config sees images, and the kind of target it is trained on."""
    return (config.data.size if config.data.mode == "resize" else "native"), config.data.target


def _dice_column(trial: Trial, evaluation: Mapping[str, Any], samples: Sequence[Sample]) -> list[float]:
    scores = {image["image"]: image["dice"] for image in evaluation["per_image"]}
    missing = [sample.name for sample in samples if sample.name not in scores]
    if missing or len(scores) != len(samples):
        raise DataError(
            f"{trial.result.evaluation_path}: has {len(scores)} scores, expected those of the {len(samples)} images "
            f"of this comparison ({missing[0] + ' is missing' if missing else 'some are not among them'}); remove that "
            "folder, and the network is evaluated again"
        )
    return [scores[sample.name] for sample in samples]


def _seed_run(trial: Trial, evaluation: Mapping[str, Any]) -> SeedRun:
    record, epochs = trial.run.read_record(), trial.run.read_epochs()
    kept = ("epoch", "step", "seconds", "train_loss", "val_dice")
    return SeedRun(
        run=str(trial.run.path),
        seed=trial.config.train.seed,
        dice=evaluation["dice"],
        threshold=evaluation["threshold"],
        fit_seconds=record.get("fit_seconds"),
        epochs=epochs[-1]["epoch"] if epochs else None,
        steps=epochs[-1]["step"] if epochs else None,
        version=record.get("carvana"),
        machine=record.get("machine"),
        curve=tuple({key: epoch[key] for key in kept if epoch.get(key) is not None} for epoch in epochs),
    )


def read_cost(path: Path) -> dict[str, Any]:
    """Read a file of costs; empty if it is missing or damaged, since measuring again takes seconds."""
    try:
        return read_record(path)
    except RunError:
        return {}
