"""What a training can do besides the plain one, with several classes and void: real trainings on drawn scenes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import carvana
from carvana.config import FitConfig
from carvana.data.target import read_labels
from carvana.errors import ConfigError
from carvana.evaluation.labels import LabelEvaluation
from carvana.folds import Folds
from carvana.metrics import mean_iou
from carvana.registry import registry
from carvana.task import Task
from carvana.training.callbacks import Callback
from carvana.training.cross_validation import fit_folds
from carvana.training.find_lr import find_lr
from carvana.training.fit import fit
from carvana.training.trackers import Tracker
from carvana.training.trainer import Trainer
from tests.scenes import NAMES, TASK, VALUES, VOID, write_scenes

pytestmark = pytest.mark.usefixtures("quick_fits")

SIZE = (24, 32)


def config(root: Path, **changes: Any) -> FitConfig:
    made = FitConfig(
        arch="one-conv", model={"options": {"width": 8}},
        task={"classes": VALUES, "ignore": [VOID]},
        data={"root": root, "group": r"(g\d)_", "size": SIZE, "workers": 0, "cache_gb": 0, "augment": "seed"},
        split={"val": 2}, train={"epochs": 1, "batch_size": 4, "precision": "fp32", "lr": 3e-3},
    )  # fmt: skip
    return made.replace(changes)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(scope="module")
def data(scenes: Path) -> tuple[carvana.SegmentationDataset, carvana.SegmentationDataset]:
    samples = carvana.find_samples(scenes, group=r"(g\d)_")
    return tuple(carvana.SegmentationDataset(part, SIZE, task=TASK) for part in (samples[:8], samples[8:]))  # type: ignore[return-value]


def trained(
    model: nn.Module, data: tuple[carvana.SegmentationDataset, carvana.SegmentationDataset], **settings: Any
) -> Trainer:
    values = {"epochs": 2, "batch_size": 4, "precision": "fp32", "workers": 0, "device": "cpu"} | settings
    trainer = Trainer(model, train=data[0], val=data[1], **values)
    trainer.fit()
    return trainer


def test_learning_rates_are_tried(scenes: Path) -> None:
    test = find_lr(config(scenes, **{"train.class_weights": "balanced"}), device="cpu", steps=40)
    assert 1e-5 < test.suggestion < 0.5
    assert test.smoothed[0] > 1.3 * test.smoothed.min()


@pytest.fixture(scope="module")
def folds(quick_fits: None, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    return fit_folds(config(scenes), folds=3, out=tmp_path_factory.mktemp("runs") / "folds", device="cpu")


def test_folds_pool_the_pixels_of_all_images(folds: Folds) -> None:
    numbers, each = folds.read_evaluation(), [run.read_evaluation() for run in folds.runs]
    matrix = sum(np.array(one["confusion"]) for one in each)
    assert numbers["confusion"] == matrix.tolist()
    assert numbers["score"] == numbers["miou"] == mean_iou(matrix)
    scores = [one["miou"] for one in each]
    assert [fold["miou"] for fold in numbers["folds"]] == scores
    assert numbers["folds_miou_mean"] == pytest.approx(np.mean(scores))
    assert numbers["folds_miou_std"] == pytest.approx(np.std(scores, ddof=1))
    assert (numbers["images"], numbers["groups"]) == (12, 6)


def test_folds_are_printed_as_a_table(folds: Folds, capsys: pytest.CaptureFixture[str]) -> None:
    from carvana.cli.fit import print_folds

    print_folds(folds)
    numbers, printed = folds.read_evaluation(), capsys.readouterr().out
    for fold in numbers["folds"]:
        assert f"{fold['miou']:.5f}" in printed
    assert re.search(rf"mean of folds +{numbers['folds_miou_mean']:.5f} ", printed)
    assert "mIoU of 4 images (groups: 2)" in printed


def test_a_loss_that_needs_valid_trains_with_a_batch_size_that_is_found(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.losses, "_entries", {entry.name: entry for entry in registry.losses.registered()})

    def loss(logits: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
        return ((logits.softmax(1) - targets).square() * valid).mean()

    carvana.register_loss("square", lambda: loss)
    run = fit(config(scenes, **{"train.loss": "square", "train.batch_size": "auto"}), out=tmp_path / "run")
    assert run.read_config().train.batch_size == 2


class Plain(nn.Module):
    """A network that nobody wrote for this library, without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, len(NAMES), 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.first(images).relu())  # type: ignore[no-any-return]


def test_a_plain_module_trains_and_two_half_batches_are_one_step(data: Any) -> None:
    weights = []
    for settings in ({"batch_size": 8}, {"batch_size": 4, "accumulate": 2}):
        torch.manual_seed(0)
        trainer = trained(Plain(), data, optimizer="sgd", lr=0.05, **settings)
        assert trainer.duration.step == 2
        assert trainer.model.spec.task == TASK
        weights.append([value.clone() for value in trainer.model.state_dict().values()])
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    evaluation = trainer.evaluate()
    assert isinstance(evaluation, LabelEvaluation)
    counted = sum(int((read_labels(sample, TASK) != TASK.void).sum()) for sample in data[1].samples)
    assert evaluation.matrix.sum() == counted == 4 * 45 * 64


def test_a_moving_average_is_what_is_evaluated(data: Any) -> None:
    torch.manual_seed(0)
    trainer = trained(carvana.create_model("unet-ref", task=TASK, width=4), data, ema=0.5)
    assert trainer.kept is not trainer.model
    assert trainer.best_score == max(line["val_miou"] for line in trainer.progress.metrics)
    assert trainer.measure(trainer.kept).score == pytest.approx(trainer.best_score)


def test_an_encoder_that_is_frozen_stays(data: Any) -> None:
    torch.manual_seed(0)
    model = carvana.create_model("linknet/resnet18", task=TASK)
    encoder = {id(parameter) for parameter in model.encoder_parameters()}
    before = {name: value.clone() for name, value in model.named_parameters()}
    trained(model, data, freeze_encoder=True, epochs=1)
    for name, value in model.named_parameters():
        if value.ndim == 4:
            assert torch.equal(value, before[name]) == (id(value) in encoder), name


def test_a_smaller_size_comes_first(scenes: Path, tmp_path: Path) -> None:
    changes = {"data.start_size": (16, 16), "data.start_epochs": 1, "train.epochs": 2}
    assert len(fit(config(scenes, **changes), out=tmp_path / "run", device="cpu").read_metrics()) == 2


def test_a_training_ends_where_the_score_does_not_rise_any_more(scenes: Path, tmp_path: Path) -> None:
    changes = {"train.epochs": 40, "train.patience": 2, "train.lr": 1e-7, "data.augment": "none"}
    run = fit(config(scenes, **changes), out=tmp_path / "run", device="cpu")
    scores = [line["val_score"] for line in run.read_metrics()]
    assert len(scores) < 40
    assert len(scores) - 1 - int(np.argmax(scores)) == 2


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ([1, 2], r"train.class_weights = \[1.0, 2.0\]: expected 4 weights of at least 0, one for each class"),
        ([1, 2, -1, 1], r"train.class_weights = -1: input should be greater than or equal to 0"),
        ([0, 0, 0, 0], "and one of them above 0"),
    ],
)
def test_weights_that_do_not_fit_the_classes_are_one_line(
    scenes: Path, tmp_path: Path, data: Any, weights: list[float], line: str
) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        fit(config(scenes, **{"train.class_weights": weights}), out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=line):
        Trainer(Plain(), train=data[0], class_weights=weights)


def test_weights_count_in_the_loss_of_a_training(data: Any) -> None:
    """With weight 0 for all classes but one, only the biases of that class can rise."""
    torch.manual_seed(0)
    model = Plain()
    before = model.head.bias.detach().clone()
    trainer = trained(model, data, loss="ce", class_weights=[0.0, 0.0, 1.0, 0.0], optimizer="sgd", lr=0.01, epochs=1)
    rises = trainer.model.network.head.bias.detach() - before  # type: ignore[union-attr,operator]
    assert rises[2] > 0 > rises[[0, 1, 3]].max()


def test_data_sets_of_different_classes_are_refused(data: Any, scenes: Path) -> None:
    other = Task(classes=VALUES | {"void": VOID})
    val = carvana.SegmentationDataset(carvana.find_samples(scenes)[:2], SIZE, task=other)
    with pytest.raises(ConfigError, match=r"val has the classes sky, road, car, pole, void, and train sky, road, car"):
        Trainer(Plain(), train=data[0], val=val)


def test_a_network_of_other_channels_is_refused(data: Any) -> None:
    with pytest.raises(ConfigError, match=r"unet-ref gives 1 channel, and the data has 4 classes: make it with create"):
        Trainer(carvana.create_model("unet-ref", width=4), train=data[0])


class Numbers(Callback):
    """Keeps what it is called with."""

    def __init__(self) -> None:
        self.epochs: list[Mapping[str, Any]] = []
        self.evaluation: Mapping[str, Any] = {}

    def on_epoch_end(self, record: Mapping[str, Any]) -> None:
        self.epochs.append(record)

    def on_evaluation(self, numbers: Mapping[str, Any]) -> None:
        self.evaluation = numbers


def test_callbacks_get_miou_and_at_the_end_the_iou_of_each_class(scenes: Path, tmp_path: Path) -> None:
    from tests.training.test_trackers import curves

    kept = Numbers()
    fit(
        config(scenes),
        out=tmp_path / "run",
        device="cpu",
        callbacks=(kept, Tracker("tensorboard", folder=tmp_path / "board")),
    )
    assert kept.epochs[0]["val_miou"] == kept.epochs[0]["val_score"]
    drawn = curves(tmp_path / "board")
    assert {"val_miou", "val_score", "evaluation/miou", "evaluation/score"} <= drawn.keys()
    for each in kept.evaluation["per_class"]:
        assert drawn[f"evaluation/iou/{each['name']}"] == [(kept.epochs[-1]["step"], each["iou"])]


def test_images_of_which_nothing_counts_leave_the_numbers_finite(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    for number in (0, 3, 4, 9):
        Image.new("L", (64, 48), VOID).save(next((root / "masks").glob(f"*_{number:03}.png")))
    run = fit(config(root, **{"train.epochs": 2, "train.batch_size": 1}), out=tmp_path / "run", device="cpu")
    assert all(np.isfinite(value) for line in run.read_metrics() for value in line.values())
    assert np.isfinite(run.read_evaluation()["score"])
