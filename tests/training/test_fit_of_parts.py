"""A training on a folder that is divided into parts: its validation is taken, and its test part is not touched."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
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
from tests.scenes import VALUES, VOID, draw

PARTS = {"train": range(8), "val": range(8, 11), "test": range(11, 15)}


def write_parts(root: Path) -> Path:
    """``train/`` + ``trainannot/``, ``val/`` + ``valannot/``, and a test part whose files cannot be read.

    One image of val is one of train.
    """
    for part, numbers in PARTS.items():
        for folder in (part, f"{part}annot"):
            (root / folder).mkdir(parents=True)
        for number in numbers:
            for folder, pixels in zip((part, f"{part}annot"), draw(number), strict=True):
                Image.fromarray(pixels).save(root / folder / f"s{number % 8}.png")
                if part == "test":
                    (root / folder / f"s{number % 8}.png").rename(root / folder / f"s{number % 8}.hidden")
                    (root / folder / f"s{number % 8}.png").write_bytes(b"nobody reads this")
    for folder in ("", "annot"):
        shutil.copy(root / f"train{folder}" / "s5.png", root / f"val{folder}" / "s1.png")
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
    return fit(config(write_parts(folder / "data")), out=folder / "run", device="cpu", reporter=said), said.lines


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
    assert sorted(run.read_split("train")) == [f"train/s{number}.png" for number in range(8)]
    assert sorted(run.read_split("val")) == ["val/s0.png", "val/s1.png", "val/s2.png"]
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
    assert [row["image"] for row in numbers["per_image"]] == [f"test/s{number}.png" for number in range(3, 7)]
    assert {path: path.read_bytes() for path in sorted(run.path.rglob("*")) if path.is_file()} == before
    predictor = Predictor.from_pretrained(run.path, device="cpu")
    predict_folder(predictor, sorted((data / "test").iterdir()), out=tmp_path / "out", reporter=Lines())
    matrix = np.zeros((4, 4), np.int64)
    for number in range(3, 7):
        true = read_values(data / "testannot" / f"s{number}.png")
        predicted = read_values(next((tmp_path / "out").rglob(f"s{number}_mask.png")))
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
    table = other.split_path.read_text().replace("train/s3.png", "test/s3.png")
    other.split_path.write_text(table)
    said = Lines()
    found = choose_samples(other.path, split="test", reporter=said)
    assert [sample.name for sample in found] == ["test/s4.png", "test/s5.png", "test/s6.png"]
    assert "was fitted on 1 of the 4 images of the test part, which are left out" in said.lines[0]
    other.split_path.write_text("image,group,subset\n" + "".join(f"test/s{n}.png,x,train\n" for n in range(3, 7))
                                + "val/s0.png,y,val\n")  # fmt: skip
    with pytest.raises(DataError, match="was fitted on all of its test part"):
        choose_samples(other.path, split="test", reporter=said)


@pytest.mark.slow
def test_a_resumed_training_has_the_same_parts(fitted: tuple[Run, list[str]], tmp_path: Path) -> None:
    run, _ = fitted
    other = Run(shutil.copytree(run.path, tmp_path / "run"))
    resume(other.path, epochs=2, device="cpu", reporter=Lines())
    assert other.split_path.read_bytes() == run.split_path.read_bytes()
    assert len(other.read_metrics()) == 2


def test_learning_rates_are_tried_without_the_test_part(fitted: tuple[Run, list[str]]) -> None:
    assert find_lr(fitted[0].read_config(), steps=20, device="cpu", reporter=Lines()).suggestion > 0


def test_an_image_with_its_mask_on_both_sides_is_warned_of(fitted: tuple[Run, list[str]]) -> None:
    assert [line for line in fitted[1] if "same bytes" in line] == [
        "1 image of validation with the same bytes, image and mask, in training (the first: val/s1.png is "
        "train/s5.png): validation reads too high; take one of each two away"
    ]


@pytest.mark.slow
def test_folds_divide_all_but_the_test_part_which_their_networks_are_measured_on(
    fitted: tuple[Run, list[str]], tmp_path: Path
) -> None:
    data = Path(shutil.copytree(data_of(fitted[0]), tmp_path / "data"))
    folds = fit_folds(config(data), folds=2, out=tmp_path / "folds", device="cpu", reporter=Lines())
    assert len(folds.read_evaluation()["per_image"]) == 11
    restore_test(data)
    assert evaluate(folds.path, "--split", "test")["images"] == 4
