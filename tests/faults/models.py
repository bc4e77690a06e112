"""Saved models to break, and what is said of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from carvana.errors import CarvanaError
from carvana.models.segmenter import create_model

WEIGHTS, CONFIG = "model.safetensors", "config.json"
FIRST = "down.0.0.weight"
"""The first tensor of a saved model."""


def save_model(folder: Path) -> Path:
    """A model folder that is in order: the reference network, 2 wide."""
    torch.manual_seed(0)
    create_model("unet-ref", width=2).with_spec(trained_size=(32, 48)).save_pretrained(folder)
    return folder


def configure(model: Path, **changes: Any) -> Path:
    """Change keys of a configuration, unchecked."""
    values = json.loads((model / CONFIG).read_text()) | changes
    (model / CONFIG).write_text(json.dumps(values))
    return model


def refusal(act: Callable[[], object]) -> str:
    """What is said: one line of bounded length that a terminal can show."""
    with pytest.raises(CarvanaError) as caught:
        act()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message
