"""Metrics against smp.metrics, against brute-force definitions and against arithmetic done by hand."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
from reference import blob, brute_force_band
from segmentation_models_pytorch import metrics as smp_metrics

from carvana.errors import DataError
from carvana.evaluation.thresholds import threshold_counts
from carvana.inference.levels import threshold_index


class Scores(NamedTuple):
    dice: float
    iou: float
    accuracy: float
    boundary_dice: float


def scores(prediction: np.ndarray, target: np.ndarray) -> Scores:
    """What the library counts of a mask that stands for probabilities of 0 and 1."""
    counts, half = threshold_counts((prediction != 0).astype(np.float32), target), threshold_index(0.5)
    whole, band = counts.whole[half], counts.band[half]
    return Scores(*(float(value) for value in (whole.dice, whole.iou, whole.accuracy, band.dice)))


def band_size(mask: np.ndarray, width: int) -> tuple[int, int]:
    """The pixels of the object and of the background near the boundary."""
    counts = threshold_counts(np.zeros(mask.shape, np.float32), mask, width=width).band[threshold_index(0.5)]
    return int(counts.false_negatives), int(counts.true_negatives)


@pytest.mark.parametrize("seed", range(3))
def test_masks_score_as_in_smp_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, prediction = blob(rng), blob(rng)
    stats = smp_metrics.get_stats(
        torch.from_numpy(prediction)[None, None].long(), torch.from_numpy(target)[None, None].long(), mode="binary"
    )
    kind = "micro-imagewise"
    found = scores(prediction, target)
    theirs = [
        getattr(smp_metrics, name)(*stats, reduction=kind).item() for name in ("f1_score", "iou_score", "accuracy")
    ]
    assert found[:3] == pytest.approx(theirs, abs=1e-6)
    ours = [getattr(reference, name)(prediction, target) for name in ("dice", "iou", "pixel_accuracy", "boundary_dice")]
    assert found == pytest.approx(ours, abs=1e-12)


def test_the_mean_over_photos_is_the_competition_metric_and_not_the_pooled_one() -> None:
    rng = np.random.default_rng(0)
    targets = [blob(rng), np.zeros((60, 83), np.uint8), blob(rng) & blob(rng)]
    predictions = [blob(rng), np.zeros((60, 83), np.uint8), targets[2]]
    stats = smp_metrics.get_stats(
        torch.tensor(np.stack(predictions)).long()[:, None],
        torch.tensor(np.stack(targets)).long()[:, None],
        mode="binary",
    )
    ours = np.mean([scores(p, t).dice for p, t in zip(predictions, targets, strict=True)])
    assert ours == pytest.approx(smp_metrics.f1_score(*stats, reduction="micro-imagewise").item(), abs=1e-6)
    assert abs(ours - smp_metrics.f1_score(*stats, reduction="micro").item()) > 0.01


def test_two_empty_masks_agree_fully() -> None:
    empty, car = np.zeros((5, 6)), np.eye(5, 6)
    assert scores(empty, empty) == scores(car, car) == (1, 1, 1, 1)
    assert scores(car, empty).dice == scores(car, empty).iou == scores(car, empty).boundary_dice == 0.0
    assert scores(empty, car).dice == 0.0


def test_any_nonzero_value_is_foreground() -> None:
    mask = np.array([[0, 1, 1]])
    assert scores(mask, mask * 255).dice == scores(mask, mask * -0.5).dice == scores(mask, mask.astype(bool)).dice == 1


def test_shapes_that_differ_are_refused_with_both_named() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        threshold_counts(np.zeros((4, 5), np.float32), np.zeros((5, 4)))


@pytest.mark.parametrize("width", [1, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_what_its_definition_says(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    target, prediction = blob(rng), blob(rng)
    band = brute_force_band(target, width)
    counts = threshold_counts(prediction.astype(np.float32), target, width=width)
    assert counts.band[threshold_index(0.5)] == reference.confusion(prediction[band], target[band])


def test_the_band_of_thin_and_touching_shapes() -> None:
    antenna = np.zeros((40, 50), np.uint8)
    antenna[:25, 30] = 1  # one pixel wide, from the picture's edge
    antenna[30:, :20] = 1  # a corner block
    antenna[35, 5] = 0  # with a hole
    band = brute_force_band(antenna, 7)
    assert band_size(antenna, 7) == ((band & (antenna == 1)).sum(), (band & (antenna == 0)).sum())


def test_the_picture_s_edge_is_no_boundary() -> None:
    half = np.zeros((30, 40))
    half[:, :20] = 1
    assert band_size(half, 7) == (7 * 30, 7 * 30)  # seven columns on either side


def test_boundary_dice_counts_the_band_alone() -> None:
    rng = np.random.default_rng(5)
    target, prediction = blob(rng), blob(rng)
    band = brute_force_band(target, 7)
    both = (prediction & target & band).sum()
    expected = 2 * both / ((prediction & band).sum() + (target & band).sum())
    assert scores(prediction, target).boundary_dice == pytest.approx(expected, abs=1e-12)
