"""pytest fixtures for a tiny data set: ``pytest_plugins = ["carvana.testing.fixtures"]`` in a test module.

Nothing heavy is imported before a test asks for a fixture.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from carvana.config import FitConfig


@pytest.fixture(scope="session")
def tiny_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache for the tests alone, in this process and those that it starts, and no access to a hub."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["CARVANA_CACHE"] = str(folder)
    os.environ["HF_HUB_OFFLINE"] = "1"
    return folder


@pytest.fixture(scope="session")
def tiny_data(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: five drawn cars from four angles, 160 x 240 pixels, in Carvana's layout."""
    from carvana.data.demo import write_demo

    return write_demo(tmp_path_factory.mktemp("data") / "tiny", cars=5, views=4, size=(160, 240), workers=1)


@pytest.fixture
def tiny_config(tiny_data: Path) -> FitConfig:
    """A config that trains on ``tiny_data`` in seconds: one epoch at 32 x 48, random weights.

    Change it to use your names: ``tiny_config.replace({"arch": "mine", "train.loss": "bce + mine"})``; for several
    classes, ``{"task.classes": {"ground": 0, "car": "1-255"}}``.
    """
    from carvana.config import FitConfig

    return FitConfig(
        model={"encoder_weights": "none"},
        data={"root": tiny_data, "size": (32, 48), "workers": 0},
        train={"epochs": 1, "batch_size": 4},
    )
