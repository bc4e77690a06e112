from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import carvana
from carvana.losses import make_loss
from carvana.training import accelerator
from carvana.training.accelerator import largest_batch
from carvana.training.trainer import Trainer

CPU = torch.device("cpu")


def largest(photos: int, size: tuple[int, int] = (64, 64), width: int = 8) -> int:
    model = carvana.create_model("unet-ref", width=width)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = largest_batch(model, size, images=photos, loss=make_loss("bce"), device=CPU, precision="fp32")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    return found


@pytest.mark.parametrize(("photos", "expected"), [(3, 2), (100, 4), (812, 32), (10**6, 1024)])
def test_an_epoch_keeps_sixteen_steps(photos: int, expected: int) -> None:
    assert largest(photos) == expected


def test_what_does_not_fit_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An image of 64 x 64 keeps about 64 x 64 x 100 numbers in this network: some megabytes."""
    found = []
    for gigabytes in (0.02, 0.2, 2.0):
        monkeypatch.setattr(accelerator, "free_memory", lambda gigabytes=gigabytes: int(gigabytes * 1e9))
        found.append(largest(10**6))
    assert found[0] < found[1] < found[2]
    assert found[1] == pytest.approx(8 * found[0], rel=1.1)
    monkeypatch.setattr(accelerator, "free_memory", lambda: int(0.2e9))
    assert largest(10**6, size=(128, 128)) == found[1] // 4


def test_the_run_keeps_the_number(tiny_data: Path, tmp_path: Path) -> None:
    samples = carvana.find_samples(tiny_data) * 4
    data = carvana.SegmentationDataset(samples, (32, 32))
    settings: dict[str, Any] = {"batch_size": "auto", "epochs": 1, "workers": 0, "device": "cpu"}
    trainer = Trainer(carvana.create_model("unet-ref", width=4), train=data, out=tmp_path / "run", **settings)
    assert trainer.batch_size == trainer.settings.batch_size == 4
    trainer.fit()
    assert trainer.duration.step == 20
