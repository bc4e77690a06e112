"""From label files to label maps and numbers: a training of several classes, by real commands on drawn scenes."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor

import carvana
from carvana.config import FitConfig
from carvana.data.check.report import check_data
from carvana.data.io.labels import read_values
from carvana.errors import ConfigError, DataError
from carvana.evaluation.labels import LabelEvaluation
from carvana.inference.predict_folder import predict_folder
from carvana.metrics import mean_iou
from carvana.run import Run
from carvana.training.fit import fit, resume
from carvana.training.setup import build_model
from carvana.training.signals import TrainingInterrupted
from carvana.training.trainer import Trainer
from tests.scenes import NAMES, TASK, VALUES, VOID, write_scenes

pytestmark = pytest.mark.usefixtures("no_pictures_in_tests")


def config(root: Path, **changes: Any) -> FitConfig:
    made = FitConfig(
        arch="unet-ref", model={"options": {"width": 4, "bn_momentum": 0.1}},
        task={"classes": VALUES, "ignore": [VOID]},
        data={"root": root, "group": r"(g\d)_", "size": (24, 32), "workers": 0, "cache_gb": 0, "augment": "seed"},
        split={"val": 2}, train={"epochs": 2, "batch_size": 4, "precision": "fp32", "lr": 3e-3},
    )  # fmt: skip
    return made.replace(changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("classes")
    return fit(config(write_scenes(folder / "data")), out=folder / "run", device="cpu")


def test_the_numbers_are_those_of_the_written_label_maps(run: Run) -> None:
    numbers = run.read_evaluation()
    root = run.read_config().data.root
    assert root is not None
    matrix = np.zeros((4, 4), np.int64)
    names = list(run.read_split("val"))
    for name in names:
        stem = Path(name).stem
        predicted = read_values(run.masks_path / f"{stem}_mask.png")
        true = read_values(root / "masks" / name)
        assert predicted.shape == true.shape
        assert set(np.unique(predicted)) <= {10, 20, 30, 250}  # the files' own values, of several the first
        for row, values in enumerate(([10], [20], [30, 31], [250])):
            for column, value in enumerate((10, 20, 30, 250)):
                matrix[row, column] += (np.isin(true, values) & (predicted == value)).sum()
    assert matrix.tolist() == numbers["confusion"]
    assert matrix.sum() == len(names) * 45 * 64  # without the strip of void
    assert numbers["score"] == numbers["miou"] == mean_iou(matrix)
    assert numbers["pixel_accuracy"] == np.trace(matrix) / matrix.sum()
    assert [each["name"] for each in numbers["per_class"]] == NAMES


def test_the_run_says_what_was_told_apart(run: Run) -> None:
    task = run.read_config().task.task()
    assert task == TASK
    assert run.read_config().train.loss == "ce + dice"
    model = carvana.Segmenter.from_pretrained(run.model_path)
    assert (model.spec.task, model.spec.classes, model.spec.thresholds) == (TASK, 4, ())
    card = (run.model_path / "README.md").read_text()
    assert "multiclass, 4 classes" in card
    assert f"| pole | `250` | `#a1caf1` | {run.read_evaluation()['per_class'][3]['iou']:.5f} |" in card
    metrics = run.read_metrics()
    assert [set(line) >= {"val_score", "val_miou", "val_accuracy"} for line in metrics] == [True, True]
    assert all(line["val_score"] == line["val_miou"] for line in metrics)
    assert "val_dice" not in metrics[0]
    assert {path.name for path in run.pictures_path.iterdir()} == {
        "worst.png", "masks.png", "curves.png", "confusion.png", "classes.png", "thumbnail.jpg",
    }  # fmt: skip


def test_label_maps_have_the_colours_of_the_classes(run: Run) -> None:
    path = next(run.masks_path.iterdir())
    with Image.open(path) as picture:
        assert picture.mode == "P"
        colours = np.asarray(picture.convert("RGB"))
        values = np.asarray(picture)
    for index, value in enumerate((10, 20, 30, 250)):
        assert (colours[values == value] == TASK.palette[index]).all()


def test_a_stopped_training_goes_on_to_the_same_numbers(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, out = Trainer.train_step, tmp_path / "stopped"

    def stopping(self: Trainer, *args: Any, **place: Any) -> Tensor:
        if self.duration.step == 1:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **place)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", stopping)
        with pytest.raises(TrainingInterrupted):
            fit(run.read_config(), out=out, device="cpu")
    again = resume(out, device="cpu")
    assert again.metrics_path.read_bytes() == run.metrics_path.read_bytes()
    assert again.read_evaluation()["confusion"] == run.read_evaluation()["confusion"]


def test_the_cache_gives_the_same_training(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path / "cache"))
    cached = fit(run.read_config().replace({"data.cache_gb": 1}), out=tmp_path / "cached", device="cpu")
    assert list((tmp_path / "cache").rglob("*.pack"))
    assert run.metrics_path.read_bytes() == cached.metrics_path.read_bytes()


@pytest.mark.parametrize(
    "crops", ["class", *(pytest.param(other, marks=pytest.mark.slow) for other in ("boundary", "any"))]
)
def test_crops_and_weights_train_too(tmp_path: Path, crops: str) -> None:
    root = write_scenes(tmp_path / "data")
    changes = {"data.mode": "crop", "data.crops": crops, "train.class_weights": "balanced", "train.epochs": 1}
    assert fit(config(root, **changes), out=tmp_path / "run", device="cpu").read_evaluation()["score"] > 0


def test_predict_writes_label_maps_probabilities_and_overlays(run: Run, tmp_path: Path) -> None:
    root = run.read_config().data.root
    assert root is not None
    images = sorted((root / "images").iterdir())[:2]
    predictor = carvana.Predictor.from_pretrained(run.path, device="cpu")
    predict_folder(
        predictor, images, out=tmp_path, save=("mask", "prob", "overlay", "cutout"), of_class="car", workers=1
    )
    stem = images[0].stem
    prediction = predictor.predict(images[0])
    assert prediction.labels.tolist() == prediction.probabilities.argmax(0).tolist()
    assert read_values(tmp_path / f"{stem}_mask.png").tolist() == TASK.decode(prediction.labels).tolist()
    with np.load(tmp_path / f"{stem}_prob.npz") as arrays:
        assert list(arrays) == NAMES
        total = sum(arrays[name].astype(np.float32) for name in NAMES)
        np.testing.assert_allclose(total, 1, atol=3e-3)
        np.testing.assert_allclose(arrays["car"], prediction.probabilities[2], atol=1e-3)
    with Image.open(tmp_path / f"{stem}_overlay.jpg") as picture:
        assert picture.width == 64
        assert picture.height > 48  # the legend
    with Image.open(tmp_path / f"{stem}_cutout.png") as picture:
        opacity = np.asarray(picture)[..., 3] > 127
    assert (opacity == prediction.mask_of("car")).mean() > 0.99
    again = predict_folder(predictor, images, out=tmp_path, save=("mask",), of_class="car", workers=1)
    assert again.skipped == 2


def test_a_cutout_of_several_classes_needs_a_name(run: Run, tmp_path: Path) -> None:
    predictor = carvana.Predictor.from_pretrained(run.path, device="cpu")
    with pytest.raises(ConfigError, match=r"a cut-out shows one class of 4: name it with --class, as --class pole"):
        predict_folder(predictor, [Path("x.png")], out=tmp_path, save=("cutout",))
    with pytest.raises(ConfigError, match=r"no class is named 'cars'; did you mean 'car'"):
        predict_folder(predictor, [Path("x.png")], out=tmp_path, save=("cutout",), of_class="cars")


def test_evaluating_again_gives_the_same_numbers(run: Run) -> None:
    samples = carvana.find_samples(run.read_config().data.root or "", group=r"(g\d)_")
    val = [sample for sample in samples if sample.name in run.read_split("val")]
    evaluation = carvana.evaluate(carvana.Predictor.from_pretrained(run.path, device="cpu"), val)
    assert isinstance(evaluation, LabelEvaluation)
    before = run.read_evaluation()
    assert evaluation.to_json() | {"seconds": before["seconds"]} == before
    assert json.loads(json.dumps(before)) == before


def test_other_classes_take_the_weights_of_equal_names(run: Run, tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    changes = {
        "task.classes": {"pole": 250, "ground": [20], "car": [30, 31], "sky": 10}, "train.epochs": 1, "train.lr": 1e-9,
    }  # fmt: skip
    other = fit(config(root, **changes), out=tmp_path / "other", init=run.path, device="cpu")
    old, new = (carvana.Segmenter.from_pretrained(each.model_path) for each in (run, other))
    head, own = old.network.head.weight, new.network.head.weight  # type: ignore[union-attr]
    assert own[0].sub(head[3]).abs().max() < 1e-4
    assert own[2].sub(head[2]).abs().max() < 1e-4
    assert own[1].sub(head[1]).abs().max() > 1e-3
    assert new.spec.init == f"run:{run.path.name}"


@pytest.mark.parametrize("channels", ["gray", 4])
def test_of_any_channels_the_last_layer_alone_is_of_the_classes(tmp_path: Path, channels: str | int) -> None:
    old = carvana.create_model("unet-ref", channels=channels, width=4, task=carvana.Task(classes=["a", "b"]))
    old.save_pretrained(tmp_path / "old")
    made = FitConfig(
        arch="unet-ref", model={"options": {"width": 4}}, data={"channels": channels}, task={"classes": ["b", "a", "c"]}
    )
    before, now = old.state_dict(), build_model(made, init=tmp_path / "old").state_dict()
    heads = [name for name, value in now.items() if value.shape != before[name].shape]
    assert {before[name].shape[0] for name in heads} == {2}
    for name, value in now.items():
        if name in heads:
            torch.testing.assert_close(value[:2], before[name].flip(0))
        else:
            torch.testing.assert_close(value, before[name])


def test_one_class_may_have_any_value_of_16_bits(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    for path in (root / "masks").iterdir():
        values = read_values(path)
        Image.fromarray(np.where(values == 20, 26001, 0).astype(np.uint16)).save(path)
    changes = {"task.classes": {"road": "26000-26999"}, "task.ignore": [], "train.epochs": 1, "train.loss": "bce"}
    run = fit(config(root, **changes), out=tmp_path / "run", device="cpu")
    assert run.is_done
    [path, *_] = run.masks_path.iterdir()
    assert set(np.unique(read_values(path))) <= {0, 26000}


def test_one_class_named_without_a_value_is_1_in_label_files(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    for path in (root / "masks").iterdir():
        values = read_values(path)
        Image.fromarray(np.select([values == 20, values == 10], [1, 0], 2).astype(np.uint8)).save(path)
    changes = {"task.classes": ["road"], "task.ignore": [], "train.epochs": 1, "train.loss": "bce"}
    run = fit(config(root, **changes), out=tmp_path / "run", device="cpu")
    assert run.is_done
    report = check_data(root, group=r"(g\d)", task=config(root, **changes).task.task())
    assert report.problems == ()
    assert [(each.value, each.name) for each in report.values] == [
        (0, "(background)"), (1, "road"), (2, "(background)"),
    ]  # fmt: skip


def test_a_value_that_no_class_has_stops_the_training_before_it_begins(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    changes = {"task.classes": {"sky": 10, "road": 20, "car": 30, "pole": 250}}
    with pytest.raises(DataError, match=r"no class has the value 31 \(\d+ pixels\); name them in task.classes"):
        fit(config(root, **changes), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_validation_part_that_is_all_void_stops_the_training_before_it_begins(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data", 4)
    for path in (root / "masks").glob("g3_*"):
        Image.fromarray(np.full((48, 64), VOID, np.uint8)).save(path)
    (tmp_path / "split.csv").write_text(
        "image,group,subset\n" + "".join(f"g{n}_{n:03}.png,g{n},{'val' if n == 3 else 'train'}\n" for n in range(4))
    )
    with pytest.raises(DataError, match=r"^no validation image has a pixel that counts: .*g3_003"):
        fit(config(root, **{"split.file": str(tmp_path / "split.csv")}), out=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_without_classes_label_files_stop_the_training_with_a_task_to_paste(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    with pytest.raises(DataError, match=r"\.png: the mask holds the values 10, 20, .*config: task: \{classes") as error:
        fit(config(root, task={}), out=tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
    pasted = re.search(r"task: \{.*\}", str(error.value))
    assert pasted is not None
    task = FitConfig(**yaml.safe_load(pasted[0])).task.task()
    assert {values for each in task.classes for values in each.value} == {10, 20, 30, 31, 77, 250}


def test_a_damaged_label_file_stops_the_training_in_one_line(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    path = sorted((root / "masks").iterdir())[7]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=rf"^{re.escape(str(path))}: ") as error:
        fit(config(root), out=tmp_path / "run", device="cpu")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_names_may_lie_in_a_file_of_the_data_folder(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "data")
    for path in (root / "masks").iterdir():
        values = np.searchsorted([10, 20, 30, 77, 250], np.minimum(read_values(path), 250)).astype(np.uint8)
        Image.fromarray(values).save(path)
    (root / "codes.txt").write_text("sky\nroad\ncar\npole\n")
    changes = {"task": {"classes": "codes.txt", "ignore": [3]}, "train.epochs": 1}
    made = fit(config(root, **changes), out=tmp_path / "run", device="cpu")
    assert [each["value"] for each in made.read_config().task.classes] == [0, 1, 2, 4]
    with pytest.raises(ConfigError, match=r"task.classes = 'cods.txt': no such file in .*data; expected names"):
        fit(config(root, **changes | {"task.classes": "cods.txt"}), out=tmp_path / "other", device="cpu")
