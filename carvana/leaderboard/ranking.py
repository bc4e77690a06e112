"""From evaluations to ranked rows, with a test of every two networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from carvana.config import FitConfig
from carvana.data.samples import Sample
from carvana.errors import DataError, RunError
from carvana.evaluation.statistics import LEVEL, adjusted_p, interval_of
from carvana.leaderboard.plan import Trial
from carvana.leaderboard.records import FAILED, OK, WAITING, Pair, Row, ScoredImage, SeedRun
from carvana.leaderboard.scores import MeanOverImages, NetworkScore, PooledIou
from carvana.run import read_record
from carvana.task import Task

WORST = 0.01
"""The share of the images, those with the lowest scores, whose mean is a column of its own."""

_COUNTS = ("name", "pixels", "images")
"""Keys of a class that are those of the true labels, the same for all seeds."""


@dataclass(frozen=True)
class NetworkResult:
    """One network before it is ranked.

    Attributes:
        row: Its row, without what depends on other networks.
        score: What it is ranked by; None if it is not evaluated.
        images: Its score on each image, by name, the mean over its seeds.
    """

    row: Row
    score: NetworkScore | None = None
    images: Mapping[str, float] = field(default_factory=dict)


def read_result(
    trials: Sequence[Trial],
    samples: Sequence[Sample],
    *,
    failures: Mapping[Trial, str],
    unmeasured: Mapping[Trial, str],
    limits: Mapping[Any, float],
    cost_key: Mapping[str, Any],
) -> NetworkResult:
    """Read what the trials of a network have left on disk: its scores once all of them are done.

    Args:
        trials: The trials of one network.
        samples: The validation images.
        failures: Why trials failed; a network with one failed trial has no scores.
        unmeasured: Why measurements failed.
        limits: The best Dice possible, by :func:`seen_at`.
        cost_key: The entries that a file of costs has if it is of this version and machine; others do not count.
    """
    first, config = trials[0], trials[0].config
    task = config.task.task()
    row = Row(first.entry.name, arch=config.arch, metric=task.metric)
    failed = [trial for trial in trials if trial in failures]
    if failed:
        which = f"seed {failed[0].config.train.seed}: " if len(trials) > 1 else ""
        return NetworkResult(replace(row, status=f"{FAILED}{which}{failures[failed[0]]}"))
    if not all(trial.done for trial in trials):
        return NetworkResult(row)
    evaluations = [trial.result.read_evaluation() for trial in trials]
    samples = _counted(trials, evaluations, samples, task)
    names, groups = [sample.name for sample in samples], [sample.group for sample in samples]
    by_name = [{image["image"]: image for image in evaluation["per_image"]} for evaluation in evaluations]
    images = [[each[name] for name in names] for each in by_name]
    dice = np.mean([[image[task.metric] for image in each] for each in images], axis=0)
    if not np.isfinite(dice).all():
        raise DataError(
            f"{names[int(np.argmin(np.isfinite(dice)))]}: its score in {trials[0].result.evaluation_path} or in that "
            "of another seed is not a finite number; remove that folder, and the network is evaluated again"
        )
    score: NetworkScore = MeanOverImages(dice, groups)
    if task.kind == "multiclass":
        score = PooledIou.of(images, groups, [bool(each["pixels"]) for each in evaluations[0]["per_class"]])
    refits = tuple(map(_seed_run, trials, evaluations))
    if isinstance(score, PooledIou):  # of the classes that are true, which evaluation.json adds predicted ones to
        refits = tuple(replace(refit, score=own) for refit, own in zip(refits, score.seeds, strict=True))
    scores = [refit.score for refit in refits]
    seconds = [refit.fit_seconds for refit in refits if refit.fit_seconds is not None]
    boundaries = [each["boundary_dice"] for each in evaluations if "boundary_dice" in each]
    size, _ = seen = seen_at(config)
    cost = read_cost(first.cost)
    cost = cost if cost_key.items() <= cost.items() else {}
    row = replace(
        row,
        status=f"{FAILED}measuring: {unmeasured[first]}" if first in unmeasured else OK,
        score=score.score,
        score_ci95=interval_of(score.draws) if len(set(groups)) > 1 else None,
        score_spread=max(scores) - min(scores) if len(scores) > 1 else None,
        per_class=_per_class(evaluations),
        absent_share=_absent_share(evaluations) if task.kind == "multiclass" else None,
        boundary_dice=float(np.mean(boundaries)) if boundaries else None,
        score_worst=float(np.sort(dice)[: max(1, round(WORST * len(dice)))].mean()),
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
    return NetworkResult(row, score, dict(zip(names, dice.tolist(), strict=True)))


def rank(
    results: Sequence[NetworkResult], samples: Sequence[Sample]
) -> tuple[tuple[Row, ...], tuple[Pair, ...], tuple[ScoredImage, ...]]:
    """Order networks by their scores, and compare each two of them.

    Args:
        results: Of all networks, in the order in which they were named.
        samples: The validation images.

    Returns:
        The rows (ranked networks first, then those that failed, then those that wait), the pairs from the largest gap
        on, and the images with the scores of all networks.
    """
    scored = [(result, result.score) for result in results if result.score is not None]
    others = [result.row for result in results if result.score is None]
    scored.sort(key=lambda each: -each[1].score)  # equal ones stay in the order of their names: it is stable
    scores = [score for _, score in scored]
    values = [score.score for score in scores]
    differences = [a.differences(b) for a, b in combinations(scores, 2)]  # type: ignore[arg-type]  # one kind each
    p = adjusted_p(np.stack(differences) if differences else np.empty((0, 1)))
    rows = [
        replace(
            result.row,
            rank=1 + sum(other > values[index] for other in values),
            p_best=float(p[0, index]),
            tied_with_best=bool(p[0, index] > LEVEL),
        )
        for index, (result, _) in enumerate(scored)
    ]
    pairs = []
    for a, b in combinations(range(len(rows)), 2):
        interval = None if rows[a].score_ci95 is None else interval_of(scores[a].draws - scores[b].draws)
        pairs.append(Pair(rows[a].name, rows[b].name, values[a] - values[b], interval, float(p[a, b])))
    images = []
    for sample in samples:
        masks = tuple(map(str, sample.masks))
        mask = masks if len(masks) > 1 else "".join(masks)
        on_image = {each.row.name: each.images[sample.name] for each, _ in scored if sample.name in each.images}
        metric = rows[0].metric if rows else "dice"
        images.append(
            ScoredImage(sample.name, sample.group, sample.view, on_image, str(sample.image), mask, metric=metric)
        )
    others.sort(key=lambda row: row.status == WAITING)
    return (*rows, *others), tuple(sorted(pairs, key=lambda pair: -pair.gap)), tuple(images)


def seen_at(config: FitConfig) -> tuple[tuple[int, int] | str, str]:
    """The size at which a network of this config sees images, and the kind of target it is trained on."""
    return config.data.shown_size() or "native", config.data.target


def _counted(
    trials: Sequence[Trial], evaluations: Sequence[Mapping[str, Any]], samples: Sequence[Sample], task: Task
) -> list[Sample]:
    """The images that have scores: all of them, but for those of which no pixel counts.

    Raises:
        DataError: an evaluation has other images, or other pixels of a class than another seed's.
    """
    pixels: dict[str, int] = {}
    counted = {image["image"] for image in evaluations[0]["per_image"]}
    wanted = [sample.name for sample in samples if sample.name in counted or not task.ignore]
    for trial, evaluation in zip(trials, evaluations, strict=True):
        found = {image["image"] for image in evaluation["per_image"]}
        missing = [name for name in wanted if name not in found]
        if missing or len(found) != len(wanted):
            raise DataError(
                f"{trial.result.evaluation_path}: has {len(found)} scores, expected those of the {len(wanted)} images "
                f"of this comparison ({missing[0] + ' is missing' if missing else 'some are not among them'}); remove "
                "that folder, and the network is evaluated again"
            )
        for each in evaluation.get("per_class", ()):  # versions had none
            if pixels.setdefault(each["name"], each["pixels"]) != each["pixels"]:
                raise DataError(
                    f"{trial.result.evaluation_path}: has {each['pixels']} pixels of {each['name']} in the true "
                    f"labels, and another seed has {pixels[each['name']]}; remove that folder, and the network is "
                    "evaluated again"
                )
    return [sample for sample in samples if sample.name in counted]


def _per_class(evaluations: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], ...]:
    """The scores of each class, the means over the seeds; nothing where an evaluation is of a version without."""
    found = []
    for of_class in zip(*(evaluation.get("per_class", ()) for evaluation in evaluations), strict=False):
        values = {key: [each[key] for each in of_class if each.get(key) is not None] for key in of_class[0]}
        means = {key: float(np.mean(each)) if each else None for key, each in values.items() if key not in _COUNTS}
        found.append({key: of_class[0][key] if key in _COUNTS else means[key] for key in of_class[0]})
    return tuple(found)


def _absent_share(evaluations: Sequence[Mapping[str, Any]]) -> float:
    """The share of the pixels that are predicted as classes which are not in the true labels."""
    matrix = np.sum([evaluation["confusion"] for evaluation in evaluations], axis=0)
    return float(matrix[:, matrix.sum(1) == 0].sum() / matrix.sum())


def _seed_run(trial: Trial, evaluation: Mapping[str, Any]) -> SeedRun:
    record, epochs = trial.run.read_record(), trial.run.read_epochs()
    kept = ("epoch", "step", "seconds", "train_loss", "val_score", "val_dice")
    metric = evaluation.get("metric", "dice")  # evaluations of earlier versions name none
    return SeedRun(
        run=str(trial.run.path),
        seed=trial.config.train.seed,
        score=evaluation[metric],
        threshold=evaluation.get("threshold"),
        fit_seconds=record.get("fit_seconds"),
        epochs=epochs[-1]["epoch"] if epochs else None,
        steps=epochs[-1]["step"] if epochs else None,
        version=record.get("carvana"),
        machine=record.get("machine"),
        curve=tuple({key: epoch[key] for key in kept if epoch.get(key) is not None} for epoch in epochs),
        metric=metric,
    )


def read_cost(path: Path) -> dict[str, Any]:
    """Read a file of costs; empty if it is missing or damaged, since measuring again takes seconds."""
    try:
        return read_record(path)
    except RunError:
        return {}
