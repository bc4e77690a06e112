from __future__ import annotations

from pathlib import Path

import pytest

import carvana
from carvana.config import FitConfig

pytestmark = pytest.mark.usefixtures("no_pictures")


def test_training_with_the_cache_gives_the_same_network_byte_for_byte(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))
    recipe = FitConfig(
        arch="unet-ref",
        model={"options": {"width": 4}},
        data={"root": tiny_data, "size": [32, 48], "augment": "studio", "workers": 0},
        split={"val": 1},
        train={"epochs": 1, "batch_size": 4, "precision": "fp32"},
    )
    weights = []
    for name, gigabytes in (("none", 0), ("cached", 1)):
        run = carvana.fit(recipe.replace({"data.cache_gb": gigabytes}), out=tmp_path / name)
        weights.append((run.model_path / "model.safetensors").read_bytes())
        held = len(list((tmp_path / "cache").rglob("*.pack")))
        assert (held > 0) == (gigabytes > 0)
    assert weights[0] == weights[1]


def test_crops_are_not_cached(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))
    recipe = FitConfig(
        arch="unet-ref",
        model={"options": {"width": 4}},
        data={"root": tiny_data, "size": [32, 48], "mode": "crop", "workers": 0},
        split={"val": 1},
        train={"epochs": 1, "batch_size": 8, "precision": "fp32"},
    )
    carvana.fit(recipe, out=tmp_path / "run")
    assert not (tmp_path / "cache").exists()
