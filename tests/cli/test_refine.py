"""``--mode refine`` and ``--refine-with`` with the commands that know them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from submitting import read_table
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.config import FitConfig
from carvana.data.io import rle
from carvana.data.io.masks import read_mask
from carvana.evaluation.evaluate import evaluate
from carvana.evaluation.samples import choose_samples
from carvana.inference.prediction import Prediction
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import Refiner
from carvana.run import Run
from carvana.training.fit import fit

pytestmark = pytest.mark.usefixtures("no_pictures")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def coarse(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = FitConfig().replace(
        {
            "model.options": {"width": 4},
            "data.root": str(tiny_data),
            "data.size": [32, 48],
            "data.workers": 0,
            "train.epochs": 2,
            "train.precision": "fp32",
        }
    )
    return fit(config, out=tmp_path_factory.mktemp("runs") / "coarse", device="cpu")


@pytest.fixture(scope="module")
def fine(coarse: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same network, gone on with on pieces at the images' own size."""
    config = coarse.read_config().replace({"data.mode": "crop", "data.size": [64, 64], "train.epochs": 1})
    return fit(config, out=tmp_path_factory.mktemp("runs") / "fine", init=coarse.path, device="cpu")


def refiner(first: Run, second: Run, **settings: object) -> Refiner:
    coarse = Predictor.from_pretrained(first.path, device="cpu")
    return Refiner(coarse, Predictor.from_pretrained(second.path, scale="native", device="cpu"), **settings)  # type: ignore[arg-type]


def agree(mask: NDArray[np.uint8], prediction: Prediction) -> bool:
    """Whether masks are the same but where rounding decides: images go together, and here each alone."""
    differs = mask != prediction.mask
    return bool((abs(prediction.probabilities[differs] - prediction.threshold) < 1e-4).all())


def test_predict_writes_the_refined_masks_and_knows_them_again(
    coarse: Run, fine: Run, tiny_data: Path, tmp_path: Path
) -> None:
    words = ("predict", coarse.path, tiny_data / "train", "--out", tmp_path, "--device", "cpu")
    result = call(*words, "--refine-with", fine.path, "--band", 0.1, 0.7, "--margin", 0)
    assert result.exit_code == 0, result.stderr
    predictor = refiner(coarse, fine, band=(0.1, 0.7), margin=0)
    assert f"refined by {fine.path}, threshold {predictor.threshold:.3f}" in result.stderr
    first = 0
    for photo in sorted((tiny_data / "train").iterdir()):
        written = read_mask(tmp_path / f"{photo.stem}_mask.png")
        assert agree(written, predictor.predict(photo))
        first += int((written != predictor.coarse.predict(photo).mask).sum())
    assert first > 0
    assert "0 written" in call(*words, "--refine-with", fine.path, "--band", 0.1, 0.7, "--margin", 0).stdout
    assert "20 written" in call(*words, "--refine-with", fine.path, "--band", 0.1, 0.7, "--margin", 1).stdout
    assert "20 written" in call(*words, "--mode", "refine").stdout  # with itself


def test_evaluate_measures_what_predict_writes(coarse: Run, fine: Run) -> None:
    result = call("evaluate", coarse.path, "--refine-with", fine.path, "--json", "-", "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    numbers = json.loads(result.stdout)
    own = evaluate(refiner(coarse, fine), choose_samples(coarse.path)).to_json()
    assert numbers["per_image"] == own["per_image"]
    assert [numbers[name] for name in ("dice", "boundary_dice", "threshold")] == [
        own[name] for name in ("dice", "boundary_dice", "threshold")
    ]


def test_an_evaluation_says_whose_threshold_is_taken(coarse: Run, fine: Run, tiny_data: Path) -> None:
    words = ("evaluate", coarse.path, "--with", coarse.path, "--data", tiny_data, "--device", "cpu")
    assert "the mean of the networks'" in " ".join(call(*words).stdout.split())
    refined = call(*words, "--refine-with", fine.path)
    assert refined.exit_code == 0, refined.stderr
    assert "that of the refining network" in " ".join(refined.stdout.split())


def test_submit_writes_the_refined_masks(coarse: Run, fine: Run, tiny_data: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.csv"
    words = ("--out", out, "--refine-with", fine.path, "--workers", 0, "--device", "cpu")
    result = call("submit", coarse.path, tiny_data / "train", *words)
    assert result.exit_code == 0, result.stderr
    predictor = refiner(coarse, fine)
    photos = sorted((tiny_data / "train").iterdir())
    table = read_table(out)
    assert list(table) == [photo.name for photo in photos]
    for photo in photos:
        prediction = predictor.predict(photo)
        assert agree(rle.decode(table[photo.name], prediction.size), prediction)


def test_a_network_that_knows_the_cars_is_told_of(coarse: Run, tiny_data: Path, tmp_path: Path) -> None:
    config = coarse.read_config().replace({"split.seed": 5, "train.epochs": 1})
    other = fit(config, out=tmp_path / "other", device="cpu")
    result = call("evaluate", coarse.path, "--refine-with", other.path, "--device", "cpu")
    assert result.exit_code == 0
    assert "of this data was trained on" in result.stderr


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mode", "refine", "--band", "0.9", "0.1"), "band 0.9 to 0.1: expected two probabilities"),
        (("--mode", "refine", "--margin", "-3"), "margin -3: expected pixels"),
        (
            ("--mode", "refine", "--scale", "native"),
            "at the first look as well; name a smaller scale",
        ),
        (("--margin", "30"), "margin 30: goes with a second look; add --refine-with, or --mode refine"),
        (("--mode", "refine", "--overlap", "0.5"), "overlap 0.5"),
        (("--mode", "tiles", "--refine-with", "RUN"), "mode 'tiles' does not go with a network to refine with"),
        (("--refine-with", "nowhere"), "nowhere"),
    ],
)
def test_mistakes_are_told_in_one_line(
    words: tuple[str, ...], told: str, coarse: Run, tiny_data: Path, tmp_path: Path
) -> None:
    named = [str(coarse.path) if word == "RUN" else word for word in words]
    result = call("predict", coarse.path, tiny_data / "train", "--out", tmp_path / "out", *named)
    assert result.exit_code == 1, result.stdout
    assert told in result.stderr.splitlines()[-1]
    assert not (tmp_path / "out").exists()
