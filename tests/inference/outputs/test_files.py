from __future__ import annotations

import tracemalloc
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.io.display import EXTRA, MISSED, OUTLINE, overlay
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.cutout import parse_background
from carvana.inference.outputs.files import Outputs, write_probabilities
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.prediction import Prediction
from carvana.task import Task

CRUMB, HOLE = np.s_[2:5, 2:5], np.s_[30, 50]


@pytest.fixture
def prediction() -> Prediction:
    """A disc with a pinhole, and a crumb in the corner."""
    rows, columns = np.mgrid[:80, :100]
    probabilities = np.clip((36.7 - np.hypot(rows - 40, columns - 50)) / 8 + 0.6, 0, 1).astype(np.float32)
    probabilities[CRUMB], probabilities[HOLE] = 0.95, 0.1
    return Prediction(probabilities, (80, 100), 0.6)


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (80, 100, 3)).astype(np.uint8)


def write(folder: Path, outputs: Outputs, prediction: Prediction, photo: np.ndarray) -> dict[str, Path]:
    names = outputs.names("car")
    for name, data in outputs.encode(names, prediction, photo):
        if isinstance(data, bytes):
            (folder / name).write_bytes(data)
        else:
            data(folder / name)
    return {kind: folder / name for kind, name in names.items()}


EVERYTHING = ("mask", "prob", "cutout", "overlay")


def test_masks_cut_outs_and_overlays_are_cleaned_alike_and_probabilities_are_not(
    prediction: Prediction, photo: np.ndarray, tmp_path: Path
) -> None:
    assert prediction.mask[CRUMB].all()
    cleaning = Cleaning(holes=0.01)
    files = write(tmp_path, Outputs(EVERYTHING, cleaning), prediction, photo)
    mask = read_mask(files["mask"])
    np.testing.assert_array_equal(mask, clean(prediction.mask, parts=cleaning.parts, holes=cleaning.holes))
    assert not mask[CRUMB].any()
    assert mask[HOLE] == 1
    with Image.open(files["cutout"]) as picture:
        opacity = np.asarray(picture)[..., 3]
    np.testing.assert_array_equal(opacity > 127, mask > 0)
    assert not opacity[:8, :8].any()
    assert opacity[HOLE] == 255
    with Image.open(files["prob"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture), prediction.levels)
    shown = read_image(files["overlay"]).astype(int)
    assert np.ptp(shown[CRUMB], axis=2).max() < 60  # grey, as the background is


def test_without_cleaning_the_mask_is_the_predictions(
    prediction: Prediction, photo: np.ndarray, tmp_path: Path
) -> None:
    files = write(tmp_path, Outputs(EVERYTHING), prediction, photo)
    np.testing.assert_array_equal(read_mask(files["mask"]), prediction.mask)
    with Image.open(files["cutout"]) as picture:
        np.testing.assert_array_equal(np.asarray(picture)[..., 3] > 127, prediction.mask > 0)


def test_a_cut_out_on_a_background_is_a_jpeg_without_transparency(
    prediction: Prediction, photo: np.ndarray, tmp_path: Path
) -> None:
    files = write(tmp_path, Outputs(("cutout",), background=parse_background("#0080ff")), prediction, photo)
    assert files["cutout"].name == "car_cutout.jpg"
    with Image.open(files["cutout"]) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (100, 80))
    far = read_image(files["cutout"])[20:60, :5].reshape(-1, 3)
    np.testing.assert_allclose(far.mean(axis=0), (0, 128, 255), atol=2)


def test_settings_name_only_what_is_asked_for() -> None:
    assert Outputs(("mask",)).settings() == {}
    assert Outputs(("mask",), Cleaning()).settings() == {"clean": {"parts": 0.05, "holes": 0.0001}}
    assert Outputs(("cutout",), background=parse_background("#010203")).settings() == {"background": [1, 2, 3]}


def test_the_task_is_a_setting_where_files_have_its_names_or_values() -> None:
    for task in (Task.binary(), Task.binary(ignore=["nodata"]), Task.binary("car")):
        assert Outputs(("mask",), task=task).settings() == {}
    assert Outputs(("coco",), task=Task.binary()).settings() == {}
    for kind, task in (("coco", Task.binary("car")), *(("mask", Task(classes={"cell": n})) for n in (7, 8))):
        assert Outputs((kind,), task=task).settings() == {"task": task.model_dump(mode="json")}


def test_only_what_shows_the_photo_needs_it() -> None:
    assert not Outputs(("mask", "prob")).need_image
    assert Outputs(("mask", "overlay")).need_image
    assert Outputs(("cutout",)).need_image


def test_a_background_without_a_cut_out_is_refused() -> None:
    with pytest.raises(ConfigError, match="add cutout to --save"):
        Outputs(("mask",), background=parse_background("#010203"))
    assert list(Outputs(("mask", "cutout", "mask")).names("car")) == ["mask", "cutout"]


def test_probabilities_of_classes_are_written_one_by_one_and_alike_each_time(tmp_path: Path) -> None:
    task = Task(classes=[f"class {number}" for number in range(30)])
    small = np.random.default_rng(0).dirichlet(np.ones(30), (24, 32)).transpose(2, 0, 1).astype(np.float32)
    tracemalloc.start()
    for name in ("one.npz", "two.npz"):
        write_probabilities(Prediction(small, (600, 800), task=task), tmp_path / name)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 4 * 600 * 800  # two maps and what is computed; arrays of all classes take 60 bytes a pixel
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    with np.load(tmp_path / "one.npz") as arrays:
        assert list(arrays) == task.names
        for name, found in arrays.items():
            enlarged = cv2.resize(small[task.index(name)], (800, 600), interpolation=cv2.INTER_LINEAR)
            assert found.dtype == np.float16
            np.testing.assert_allclose(found, enlarged, atol=1e-3)


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(60, 256, (60, 80, 3)).astype(np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = 1
    return image, mask


def test_the_inside_is_untouched_the_outside_dimmed_and_the_outline_drawn() -> None:
    image, mask = scene()
    before = image.copy()
    shown = overlay(image, mask)
    np.testing.assert_array_equal(shown[25:35, 25:55], image[25:35, 25:55])
    assert shown[:15].mean() < 0.6 * image[:15].mean()
    assert (shown[20, 30] == OUTLINE).all()
    np.testing.assert_array_equal(image, before)


def test_errors_are_red_where_too_much_and_blue_where_missed() -> None:
    image, target = scene()
    mask = np.roll(target, 5, axis=1)
    shown = overlay(image, mask, target, thickness=1)
    np.testing.assert_array_equal((shown == EXTRA).all(axis=2), (mask == 1) & (target == 0))
    np.testing.assert_array_equal((shown == MISSED).all(axis=2), (mask == 0) & (target == 1))


def test_a_right_mask_shows_no_error() -> None:
    image, mask = scene()
    shown = overlay(image, mask.astype(bool), mask)
    assert not ((shown == EXTRA).all(axis=2) | (shown == MISSED).all(axis=2)).any()


def test_thin_errors_are_made_thicker() -> None:
    image, target = scene()
    mask = target.copy()
    mask[10, 10] = 1
    assert (overlay(image, mask, target, thickness=3) == EXTRA).all(axis=2).sum() > 12


def test_sizes_of_image_and_mask_must_agree() -> None:
    image, mask = scene()
    with pytest.raises(DataError, match="does not lie on"):
        overlay(image, mask[1:])
