"""Masks of classes that may overlap: whole, in tiles, refined, by several networks, on a device, and as files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from carvana.data.io.masks import read_mask
from carvana.data.samples import find_samples
from carvana.data.target import read_labels
from carvana.errors import ConfigError, ModelError
from carvana.inference.ensemble import Ensemble
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.predict_folder import predict_folder
from carvana.inference.prediction import Prediction, ProbabilityMaps, levels
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import Refiner
from carvana.models.segmenter import Segmenter
from carvana.task import Task
from tests.scenes import OVERLAPPING, draw_overlapping, of_colours, write_overlapping

THRESHOLDS = (0.25, 0.5, 0.75)


def predictor(**settings: object) -> Predictor:
    spec = {key: settings.pop(key) for key in ("task",) if key in settings}
    made = {"precision": "fp32", "device": "cpu"} | settings
    return Predictor(of_colours(**spec).with_spec(thresholds=list(THRESHOLDS)), **made)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return draw_overlapping(0, (203, 310))[0]


def test_each_class_has_its_own_threshold(image: np.ndarray) -> None:
    found = predictor().predict(image)
    assert found.probabilities.shape == found.masks.shape == (3, 203, 310)
    assert found.masks.dtype == np.uint8
    for index, (name, threshold) in enumerate(zip(OVERLAPPING.names, THRESHOLDS, strict=True)):
        expected = found.probabilities[index] > threshold
        assert 0 < expected.mean() < 1
        assert (found.masks[index] == expected).all()
        alone = predictor().predict(image)  # of which nothing was read before
        assert (alone.mask_of(name) == expected).all()
        assert (alone.probability_of(name) == found.probabilities[index]).all()
    assert (found.masks.sum(0) > 1).any()  # classes overlap
    assert (found.levels == levels(found.probabilities)).all()
    assert (predictor().predict(image).levels == found.levels).all()
    assert (predictor(threshold=0.5).predict(image).masks == (found.probabilities > 0.5)).all()
    for what, words in (("mask", "read masks"), ("labels", "may have several classes here, and no label; read masks")):
        with pytest.raises(ConfigError, match=words):
            getattr(found, what)


def test_thresholds_are_one_for_all_or_one_for_each() -> None:
    assert predictor(threshold=[0.1, 0.2, 0.3]).thresholds == (0.1, 0.2, 0.3)
    assert predictor().settings()["thresholds"] == list(THRESHOLDS)
    with pytest.raises(ConfigError, match=r"threshold \[0.1, 0.2\]: expected one for all classes, or 3, one for each"):
        predictor(threshold=[0.1, 0.2])
    with pytest.raises(ConfigError, match=r"threshold 1.5 is outside 0 to 1"):
        predictor(threshold=[0.1, 0.2, 1.5])
    both = Ensemble([predictor(), predictor(threshold=[0.75, 0.5, 0.25])])
    assert both.thresholds == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("how", [{}, {"mode": "tiles", "tile": 64, "join": "exact"}, {"tta": True}])
def test_masks_at_the_own_size_are_those_of_all_probabilities(how: dict[str, object], image: np.ndarray) -> None:
    made = predictor(scale="native", **how)
    everything = made.run([made.prepare(image)])[0]
    alone = made.run([made.prepare(image)], want="mask")[0]
    assert (alone.masks == everything.masks).all()
    assert (alone.masks == (everything.probabilities > np.array(THRESHOLDS)[:, None, None])).all()
    whole = predictor(scale="native").predict(image)
    if "tta" not in how:
        assert np.abs(everything.probabilities - whole.probabilities).max() < 1e-5


def test_the_mean_of_networks_decides(image: np.ndarray) -> None:
    members = [predictor(scale="native"), predictor()]
    found = Ensemble(members).predict(image)
    mean = np.mean([member.predict(image).probabilities for member in members], axis=0)
    assert np.abs(found.probabilities - mean).max() < 1e-6
    assert (found.masks == (found.probabilities > np.array(THRESHOLDS)[:, None, None])).all()


@pytest.mark.parametrize("want", ["mask", "levels"])
def test_what_is_decided_on_a_device_is_what_is_decided_here(want: str, image: np.ndarray) -> None:
    made = predictor()
    [maps] = made.predict_maps([made.prepare(image)])
    there = Prediction.from_device(maps, THRESHOLDS, want, task=OVERLAPPING)  # type: ignore[arg-type]
    here = Prediction.from_maps(maps, THRESHOLDS, task=OVERLAPPING)
    assert (there.masks != here.masks).mean() < 1e-4
    assert (there.mask_of("box") == there.masks[1]).all()
    if want == "levels":
        assert np.abs(there.levels.astype(int) - here.levels).max() <= 1


def test_refined_is_where_any_class_is_within_the_band(image: np.ndarray) -> None:
    coarse, fine = predictor(), predictor(scale="native")
    refiner = Refiner(coarse, fine, band=(0.2, 0.8), margin=0)
    [maps] = coarse.predict_maps([coarse.prepare(image)])
    cells = refiner.uncertain_cells(maps)
    each = []
    for index in range(3):
        alone = ProbabilityMaps.single(maps.maps[0][index], maps.size)
        single = Predictor(Segmenter(torch.nn.Conv2d(3, 1, 1), of_colours().spec.changed(task=Task.binary())))
        one = Refiner(single, Predictor(single.model, scale="native"), band=(0.2, 0.8), margin=0)
        each.append(one.uncertain_cells(alone))
    assert (cells == np.any(each, axis=0)).all()
    assert 0 < cells.mean() < 1
    found, whole = refiner.predict(image), fine.predict(image)
    assert found.masks.shape == (3, 203, 310)
    assert (found.masks != whole.masks).mean() < (coarse.predict(image).masks != whole.masks).mean()


def test_one_class_alone_keeps_its_axis(image: np.ndarray) -> None:
    task = Task(kind="multilabel", classes=["disc"])
    network = Segmenter(torch.nn.Conv2d(3, 1, 1), of_colours().spec.changed(task=task))
    coarse, fine = (Predictor(network, scale=scale, precision="fp32", device="cpu") for scale in ("24x32", "native"))
    for made in (coarse, fine, Refiner(coarse, fine), Ensemble([coarse, fine])):
        assert made.predict(image).masks.shape == (1, 203, 310)


def test_files_are_a_mask_in_the_folder_of_each_class_and_are_read_again_as_such(tmp_path: Path) -> None:
    root = write_overlapping(tmp_path / "data", 3)
    images = sorted((root / "images").iterdir())
    made, out = predictor(scale="native"), tmp_path / "out"
    assert predict_folder(made, images, out=out).written == 3
    found = find_samples(root, images=root / "images", masks=out)
    for sample in found:
        assert sample.by_class
        assert (read_labels(sample, OVERLAPPING) == made.predict(sample.image).masks).all()
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    written = sorted(name for line in lines for name in line["files"])
    assert written == sorted(f"{name}/{path.stem}_mask.png" for path in images for name in OVERLAPPING.names)
    (out / "box" / f"{images[1].stem}_mask.png").unlink()
    again = predict_folder(made, images, out=out)
    assert (again.written, again.skipped) == (1, 2)
    assert (out / "box" / f"{images[1].stem}_mask.png").is_file()


def test_other_files_have_all_classes_and_cleaning_is_of_each(tmp_path: Path) -> None:
    root = write_overlapping(tmp_path / "data", 1)
    [path] = (root / "images").iterdir()
    made, out = predictor(scale="native"), tmp_path / "out"
    save = ("mask", "prob", "overlay", "cutout")
    predict_folder(made, [path], out=out, save=save, cleaning=Cleaning(0.5, 0.5), of_class="box")
    found = made.predict(path)
    for name in OVERLAPPING.names:
        cleaned = clean(found.mask_of(name), parts=0.5, holes=0.5)
        assert (read_mask(out / name / f"{path.stem}_mask.png") == cleaned).all()
    with np.load(out / f"{path.stem}_prob.npz") as kept:
        assert list(kept) == OVERLAPPING.names
        assert (kept["disc"] == found.probability_of("disc").astype(np.float16)).all()
    assert sorted(each.name for each in out.glob(f"{path.stem}*")) == [
        f"{path.stem}_cutout.png", f"{path.stem}_overlay.jpg", f"{path.stem}_prob.npz",
    ]  # fmt: skip


def test_a_network_that_gives_nan_is_named_wherever_it_is_decided(image: np.ndarray) -> None:
    for scale in ("native", "trained"):
        made = predictor(scale=scale)
        with torch.no_grad():
            made.model.network.bias[1] = float("nan")  # type: ignore[union-attr,index,operator]
        with pytest.raises(ModelError, match="gives NaN in fp32"):
            made.run([made.prepare(image)], want="mask")
