"""Metrics against smp.metrics, against brute-force definitions and against arithmetic done by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from reference import blob, brute_force_band
from segmentation_models_pytorch import metrics as smp_metrics

from carvana.errors import DataError
from carvana.evaluation.thresholds import threshold_counts
from carvana.inference.prediction import threshold_index
from carvana.metrics import Confusion

HALF = threshold_index(0.5)


def counted(prediction: np.ndarray, target: np.ndarray) -> Confusion:
    """The counts of a mask over the whole image."""
    return threshold_counts(prediction.astype(np.float32), target).whole[HALF]


def dice(prediction: np.ndarray, target: np.ndarray) -> float:
    return float(counted(prediction, target).dice)


def band(mask: np.ndarray, width: int = 7) -> np.ndarray:
    """The pixels near the boundary: those that counts look at, by marking 255 of them at a time with a level each."""
    found = np.zeros(mask.size, bool)
    for start in range(0, mask.size, 255):
        marked = np.zeros(mask.size, np.uint8)
        part = marked[start : start + 255]
        part[:] = np.arange(1, 1 + part.size)
        near = threshold_counts(marked.reshape(mask.shape), mask, width=width).histograms[2:].sum(axis=0)
        found[start : start + 255] = near[1 : 1 + part.size] > 0
    return found.reshape(mask.shape)


@pytest.mark.parametrize("seed", range(3))
def test_masks_score_as_in_smp_metrics(seed: int) -> None:
    rng = np.random.default_rng(seed)
    target, prediction = blob(rng), blob(rng)
    stats = smp_metrics.get_stats(
        torch.from_numpy(prediction)[None, None].long(), torch.from_numpy(target)[None, None].long(), mode="binary"
    )
    kind = "micro-imagewise"
    assert dice(prediction, target) == pytest.approx(smp_metrics.f1_score(*stats, reduction=kind).item(), abs=1e-6)
    found = counted(prediction, target)
    assert float(found.iou) == pytest.approx(smp_metrics.iou_score(*stats, reduction=kind).item(), abs=1e-6)
    accuracy = smp_metrics.accuracy(*stats, reduction=kind).item()
    assert float(found.accuracy) == pytest.approx(accuracy, abs=1e-6)


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
    for mask in (empty, car):
        counts = threshold_counts(mask.astype(np.float32), mask)
        for found in (counts.whole[HALF], counts.band[HALF]):
            assert found.dice == found.iou == found.accuracy == 1.0
    assert dice(car, empty) == counted(car, empty).iou == 0.0
    assert threshold_counts(car.astype(np.float32), empty).band[HALF].dice == 0.0
    assert dice(empty, car) == 0.0


def test_any_nonzero_value_is_foreground() -> None:
    mask = np.array([[0, 1, 1]])
    assert dice(mask, mask * 255) == dice(mask, mask.astype(bool)) == dice(mask, mask * -0.5) == 1.0


def test_shapes_that_differ_are_refused_with_both_named() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\).*\(5, 4\)"):
        threshold_counts(np.zeros((4, 5), np.float32), np.zeros((5, 4)))


@pytest.mark.parametrize("width", [1, 3, 7])
@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_what_its_definition_says(seed: int, width: int) -> None:
    mask = blob(np.random.default_rng(seed))
    np.testing.assert_array_equal(band(mask, width), brute_force_band(mask, width))


def test_the_band_of_thin_and_touching_shapes() -> None:
    antenna = np.zeros((40, 50), np.uint8)
    antenna[:25, 30] = 1  # one pixel wide, from the picture's edge
    antenna[30:, :20] = 1  # a corner block
    antenna[35, 5] = 0  # with a hole
    np.testing.assert_array_equal(band(antenna), brute_force_band(antenna, 7))


def test_the_picture_s_edge_is_no_boundary() -> None:
    half = np.zeros((30, 40), np.uint8)
    half[:, :20] = 1
    found = band(half)
    np.testing.assert_array_equal(np.flatnonzero(found.any(axis=0)), np.arange(13, 27))  # seven on either side
    assert found[:, 13:27].all()


def test_boundary_dice_counts_the_band_alone() -> None:
    rng = np.random.default_rng(5)
    target, prediction = blob(rng), blob(rng)
    near = brute_force_band(target, 7)
    both = (prediction & target & near).sum()
    expected = 2 * both / ((prediction & near).sum() + (target & near).sum())
    counts = threshold_counts(prediction.astype(np.float32), target)
    assert float(counts.band[HALF].dice) == pytest.approx(expected, abs=1e-12)
