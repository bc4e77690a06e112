"""Metrics against smp.metrics, against brute-force definitions and against arithmetic done by hand."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest
import torch
from segmentation_models_pytorch import metrics as smp_metrics

from carvana.errors import DataError
from carvana.metrics import (
    THRESHOLDS,
    PhotoCounts,
    best_threshold,
    bootstrap_interval,
    boundary_band,
    boundary_dice,
    confusion,
    cross_fitted_thresholds,
    dice,
    iou,
    levels,
    pixel_accuracy,
    threshold_counts,
    threshold_index,
)


def blob(rng: np.random.Generator, height: int = 60, width: int = 83) -> np.ndarray:
    """A mask of random smooth shapes that touch the picture's edge at times."""
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), 5)
    return (noise > 0.05).astype(np.uint8)


def soft(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Probabilities that agree with the mask more or less."""
    noisy = mask + rng.normal(0, 0.3, mask.shape).astype(np.float32)
    return np.clip(cv2.GaussianBlur(noisy.astype(np.float32), (0, 0), 2), 0, 1)


def brute_force_band(mask: np.ndarray, width: int) -> np.ndarray:
    """For each pixel the distance to every pixel of the other class, written as the definition says it."""
    rows, columns = np.indices(mask.shape)
    places = np.stack([rows.ravel(), columns.ravel()], axis=1)
    flat = mask.ravel() != 0
    band = np.zeros(flat.shape, dtype=bool)
    for side in (True, False):
        others = places[flat != side]
        if len(others):
            squared = ((places[flat == side][:, None] - others[None]) ** 2).sum(axis=2).min(axis=1)
            band[flat == side] = squared <= width**2
    return band.reshape(mask.shape)


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


def test_levels_keep_every_grid_threshold_exact() -> None:
    grid = THRESHOLDS.astype(np.float32)
    near = np.concatenate([grid, np.nextafter(grid, np.float32(0)), np.nextafter(grid, np.float32(1)), [0.0, 1.0]])
    random = np.random.default_rng(0).random(20_000, dtype=np.float32)
    values = np.concatenate([near.astype(np.float32), random])
    expected = (values[:, None] > grid[None]).sum(axis=1)
    np.testing.assert_array_equal(levels(values), expected)


def test_levels_survive_a_rounding_beyond_one() -> None:
    beyond = np.array([np.nextafter(np.float32(1), np.float32(2)), 1.01, -0.01], np.float32)
    np.testing.assert_array_equal(levels(beyond), [255, 255, 0])


@pytest.mark.parametrize("threshold", [1 / 256, 0.25, 0.5, 0.75, 255 / 256])
@pytest.mark.parametrize("seed", range(2))
def test_counts_at_a_threshold_are_those_of_its_mask(seed: int, threshold: float) -> None:
    rng = np.random.default_rng(seed)
    target = blob(rng)
    probabilities = soft(rng, target)
    probabilities.ravel()[:100] = threshold  # exactly on the threshold is background
    counts = threshold_counts(probabilities, target)
    mask, band = probabilities > threshold, brute_force_band(target, 7)
    place = threshold_index(threshold)
    assert counts.whole[place] == confusion(mask, target)
    assert counts.band[place] == confusion(mask[band], target[band])
    assert float(counts.band.dice[place]) == boundary_dice(mask, target)


def test_counts_are_the_same_from_levels_and_from_probabilities() -> None:
    rng = np.random.default_rng(1)
    target = blob(rng)
    probabilities = soft(rng, target)
    ours, theirs = threshold_counts(probabilities, target), threshold_counts(levels(probabilities), target)
    np.testing.assert_array_equal(ours.whole.dice, theirs.whole.dice)
    np.testing.assert_array_equal(ours.band.iou, theirs.band.iou)


def test_counts_of_a_photo_are_small_whatever_its_size() -> None:
    rng = np.random.default_rng(0)
    target = blob(rng, 300, 400)
    counts = [threshold_counts(soft(rng, target), target) for _ in range(2)]
    assert len(pickle.dumps(counts)) < 2 * 4096 + 1024
    assert int(counts[0].whole[0].true_positives) + int(counts[0].whole[0].false_negatives) == target.sum()


def test_counts_of_a_photo_without_a_car() -> None:
    probabilities = np.full((8, 9), 0.3, np.float32)
    counts = threshold_counts(probabilities, np.zeros((8, 9)))
    assert float(counts.whole.dice[threshold_index(0.5)]) == 1.0  # nothing marked: right
    assert float(counts.whole.dice[threshold_index(0.25)]) == 0.0
    assert float(counts.band.dice[threshold_index(0.25)]) == 0.0


def test_counts_stay_exact_beyond_what_float32_can_count() -> None:
    height, width = 4200, 4100  # 17.2 million pixels, more than 2**24
    probabilities = np.full((height, width), 200, np.uint8)
    target = np.zeros((height, width), np.uint8)
    target[0, 0] = 1
    counts = threshold_counts(probabilities, target).whole[threshold_index(0.5)]
    assert int(counts.true_positives) == 1
    assert int(counts.false_positives) == height * width - 1


def test_the_best_threshold_is_the_best_of_all_tried() -> None:
    rng = np.random.default_rng(2)
    targets = [blob(rng) for _ in range(4)]
    probabilities = [np.clip(soft(rng, target) * 0.6, 0, 1) for target in targets]
    counts = [threshold_counts(p, t) for p, t in zip(probabilities, targets, strict=True)]
    tried = [np.mean([dice(p > t, m) for p, m in zip(probabilities, targets, strict=True)]) for t in THRESHOLDS]
    chosen = best_threshold(counts)
    assert tried[threshold_index(chosen)] == pytest.approx(max(tried), abs=1e-12)
    assert chosen < 0.45  # probabilities were scaled down


def test_a_plateau_gives_its_middle() -> None:
    target = np.array([[1, 0]])
    counts = threshold_counts(np.array([[0.9, 0.3]], np.float32), target)  # 0.3 to 0.9 all serve
    assert best_threshold([counts]) == pytest.approx(0.6, abs=1 / 256)
    assert best_threshold([threshold_counts(target.astype(np.float32), target)]) == 0.5


def test_no_photos_give_no_threshold() -> None:
    with pytest.raises(DataError, match="no photos"):
        best_threshold([])


def scaled_counts(scales: dict[str, float], photos: int = 3) -> tuple[list[PhotoCounts], list[str]]:
    rng = np.random.default_rng(7)
    counts, groups = [], []
    for group, scale in scales.items():
        for _ in range(photos):
            target = blob(rng)
            counts.append(threshold_counts(soft(rng, target) * np.float32(scale), target))
            groups.append(group)
    return counts, groups


def test_cross_fitting_never_looks_at_the_photo_s_own_group() -> None:
    counts, groups = scaled_counts({"a": 1.0, "b": 0.9, "c": 0.8, "d": 0.3, "e": 0.7})
    thresholds = cross_fitted_thresholds(counts, groups, folds=5)
    for group in "abcde":
        others = [count for count, name in zip(counts, groups, strict=True) if name != group]
        own = {float(t) for t, name in zip(thresholds, groups, strict=True) if name == group}
        assert own == {best_threshold(others)}


def test_cross_fitting_keeps_a_group_in_one_fold() -> None:
    counts, groups = scaled_counts({name: 1.0 - 0.08 * i for i, name in enumerate("abcdefg")})
    thresholds = cross_fitted_thresholds(counts, groups, folds=2, seed=3)
    for group in "abcdefg":
        assert len({float(t) for t, name in zip(thresholds, groups, strict=True) if name == group}) == 1
    assert len(set(thresholds)) == 2
    np.testing.assert_array_equal(thresholds, cross_fitted_thresholds(counts, groups, folds=2, seed=3))


def test_a_single_group_is_scored_at_one_half() -> None:
    counts, groups = scaled_counts({"a": 0.3})
    np.testing.assert_array_equal(cross_fitted_thresholds(counts, groups), 0.5)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30).astype(str), 4)
    hits = 0
    for _ in range(300):
        values = np.repeat(rng.normal(0, 1, 30), 4) + rng.normal(0, 0.2, 120)
        low, high = bootstrap_interval(values, groups, samples=400) or (0, 0)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 300 <= 0.98  # photos drawn one by one would cover about 0.65


def test_the_interval_of_equal_groups_is_that_of_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(0.99, 0.01, 200)
    low, high = bootstrap_interval(values, [str(i) for i in range(200)]) or (0, 0)
    error = values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_is_of_the_mean_per_photo_also_when_groups_differ_in_size() -> None:
    values, groups = [1.0] * 30 + [0.0], ["big"] * 30 + ["small"]
    low, high = bootstrap_interval(values, groups, level=0.4) or (0, 0)
    assert low == high == pytest.approx(30 / 31)  # both drawn once, half of the time


def test_one_group_has_no_interval() -> None:
    assert bootstrap_interval([0.9, 0.8], ["a", "a"]) is None


def test_equal_seeds_give_equal_intervals() -> None:
    values, groups = np.random.default_rng(0).random(40), [str(i % 9) for i in range(40)]
    assert bootstrap_interval(values, groups) == bootstrap_interval(values, groups)
    assert bootstrap_interval(values, groups) != bootstrap_interval(values, groups, seed=1)
