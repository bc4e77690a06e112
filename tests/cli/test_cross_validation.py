"""``carvana fit --folds``, and what the other commands make of its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import carvana
from carvana.cli.app import app
from carvana.folds import Folds

pytestmark = pytest.mark.usefixtures("no_pictures")

TINY = ["model.options.width=4", "data.size=[32, 48]", "train.epochs=1", "data.workers=0", "train.precision=fp32"]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


def fails(*words: object) -> str:
    result = call(*words)
    assert result.exit_code == 1
    assert len(result.stderr.strip().splitlines()) == 1
    return result.stderr


@pytest.fixture(scope="module")
def folds(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Folds:
    out = tmp_path_factory.mktemp("runs") / "folds"
    result = call("fit", "--data", tiny_data, "--folds", 2, "--out", out, "--device", "cpu", *SETTINGS)
    assert result.exit_code == 0, result.stderr
    made = Folds(out)
    numbers = made.read_evaluation()
    for value in (numbers["dice"], numbers["folds_dice_mean"], *(fold["dice"] for fold in numbers["folds"])):
        assert f"{value:.5f}" in result.stdout
    assert f"carvana predict {out} " in result.stdout
    assert "fold 2 of 2" in result.stderr
    return made


def test_resume_goes_on_with_what_is_missing(folds: Folds, tmp_path: Path) -> None:
    copy = Folds(shutil.copytree(folds.path, tmp_path / "folds"))
    copy.evaluation_path.unlink()
    shutil.rmtree(copy.runs[1].path)
    result = call("fit", "--resume", copy.path, "--device", "cpu")
    assert result.exit_code == 0, result.stderr
    assert "fold 1 of 2: fitted already" in result.stderr
    assert copy.read_evaluation() | {"seconds": 0} == folds.read_evaluation() | {"seconds": 0}


def test_resume_takes_no_other_options(folds: Folds) -> None:
    assert "with --folds: " in fails("fit", "--resume", folds.path, "--folds", 3)
    assert "with --set train.epochs=3: " in fails("fit", "--resume", folds.path, "--set", "train.epochs=3")


def test_evaluate_shows_what_the_folds_hold(folds: Folds) -> None:
    assert json.loads(call("evaluate", folds.path, "--json", "-").stdout) == folds.read_evaluation()
    assert "not trained on it" in call("evaluate", folds.path).stdout


def test_evaluate_takes_the_mean_of_networks_on_other_photos(folds: Folds, tiny_data: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(tiny_data, tmp_path / "other"))
    result = call("evaluate", folds.path, "--data", other, "--device", "cpu", "--json", "-")
    assert result.exit_code == 0, result.stderr
    assert "5 groups of this data were trained on" in result.stderr  # a different part of them by each network
    ensemble = carvana.Ensemble.from_pretrained(folds.path, device="cpu")
    expected = carvana.evaluate(ensemble, carvana.find_samples(other)).to_json()
    assert json.loads(result.stdout) | {"seconds": 0} == expected | {"seconds": 0}
    first, second = (run.path for run in folds.runs)
    both = call("evaluate", first, "--with", second, "--data", other, "--device", "cpu", "--json", "-")
    assert json.loads(both.stdout)["dice"] == expected["dice"]


def test_photos_that_a_member_was_trained_on_are_no_default(folds: Folds) -> None:
    first, second = (run.path for run in folds.runs)
    assert "--data" in fails("evaluate", first, "--with", second)
    assert "--data" in fails("evaluate", folds.path, "--split", "val")
