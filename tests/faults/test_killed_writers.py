"""Killed: the cache, predict and submit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from caching import packs, records
from faults.commands import carvana
from faults.killing import Point, events, files, kill_at, kill_during, moments, points, told, unknown
from submitting import small_predictor

from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.models.segmenter import Segmenter

SIZE = (32, 48)
CACHE = ("*/samples/files", "*/samples/*.pack")
OUTPUTS = ("*_mask.png", "*_prob.png", "*_cutout.png", "*_overlay.jpg", "*/.coco/*.json", "*/annotations.coco.json")
PARTS = ("*.parts/*.gz", "*/s.csv.gz")
PARTS_LOG = ("*.parts/manifest.jsonl",)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder: 40 groups from four angles, clouds of light of 640 x 960 pixels with a box for a mask."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    cloud = cv2.GaussianBlur(rng.integers(0, 256, (1280, 1920, 3)).astype(np.uint8), (0, 0), 5)
    cloud = cv2.normalize(cloud, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    for number in range(160):
        name = f"{number // 4:012x}_{number % 4 + 1:02}"
        down, right = rng.integers(0, 640), rng.integers(0, 960)
        write_image(folder / "train" / f"{name}.jpg", cloud[down : down + 640, right : right + 960])
        mask = np.zeros((640, 960), np.uint8)
        mask[down // 4 : 300, right // 4 : 500] = 1
        write_mask(folder / "train_masks" / f"{name}_mask.png", mask)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that was never trained, whose masks have both values."""
    folder = tmp_path_factory.mktemp("model")
    network = small_predictor().model
    assert isinstance(network, Segmenter)
    network.save_pretrained(folder)
    return folder


def ended(*words: object, **how: Any) -> str:
    done = carvana(*words, **how)
    assert done.code == 0, done
    return done.err


# The cache


def fit_words(photos: Path, folder: Path) -> list[object]:
    settings = (
        "model.options={width: 2}", f"data.size={list(SIZE)}", "data.workers=0", "split.val=1", "train.epochs=1",
        "train.batch_size=40", "train.precision=fp32",
    )  # fmt: skip
    where = "--data", photos, "--out", folder / "run"
    return ["fit", *where, "--device", "cpu", *(f"--set={word}" for word in settings)]


def cached(folder: Path) -> dict[int, bytes]:
    """All records of a cache by their places; there is one pack, so that no image is kept twice."""
    [pack] = packs(folder / "cache")
    return records(pack, 160, SIZE)


@pytest.fixture(scope="module")
def whole_cache(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    env = {"CARVANA_CACHE": str(folder / "cache")}
    told_by_it = ended(*fit_words(photos, folder), env=env, fault={"record": str(folder / "record")})
    seconds = re.search(r"cached 160 images at 32x48 in ([\d.]+) s", told_by_it)
    assert seconds
    weights = (folder / "run" / "model" / "model.safetensors").read_bytes()
    return {"records": cached(folder), "weights": weights, "seconds": float(seconds[1]), "record": folder / "record"}


def same_cache_again(photos: Path, folder: Path, whole_cache: dict[str, Any]) -> None:
    ended(*fit_words(photos, folder), env={"CARVANA_CACHE": str(folder / "cache")})
    assert cached(folder) == whole_cache["records"]
    assert (folder / "run" / "model" / "model.safetensors").read_bytes() == whole_cache["weights"]
    assert not list((folder / "cache").rglob(".part-*"))


@pytest.mark.fault(
    done="SIGKILL at each step of each kind of file that the cache writes, half of the file being written",
    promised="the same fit again finishes the cache, each image kept once, and trains the same weights",
    reaches="data/cache.py: records without a checksum, a cut pack; data/digest.py: a missing index",
    quick=1,
)
@pytest.mark.parametrize("point", [*points(CACHE), *(("appended", CACHE[1], number) for number in (1, 100))], ids=told)
def test_the_cache_killed_at_a_write(point: Point, whole_cache: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    kill_at(point, *fit_words(photos, tmp_path), env={"CARVANA_CACHE": str(tmp_path / "cache")})
    same_cache_again(photos, tmp_path, whole_cache)


@pytest.mark.fault(
    done="SIGKILL at random times while images are cached",
    promised="as above",
    reaches="data/cache.py: _Builder, some records written",
    quick=0,
)
@pytest.mark.parametrize("number", range(20))
def test_the_cache_killed_at_a_random_time(
    number: int, whole_cache: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    [seconds] = moments(number, 1, least=0, most=whole_cache["seconds"])
    env = {"CARVANA_CACHE": str(tmp_path / "cache")}
    assert kill_during(("begun", CACHE[1]), seconds, *fit_words(photos, tmp_path), env=env).code == -9
    same_cache_again(photos, tmp_path, whole_cache)


# predict


def predict_words(photos: Path, model: Path, folder: Path) -> list[object]:
    some = sorted((photos / "train").iterdir())[:40]
    return [
        "predict",
        model,
        *some,
        "--out",
        folder / "out",
        "--save",
        "mask,prob,cutout,overlay,coco",
        "--device",
        "cpu",
    ]


@pytest.fixture(scope="module")
def whole_outputs(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    ended(*predict_words(photos, model, folder), fault={"record": str(folder / "record")})
    return {"files": files(folder / "out", but=["manifest.jsonl"]), "record": folder / "record"}


def same_outputs_again(photos: Path, model: Path, folder: Path, whole_outputs: dict[str, Any]) -> None:
    ended(*predict_words(photos, model, folder))
    assert files(folder / "out", but=["manifest.jsonl"]) == whole_outputs["files"]


@pytest.mark.fault(
    done="SIGKILL at each step of each kind of file that predict writes, half of the file or line being written",
    promised="the same command again leaves the same files, byte for byte, and no leftovers",
    reaches="inference/predict_folder.py: Manifest, half a line, and a line whose outputs have no names yet",
    quick=1,
)
@pytest.mark.parametrize(
    "point", points(OUTPUTS, ("*/manifest.jsonl",), again=[("*_mask.png", 20), ("*/manifest.jsonl", 20)]), ids=told
)
def test_predict_killed_at_a_write(
    point: Point, whole_outputs: dict[str, Any], photos: Path, model: Path, tmp_path: Path
) -> None:
    kill_at(point, *predict_words(photos, model, tmp_path))
    same_outputs_again(photos, model, tmp_path, whole_outputs)


@pytest.mark.fault(
    done="SIGKILL at random times while predict writes",
    promised="as above",
    reaches="inference/predict_folder.py: several images under way",
    quick=0,
)
@pytest.mark.parametrize("number", range(20))
def test_predict_killed_at_a_random_time(
    number: int, whole_outputs: dict[str, Any], photos: Path, model: Path, tmp_path: Path, came_out: Callable[..., None]
) -> None:
    [seconds] = moments(number, 1, least=0, most=1.5)
    kill_during(("begun", OUTPUTS[0]), seconds, *predict_words(photos, model, tmp_path))
    same_outputs_again(photos, model, tmp_path, whole_outputs)


# submit


def submit_words(photos: Path, model: Path, folder: Path) -> list[object]:
    return ["submit", model, photos / "train", "--out", folder / "s.csv.gz", "--device", "cpu"]


@pytest.fixture(scope="module")
def whole_table(photos: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    ended(*submit_words(photos, model, folder), fault={"record": str(folder / "record")})
    return {"bytes": (folder / "s.csv.gz").read_bytes(), "record": folder / "record"}


def same_table_again(photos: Path, model: Path, folder: Path, whole_table: dict[str, Any]) -> None:
    done = carvana(*submit_words(photos, model, folder))
    if done.code == 1:
        assert "exists already" in done.error  # it was finished
    else:
        assert done.code == 0, done
    assert (folder / "s.csv.gz").read_bytes() == whole_table["bytes"]


@pytest.mark.fault(
    done="SIGKILL at each step of each kind of file that submit writes, half of the file being written",
    promised="the same command again leaves the same table, byte for byte, and removes its parts",
    reaches="inference/submission/table.py: a manifest without parts, some parts, all parts, half a table",
    quick=1,
)
@pytest.mark.parametrize("point", points(PARTS, PARTS_LOG, again=[("*.parts/*.gz", 3)]), ids=told)
def test_submit_killed_at_a_write(
    point: Point, whole_table: dict[str, Any], photos: Path, model: Path, tmp_path: Path
) -> None:
    kill_at(point, *submit_words(photos, model, tmp_path))
    same_table_again(photos, model, tmp_path, whole_table)
    assert [path.name for path in tmp_path.iterdir()] == ["s.csv.gz"]


@pytest.mark.fault(
    done="SIGKILL at random times while submit predicts",
    promised="as above",
    reaches="inference/pipeline.py: processes that read end with a killed parent",
    quick=0,
)
@pytest.mark.parametrize("number", range(20))
def test_submit_killed_at_a_random_time(
    number: int, whole_table: dict[str, Any], photos: Path, model: Path, tmp_path: Path
) -> None:
    [seconds] = moments(number, 1, least=0, most=1.5)
    kill_during(("appended", PARTS_LOG[0]), seconds, *submit_words(photos, model, tmp_path))
    same_table_again(photos, model, tmp_path, whole_table)


@pytest.mark.fault(
    done=(
        "each write of a fit, of predict and of submit is recorded, and compared with the writes that these cases kill"
    ),
    promised="every place that writes is killed",
    reaches="the same event, in inference/outputs/files.py, predict_folder.py and submission/table.py",
)
def test_all_places_that_write_are_known(
    whole_outputs: dict[str, Any], whole_table: dict[str, Any], came_out: Callable[..., None]
) -> None:
    assert unknown(whole_outputs["record"], [*OUTPUTS, "*/manifest.jsonl"]) == set()
    assert unknown(whole_table["record"], [*PARTS, *PARTS_LOG]) == set()
    count = [len(list(events(whole["record"]))) for whole in (whole_outputs, whole_table)]
    came_out(f"{count[0]} steps of predict, {count[1]} of submit")
