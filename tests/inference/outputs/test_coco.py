"""Polygons of predictions: what other readers see in them, resuming, and the way back into a training."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from torch import Tensor, nn

from carvana import find_samples
from carvana.data.check.masks import check_sizes
from carvana.data.io.images import write_image
from carvana.data.io.labels import read_values
from carvana.data.io.masks import read_mask
from carvana.data.target import read_labels
from carvana.inference.outputs.coco import JOINED
from carvana.inference.outputs.coco import _relative as names_of
from carvana.inference.predict_folder import MANIFEST, predict_folder
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter
from carvana.models.spec import ModelSpec
from carvana.task import Task

TASK = Task(classes=["background", "grey", "white"])
SIZE = 120, 180


class Brightness(nn.Module):
    """Logits of as many classes as there are, the brighter a pixel, the later the class."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.linspace(0.3, 0.7, classes) if classes > 1 else torch.tensor([0.5]))

    def forward(self, images: Tensor) -> Tensor:
        bright = images.mean(dim=1, keepdim=True)
        if len(self.levels) == 1:
            return 20 * (bright - 0.5)
        return -100 * (bright - self.levels[:, None, None]) ** 2


class Thresholds(nn.Module):
    """Two logits: whether a pixel is lit, and whether it is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.Parameter(torch.tensor([0.4, 0.6])[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        return 20 * (images.mean(dim=1, keepdim=True) - self.levels)


def predictor(task: Task) -> Predictor:
    spec = ModelSpec(
        arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=(60, 90), task=task, classes=len(task.classes)
    )
    return Predictor(Segmenter(Brightness(len(task.classes)), spec), precision="fp32", device="cpu")


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    paths = []
    for number in range(3):
        noise = np.random.default_rng(number).random((*SIZE, 3)).astype(np.float32)
        smooth = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 9), None, 0, 255, cv2.NORM_MINMAX)
        paths.append(tmp_path / "images" / f"{'abc'[number]}.png")
        write_image(paths[-1], smooth.astype(np.uint8))
    return paths


def peer_masks(path: Path, image: str) -> dict[str, np.ndarray]:
    peer = COCO(str(path))
    (number,) = [each["id"] for each in peer.loadImgs(peer.getImgIds()) if each["file_name"] == image]
    masks: dict[str, np.ndarray] = {}
    for each in peer.loadAnns(peer.getAnnIds([number])):
        name = peer.cats[each["category_id"]]["name"]
        mask = peer.annToMask(each)
        ys, xs = np.nonzero(mask)
        left, top, width, height = each["bbox"]
        assert abs(each["area"] - int(mask.sum())) <= 0.02 * each["area"] + 3
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
                      - (left, top, left + width, top + height)).max() <= 1  # fmt: skip
        masks[name] = masks.get(name, np.zeros(SIZE, np.uint8)) | mask
    return masks


def test_pycocotools_reads_the_labels_and_a_training_reads_them_exactly(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(TASK), photos, out=out, save=["mask", "coco"])
    values = json.loads((out / JOINED).read_text())
    assert [each["name"] for each in values["categories"]] == ["grey", "white"]
    assert [each["file_name"] for each in values["images"]] == ["a.png", "b.png", "c.png"]
    samples = find_samples(tmp_path, images="images", masks=out / JOINED)
    check_sizes(samples)
    for sample in samples:
        labels = read_values(out / f"{sample.stem}_mask.png")
        assert len(np.unique(labels)) == 3
        assert (read_labels(sample, TASK) == labels).all()
        for name, mask in peer_masks(out / JOINED, sample.name).items():
            true = labels == TASK.index(name)
            assert (mask & true).sum() / (mask | true).sum() > 0.99


def test_of_one_class_there_is_one_category(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(Task(classes=["bright"])), photos, out=out, save=["coco", "mask"])
    samples = find_samples(tmp_path, images="images", masks=out / JOINED)
    assert {category for each in samples if each.annotation for category in each.annotation.categories} == {"bright"}
    for sample in samples:
        assert (read_labels(sample, Task(classes=["bright"])) == read_mask(out / f"{sample.stem}_mask.png")).all()


def test_classes_that_overlap_keep_all_their_pixels(photos: list[Path], tmp_path: Path) -> None:
    task, out = Task(kind="multilabel", classes=["lit", "bright"]), tmp_path / "out"
    model = Segmenter(Thresholds(), ModelSpec(
        arch="test", mean=(0, 0, 0), std=(1, 1, 1), trained_size=(60, 90), task=task, classes=2, thresholds=(0.5, 0.5),
    ))  # fmt: skip
    both = Predictor(model, precision="fp32", device="cpu")
    predict_folder(both, photos, out=out, save=["coco"])
    for sample in find_samples(tmp_path, images="images", masks=out / JOINED):
        masks = read_labels(sample, task)
        assert (masks == both.predict(sample.image).masks).all()
        assert (masks[0] & masks[1]).any()


def test_a_rerun_continues_adds_images_and_keeps_what_was_corrected(photos: list[Path], tmp_path: Path) -> None:
    out, bright = tmp_path / "out", predictor(Task(classes=["bright"]))
    assert predict_folder(bright, photos[:2], out=out, save=["coco"]).written == 2
    before = (out / JOINED).read_bytes()
    assert predict_folder(bright, photos[:2], out=out, save=["coco"]).skipped == 2
    assert (out / JOINED).read_bytes() == before
    (out / JOINED).unlink()  # as a command leaves it that was killed before its end
    assert predict_folder(bright, photos[1:], out=out, save=["coco"]).skipped == 1
    assert [each["file_name"] for each in json.loads((out / JOINED).read_text())["images"]] == [
        "a.png",
        "b.png",
        "c.png",
    ]
    (out / JOINED).write_text("{}")
    assert predict_folder(bright, photos, out=out, save=["coco"]).kept == 1
    assert (out / JOINED).read_text() == "{}"
    assert predict_folder(bright, photos, out=out, save=["coco"], replace=True).kept == 0
    assert sorted(path.name for path in out.iterdir()) == [".coco", JOINED, MANIFEST]


def test_what_other_weights_made_is_not_joined(photos: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    predict_folder(predictor(Task(classes=["bright"])), photos, out=out, save=["coco"])
    predict_folder(predictor(TASK), photos[:1], out=out, save=["coco"])
    values = json.loads((out / JOINED).read_text())
    assert [each["file_name"] for each in values["images"]] == ["a.png"]
    assert [each["name"] for each in values["categories"]] == ["grey", "white"]


def test_images_of_several_drives_keep_their_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> str:
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("carvana.inference.outputs.coco.os.path.commonpath", refuse)
    assert names_of([Path("c/a.png"), Path("d/b.png")]) == ["c/a.png", "d/b.png"]


def test_images_that_were_moved_stay_in_the_file(photos: list[Path], tmp_path: Path) -> None:
    out, bright = tmp_path / "out", predictor(Task(classes=["bright"]))
    predict_folder(bright, photos, out=out, save=["coco"])
    before = json.loads((out / JOINED).read_text())
    moved = sorted(photos[0].parent.rename(tmp_path / "elsewhere").glob("*.png"))
    assert predict_folder(bright, moved, out=out, save=["coco"]).skipped == len(moved)
    assert json.loads((out / JOINED).read_text()) == before
    assert len(before["images"]) == len(photos)
