"""Files that were written once are read for ever: see tests/fixtures/README.md."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from carvana.archs.segmenter import Segmenter
from carvana.archs.spec import ModelSpec
from carvana.errors import ModelError
from carvana.inference.predictor import Predictor

FIXTURES = Path(__file__).parent / "fixtures"
FORMAT_1 = FIXTURES / "format-1"


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    values: dict[str, Any] = json.loads((FORMAT_1 / "model.json").read_text())
    return values


def photo(height: int, width: int) -> np.ndarray:
    return (np.arange(height * width * 3) * 37 % 256).astype(np.uint8).reshape(height, width, 3)


def test_nobody_has_written_the_fixture_anew(expected: dict[str, Any]) -> None:
    digest = hashlib.sha256((FORMAT_1 / "model" / "model.safetensors").read_bytes()).hexdigest()
    assert digest == expected["sha256"]


def test_a_model_of_format_1_computes_what_keras_computed_with_its_weights(expected: dict[str, Any]) -> None:
    model = Segmenter.from_pretrained(FORMAT_1 / "model")
    picture = photo(*expected["photo"])
    with torch.no_grad():
        logits = model(torch.from_numpy(picture).permute(2, 0, 1)[None])[0, 0]
    for row, column, value in expected["logits"]:
        assert logits[row, column].item() == pytest.approx(value, abs=1e-4)
    probabilities = Predictor.from_pretrained(FORMAT_1 / "model", device="cpu").predict(picture).probabilities
    for row, column, value in expected["logits"]:
        assert probabilities[row, column] == pytest.approx(1 / (1 + np.exp(-value)), abs=0.02)  # in bf16, it may be


def test_the_record_of_format_1_says_what_it_said() -> None:
    spec = Segmenter.from_pretrained(FORMAT_1 / "model").spec
    assert spec == ModelSpec(
        arch="unet-ref", options={"width": 2, "bn_eps": 0.01}, classes=1, stride=16, min_size=32, mean=(0, 0, 0),
        std=(1, 1, 1), trained_size=(32, 48), threshold=0.375, init="keras:format-1.keras", package="carvana",
        format_version=1,
    )  # fmt: skip


def test_a_model_of_format_1_is_written_again_as_what_it_was(tmp_path: Path) -> None:
    Segmenter.from_pretrained(FORMAT_1 / "model").save_pretrained(tmp_path)
    again = Segmenter.from_pretrained(tmp_path)
    old = Segmenter.from_pretrained(FORMAT_1 / "model")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in old.state_dict().items())
    assert again.spec == old.spec


@pytest.mark.parametrize("version", [2, 99, "2", None, 1.5])
def test_a_model_of_a_later_format_asks_for_a_later_carvana_in_one_line(tmp_path: Path, version: Any) -> None:
    shutil.copytree(FORMAT_1 / "model", tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    later = {**json.loads(path.read_text()), "format_version": version, "something_new": 3}
    path.write_text(json.dumps(later))
    with pytest.raises(ModelError, match=r"reads up to 1: upgrade carvana") as caught:
        Segmenter.from_pretrained(tmp_path / "model")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
