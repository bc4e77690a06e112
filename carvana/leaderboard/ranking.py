"""From evaluations to a ranked table, with what can and what cannot be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carvana.config import FitConfig
from carvana.data.samples import Sample
from carvana.errors import DataError, RunError
from carvana.evaluation.statistics import LEVEL, pairwise_p
from carvana.leaderboard.plan import Trial
from carvana.leaderboard.records import FAILED, OK, Pair, Row, ScoredImage, SeedRun
from carvana.metrics import bootstrap_interval
from carvana.run import Run, read_record

WORST = 0.01
"""The share of the images, the worst ones, whose mean Dice stands in a column of its own."""


@dataclass(frozen=True)
class Scored:
    """A network's scores: the means of its refits.

    Attributes:
        row: What is known of it without the others.
        dice: (N,), an image each.
    """

    row: Row
    dice: NDArray[np.float64]


def read_row(
    trials: Sequence[Trial],
    samples: Sequence[Sample],
    *,
    failures: Mapping[Trial, str],
    unmeasured: Mapping[Trial, str],
    ceilings: Mapping[Any, float],
) -> Scored | Row:
    """What is known of a network: its scores if all its trials are judged, else a row that says how it stands.

    Args:
        trials: Its trials.
        samples: The images that judge.
        failures: Why trials failed; one that did leaves its network without a score, however many others there are.
        unmeasured: Why they could not be measured.
        ceilings: The best Dice possible, by :func:`seen_at`.
    """
    first = trials[0]
    config = first.config or first.run.read_config()
    row = Row(first.entry.name, arch=config.arch)
    failed = [trial for trial in trials if trial in failures]
    if failed:
        which = f"seed {failed[0].seed}: " if len(trials) > 1 else ""
        return replace(row, status=f"{FAILED}{which}{failures[failed[0]]}")
    if not all(trial.judged for trial in trials):
        return row
    evaluations = [trial.result.read_evaluation() for trial in trials]
    dice = np.mean([_column(trial, each, samples, "dice") for trial, each in zip(trials, evaluations, strict=True)], 0)
    boundary = np.mean([each["boundary_dice"] for each in evaluations])
    refits = tuple(_refit(trial, each) for trial, each in zip(trials, evaluations, strict=True))
    means = [refit.dice for refit in refits]
    seconds = [refit.fit_seconds for refit in refits if refit.fit_seconds is not None]
    interval = bootstrap_interval(dice, [sample.group for sample in samples])
    size, _ = seen = seen_at(config)
    row = replace(
        row,
        status=f"{FAILED}measuring: {unmeasured[first]}" if first in unmeasured else OK,
        dice=float(dice.mean()),
        dice_ci95=interval,
        dice_spread=max(means) - min(means) if len(means) > 1 else None,
        boundary_dice=float(boundary),
        dice_worst=float(np.sort(dice)[: max(1, round(WORST * len(dice)))].mean()),
        threshold=refits[0].threshold,
        size=size,
        ceiling=ceilings.get(seen),
        fit_seconds=float(np.mean(seconds)) if seconds else None,
        init=first.run.read_record().get("init"),
        run=str(first.run.path),
        masks=str(first.result.masks_path),
        refits=refits,
        **_cost(first.cost),
    )
    return Scored(row, dice)


def rank(
    judged: Sequence[Scored], others: Sequence[Row], samples: Sequence[Sample]
) -> tuple[tuple[Row, ...], tuple[Pair, ...], tuple[ScoredImage, ...]]:
    """Order networks by Dice, and compare each two of them.

    Args:
        judged: Networks with scores.
        others: Rows of networks that failed or are still to come; they follow in this order.
        samples: The images.

    Returns:
        The rows, the pairs from the largest gap on, and the images with all scores.
    """
    # Equal means keep the order in which they were named: sorting is stable.
    ordered = sorted(judged, key=lambda each: -float(each.dice.mean()))
    groups = [sample.group for sample in samples]
    scores = np.array([each.dice for each in ordered]).reshape(len(ordered), len(samples))
    p = pairwise_p(scores, groups) if ordered else np.ones((0, 0))
    rows = []
    for place, each in enumerate(ordered):
        better = sum(other.row.dice > each.row.dice for other in ordered)  # type: ignore[operator]
        rows.append(
            replace(each.row, rank=1 + better, p_best=float(p[0, place]), tied_with_best=bool(p[0, place] > LEVEL))
        )
    pairs = [
        Pair(
            better=ordered[a].row.name,
            worse=ordered[b].row.name,
            gap=float(scores[a].mean() - scores[b].mean()),
            ci95=bootstrap_interval(scores[a] - scores[b], groups),
            p=float(p[a, b]),
        )
        for a in range(len(ordered))
        for b in range(a + 1, len(ordered))
    ]
    images = tuple(
        ScoredImage(
            sample.name,
            sample.group,
            sample.view,
            path=str(sample.image),
            mask=_mask_paths(sample),
            dice={each.row.name: float(each.dice[place]) for each in ordered},
        )
        for place, sample in enumerate(samples)
    )
    return (*rows, *others), tuple(sorted(pairs, key=lambda pair: -pair.gap)), images


def seen_at(config: FitConfig) -> tuple[tuple[int, int] | str, str]:
    """The size at which a network of this recipe sees images, and what it is trained on there."""
    return (config.data.size if config.data.mode == "resize" else "native"), config.data.target


def _mask_paths(sample: Sample) -> str | tuple[str, ...]:
    paths = tuple(map(str, sample.masks))
    return paths if len(paths) > 1 else "".join(paths)


def _column(trial: Trial, evaluation: Mapping[str, Any], samples: Sequence[Sample], name: str) -> list[float]:
    scores = {image["image"]: image[name] for image in evaluation["per_image"]}
    missing = [sample.name for sample in samples if sample.name not in scores]
    if missing or len(scores) != len(samples):
        raise DataError(
            f"{trial.result.evaluation_path}: judges {len(scores)} images, not the {len(samples)} of this comparison "
            f"({missing[0] if missing else 'one too many'}); remove that folder, and it is judged anew"
        )
    return [scores[sample.name] for sample in samples]


def _refit(trial: Trial, evaluation: Mapping[str, Any]) -> SeedRun:
    run: Run = trial.run
    record = run.read_record()
    epochs = run.read_epochs()
    kept = ("epoch", "step", "seconds", "train_loss", "val_dice")
    return SeedRun(
        run=str(run.path),
        seed=run.read_config().train.seed,
        dice=evaluation["dice"],
        threshold=evaluation["threshold"],
        fit_seconds=record.get("fit_seconds"),
        epochs=epochs[-1]["epoch"] if epochs else None,
        steps=epochs[-1]["step"] if epochs else None,
        version=record.get("carvana"),
        machine=record.get("machine"),
        curve=tuple({key: epoch[key] for key in kept if epoch.get(key) is not None} for epoch in epochs),
    )


def _cost(path: Path) -> dict[str, Any]:
    """The columns of a file that :func:`carvana.leaderboard.jobs.measure` wrote; none if there is none."""
    found = read_cost(path)
    names = {"params": "params", "gflops": "gflops", "ms": "latency_ms"}
    names |= {name: name for name in ("images_per_s", "peak_memory_mb")}
    return {column: found.get(name) for name, column in names.items()}


def read_cost(path: Path) -> dict[str, Any]:
    """Such a file; empty if it is missing or damaged, since measuring again costs seconds."""
    try:
        return read_record(path)
    except RunError:
        return {}
