"""An image of 12,000 x 12,000 pixels in tiles, in a process of its own whose memory is looked at."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import numpy as np, torch
from torch import nn
import carvana
from carvana.models.spec import ModelSpec
from carvana.task import Task
from carvana.utils.devices import PeakMemory

side, classes, tile = map(int, sys.argv[1:4])
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, classes, 3, padding=1))
task = Task(classes=[f"class {number}" for number in range(classes)])
size = None if tile else (256, 256)
model = carvana.Segmenter(network, ModelSpec(arch="mine", stride=32, min_size=64, task=task, trained_size=size))
cover = {"scale": "native", "mode": "tiles", "tile": tile, "join": sys.argv[4]} if tile else {}
how, fixed = sys.argv[5], {"precision": "fp32", "device": "cpu"}
predictor = carvana.Predictor(model, tta=how == "mirrored", **fixed, **cover)
if how == "several":
    predictor = carvana.Ensemble([predictor, carvana.Predictor(model, scale=(256, 256), **fixed), predictor])
if how == "refined":
    predictor = carvana.Refiner(carvana.Predictor(model, scale=(256, 256), **fixed), predictor)
predictor.predict(np.zeros((1100, 1100, 3), np.uint8)).labels
with PeakMemory(torch.device("cpu")) as before:
    pass
image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
with PeakMemory(torch.device("cpu")) as peak:
    (prediction,) = predictor.predict_many([image])
    assert prediction.labels.shape == (side, side)
assert prediction.labels.any() and not prediction.labels.all()
print(peak.megabytes - before.megabytes)
"""


def peak(side: int, classes: int, tile: int, join: str = "blend", how: str = "once") -> float:
    """The MB that a prediction takes, the image included; tile 0 is the trained scale."""
    words = [sys.executable, "-c", SCRIPT, str(side), str(classes), str(tile), join, how]
    return float(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_memory_is_eight_bytes_a_pixel_and_what_a_tile_takes() -> None:
    side = 12_000
    allowed = 8 * side**2 / 1e6 + 200  # photo 3, sums of logits 4, mask 1 byte a pixel; and some tiles
    assert peak(side, 1, 1024) < allowed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tile", "join", "how", "share"),
    [
        (256, "blend", "once", 0.5), (256, "exact", "once", 0.5), (0, "", "once", 0.5), (256, "blend", "refined", 0.5),
        (256, "blend", "mirrored", 1), (256, "blend", "several", 1.2),  # 2 and 3 times all maps, and their mean, before
    ],
)  # fmt: skip
def test_memory_for_labels_is_no_map_for_each_class(tile: int, join: str, how: str, share: float) -> None:
    side, classes = 2500, 40
    all_maps = 4 * classes * side**2 / 1e6  # 1,000 MB; a batch of tiles takes 84 MB, several times
    assert peak(side, classes, tile, join, how) < share * all_maps
