"""``carvana evaluate``: what it measures, what it keeps and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from carvana.cli.app import app
from carvana.models.segmenter import Segmenter
from carvana.run import Run
from carvana.training.fit import fit

KEPT = ("images", "groups", "dice", "dice_ci95", "dice_at_half", "iou", "pixel_accuracy", "boundary_dice", "threshold")


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def run(request: pytest.FixtureRequest, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run in each precision: one of them is not what this machine would take of itself."""
    if request.param == "fp32":
        return Run(tiny_run)
    config = Run(tiny_run).read_config().replace({"train.precision": request.param})
    return fit(config, out=tmp_path_factory.mktemp("runs") / request.param, device="cpu")


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    return Run(shutil.copytree(run.path, tmp_path / "run"))


def test_it_computes_in_the_precision_of_the_run(run: Run) -> None:
    result = call("evaluate", run.path, "--device", "cpu", "--json", "-")
    assert result.exit_code == 0
    assert {name: json.loads(result.stdout)[name] for name in KEPT} == {
        name: run.read_evaluation()[name] for name in KEPT
    }


def test_a_run_whose_fit_was_interrupted_is_finished(run: Run, copy: Run) -> None:
    copy.evaluation_path.unlink()
    shutil.rmtree(copy.masks_path)
    shutil.rmtree(copy.pictures_path)
    Segmenter.from_pretrained(copy.path).with_spec(threshold=0.99).save_pretrained(copy.model_path)
    record = copy.read_record()
    copy.write_record({name: record[name] for name in record if name not in ("precision", "format_version")})

    result = call("evaluate", copy.path, "--device", "cpu", "--scale", "native")
    assert "no row above is measured at that" in result.stdout
    assert not copy.evaluation_path.exists()  # another scale than the training's is not the run's evaluation

    result = call("evaluate", copy.path, "--device", "cpu")
    assert result.exit_code == 0
    assert "stored in the model" in result.stdout
    assert "not evaluated yet" in result.stderr
    numbers, expected = copy.read_evaluation(), run.read_evaluation()
    assert {name: numbers[name] for name in KEPT} == {name: expected[name] for name in KEPT}
    assert Segmenter.from_pretrained(copy.path).spec.threshold == expected["threshold"]
    for folder in ("masks", "pictures"):
        assert {p.name for p in (copy.path / folder).iterdir()} == {p.name for p in (run.path / folder).iterdir()}
    for mask in copy.masks_path.iterdir():
        assert mask.read_bytes() == (run.masks_path / mask.name).read_bytes()

    before = copy.evaluation_path.read_bytes()
    result = call("evaluate", copy.path, "--device", "cpu")
    assert "stored in the model" not in result.stdout
    assert "no row above" not in result.stdout  # both are equal
    assert f"{expected['threshold']:.3f}   best on these images, and the model's own, which `carvana predict`" in (
        result.stdout
    )
    assert copy.evaluation_path.read_bytes() == before


def test_a_data_folder_that_has_moved_is_named_by_root(tiny_data: Path, tmp_path: Path, tiny_run: Path) -> None:
    data, now = Path(shutil.copytree(tiny_data, tmp_path / "data")), tmp_path / "elsewhere"
    made = Run(shutil.copytree(tiny_run, tmp_path / "run"))
    made.write_config(made.read_config().replace({"data.root": str(data)}))
    config = made.config_path.read_bytes()
    data.rename(now)
    gone = call("evaluate", made.path, "--device", "cpu")
    assert (gone.exit_code, gone.stderr.count("\n")) == (1, 1)
    assert "--root DIR" in gone.stderr

    both = call("evaluate", made.path, "--root", now, "--data", now, "--device", "cpu")
    assert (both.exit_code, both.stderr.count("\n")) == (1, 1)
    again = call("evaluate", made.path, "--root", now, "--device", "cpu", "--json", "-")
    assert json.loads(again.stdout)["dice"] == made.read_evaluation()["dice"]

    expected = made.read_evaluation()
    made.evaluation_path.unlink()  # as a fit that was killed leaves it
    assert call("evaluate", made.path, "--root", now, "--device", "cpu").exit_code == 0
    assert {name: made.read_evaluation()[name] for name in KEPT} == {name: expected[name] for name in KEPT}
    assert made.config_path.read_bytes() == config


def test_a_target_that_cannot_be_written_is_told_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = call("evaluate", run.path, "--json", tmp_path / "file" / "n.json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "--json" in result.stderr


def test_a_write_that_fails_all_the_same_loses_no_numbers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", str(tmp_path / "n.json"))

    monkeypatch.setattr("carvana.cli.tables.write_json", full)
    result = call("evaluate", run.path, "--device", "cpu", "--json", tmp_path / "n.json")
    assert result.exit_code == 1
    assert f"{run.read_evaluation()['dice']:.5f}" in result.stdout
    assert "No space left on device" in result.stderr


def test_a_path_with_brackets_is_no_markup(run: Run, tmp_path: Path) -> None:
    odd = shutil.copytree(run.path, tmp_path / "[" / "x]")
    result = call("evaluate", odd, "--device", "cpu")
    assert result.exit_code == 0
    assert "/[/x]" in result.stdout
