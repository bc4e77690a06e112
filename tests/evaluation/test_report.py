from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from carvana.config import FitConfig
from carvana.data.io.images import write_image
from carvana.data.io.masks import read_mask, write_mask
from carvana.data.samples import Sample, find_samples
from carvana.data.splits import Split, write_split
from carvana.errors import RunError
from carvana.evaluation.report import evaluate_run, finish_run
from carvana.inference.predictor import Predictor
from carvana.models.segmenter import Segmenter, create_model
from carvana.models.spec import ModelSpec
from carvana.run import Run
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
    assert {path.name for path in run.pictures_path.iterdir()} == {"worst.png", "masks.png", "curves.png"}
    again = Predictor(Segmenter.from_pretrained(run.model_path, network=Brightness()), precision="fp32")
    assert again.threshold == evaluation.threshold < 100 / 255
    for sample in samples:
        mask = read_mask(run.masks_path / f"{sample.image.stem}_mask.png")
        np.testing.assert_array_equal(mask, read_mask(sample.mask))  # type: ignore[arg-type]
        np.testing.assert_array_equal(mask, again.predict(sample.image).mask)
    assert "1.00000" in (run.model_path / "README.md").read_text()


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
