"""From an annotation file to a training, and from its predictions to the next one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from carvana import Predictor, create_model, evaluate, find_samples
from carvana.cli.app import app
from carvana.config import FitConfig
from carvana.data.check.preview import show_samples
from carvana.data.io.images import write_image
from carvana.errors import DataError
from carvana.run import Run
from carvana.task import Task
from carvana.training.fit import fit


def call(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten grey images with a bright car on a road each, and their COCO file, which has an annotation of no image."""
    root = tmp_path_factory.mktemp("annotated")
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(10):
        left, top = (int(rng.integers(0, most)) for most in (24, 6))
        image = rng.integers(90, 110, (32, 48, 3)).astype(np.uint8)
        image[top + 4 : top + 14, left + 2 : left + 20] = 240
        image[20:] //= 2
        write_image(root / "images" / f"{number}.png", image)
        images.append({"id": number, "file_name": f"{number}.png", "height": 32, "width": 48})
        box = (left + 2, top + 4, left + 20, top + 14)
        for category, (x0, y0, x1, y1) in ((1, box), (2, (0, 20, 48, 32))):
            annotations.append(
                {"id": len(annotations), "image_id": number, "category_id": category,
                 "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
            )  # fmt: skip
    annotations.append({"id": 99, "image_id": 99, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]})
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "road"}]
    (root / "labels.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return root


def config(data: Path, **task: object) -> FitConfig:
    return FitConfig(
        task=task,
        model={"options": {"width": 2}},
        data={"root": data, "size": (32, 48), "workers": 0, "augment": "none"},
        train={"epochs": 1, "precision": "fp32", "batch_size": 4},
    )


def test_without_classes_the_training_stops_with_those_of_the_file(data: Path, tmp_path: Path) -> None:
    for task in ({}, {"classes": ["lorry"]}, {"classes": ["sky", "tree"]}):
        with pytest.raises(
            DataError,
            match=r"a category of car, road; write into the config task: \{classes: \[background, car,",
        ) as error:
            fit(config(data, **task), out=tmp_path / "run", device="cpu")
        assert "\n" not in str(error.value)
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_training_on_polygons_leads_to_polygons_and_these_to_a_training(data: Path, tmp_path: Path) -> None:
    task = {"classes": ["background", "car", "road"]}
    words = ["--data", data, "--device", "cpu", "--arch", "unet-ref", "--set", "model.options={width: 2}"]
    words += ["--set", "data.size=[32, 48]", "--set", "data.workers=0", "--set", "train.epochs=1"]
    done = call("fit", *words, "--set", f"task.classes={json.dumps(task['classes'])}", "--out", tmp_path / "run")
    assert done.exit_code == 0, done.stderr
    assert "labels.json: 1 annotation without an image in the file: left out" in done.stderr
    assert call("evaluate", tmp_path / "run", "--device", "cpu").exit_code == 0
    names = [each["name"] for each in Run(tmp_path / "run").read_evaluation()["per_class"]]
    assert names == task["classes"]
    out = tmp_path / "out"
    assert call("predict", tmp_path / "run", data / "images", "--out", out, "--save", "coco").exit_code == 0
    values = json.loads((out / "annotations.coco.json").read_text())
    assert [each["name"] for each in values["categories"]] == ["car", "road"]
    assert len(values["images"]) == 10
    again = [f"data.images={data / 'images'}", f"data.masks={out / 'annotations.coco.json'}"]
    again += ["task.classes={car: car, rest: '*'}"]  # of one epoch, whatever it has found
    done = call("fit", *words, *(word for each in again for word in ("--set", each)), "--out", tmp_path / "two")
    assert done.exit_code == 0, done.stderr


def test_other_categories_than_those_of_the_task_are_not_evaluated(data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no class of the task has a category of car, road"):
        show_samples(find_samples(data), tmp_path / "sheet.png", task=Task(classes=["lorry"]))
    model = create_model("unet-ref", task=Task(classes=["lorry"]), width=2)
    with pytest.raises(DataError, match="no class of the task has a category of car, road"):
        evaluate(Predictor(model, device="cpu"), find_samples(data))


@pytest.mark.slow
def test_a_class_of_two_colours_is_trained_and_drawn(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (128, 64, 128), (130, 64, 128), (0, 0, 142)], np.uint8)
    for number in range(4):
        labels = np.arange(24).reshape(4, 6).repeat(8, axis=0).repeat(8, axis=1) * (number + 1) % 4
        write_image(tmp_path / "images" / f"{number}.png", colours[labels])
        write_image(tmp_path / "masks" / f"{number}.png", colours[labels])
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nnone,0,0,0\nroad,128,64,128\nkerb,130,64,128\ncar,0,0,142\n")
    run = fit(config(tmp_path, classes="class_dict.csv", ignore=["kerb"]), out=tmp_path / "run", device="cpu")
    numbers = run.read_evaluation()
    assert [each["name"] for each in numbers["per_class"]] == ["none", "road", "car"]
    assert (run.pictures_path / "masks.png").is_file()


def test_one_category_is_an_object_in_training_and_evaluation(data: Path, tmp_path: Path) -> None:
    run = fit(config(data, classes=["car"]), out=tmp_path / "run", device="cpu")
    numbers = run.read_evaluation()
    assert numbers["metric"] == "dice"
    assert numbers["per_class"][0]["pixels"] == 180 * numbers["images"]
