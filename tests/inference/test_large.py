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
from carvana.utils.devices import PeakMemory

side = int(sys.argv[1])
torch.manual_seed(0)
network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1))
model = carvana.Segmenter(network, ModelSpec(arch="mine", stride=32, min_size=64))
predictor = carvana.Predictor(model, scale="native", mode="tiles", tile=1024, precision="fp32", device="cpu")
predictor.predict(np.zeros((1100, 1100, 3), np.uint8)).mask
with PeakMemory(torch.device("cpu")) as before:
    pass
image = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
with PeakMemory(torch.device("cpu")) as peak:
    (prediction,) = predictor.predict_many([image])
    assert prediction.mask.shape == (side, side)
assert 0 < prediction.mask.mean() < 1
print(peak.megabytes - before.megabytes)
"""


@pytest.mark.slow
def test_memory_is_eight_bytes_a_pixel_and_what_a_tile_takes() -> None:
    side = 12_000
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(side)], capture_output=True, text=True, check=True)
    allowed = 8 * side**2 / 1e6 + 200  # photo 3, sums of logits 4, mask 1 byte a pixel; and some tiles
    assert float(done.stdout) < allowed
