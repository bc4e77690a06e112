from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner, Result

import carvana
from carvana.cli.app import app
from carvana.config import FitConfig
from carvana.data.io.masks import read_mask
from carvana.data.samples import find_samples
from carvana.folds import Folds
from carvana.models.segmenter import create_model


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def folds(tmp_path_factory: pytest.TempPathFactory) -> Folds:
    """Two networks that know nothing, one of each fold, which see images at sizes of their own."""
    made = Folds.create(tmp_path_factory.mktemp("runs") / "folds", FitConfig(), folds=2)
    for number, run in enumerate(made.runs):
        torch.manual_seed(number)
        model = create_model("unet-ref", width=2).with_spec(trained_size=(16, 24 + 8 * number), threshold=0.5)
        model.save_pretrained(run.model_path)
        run.write_record({"fit_seconds": 1.0})
        run.write_evaluation({"dice": 0.9})
    return made


def masks(folder: Path) -> np.ndarray:
    return np.stack([read_mask(path) for path in sorted(folder.glob("*_mask.png"))])


def test_with_averages_probabilities_and_says_at_which_threshold(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    first, second = (run.path for run in folds.runs)
    result = call("predict", first, tiny_data / "train", "--with", second, "--out", tmp_path / "both")
    assert result.exit_code == 0, result.stderr
    assert "2 networks, threshold 0.500" in result.stderr
    members = [carvana.Predictor.from_pretrained(path) for path in (first, second)]
    for sample in find_samples(tiny_data):
        mean = np.mean([member.predict(sample.image).probabilities for member in members], axis=0)
        written = read_mask(tmp_path / "both" / f"{sample.image.stem}_mask.png")
        assert ((mean > 0.5) == written).mean() > 0.9999  # rounding, where the mean is one half

    assert (
        "0 written" in call("predict", first, tiny_data / "train", "--with", second, "--out", tmp_path / "both").stdout
    )
    alone = call("predict", first, tiny_data / "train", "--out", tmp_path / "both")
    assert "20 written" in alone.stdout
    assert "networks" not in alone.stderr


def test_a_folder_of_folds_is_all_its_networks(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    first, second = (run.path for run in folds.runs)
    assert call("predict", folds.path, tiny_data / "train", "--out", tmp_path / "folds").exit_code == 0
    assert call("predict", first, tiny_data / "train", "--with", second, "--out", tmp_path / "both").exit_code == 0
    np.testing.assert_array_equal(masks(tmp_path / "folds"), masks(tmp_path / "both"))


def test_a_member_that_is_not_there_is_one_line(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    words = ["--with", tmp_path / "nowhere", "--out", tmp_path / "out"]
    result = call("predict", folds.path, tiny_data / "train", *words)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: there is no model folder")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_class_without_a_cut_out_is_wrong_usage_before_anything_is_read() -> None:
    result = call("predict", "absent", "absent", "--out", "out", "--save", "mask, overlay", "--class", "road")
    assert result.exit_code == 2
    assert "--class road is for cut-outs, and none is saved: add cutout to --save" in " ".join(
        result.stderr.replace("│", " ").split()
    )


def test_what_cannot_be_saved_is_told_before_a_network_is_loaded() -> None:
    result = call("predict", "absent", "absent", "--out", "out", "--save", "maks")
    assert result.exit_code == 1
    assert (
        "cannot save 'maks'; expected some of mask, prob, cutout, overlay, coco; did you mean 'mask'?" in result.stderr
    )
