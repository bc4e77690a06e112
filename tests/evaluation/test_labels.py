"""Scores of label maps against smp.metrics where these are right, and against counts written out always."""

from __future__ import annotations

import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from numpy.typing import NDArray

from carvana.data.samples import Sample
from carvana.evaluation.labels import LabelCounts, LabelEvaluation, class_scores, label_evaluation
from carvana.metrics import class_ious, label_confusion, mean_accuracy, mean_iou, overall_accuracy
from carvana.task import Task

K, VOID = 6, 255
TASK = Task(classes=[f"class {n}" for n in range(K)], ignore=[VOID])


@pytest.fixture
def maps() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Eight predicted and true label maps; class 4 is never true, class 5 is neither true nor predicted."""
    rng = np.random.default_rng(0)
    true = rng.choice([0, 1, 2, 3, VOID], (8, 20, 30), p=[0.4, 0.3, 0.15, 0.05, 0.1]).astype(np.uint8)
    wrong = rng.integers(0, 5, true.shape).astype(np.uint8)
    return np.where((rng.random(true.shape) < 0.3) | (true == VOID), wrong, true), true


def matrices_of(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> list[NDArray[np.int64]]:
    return [label_confusion(found, true, classes=K, void=VOID) for found, true in zip(*maps, strict=True)]


def test_counts_are_those_of_each_pair_of_classes(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    predicted, true = maps
    matrix = sum(matrices_of(maps))
    for row in range(K):
        for column in range(K):
            assert matrix[row, column] == ((true == row) & (predicted == column)).sum()


def test_iou_of_each_class_is_smps(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    predicted, true = (torch.from_numpy(each.astype(np.int64)) for each in maps)
    counts = smp.metrics.get_stats(
        predicted, torch.where(true == VOID, -1, true), mode="multiclass", ignore_index=-1, num_classes=K
    )
    tp, fp, fn, _ = (each.sum(0).double() for each in counts)
    ious = class_ious(sum(matrices_of(maps)))
    expected = (tp / (tp + fp + fn)).numpy()
    np.testing.assert_allclose(ious[:5], expected[:5])
    assert math.isnan(ious[5])


def test_an_absent_class_is_left_out_and_a_class_predicted_for_nothing_counts_0(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    """As 0, as 1 or as NaN, an absent class has spoiled the mean elsewhere; so has a dropped false class."""
    matrix = sum(matrices_of(maps))
    ious = class_ious(matrix)
    assert ious[4] == 0
    assert mean_iou(matrix) == pytest.approx(ious[:5].mean())
    assert mean_accuracy(matrix) == pytest.approx((np.diagonal(matrix)[:4] / matrix.sum(1)[:4]).mean())


def test_accuracy_counts_right_pixels_and_no_true_negatives(
    maps: tuple[NDArray[np.uint8], NDArray[np.uint8]],
) -> None:
    predicted, true = maps
    matrix = sum(matrices_of(maps))
    assert overall_accuracy(matrix) == pytest.approx((predicted == true)[true != VOID].mean())
    wrong = (true + 1) % K
    all_wrong = label_confusion(wrong[0], true[0], classes=K, void=VOID)
    assert overall_accuracy(all_wrong) == 0


def test_the_score_is_pooled_and_not_a_mean_over_images(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    matrices = matrices_of(maps)
    evaluation = evaluated(matrices)
    assert evaluation.score == mean_iou(sum(matrices))
    assert evaluation.score != pytest.approx(np.mean([mean_iou(matrix) for matrix in matrices]), abs=1e-4)


def test_the_json_has_what_was_counted(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    numbers = evaluated(matrices_of(maps)).to_json()
    matrix = np.array(numbers["confusion"])
    assert (numbers["metric"], numbers["images"], numbers["groups"]) == ("miou", 8, 4)
    assert numbers["score"] == numbers["miou"] == mean_iou(matrix)
    assert [each["name"] for each in numbers["per_class"]] == TASK.names
    first = numbers["per_class"][0]
    assert first["precision"] == pytest.approx(matrix[0, 0] / matrix[:, 0].sum())
    assert first["recall"] == pytest.approx(matrix[0, 0] / matrix[0].sum())
    assert first["dice"] == pytest.approx(2 * first["iou"] / (1 + first["iou"]))
    assert numbers["per_class"][4] | {"recall": None} == numbers["per_class"][4]
    assert numbers["per_class"][5]["iou"] is None
    hits, union = np.zeros(K), np.zeros(K)
    for image in numbers["per_image"]:
        for index, right, either in image["counts"]:
            hits[index] += right
            union[index] += either
    np.testing.assert_allclose((hits / np.maximum(union, 1))[:5], class_ious(matrix)[:5])
    low, high = numbers["score_ci95"]
    assert low < numbers["score"] < high


def test_the_interval_is_a_bootstrap_of_whole_groups(maps: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    matrices = matrices_of(maps)
    evaluation = evaluated(matrices)
    pooled = [matrices[2 * group] + matrices[2 * group + 1] for group in range(4)]
    rng = np.random.default_rng(1)
    scores = [mean_iou(sum(pooled[group] for group in rng.integers(4, size=4))) for _ in range(4000)]
    assert evaluation.score_ci95 == pytest.approx(tuple(np.quantile(scores, (0.025, 0.975))), abs=2e-3)
    alone = evaluation_of([sample("a", "g")], matrices[:1])
    assert alone.to_json()["score_ci95"] == [None, None]


def test_nothing_but_void_has_no_score() -> None:
    nothing = np.zeros((K, K), np.int64)
    numbers = evaluation_of([sample("a", "g")], [nothing]).to_json()
    assert (numbers["score"], numbers["pixel_accuracy"], numbers["mean_accuracy"]) == (None, None, None)
    assert class_scores(["a"], np.zeros((1, 1), np.int64))[0]["pixels"] == 0


def test_150_classes_and_a_map_of_a_million_pixels_are_counted() -> None:
    rng = np.random.default_rng(0)
    true, predicted = (rng.integers(0, 150, (1000, 1000)).astype(np.uint8) for _ in range(2))
    true[600:] = np.where(true[600:] < 50, VOID, true[600:])
    tracemalloc.start()
    matrix = label_confusion(predicted, true, classes=150, void=VOID)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert matrix.sum() == (true != VOID).sum()
    assert matrix[17, 42] == ((true == 17) & (predicted == 42)).sum()
    assert peak < 8e6  # one 8-byte number for each pixel would take as much


def sample(name: str, group: str) -> Sample:
    return Sample(Path(f"{name}.jpg"), None, group)


def evaluation_of(samples: list[Sample], matrices: list[NDArray[np.int64]]) -> LabelEvaluation:
    counts = [LabelCounts.of(matrix) for matrix in matrices]
    return label_evaluation(TASK, samples, counts, sum(matrices[1:], matrices[0]), scale="native", seconds=1.0)


def evaluated(matrices: list[NDArray[np.int64]]) -> LabelEvaluation:
    samples = [sample(str(number), f"group {number // 2}") for number in range(len(matrices))]
    return evaluation_of(samples, matrices)
