"""Evaluation of several classes on data that are not the run's own, against counts of the files themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import carvana
from carvana.data.io.labels import read_values
from carvana.errors import DataError
from carvana.evaluation.evaluate import evaluate
from carvana.evaluation.labels import LabelEvaluation
from carvana.inference.ensemble import Ensemble
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.task import Task
from carvana.utils.progress import SilentReporter
from tests.reporters import Lines
from tests.scenes import COLOURS, TASK, VOID, write_scenes


class Colours(nn.Module):
    """Takes each pixel for the class whose colour is nearest."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        centres = torch.tensor([COLOURS[value] for value in (10, 20, 30, 250)][:classes]) / 255
        self.centres = nn.Parameter(centres)

    def forward(self, images: Tensor) -> Tensor:
        return -50 * (images[:, None] - self.centres[None, :, :, None, None]).square().sum(2)


def predictor(task: Task, *, size: tuple[int, int] = (48, 64)) -> Predictor:
    spec = ModelSpec(arch="test", task=task, mean=(0, 0, 0), std=(1, 1, 1), trained_size=size)
    return Predictor(Segmenter(Colours(len(task.classes)), spec), device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("other"), 4)


def counted(root: Path, predictors: list[Predictor]) -> np.ndarray:
    """Pixels of each true and predicted class, from the files' values and the mean of the probabilities."""
    matrix = np.zeros((4, 4), np.int64)
    for sample in carvana.find_samples(root):
        probabilities = np.mean([each.predict(sample.image).probabilities for each in predictors], axis=0)
        found, values = probabilities.argmax(0), read_values(sample.masks[0])
        for row, own in enumerate(([10], [20], [30, 31], [250])):
            for column in range(4):
                matrix[row, column] += (np.isin(values, own) & (found == column)).sum()
    return matrix


def test_other_data_and_networks_together_are_counted_at_full_size(scenes: Path) -> None:
    samples = carvana.find_samples(scenes)
    fine, coarse = predictor(TASK), predictor(TASK, size=(12, 16))
    for together, parts in ((fine, [fine]), (coarse, [coarse]), (Ensemble([fine, coarse]), [fine, coarse])):
        evaluation = evaluate(together, samples)
        assert isinstance(evaluation, LabelEvaluation)
        assert evaluation.matrix.tolist() == counted(scenes, parts).tolist()
    assert evaluate(fine, samples).score > 0.9 > evaluate(coarse, samples).score


def test_masks_are_no_labels_of_these_classes(scenes: Path, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "masks", 2)
    for path in (root / "masks").iterdir():
        Image.fromarray(((read_values(path) == 30) * 255).astype(np.uint8)).save(path)
    with pytest.raises(
        DataError, match=r"g0_000.png: no class has the values 0 \(\d+ pixels\), 255 .*; the model "
    ) as e:
        evaluate(predictor(TASK), carvana.find_samples(root))
    assert str(e.value).endswith("the model knows sky (10), road (20), car (30, 31), pole (250)")


def test_labels_are_no_masks_of_one_object(scenes: Path) -> None:
    with pytest.raises(DataError, match=r"the mask holds the values 10, 20, .*; the model knows one object"):
        evaluate(predictor(Task.binary()), carvana.find_samples(scenes))
    one = Task(kind="binary", classes={"car": 30})
    assert evaluate(predictor(one), carvana.find_samples(scenes)).task == one  # all else is background


def test_a_few_of_very_many_classes_are_named(scenes: Path) -> None:
    many = Task(classes=[f"class {number}" for number in range(60)])
    network = nn.Sequential(nn.Conv2d(3, 60, 1))
    model = Segmenter(network, ModelSpec(arch="test", task=many, trained_size=(12, 16)))
    with pytest.raises(DataError, match=r"the model knows class 0 \(0\), .*, class 15 \(15\), and 44 more$"):
        evaluate(Predictor(model, device="cpu", precision="fp32"), carvana.find_samples(scenes))


@pytest.mark.parametrize(
    "task", [Task(classes={"car": [30, 31]}, ignore=[VOID]), TASK], ids=["one class", "several classes"]
)
def test_images_of_which_nothing_counts_change_no_score(task: Task, tmp_path: Path) -> None:
    root = write_scenes(tmp_path, 4)
    before = evaluate(predictor(task), carvana.find_samples(root), reporter=SilentReporter()).to_json()
    for name in ("g0_900", "g1_901"):
        Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(root / "images" / f"{name}.png")
        Image.fromarray(np.full((48, 64), VOID, np.uint8)).save(root / "masks" / f"{name}.png")
    shown = Lines()
    after = evaluate(predictor(task), carvana.find_samples(root), reporter=shown).to_json()
    assert (after["score"], after["images"], after["score_ci95"]) == (
        before["score"],
        before["images"],
        before["score_ci95"],
    )
    assert after["pixel_accuracy"] == pytest.approx(before["pixel_accuracy"], abs=1e-12)
    assert shown.lines == ["2 of 6 images are left out of the scores: all of their pixels are ignored"]
    void = [sample for sample in carvana.find_samples(root) if "_90" in sample.stem]
    with pytest.raises(DataError, match=r"g0_900\.png: no pixel counts in it, nor in any other image"):
        evaluate(predictor(task), void, reporter=SilentReporter())
