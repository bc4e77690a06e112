"""Evaluation of classes that may overlap, against counts by brute force."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample, find_samples
from carvana.evaluation.evaluate import evaluate, mask_path
from carvana.evaluation.masks import MultilabelEvaluation
from carvana.inference.prediction import THRESHOLDS
from carvana.inference.predictor import Predictor
from carvana.task import Task
from tests.scenes import OVERLAPPING, of_colours, write_overlapping

NAMES = OVERLAPPING.names


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    return find_samples(write_overlapping(tmp_path_factory.mktemp("overlapping"), 8, groups=4), group=r"(g\d)")


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(of_colours(OVERLAPPING), precision="fp32", device="cpu")


def truth(sample: Sample) -> NDArray[np.uint8]:
    """The masks (3, H, W), by the names of their files."""
    known = {path.parent.name: read_mask(path) for path in sample.masks}
    return np.stack([known.get(name, np.zeros((48, 64), np.uint8)) for name in NAMES])


def dice(found: NDArray[np.bool_], true: NDArray[np.uint8]) -> float:
    total = int(found.sum()) + int(true.sum())
    return 2 * int((found & (true > 0)).sum()) / total if total else 1.0


@pytest.fixture(scope="module")
def measured(
    samples: list[Sample], predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[MultilabelEvaluation, Path]:
    out = tmp_path_factory.mktemp("masks")
    evaluation = evaluate(predictor, samples, masks_dir=out)
    assert isinstance(evaluation, MultilabelEvaluation)
    return evaluation, out


def test_the_threshold_of_a_class_is_best_on_the_images_that_hold_it(
    samples: list[Sample], predictor: Predictor, measured: tuple[MultilabelEvaluation, Path]
) -> None:
    evaluation, _ = measured
    pairs = [(predictor.predict(sample.image).probabilities, truth(sample)) for sample in samples]
    assert len(set(evaluation.thresholds)) > 1
    for index, chosen in enumerate(evaluation.thresholds):
        holding = [(found[index], true[index]) for found, true in pairs if true[index].any()]
        assert 0 < len(holding) <= len(samples)
        curve = [np.mean([dice(found > each, true) for found, true in holding]) for each in THRESHOLDS]
        assert curve[int(chosen * 256) - 1] == pytest.approx(max(curve), abs=1e-12)


def test_the_masks_of_each_class_are_written_into_its_folder_at_its_threshold(
    samples: list[Sample], predictor: Predictor, measured: tuple[MultilabelEvaluation, Path]
) -> None:
    evaluation, out = measured
    for sample in samples:
        found = predictor.predict(sample.image).probabilities
        for index, name in enumerate(NAMES):
            written = read_mask(mask_path(out, sample, name))
            assert (written == (found[index] > evaluation.thresholds[index])).all()


def test_scores_are_those_of_masks_at_thresholds_of_other_groups(
    samples: list[Sample], predictor: Predictor, measured: tuple[MultilabelEvaluation, Path]
) -> None:
    evaluation, _ = measured
    numbers = json.loads(json.dumps(evaluation.to_json(), allow_nan=False))
    of_images = np.array([each["dices"] for each in numbers["per_image"]])
    held = np.array([[int(mask.sum()) for mask in truth(sample)] for sample in samples])
    assert [each["pixels"] for each in numbers["per_image"]] == held.tolist()
    assert [each["images"] for each in numbers["per_class"]] == (held > 0).sum(0).tolist() == [8, 8, 3]
    assert numbers["dice"] == numbers["score"] == pytest.approx(of_images.mean())
    present = [of_images[held[:, k] > 0, k].mean() for k in range(3)]
    assert [each["dice_present"] for each in numbers["per_class"]] == pytest.approx(present)
    assert numbers["dice_present"] == pytest.approx(np.mean(present))
    low, high = numbers["score_ci95"]
    assert low < numbers["score"] < high
    # An image's score is at a threshold that is one of the grid, the same for all of its fold.
    for row, sample in zip(of_images, samples, strict=True):
        found, true = predictor.predict(sample.image).probabilities, truth(sample)
        for index in range(3):
            curve = [dice(found[index] > each, true[index]) for each in THRESHOLDS]
            assert min(abs(each - row[index]) for each in curve) < 1e-12


def test_of_one_group_all_thresholds_are_one_half_and_counts_are_pooled(
    samples: list[Sample], predictor: Predictor
) -> None:
    one = [sample for sample in samples if sample.group == "g0"]
    evaluation = evaluate(predictor, one)
    assert isinstance(evaluation, MultilabelEvaluation)
    assert evaluation.score_ci95 is None
    pairs = [(predictor.predict(sample.image).probabilities > 0.5, truth(sample) > 0) for sample in one]
    scores = [[dice(found[k], true[k]) for k in range(3)] for found, true in pairs]
    assert np.array([image.dices for image in evaluation.images]) == pytest.approx(np.array(scores))
    assert evaluation.score == evaluation.dice_at_half == pytest.approx(np.mean(scores))
    right = [np.mean(found == true) for found, true in pairs]
    assert evaluation.to_json()["pixel_accuracy"] == pytest.approx(np.mean(right))
    for index, each in enumerate(evaluation.per_class):
        found, true = (np.stack([pair[side][index] for pair in pairs]) for side in (0, 1))
        both, either = int((found & true).sum()), int((found | true).sum())
        assert each["iou"] == pytest.approx(both / either)
        assert each["recall"] == pytest.approx(both / true.sum())
        assert each["precision"] == (pytest.approx(both / found.sum()) if found.any() else None)
        assert each["pixels"] == true.sum()


def test_ignored_pixels_and_absent_classes(samples: list[Sample]) -> None:
    task = Task(kind="multilabel", classes=["disc", "box", "fog"], ignore=["dot"])
    evaluation = evaluate(Predictor(of_colours(task), precision="fp32", device="cpu"), samples)
    assert isinstance(evaluation, MultilabelEvaluation)
    absent = evaluation.per_class[2]
    assert (absent["images"], absent["dice_present"], absent["recall"]) == (0, None, None)
    assert evaluation.thresholds[2] == 0.5
    expected = sum(int((true[0] & (true[2] == 0)).sum()) for true in map(truth, samples))
    assert evaluation.per_class[0]["pixels"] == expected
    assert evaluation.dice_present == pytest.approx(
        np.mean([each["dice_present"] for each in evaluation.per_class[:2]])
    )
