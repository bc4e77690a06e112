"""Counts at all thresholds, and the choice among them, against brute force and arithmetic done by hand."""

from __future__ import annotations

import pickle
import tracemalloc

import cv2
import numpy as np
import pytest
from reference import blob, boundary_dice, brute_force_band, confusion, dice

from carvana.errors import DataError
from carvana.evaluation.thresholds import ImageCounts, best_threshold, cross_fitted_thresholds, threshold_counts
from carvana.inference.prediction import THRESHOLDS, levels, threshold_index


def soft(rng: np.random.Generator, mask: np.ndarray) -> np.ndarray:
    """Probabilities that agree with the mask more or less."""
    noisy = mask + rng.normal(0, 0.3, mask.shape).astype(np.float32)
    return np.clip(cv2.GaussianBlur(noisy.astype(np.float32), (0, 0), 2), 0, 1)


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


def test_counting_takes_four_bytes_a_pixel_and_not_a_whole_number_for_each() -> None:
    graded, target = np.zeros((3000, 4000), np.uint8), np.zeros((3000, 4000), np.uint8)
    target[100:2900, 100:3900] = 1
    tracemalloc.start()
    threshold_counts(graded, target, valid=np.ones(target.shape, bool))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * target.size + 10e6


def test_the_boundary_is_where_the_object_meets_the_background_and_not_where_it_meets_void() -> None:
    true = blob(np.random.default_rng(3))
    everywhere = np.ones(true.shape, bool)
    counts = [threshold_counts(soft(np.random.default_rng(4), true), true, valid=valid) for valid in (None, everywhere)]
    assert (counts[0].histograms == counts[1].histograms).all()
    square = np.zeros((60, 60), np.uint8)
    square[:, 20:40] = 1
    valid = np.ones((60, 60), bool)
    valid[:, :20] = False  # void on its left side, background on its right side
    band = threshold_counts(square.astype(np.float32), square, width=4, valid=valid).histograms[2:].sum()
    assert band == 60 * 8


@pytest.mark.parametrize("rim", [4, 6, 10])
def test_a_boundary_that_lies_in_void_alone_counts_as_none(rim: int) -> None:
    square = np.zeros((60, 60), np.uint8)
    square[20:40, 20:40] = 1
    around = np.zeros((60, 60), bool)
    around[20 - rim : 40 + rim, 20 - rim : 40 + rim] = True
    counts = threshold_counts(np.full((60, 60), 0.9), square, width=4, valid=~around | (square == 1))
    assert (counts.histograms[2:] == counts.histograms[:2]).all()


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
    with pytest.raises(DataError, match="no images"):
        best_threshold([])


def scaled_counts(scales: dict[str, float], photos: int = 3) -> tuple[list[ImageCounts], list[str]]:
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
