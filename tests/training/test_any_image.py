"""Trainings on images that are not RGB of 8 bits, from files to masks: bands, depth, pages, pixels without a value."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from bands import draw, write_bands, write_tiff
from PIL import Image
from reporters import Lines

import carvana
from carvana.config import FitConfig
from carvana.data.augment import apply, make_augment
from carvana.data.cache import build_caches
from carvana.data.check.report import check_data
from carvana.data.dataset import SegmentationDataset
from carvana.data.demo.scene_folder import write_scenes
from carvana.data.demo.scenes import class_names
from carvana.data.io.arrays import read_array, scaled
from carvana.data.io.display import read_shown
from carvana.data.io.images import read_image, read_pixels
from carvana.data.io.masks import write_mask
from carvana.data.layouts import warn_of_others
from carvana.data.measure import measure
from carvana.data.samples import Sample, with_spec
from carvana.data.splits import Split, config_samples
from carvana.data.target import read_labels
from carvana.errors import ConfigError, DataError, ModelError
from carvana.inference.predict_folder import predict_folder
from carvana.leaderboard.entries import make_entries
from carvana.leaderboard.jobs import measure as measure_cost
from carvana.leaderboard.plan import make_plan
from carvana.models.segmenter import Segmenter
from carvana.registry import registry
from carvana.run import Run
from carvana.task import NODATA, Task
from carvana.training.cross_validation import fit_folds
from carvana.training.find_lr import find_lr
from carvana.training.fit import fit, resume
from carvana.training.setup import measured as measured_images
from carvana.utils.progress import SilentReporter

pytestmark = pytest.mark.usefixtures("quick_fits")


def config(root: Path, **changes: Any) -> FitConfig:
    made = FitConfig(
        arch="one-conv", data={"root": root, "size": (24, 32), "workers": 0, "cache_gb": 0, "augment": "flip"},
        split={"val": 2}, train={"epochs": 30, "batch_size": 2, "precision": "fp32", "lr": 0.03},
    )  # fmt: skip
    return made.replace(changes)


def measured(root: Path, **changes: Any) -> tuple[Sample, ...]:
    """The samples of a folder, read by what is measured in them."""
    data = config(root, **changes).data
    samples = config_samples(data, root)
    return with_spec(samples, measure(samples, (), data.image_spec(), reporter=SilentReporter()).spec)


@pytest.mark.parametrize(
    ("bands", "dtype", "channels"),
    [
        (5, "int16", 5),
        pytest.param(12, "float32", [f"b{n}" for n in range(12)], marks=pytest.mark.slow),
        pytest.param(1, "uint16", "gray", marks=pytest.mark.slow),
        pytest.param(2, "int32", 2, marks=pytest.mark.slow),
    ],
)
def test_images_of_any_bands_and_depth_are_learnt_and_predicted(
    tmp_path: Path, bands: int, dtype: str, channels: object
) -> None:
    root = write_bands(tmp_path / "data", 8, bands=bands, dtype=dtype)
    run = fit(config(root, **{"data.channels": channels}), out=tmp_path / "run", reporter=SilentReporter())
    assert run.read_evaluation()["dice"] > 0.9
    spec = Segmenter.from_pretrained(run.path).spec
    assert (len(spec.channels), len(spec.range), spec.dtype) == (bands, bands, dtype)
    assert all(0 < mean < 1 for mean in spec.mean)
    values, mask = draw(99, bands, dtype)
    predictor = carvana.Predictor.from_pretrained(run.path, device="cpu")
    path = write_tiff(tmp_path / "new.tif", values)
    found = predictor.predict(path).mask
    assert (found == mask).mean() > 0.95
    np.testing.assert_array_equal(predictor.predict(values).mask, found)


@pytest.mark.slow
def test_rgb_of_16_bits_is_trained_by_its_measured_range(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 8, bands=3, dtype="uint16", photometric="rgb")
    told = Lines()
    run = fit(config(root), out=tmp_path / "run", reporter=told)
    spec = Segmenter.from_pretrained(run.path).spec
    assert spec.channels == ("red", "green", "blue")
    assert len(set(spec.range)) == 1
    assert spec.mean == (0.485, 0.456, 0.406)
    assert any(line.startswith("images of uint16 (16 bits a value): 1 range measured") for line in told.lines)
    assert run.read_evaluation()["dice"] > 0.9


def test_pixels_without_a_value_count_for_nothing_and_are_neutral(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 8, nodata=-9999, tag="-9999")
    told = Lines()
    run = fit(config(root, **{"data.channels": 5}), out=tmp_path / "run", reporter=told)
    assert "pixels of images without a value count for nothing: task.ignore has nodata" in told.lines
    assert run.read_config().task.ignore == [NODATA]
    spec = Segmenter.from_pretrained(run.path).spec
    assert (spec.nodata, spec.task and spec.task.ignore) == ((-9999.0,), (NODATA,))
    assert min(low for low, _ in spec.range) > 0
    numbers = run.read_evaluation()
    assert numbers["dice"] > 0.9
    predictor = carvana.Predictor.from_pretrained(run.path, device="cpu")
    pixels = predictor.read(root / "images" / "t0.tif")
    np.testing.assert_array_equal(pixels[:20, :16].reshape(-1, 5), [spec.image_spec.fill] * 320)
    normalised = pixels[0, 0] / 255 - np.array(spec.mean)
    assert np.abs(normalised).max() <= 0.5 / 255 + 1e-6


def test_labels_are_void_where_all_bands_lack_a_value(tmp_path: Path) -> None:
    root = write_bands(tmp_path, 3, bands=2, dtype="float32")
    values = read_array(root / "images" / "t0.tif")
    values[:4], values[10, :, 0] = np.nan, np.nan
    write_tiff(root / "images" / "t0.tif", values)
    task = Task.binary(ignore=[NODATA])
    first, *_ = measured(root, **{"data.channels": 2})
    labels = read_labels(first, task)
    assert (labels[:4] == task.void).all()
    assert not (labels[4:] == task.void).any()
    item = SegmentationDataset([first], (48, 64), task=task)[0]
    assert [tuple(part.shape) for part in item] == [(2, 48, 64), (1, 48, 64), (1, 48, 64)]
    np.testing.assert_array_equal(item[2][0, :, 0], [0] * 4 + [1] * 44)
    assert (item[0][:, :4] == torch.tensor(first.spec.fill or (0, 0))[:, None, None]).all()
    assert (item[0][0, 10] == (first.spec.fill or (0,))[0]).all()
    assert len(set(item[0][1, 10].tolist())) > 5


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["resize", "crop"])
def test_several_classes_ignore_pixels_without_a_value_too(tmp_path: Path, mode: str) -> None:
    root = write_bands(tmp_path / "data", 8, nodata=-9999)
    changes = {"data.channels": 5, "data.nodata": -9999, "data.mode": mode, "data.augment": "scene"}
    made = config(root, **changes, task={"classes": {"land": 0, "water": 1}})
    run = fit(made, out=tmp_path / "run", reporter=SilentReporter())
    numbers = run.read_evaluation()
    assert numbers["miou"] > 0.8
    assert sum(map(sum, numbers["confusion"])) == 2 * (48 * 64 - 20 * 16)


@pytest.mark.slow
def test_a_killed_training_goes_on_with_what_was_measured(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 8, nodata=-9999, tag="-9999")
    made = config(root, **{"data.channels": 5, "train.epochs": 2})
    whole = fit(made, out=tmp_path / "whole", reporter=SilentReporter())
    run = fit(made, out=tmp_path / "run", reporter=SilentReporter())
    longer = resume(run.path, epochs=3, reporter=SilentReporter())
    assert Segmenter.from_pretrained(longer.path).spec.range == Segmenter.from_pretrained(whole.path).spec.range
    assert longer.read_config().task.ignore == [NODATA]
    run.evaluation_path.unlink()
    told = Lines()
    assert fit(made.replace({"train.epochs": 3}), out=run.path, reporter=told).is_evaluated
    assert f"{run.path}: resuming it" in told.lines


@pytest.mark.slow
def test_first_weights_of_another_run_keep_their_range(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 6)
    first = fit(config(root, **{"data.channels": 5, "train.epochs": 1}), out=tmp_path / "a", reporter=SilentReporter())
    for path in (root / "images").iterdir():
        write_tiff(path, read_array(path) * 2)
    made = config(root, **{"data.channels": 5, "train.epochs": 1})
    run = fit(made, out=tmp_path / "b", init=first.path, reporter=SilentReporter())
    before, after = (Segmenter.from_pretrained(each.path).spec for each in (first, run))
    assert (after.range, after.mean, after.std) == (before.range, before.mean, before.std)


@pytest.mark.slow
def test_folds_and_the_search_for_a_rate_take_any_image(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 6, nodata=-9999, tag="-9999")
    made = config(root, **{"data.channels": 5, "train.epochs": 2})
    assert find_lr(made, steps=12, reporter=SilentReporter()).suggestion > 0
    folds = fit_folds(made, folds=2, out=tmp_path / "folds", reporter=SilentReporter())
    ranges = [Segmenter.from_pretrained(run.path).spec.range for run in folds.runs]
    assert ranges[0] != ranges[1]
    both = carvana.Ensemble.from_pretrained([folds.path], device="cpu")
    values, _ = draw(7, 5, "int16")
    alone = [carvana.Predictor.from_pretrained(run.path, device="cpu").predict(values) for run in folds.runs]
    mean = np.mean([each.probabilities for each in alone], axis=0)
    np.testing.assert_allclose(both.predict(values).probabilities, mean, atol=1e-6)


def test_the_cache_keeps_any_channels_and_what_they_are(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 4)
    samples = measured(root, **{"data.channels": 5})
    [cache] = build_caches([samples], (24, 32), folder=tmp_path / "cache", reporter=SilentReporter())
    plain, cached = (SegmentationDataset(samples, (24, 32), cache=each, augment="studio") for each in (None, cache))
    for index in range(4):
        for one, other in zip(plain[1, index], cached[1, index], strict=True):
            assert torch.equal(one, other)
    told = config(root, **{"data.channels": 5, "data.range": [0, 4095]}).data.image_spec()
    build_caches([with_spec(samples, told)], (24, 32), folder=tmp_path / "cache", reporter=SilentReporter())
    assert len(list((tmp_path / "cache").glob("*.pack"))) == 2


def test_crops_of_a_tiff_are_those_of_the_whole_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_bands(tmp_path, 3, tile=(16, 16))
    samples = measured(root, **{"data.channels": 5})
    crops = SegmentationDataset(samples, (16, 24), mode="crop", seed=3)
    first = [crops[0, index] for index in range(3)]  # labels are read, and kept
    again = [crops[0, index] for index in range(3)]
    for one, other in zip(first, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    sizes = []
    read = carvana.data.dataset.read_pixels

    def watched(*args: Any, **named: Any) -> Any:
        sizes.append(read(*args, **named).shape)
        return read(*args, **named)

    monkeypatch.setattr("carvana.data.dataset.read_pixels", watched)
    _ = crops[1, 0], crops[1, 1]
    assert sizes == [(16, 24, 5)] * 2


def test_crops_that_are_larger_than_the_image_repeat_its_edge(tmp_path: Path) -> None:
    root = write_bands(tmp_path, 2)
    samples = measured(root, **{"data.channels": 5})
    crops = SegmentationDataset(samples, (64, 80), mode="crop")
    for _ in range(2):  # the second time labels are known, and only the window is read
        image = crops[0, 0][0]
        assert image.shape == (5, 64, 80)
        assert (image[:, 48:] == image[:, 47:48]).all()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["images", "channels"])
def test_pages_are_images_of_their_own_or_channels(tmp_path: Path, page: str) -> None:
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(4):
        drawn = [draw(10 * number + each, 1, "uint16") for each in range(3)]
        stack = np.stack([values[..., 0] for values, _ in drawn])
        options: dict[str, Any] = {"photometric": "minisblack", "metadata": None}
        tifffile.imwrite(root / "images" / f"s{number}.tif", stack, **options)
        if page == "images":
            masks = np.stack([mask * np.uint8(255) for _, mask in drawn])
            tifffile.imwrite(root / "masks" / f"s{number}.tif", masks, **options)
        else:
            write_mask(root / "masks" / f"s{number}.png", drawn[0][1])
    channels = "gray" if page == "images" else 3
    changes = {"data.channels": ["a", "b", "c"] if channels == 3 else channels, "data.pages": page, "split.val": 1}
    run = fit(config(root, **changes), out=tmp_path / "run", reporter=SilentReporter())
    assert run.read_evaluation()["dice"] > 0.9
    names = [row.split(",")[0] for row in run.split_path.read_text().splitlines()[1:]]
    assert len(names) == (12 if page == "images" else 4)
    if page == "images":
        assert {"s0-000.tif", "s0-001.tif", "s0-002.tif"} <= set(names)
        val = {name.split("-")[0] for name in names if name.split(".")[0] in _stems(run)}
        assert len(val) == 1  # the pages of a file stay together
    assert Segmenter.from_pretrained(run.path).spec.pages == page
    first = config_samples(config(root, **changes).data, root)[0]
    cost = tmp_path / "cost.json"
    measure_cost(
        reporter=Lines(), device="cpu", run=run, image=first.image, page=first.spec.page, out=cost, key={}
    )  # fmt: skip
    assert json.loads(cost.read_text())["ms"] > 0


def _stems(run: Run) -> set[str]:
    return {Path(each["image"]).stem for each in run.read_evaluation()["per_image"]}


def test_augmentations_that_need_rgb_are_replaced_and_it_is_said(tmp_path: Path) -> None:
    root, told = write_bands(tmp_path / "data", 6), Lines()
    made = config(root, **{"data.channels": 5, "data.augment": "studio", "train.epochs": 1})
    fit(made, out=tmp_path / "run", reporter=told)
    [line] = [line for line in told.lines if line.startswith("augment studio")]
    assert "brightness of each changes instead of hue and saturation" in line
    for name in ("flip", "seed", "studio", "scene"):
        for channels in (1, 2, 5, 12):
            augment = make_augment(name, rgb=False)
            assert augment is not None
            image = np.random.default_rng(0).integers(0, 256, (40, 50, channels), np.uint8)
            result = augment(image=image, mask=np.zeros((40, 50), np.float32))
            assert result["image"].reshape(40, 50, -1).shape == image.shape


def test_bands_that_are_not_named_are_refused_before_training(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data")
    with pytest.raises(DataError, match=r"has 5 channels of int16, and data\.channels names 3 .*data\.channels=5"):
        fit(config(root), out=tmp_path / "run", reporter=SilentReporter())
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_drawn_scenes_of_five_channels_are_learnt(tmp_path: Path) -> None:
    write_scenes(tmp_path / "demo", classes=2, channels=5, scenes=6, views=1, size=(48, 64), reporter=SilentReporter())
    made = config(tmp_path / "demo", **{"data.channels": 5, "task": {"classes": class_names(2)}})
    run = fit(made, out=tmp_path / "run", reporter=SilentReporter())
    assert run.read_evaluation()["miou"] > 0.6


def test_scaling_is_the_same_in_training_and_prediction(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 4)
    samples = measured(root, **{"data.channels": 5})
    image = SegmentationDataset(samples, (48, 64))[0][0].numpy()
    values = read_array(samples[0].image)
    wanted = [scaled(values[..., band], *samples[0].spec.range[band]) for band in range(5)]
    np.testing.assert_array_equal(image, wanted)


def test_a_value_that_is_told_stands_for_none_in_any_kind_of_file(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    for number in range(6):
        values, mask = draw(number, 1, "uint16")
        values[:20, :16] = 0
        Image.fromarray(values[..., 0]).save(root / "images" / f"{number}.png")
        write_mask(root / "masks" / f"{number}.png", mask)
    made = config(root, **{"data.channels": "gray", "data.nodata": 0, "task": {"classes": {"a": 0, "b": 1}}})
    run = fit(made, out=tmp_path / "run", reporter=SilentReporter())
    assert sum(map(sum, run.read_evaluation()["confusion"])) == 2 * (48 * 64 - 20 * 16)
    spec = Segmenter.from_pretrained(run.path).spec.image_spec
    pixels = read_pixels(root / "images" / "0.png", spec)
    assert (pixels[:20, :16] == spec.fill[0]).all()
    np.testing.assert_array_equal(pixels, read_pixels(io.BytesIO((root / "images" / "0.png").read_bytes()), spec))


@pytest.mark.slow
def test_nan_counts_for_nothing_where_the_range_is_told(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 4, bands=3, dtype="float32", nodata=np.nan, photometric="rgb")
    made = config(root, **{"data.range": [0.1, 0.5], "train.epochs": 1})
    assert fit(made, out=tmp_path / "run", reporter=SilentReporter()).read_config().task.ignore == [NODATA]


@pytest.mark.slow
def test_networks_of_other_ranges_draw_their_images(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 6, bands=3, dtype="uint16", photometric="rgb")
    folds = fit_folds(config(root, **{"train.epochs": 1}), folds=2, out=tmp_path / "folds", reporter=SilentReporter())
    both = carvana.Ensemble.from_pretrained([folds.path], device="cpu")
    assert len(set(both.image_specs)) == 2
    image = root / "images" / "t0.tif"
    predict_folder(both, [image], out=tmp_path / "out", save=("overlay", "cutout"), reporter=SilentReporter())
    assert read_image(tmp_path / "out" / "t0_overlay.jpg").shape == (48, 64, 3)
    assert read_shown(image).shape == (48, 64, 3)  # no range is known


def stacks(root: Path, task: Task, by_class: bool) -> list[Sample]:
    """Two stacks of three pages, whose labels are values of one file or files of each class."""
    folders = [f"masks/{name}" for name in task.names] if by_class else ["masks"]
    for name in ("images", *folders):
        (root / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for stem in "st":
        images, labels = rng.integers(0, 256, (3, 20, 30), np.uint8), rng.integers(0, 3, (3, 20, 30), np.uint8)
        files = {"images": images, "masks": labels}
        if by_class:
            files = {"images": images} | {
                each: 255 * (labels == n).astype(np.uint8) for n, each in enumerate(folders, 1)
            }
        for name, pages in files.items():
            tifffile.imwrite(root / name / f"{stem}.tif", pages, photometric="minisblack", metadata=None)
    return carvana.find_samples(root)


def test_label_files_of_stacks_are_checked_and_read_page_by_page(tmp_path: Path) -> None:
    task = Task(classes=["cell"])  # 1 in label files
    samples = stacks(tmp_path, task, by_class=False)
    report = check_data(tmp_path)
    assert not report.problems
    assert report.values
    for sample in samples:
        labels = tifffile.imread(sample.mask)[sample.spec.page]
        np.testing.assert_array_equal(read_labels(sample, task), labels == 1)


def test_class_folders_of_stacks_are_read_page_by_page(tmp_path: Path) -> None:
    task = Task(kind="multilabel", classes=["cell", "nucleus"])
    for sample in stacks(tmp_path, task, by_class=True):
        masks = [tifffile.imread(path)[sample.spec.page] for path in sample.masks]
        np.testing.assert_array_equal(read_labels(sample, task), np.stack(masks) > 0)


def test_pages_that_are_channels_are_checked_as_one_image(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(2):
        values, mask = draw(number, 5, "uint8")
        pages = values.transpose(2, 0, 1)
        tifffile.imwrite(tmp_path / f"images/{number}.tif", pages, photometric="minisblack", metadata=None)
        write_mask(tmp_path / f"masks/{number}.png", mask)
    shutil.copy(tmp_path / "images/0.tif", tmp_path / "images/copy.tif")
    shutil.copy(tmp_path / "masks/1.png", tmp_path / "masks/copy.png")
    assert {problem.kind for problem in check_data(tmp_path, pages="channels").problems} >= {"duplicate"}
    (tmp_path / "images/copy.tif").unlink()
    (tmp_path / "masks/copy.png").unlink()
    report = check_data(tmp_path, pages="channels")
    assert (report.problems, report.image_count) == ((), 2)
    assert {problem.kind for problem in check_data(tmp_path).problems} == {"unreadable"}


def test_stacks_with_polygons_are_checked_page_by_page(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pages = np.zeros((3, 40, 60), np.uint8)
    tifffile.imwrite(tmp_path / "images" / "s.tif", pages, photometric="minisblack", metadata=None)
    square = [4, 4, 24, 4, 24, 24, 4, 24]
    values = {
        "images": [{"id": 1, "file_name": "s.tif", "height": 40, "width": 60}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [square]}],
        "categories": [{"id": 1, "name": "cell"}],
    }
    (tmp_path / "x.json").write_text(json.dumps(values))
    report = check_data(tmp_path)
    assert report.image_count == len(carvana.find_samples(tmp_path)) == 3
    assert "unreadable" not in {problem.kind for problem in report.problems}


def test_images_of_models_alone_are_measured(tmp_path: Path) -> None:
    made = config(write_bands(tmp_path, 2), **{"data.channels": 5})
    samples = tuple(config_samples(made.data, made.data.root))
    _, split, found = measured_images(made, Split((), samples), reporter=SilentReporter())
    assert found.spec.range != ((0.0, 1.0),) * 5
    assert split.val[0].spec.range == found.spec.range


def test_another_range_makes_other_masks_and_another_digest(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    write_tiff(images / "a.tif", draw(0, 1, "uint16")[0])
    model = carvana.create_model("unet-ref", channels=1, options={"width": 4}).with_spec(dtype="uint16")
    for high in (2000, 4095):
        found = carvana.Predictor(model.with_spec(range=[(0, high)]), device="cpu", scale="native")
        summary = predict_folder(found, [images / "a.tif"], out=tmp_path / "out")
        assert summary.written == 1


@pytest.mark.slow
def test_runs_of_bands_are_compared_on_their_own_images(tmp_path: Path) -> None:
    root = write_bands(tmp_path / "data", 6, nodata=-9999, tag="-9999")
    made = config(root, **{"data.channels": 5, "train.epochs": 1})
    runs = [fit(made, out=tmp_path / name, reporter=SilentReporter()) for name in ("a", "b")]
    entries = make_entries([run.path for run in runs])
    found = make_plan(
        entries, None, out=tmp_path / "board", seeds=1, config_name="", device="cpu", reporter=SilentReporter()
    )
    assert found.split.val[0].spec.nodata == (-9999.0,)
    assert found.header.task["ignore"] == [NODATA]


def test_weights_for_other_images_are_refused_by_name(tmp_path: Path) -> None:
    deep = write_bands(tmp_path / "deep", 6)
    made = {"data.channels": 5, "train.epochs": 1}
    first = fit(config(deep, **made), out=tmp_path / "a", reporter=SilentReporter())
    with pytest.raises(ModelError, match=r"takes 5 channels \(1, 2, 3, 4, 5\), and data.channels names 2 \(x, y\)"):
        fit(config(deep, **{"data.channels": ["x", "y"]}), out=tmp_path / "b", init=first.path)
    with pytest.raises(ModelError, match=r"its weights are for its own order"):
        fit(config(deep, **{"data.channels": ["2", "1", "3", "4", "5"]}), out=tmp_path / "b", init=first.path)
    plain = write_bands(tmp_path / "plain", 6, dtype="uint8")
    with pytest.raises(DataError, match=r"images of 8 bits, and the network of --init takes values from \d+ to \d+"):
        fit(config(plain, **made), out=tmp_path / "b", init=first.path, reporter=SilentReporter())
    shares = write_bands(tmp_path / "shares", 6, dtype="float32")
    with pytest.raises(DataError, match=r"images of float32, and the network of --init takes values from \d+ to \d+"):
        fit(config(shares, **made), out=tmp_path / "b", init=first.path, reporter=SilentReporter())
    fit(
        config(shares, **made, **{"data.range": [0, 1]}), out=tmp_path / "b", init=first.path, reporter=SilentReporter()
    )


def test_a_loss_that_leaves_out_no_pixel_is_refused_before_images_are_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry.losses, "_entries", {entry.name: entry for entry in registry.losses.registered()})
    monkeypatch.setattr("carvana.training.setup.build_caches", None)
    carvana.register_loss("mine", lambda: lambda logits, targets: (logits - targets).abs().mean())
    root = write_bands(tmp_path / "data", 4, nodata=-9999, tag="-9999")
    with pytest.raises(ConfigError, match=r"'mine' .* takes logits and targets alone"):
        fit(config(root, **{"data.channels": 5, "train.loss": "mine"}), out=tmp_path / "run", reporter=SilentReporter())


def test_arrays_are_images_in_a_folder_without_pictures_alone(tmp_path: Path) -> None:
    root = write_bands(tmp_path, 3, dtype="uint8", bands=3, photometric="rgb")
    for path in (root / "images").iterdir():
        np.save(path.with_suffix(".npy"), np.zeros((4, 4)))
    assert [sample.image.suffix for sample in carvana.find_samples(root)] == [".tif"] * 3
    for path in (root / "images").glob("*.tif"):
        path.unlink()
    told = Lines()
    warn_of_others(root / "images", told)
    assert [sample.image.suffix for sample in carvana.find_samples(root)] == [".npy"] * 3
    assert told.lines == []


def test_more_channels_than_opencv_takes_reach_the_network(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (204, 208, 200), np.uint8)
    for name, array in (("images", values), ("masks", np.uint8(255 * (values[..., 0] > 99)))):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "a.npy", array)
    spec = carvana.ImageSpec(tuple(map(str, range(200))))
    [sample] = carvana.find_samples(tmp_path, spec=spec)
    whole, _ = SegmentationDataset([sample], (204, 208))[0]
    assert torch.equal(whole, torch.from_numpy(values).permute(2, 0, 1))
    piece, _ = SegmentationDataset([sample], (212, 216), mode="crop")[0]
    assert torch.equal(piece[:, :204, :208], whole)
    assert torch.equal(piece[:, 204:, :208], whole[:, -1:].expand(-1, 8, -1))


def test_more_channels_than_opencv_takes_are_augmented_alike(tmp_path: Path) -> None:
    image = np.repeat(np.random.default_rng(0).integers(0, 256, (40, 50, 1), np.uint8), 300, axis=2)
    augment = make_augment("seed", rgb=False)
    assert augment is not None
    moved, mask = apply(augment, image, np.ones((40, 50), np.float32), (0, 0, 1))
    assert moved.shape == image.shape
    assert (moved == moved[..., :1]).all()
    assert mask.shape == (40, 50)


def test_pages_of_images_and_masks_must_agree(tmp_path: Path) -> None:
    for name, pages in (("images", 3), ("masks", 2)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(
            tmp_path / name / "s.tif", np.zeros((pages, 8, 9), np.uint8), photometric="minisblack", metadata=None
        )
    with pytest.raises(DataError, match=r"masks/s\.tif: has 2 pages, and its image s\.tif 3; expected one for each"):
        carvana.find_samples(tmp_path)
