"""Metrics against smp.metrics, against brute-force definitions and against arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import blob, brute_force_band
from segmentation_models_pytorch import metrics as smp_metrics

from carvana.errors import DataError
from carvana.evaluation.thresholds import threshold_counts
from carvana.metrics import boundary_band, boundary_dice, dice, iou, pixel_accuracy


@pytest.mark.parametrize("seed", range(3))
def test_masks_score_as_in_smp_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, prediction = blob(rng), blob(rng)
    stats = smp_metrics.get_stats(
        torch.from_numpy(prediction)[None, None].long(), torch.from_numpy(target)[None, None].long(), mode="binary"
    )
    kind = "micro-imagewise"
    assert dice(prediction, target) == pytest.approx(smp_metrics.f1_score(*stats, reduction=kind).item(), abs=1e-6)
    assert iou(prediction, target) == pytest.approx(smp_metrics.iou_score(*stats, reduction=kind).item(), abs=1e-6)
    accuracy = smp_metrics.accuracy(*stats, reduction=kind).item()
    assert pixel_accuracy(prediction, target) == pytest.approx(accuracy, abs=1e-6)


def test_the_mean_over_photos_is_the_competition_metric_and_not_the_pooled_one() -> None:
    rng = np.random.default_rng(0)
    targets = [blob(rng), np.zeros((60, 83), np.uint8), blob(rng) & blob(rng)]
    predictions = [blob(rng), np.zeros((60, 83), np.uint8), targets[2]]
    stats = smp_metrics.get_stats(
        torch.tensor(np.stack(predictions)).long()[:, None],
        torch.tensor(np.stack(targets)).long()[:, None],
        mode="binary",
    )
    ours = np.mean([dice(p, t) for p, t in zip(predictions, targets, strict=True)])
    assert ours == pytest.approx(smp_metrics.f1_score(*stats, reduction="micro-imagewise").item(), abs=1e-6)
    assert abs(ours - smp_metrics.f1_score(*stats, reduction="micro").item()) > 0.01


def test_two_empty_masks_agree_fully() -> None:
    empty, car = np.zeros((5, 6)), np.eye(5, 6)
    for metric in (dice, iou, pixel_accuracy, boundary_dice):
        assert metric(empty, empty) == 1.0
        assert metric(car, car) == 1.0
    assert dice(car, empty) == iou(car, empty) == boundary_dice(car, empty) == 0.0
    assert dice(empty, car) == 0.0


def test_any_nonzero_value_is_foreground() -> None:
    mask = np.array([[0, 1, 1]])
    assert dice(mask * 255, mask) == dice(mask.astype(bool), mask * -0.5) == 1.0


def test_shapes_that_differ_are_refused_with_both_named() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        dice(np.zeros((4, 5)), np.zeros((5, 4)))
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        threshold_counts(np.zeros((4, 5), np.float32), np.zeros((5, 4)))


@pytest.mark.parametrize("width", [1, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_what_its_definition_says(seed: int, width: int) -> None:
    mask = blob(np.random.default_rng(seed))
    np.testing.assert_array_equal(boundary_band(mask, width), brute_force_band(mask, width))


def test_the_band_of_thin_and_touching_shapes() -> None:
    antenna = np.zeros((40, 50), np.uint8)
    antenna[:25, 30] = 1  # one pixel wide, from the picture's edge
    antenna[30:, :20] = 1  # a corner block
    antenna[35, 5] = 0  # with a hole
    np.testing.assert_array_equal(boundary_band(antenna, 7), brute_force_band(antenna, 7))


def test_the_picture_s_edge_is_no_boundary() -> None:
    assert not boundary_band(np.ones((9, 9))).any()
    half = np.zeros((30, 40))
    half[:, :20] = 1
    columns = np.flatnonzero(boundary_band(half, 7).any(axis=0))
    np.testing.assert_array_equal(columns, np.arange(13, 27))  # seven on either side
    assert boundary_band(half, 7)[:, 13:27].all()


def test_boundary_dice_counts_the_band_alone() -> None:
    rng = np.random.default_rng(5)
    target, prediction = blob(rng), blob(rng)
    band = brute_force_band(target, 7)
    both = (prediction & target & band).sum()
    expected = 2 * both / ((prediction & band).sum() + (target & band).sum())
    assert boundary_dice(prediction, target) == pytest.approx(expected, abs=1e-12)
