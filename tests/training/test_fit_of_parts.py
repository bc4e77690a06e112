"""A training on a folder that is divided into parts: its validation is taken, and its test part is not touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporters import Lines
from typer.testing import CliRunner

from carvana.cli.app import app
from carvana.config import FitConfig
from carvana.data.digest import cache_home
from carvana.data.io.labels import read_values
from carvana.errors import DataError
from carvana.evaluation.samples import choose_samples
from carvana.inference.predict_folder import predict_folder
from carvana.inference.predictor import Predictor
from carvana.metrics import mean_iou
from carvana.run import Run
from carvana.training.cross_validation import fit_folds
from carvana.training.find_lr import find_lr
from carvana.training.fit import fit, resume
from tests.scenes import VALUES, VOID, write_parts


def with_unreadable_test(root: Path) -> Path:
    """Drawn parts, of which the files of the test part cannot be read, and one image of val is one of train."""
    write_parts(root, train=8, val=3, test=4)
    for path in [*root.glob("test*/*.png")]:
        path.rename(path.with_suffix(".hidden"))
        path.write_bytes(b"nobody reads this")
    for folder in ("", "annot"):
        shutil.copy(root / f"train{folder}" / "s05.png", root / f"val{folder}" / "s01.png")
    return root


def restore_test(root: Path) -> Path:
    """Make the files of the test part what they should be."""
    for path in [*root.glob("test*/*.hidden")]:
        path.replace(path.with_suffix(".png"))
    return root


def config(root: Path, **changes: Any) -> FitConfig:
    made = FitConfig(
        arch="unet-ref", model={"options": {"width": 4, "bn_momentum": 0.1}},
        task={"classes": VALUES, "ignore": [VOID]},
        data={"root": root, "size": (24, 32), "workers": 0},
        train={"epochs": 1, "batch_size": 4, "precision": "fp32", "lr": 3e-3, "class_weights": "balanced"},
    )  # fmt: skip
    return made.replace(changes)


@pytest.fixture(scope="module")
def fitted(tiny_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    folder, said = tmp_path_factory.mktemp("parts"), Lines()
    data = with_unreadable_test(folder / "data")
    return fit(config(data), out=folder / "run", device="cpu", reporter=said), said.lines


def data_of(run: Run) -> Path:
    root = run.read_config().data.root
    assert root is not None
    return root


def evaluate(*words: object) -> Any:
    result = CliRunner().invoke(app, ["evaluate", *map(str, words), "--device", "cpu", "--json", "-"])
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_the_folders_say_what_trains_and_what_validates(fitted: tuple[Run, list[str]]) -> None:
    run, said = fitted
    assert sorted(run.read_split("train")) == [f"train/s{number:02}.png" for number in range(8)]
    assert sorted(run.read_split("val")) == ["val/s00.png", "val/s01.png", "val/s02.png"]
    assert run.read_split("test") == {}
    assert sum("its own parts are used: 8 images train, 3 validate" in line for line in said) == 1
    numbers = run.read_evaluation()
    assert [row["image"] for row in numbers["per_image"]] == sorted(run.read_split("val"))
    assert evaluate(run.path, "--split", "val")["miou"] == numbers["miou"]
    assert cache_home().is_dir()  # what it holds is what fit took: it fails for files that cannot be read


def test_the_test_part_is_measured_when_it_is_asked_for_and_the_run_stays_as_it_is(
    fitted: tuple[Run, list[str]], tmp_path: Path
) -> None:
    run, _ = fitted
    data = restore_test(Path(shutil.copytree(data_of(run), tmp_path / "data")))
    before = {path: path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()}
    numbers = evaluate(run.path, "--split", "test", "--root", data)
    assert [row["image"] for row in numbers["per_image"]] == [f"test/s{number:02}.png" for number in range(4)]
    assert {path: path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()} == before
    predictor = Predictor.from_pretrained(run.path, device="cpu")
    predict_folder(predictor, sorted((data / "test").iterdir()), out=tmp_path / "out", reporter=Lines())
    matrix = np.zeros((4, 4), np.int64)
    for number in range(4):
        true = read_values(data / "testannot" / f"s{number:02}.png")
        predicted = read_values(next((tmp_path / "out").rglob(f"s{number:02}_mask.png")))
        for row, values in enumerate(([10], [20], [30, 31], [250])):
            for column, value in enumerate((10, 20, 30, 250)):
                matrix[row, column] += (np.isin(true, values) & (predicted == value)).sum()
    assert numbers["confusion"] == matrix.tolist()
    assert numbers["miou"] == mean_iou(matrix)
    assert len(choose_samples(run.path, split="all", root=data)) == 11


def test_without_a_test_part_that_is_said_in_a_line(fitted: tuple[Run, list[str]], tmp_path: Path) -> None:
    run, _ = fitted
    data = Path(shutil.copytree(data_of(run), tmp_path / "data"))
    shutil.rmtree(data / "testannot")
    with pytest.raises(DataError, match="has no test part with label files"):
        choose_samples(run.path, split="test", root=data)


def test_images_of_the_test_part_that_were_trained_on_are_left_out_and_named(
    fitted: tuple[Run, list[str]], tmp_path: Path
) -> None:
    run, _ = fitted
    other = Run(shutil.copytree(run.path, tmp_path / "run"))
    table = other.split_path.read_text().replace("train/s03.png", "test/s00.png")
    other.split_path.write_text(table)
    said = Lines()
    found = choose_samples(other.path, split="test", reporter=said)
    assert [sample.name for sample in found] == ["test/s01.png", "test/s02.png", "test/s03.png"]
    assert "was fitted on 1 of the 4 images of the test part, which are left out" in said.lines[0]
    other.split_path.write_text("image,group,subset\n" + "".join(f"test/s{n:02}.png,x,train\n" for n in range(4))
                                + "val/s00.png,y,val\n")  # fmt: skip
    with pytest.raises(DataError, match="was fitted on all of its test part"):
        choose_samples(other.path, split="test", reporter=said)


@pytest.mark.slow
def test_a_resumed_training_has_the_same_parts(fitted: tuple[Run, list[str]], tmp_path: Path) -> None:
    run, _ = fitted
    other = Run(shutil.copytree(run.path, tmp_path / "run"))
    resume(other.path, epochs=2, device="cpu", reporter=Lines())
    assert other.split_path.read_bytes() == run.split_path.read_bytes()
    assert len(other.read_metrics()) == 2


@pytest.mark.slow
def test_learning_rates_are_tried_without_the_test_part(fitted: tuple[Run, list[str]]) -> None:
    assert find_lr(fitted[0].read_config(), steps=20, device="cpu", reporter=Lines()).suggestion > 0


def test_an_image_with_its_mask_on_both_sides_is_warned_of(fitted: tuple[Run, list[str]]) -> None:
    assert [line for line in fitted[1] if "same bytes" in line] == [
        "1 image of validation with the same bytes, image and mask, in training (the first: val/s01.png is "
        "train/s05.png): validation reads too high; take one of each two away"
    ]


@pytest.mark.slow
def test_folds_divide_all_but_the_test_part_which_their_networks_are_measured_on(
    fitted: tuple[Run, list[str]], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(data_of(fitted[0]), tmp_path / "data"))
    said = Lines()
    folds = fit_folds(config(data), folds=2, out=tmp_path / "folds", device="cpu", reporter=said)
    assert f"{data}: folds divide its train and its val part, 11 images, anew" in said.lines
    assert len(folds.read_evaluation()["per_image"]) == 11
    restore_test(data)
    assert evaluate(folds.path, "--split", "test")["images"] == 4
