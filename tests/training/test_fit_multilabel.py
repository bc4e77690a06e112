"""From folders of masks to masks and numbers: a training of classes that overlap, by real commands on drawn scenes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.data.dataset import SegmentationDataset
from carvana.data.io.masks import read_mask
from carvana.data.samples import find_samples
from carvana.data.splits import class_shares, split_samples
from carvana.data.target import read_labels
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.task import Task
from carvana.training.fit import resume
from carvana.utils.progress import SilentReporter
from tests.scenes import OVERLAPPING, write_overlapping

SETTINGS = {
    "task.kind": "multilabel", "task.classes": "[disc, box, dot]", "data.group": r"(g\d)", "data.size": "[24, 32]",
    "data.workers": 0, "data.cache_gb": 0, "train.batch_size": 4, "train.epochs": 2, "train.precision": "fp32",
    "split.val": 2, "model.options": "{width: 4}",
}  # fmt: skip


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def settings(**changes: object) -> list[str]:
    merged = SETTINGS | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in merged.items() for word in ("--set", f"{key}={value}")]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_overlapping(tmp_path_factory.mktemp("overlapping") / "data", 12)


@pytest.fixture(scope="module")
def run(data: Path) -> Run:
    out = data.parent / "run"
    done = call("fit", "--arch", "unet-ref", "--data", data, "--out", out, "--device", "cpu", *settings())
    assert done.exit_code == 0, done.stderr
    assert "3 classes" in done.stderr
    assert "Dice where present" in done.stdout
    return Run.open(out)


def test_a_run_has_thresholds_numbers_masks_and_pictures(run: Run, data: Path) -> None:
    numbers = run.read_evaluation()
    assert numbers["metric"] == "dice"
    assert numbers["groups"] == 2
    spec = Segmenter.from_pretrained(run.path).spec
    assert list(spec.thresholds) == numbers["thresholds"]
    assert spec.task is not None
    assert (spec.task.kind, spec.task.names) == ("multilabel", OVERLAPPING.names)
    predictor = Predictor.from_pretrained(run.path, device="cpu")
    for each in numbers["per_image"]:
        stem = Path(each["image"]).stem
        found = predictor.predict(data / "images" / each["image"])
        for index, name in enumerate(OVERLAPPING.names):
            assert (read_mask(run.masks_path / name / f"{stem}_mask.png") == found.masks[index]).all()
    assert sorted(path.name for path in run.pictures_path.iterdir()) == [
        "classes.png", "curves.png", "masks.png", "thumbnail.jpg", "worst.png",
    ]  # fmt: skip
    card = (run.model_path / "README.md").read_text()
    assert "An image becomes a mask for each class" in card
    assert ".masks" in card
    assert "| disc | " in card
    first = json.loads(run.metrics_path.read_text().splitlines()[0])
    assert first["val_score"] == first["val_dice"]


def test_the_commands_go_on_with_the_run(run: Run, data: Path, tmp_path: Path) -> None:
    measured = call("evaluate", run.path, "--split", "all", "--json", "-")
    assert json.loads(measured.stdout)["images"] == 12
    shown = call("evaluate", run.path)
    assert "Dice disc" in shown.stdout
    done = call("predict", run.path, data / "images", "--out", tmp_path / "out", "--clean")
    assert done.exit_code == 0, done.stderr
    again = find_samples(data, images=data / "images", masks=tmp_path / "out")
    assert all(read_labels(sample, OVERLAPPING).shape == (3, 48, 64) for sample in again)
    words = ["--set", "task.kind=multilabel", "--set", "task.classes=[disc, box, dot]"]
    assert call("data", "show", data, "--out", tmp_path / "sheet.png", *words).exit_code == 0
    checked = call("data", "check", data)
    assert (checked.exit_code, "with kind: multilabel, all of them do" in checked.stdout) == (0, True)
    assert "Nothing is wrong" in call("data", "check", data, *words).stdout
    split = call("data", "split", data, *words, "--group", r"(g\d)")
    assert "dot" in split.stdout
    table = call("submit", run.path, data / "images", "--out", tmp_path / "t.csv", "--clean")
    assert (table.exit_code, table.stdout[:8]) == (0, "36 rows "), table.stderr
    board = call("compare", f"mine={run.path}", "--columns", "dot", "--out", tmp_path / "board")
    assert re.search(r"mine +0\.\d{5}", board.stdout), board.stdout


def test_the_cache_gives_the_same_training(
    run: Run, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))
    words = ["--arch", "unet-ref", "--data", data, "--out", tmp_path / "cached", "--device", "cpu"]
    assert call("fit", *words, *settings(data__cache_gb=1)).exit_code == 0
    assert list((tmp_path / "cache").rglob("*.pack"))
    assert Run.open(tmp_path / "cached").metrics_path.read_bytes() == run.metrics_path.read_bytes()


@pytest.mark.slow
def test_crops_of_rare_classes_and_weights_train_and_resume(data: Path, tmp_path: Path) -> None:
    words = ["--arch", "unet-ref", "--data", data, "--out", tmp_path / "crops", "--device", "cpu"]
    changes = {"data__mode": "crop", "data__crops": "class", "train__class_weights": "balanced", "train__epochs": 1}
    done = call("fit", *words, *settings(**changes))
    assert done.exit_code == 0, done.stderr
    resumed = resume(tmp_path / "crops", epochs=2, device="cpu")
    assert [line["epoch"] for line in resumed.read_metrics()] == [1, 2]
    assert len(resumed.read_evaluation()["thresholds"]) == 3


@pytest.mark.slow
def test_an_exported_file_gives_the_same_masks_and_folds_are_evaluated_together(run: Run, data: Path) -> None:
    exported = data.parent / "run.onnx"
    assert call("export", run.path, "--to", "onnx", "--out", exported).exit_code == 0
    one, other = (Predictor.from_pretrained(path, device="cpu", precision="fp32") for path in (run.path, exported))
    assert one.thresholds == other.thresholds
    for path in (data / "images").iterdir():
        assert (one.predict(path).masks != other.predict(path).masks).mean() < 1e-3
    folds = data.parent / "folds"
    words = ["--arch", "unet-ref", "--data", data, "--out", folds, "--folds", 2, "--device", "cpu"]
    assert call("fit", *words, *settings(train__epochs=1, split__val=0.2)).exit_code == 0
    numbers = json.loads((folds / "evaluation.json").read_text())
    assert numbers["images"] == 12
    assert len(numbers["folds"]) == 2
    assert "mean of folds" in call("evaluate", folds).stdout


@pytest.mark.parametrize("crops", ["boundary", "class", "any"])
def test_crops_hold_what_is_sought_of_any_class_and_both_move_together(data: Path, crops: str) -> None:
    samples = find_samples(data)
    made = SegmentationDataset(samples, (16, 16), task=OVERLAPPING, mode="crop", crops=crops, augment="none")  # type: ignore[arg-type]
    held = []
    for epoch in range(40):
        image, target = made[epoch, 0]
        assert target.shape == (3, 16, 16)
        held.append(target.flatten(1).any(1))
        # What is red belongs to the disc: image and target are cut at one place.
        assert ((image[0] > 120) == (target[0] > 0)).all()
    seen = torch.stack(held).float().mean(0)
    if crops == "class":  # the dot covers 1% of the image
        assert seen[2] > 0.3
    larger = SegmentationDataset(samples, (64, 80), task=OVERLAPPING, mode="crop", augment="studio")
    assert all(part.shape[1:] == (64, 80) for part in larger[0, 0])


def test_classes_are_on_both_sides_of_a_split_and_absent_ones_are_told(data: Path) -> None:
    samples = find_samples(data, group=r"(g\d)")
    for seed in range(5):
        split = split_samples(samples, val=2, seed=seed, task=OVERLAPPING)
        shares = class_shares(split, OVERLAPPING, SilentReporter())
        assert all(each.train > 0 and each.val > 0 for each in shares)
    words = ["fit", "--arch", "unet-ref", "--data", str(data), "--out", str(data.parent / "none")]
    refused = CliRunner().invoke(app, [*words, *settings(task__classes="[Disc, Box]")])
    assert refused.exit_code == 1
    told = " ".join(refused.stderr.split())
    assert "no class of the task has a category of box, disc, dot; write into the config task: {" in told
    assert "{kind: multilabel, classes: [box, disc, dot]}" in told


def test_masks_of_classes_can_be_trained_as_classes_that_exclude_each_other(data: Path) -> None:
    task = Task(classes=["background", "disc", "box", "dot"])
    for sample in find_samples(data):
        labels = read_labels(sample, task)
        masks = read_labels(sample, OVERLAPPING)
        for index, mask in enumerate(masks, start=1):
            assert not ((labels == index) & (mask == 0)).any()
        assert ((labels == 0) == (masks.sum(0) == 0)).all()
        assert np.isin(np.argsort([mask.sum() for mask in masks if mask.any()])[0] + 1, labels) or not masks[2].any()
