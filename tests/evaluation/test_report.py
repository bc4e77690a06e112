from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from torch import Tensor, nn

from carvana.config import FitConfig
from carvana.data.io.images import read_image, write_image
from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import Split, write_split
from carvana.errors import RunError
from carvana.evaluation.report import _draw_thumbnail, evaluate_run, finish_run
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.run import Run
from carvana.task import Task
from carvana.utils.progress import LogReporter


class Brightness(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.0))

    def forward(self, images: Tensor) -> Tensor:
        return torch.logit(images.mean(dim=1, keepdim=True) * self.gain, eps=1e-6)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Grey squares, brighter than 0.3 and darker than 0.5, on black: one half is too high a threshold."""
    found = []
    for number in range(4):
        mask = np.zeros((40, 60), np.uint8)
        mask[10 : 20 + number, 10:40] = 1
        sample = Sample(tmp_path / f"{number}.png", tmp_path / f"{number}_mask.png", f"group {number // 2}")
        write_image(sample.image, np.repeat(mask[..., None] * np.uint8(100), 3, axis=2))
        write_mask(tmp_path / f"{number}_mask.png", mask)
        found.append(sample)
    return found


def test_a_run_keeps_numbers_threshold_masks_and_pictures(tmp_path: Path, samples: list[Sample]) -> None:
    run = Run.create(tmp_path / "run", arch="test")
    for epoch in (1, 2):
        metrics = {"epoch": epoch, "train_loss": 0.5 / epoch, "val_dice": 0.9, "lr": 0.001}
        run.add_epoch(metrics, {"epoch": epoch, "images_per_s": 5.0})
    model = Segmenter(Brightness(), ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1)))
    evaluation = evaluate_run(run, model, samples, precision="fp32")

    assert evaluation.dice == 1.0
    assert evaluation.dice_at_half == 0.0
    assert run.read_evaluation() == evaluation.to_json()
    assert {path.name for path in run.pictures_path.iterdir()} == {
        "worst.png", "masks.png", "curves.png", "thumbnail.jpg",
    }  # fmt: skip
    again = Predictor(Segmenter.from_pretrained(run.model_path, network=Brightness()), precision="fp32")
    assert again.threshold == evaluation.threshold < 100 / 255
    for sample in samples:
        mask = read_mask(run.masks_path / f"{sample.image.stem}_mask.png")
        np.testing.assert_array_equal(mask, read_mask(sample.mask))  # type: ignore[arg-type]
        np.testing.assert_array_equal(mask, again.predict(sample.image).mask)
    assert "1.00000" in (run.model_path / "README.md").read_text()


def test_the_card_of_a_run_names_its_data_and_shows_a_picture_that_stays_out_of_the_model_folder(
    tmp_path: Path, samples: list[Sample]
) -> None:
    run = Run.create(tmp_path / "run", arch="test")
    run.write_config(FitConfig().replace({"arch": "test", "data.root": str(tmp_path / "grey squares")}))
    model = Segmenter(Brightness(), ModelSpec(arch="test", mean=(0, 0, 0), std=(1, 1, 1)))
    evaluation = evaluate_run(run, model, samples, precision="fp32")
    card = ModelCard.load(run.model_path / "README.md")
    found = {(each.dataset_name, each.metric_type): each.metric_value for each in card.data.eval_results}
    assert found["grey squares", "dice"] == evaluation.score == 1
    assert found["grey squares", "iou"] == evaluation.to_json()["iou"]
    assert str(tmp_path) not in str(card)
    assert {path.name for path in run.model_path.iterdir()} == {"README.md", "config.json", "model.safetensors"}
    assert "](../pictures/thumbnail.jpg)" in card.text
    path = run.model_path / "../pictures/thumbnail.jpg"
    assert path.stat().st_size < 60_000
    picture = read_image(path).astype(int)
    assert picture.shape == (2 * 213, 640, 3)
    for top, sample in ((0, samples[0]), (213, samples[-1])):
        image = cv2.resize(read_image(sample.image), (320, 213), interpolation=cv2.INTER_LINEAR).astype(int)
        shown, drawn = picture[top : top + 213, :320], picture[top : top + 213, 320:]
        assert np.abs(shown - image).mean() < 2
        yellow = drawn[..., 0] - drawn[..., 2] > 60  # the outline; all else is grey
        assert 2 * (160 + 53) < yellow.sum() < 4000


def test_the_picture_of_several_classes_has_one_legend_below_all(tmp_path: Path) -> None:
    task = Task(classes={"sky": 0, "road": 7, "car": 9})
    shown = []
    for number in range(2):
        image = tmp_path / f"{number}.png"
        write_image(image, np.full((50, 100, 3), 90, np.uint8))
        shown.append(Sample(image, None, "group"))
    labels = np.zeros((50, 100), np.uint8)
    labels[:, 40:] = 2
    masks = np.stack([labels == 0, labels == 1, labels >= 0]).astype(np.uint8)
    kinds = ((task, labels), (Task(kind="multilabel", classes=task.names), masks))
    for each, found in kinds:
        _draw_thumbnail(shown, lambda _, found=found: found, each, tmp_path / "thumbnail.jpg")  # type: ignore[misc]
        picture = read_image(tmp_path / "thumbnail.jpg").astype(int)
        assert picture.shape[1] == 640
        legend = picture[320:]
        assert 10 < len(legend) < 60
        for colour, there in zip(each.palette.astype(int), (True, False, True), strict=True):
            assert ((np.abs(legend - colour).max(-1) < 40).sum() > 30) == there


def test_a_fit_that_goes_on_keeps_its_better_network(tmp_path: Path, tiny_data: Path) -> None:
    run = Run.create(tmp_path / "run", arch="unet-ref")
    run.write_config(FitConfig().replace({"arch": "unet-ref", "data.root": str(tiny_data)}))
    found = find_samples(tiny_data)
    write_split(run.split_path, Split(tuple(found[4:]), tuple(found[:4])))
    torch.manual_seed(0)
    model = create_model("unet-ref", width=2).with_spec(trained_size=(16, 16))
    model.save_pretrained(run.model_path)

    class Training(LogReporter):
        """Saves a better network when the evaluation is half through."""

        def advance(self, task: str, steps: int = 1, **values: float) -> None:
            nn.init.constant_(model.network.head.bias, 0.5)
            model.save_pretrained(run.model_path)

    with pytest.raises(RunError, match="network has changed meanwhile"):
        finish_run(run, device="cpu", reporter=Training())
    assert not run.evaluation_path.exists()
    assert Segmenter.from_pretrained(run.path).network.head.bias.item() == 0.5
    finish_run(run, device="cpu")
    assert run.read_evaluation()["images"] == 4
