"""Rows from evaluations that other versions wrote, or that do not fit each other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from carvana.config import FitConfig
from carvana.data.samples import Sample
from carvana.errors import DataError
from carvana.leaderboard.entries import NetworkEntry
from carvana.leaderboard.plan import Trial
from carvana.leaderboard.ranking import NetworkResult, read_result
from carvana.run import Run

SAMPLES = [Sample(Path(f"{name}_01.jpg"), Path(f"{name}_01.png"), name, "01", 0) for name in "abc"]


def evaluation(*scores: float, pixels: int | None = None, **others: Any) -> dict[str, Any]:
    """That of one object; without ``pixels`` as versions wrote it that had no scores of classes."""
    images = [{"image": sample.name, "dice": score} for sample, score in zip(SAMPLES, scores, strict=True)]
    of_class = {} if pixels is None else {"per_class": [{"name": "object", "pixels": pixels, "iou": 0.5, **others}]}
    return {"dice": 0.5, "threshold": 0.5, "boundary_dice": 0.5, "per_image": images, **of_class}


def result_of(folder: Path, evaluations: Sequence[dict[str, Any]]) -> NetworkResult:
    """The row of a network with one seed for each evaluation."""
    trials = []
    for seed, numbers in enumerate(evaluations):
        run = Run(folder / f"seed-{seed}")
        run.make()
        run.write_evaluation({**numbers, "dice": 0.5})
        cost, log = folder / "cost.json", folder / "log"
        trials.append(Trial(NetworkEntry("x", run=run.path), FitConfig(), run, run, cost, log))
    return read_result(
        trials, SAMPLES, failures={}, unmeasured={}, limits={}, cost_key={"carvana": "3", "measured_on": "x"}
    )


def test_costs_of_another_machine_or_version_are_none(tmp_path: Path) -> None:
    for machine, expected in (("y", None), ("x", 5.0)):
        (tmp_path / "cost.json").write_text(json.dumps({"carvana": "3", "measured_on": machine, "ms": 5.0}))
        assert result_of(tmp_path, [evaluation(0.9, 0.8, 0.7)]).row.latency_ms == expected


def test_a_seed_that_an_earlier_version_evaluated_counts_as_the_others_do(tmp_path: Path) -> None:
    found = result_of(tmp_path, [evaluation(0.9, 0.8, 0.7), evaluation(0.5, 0.6, 0.7, pixels=9, recall=None)])
    assert found.row.score == pytest.approx(0.7)
    assert found.row.per_class == ()
    again = result_of(tmp_path / "b", [evaluation(0.9, 0.8, 0.7, pixels=9), evaluation(0.5, 0.6, 0.7, pixels=9, new=1)])
    assert again.row.per_class == ({"name": "object", "pixels": 9, "iou": 0.5},)


def test_seeds_that_were_evaluated_on_other_labels_are_not_averaged(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"seed-1/evaluation\.json: has 8 pixels of object in the true labels"):
        result_of(tmp_path, [evaluation(0.9, 0.8, 0.7, pixels=9), evaluation(0.5, 0.6, 0.7, pixels=8)])


def test_a_score_that_is_not_a_number_fails_its_network(tmp_path: Path) -> None:
    run = Run(tmp_path / "seed-0")
    run.make()
    text = '{"dice": 0.5, "threshold": 0.5, "per_image": [%s]}' % ", ".join(  # noqa: UP031 - braces
        f'{{"image": "{sample.name}", "dice": {score}}}'
        for sample, score in zip(SAMPLES, (0.5, "NaN", 0.7), strict=True)
    )
    run.evaluation_path.write_text(text)
    trial = Trial(NetworkEntry("x", run=run.path), FitConfig(), run, run, tmp_path / "cost.json", tmp_path / "log")
    with pytest.raises(DataError, match=r"b_01\.jpg: its score in .*evaluation\.json .* is not a finite number"):
        read_result([trial], SAMPLES, failures={}, unmeasured={}, limits={}, cost_key={})
    assert math.isnan(run.read_evaluation()["per_image"][1]["dice"])
