from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.demo import car_id, draw_photo, write_demo
from carvana.errors import DataError

SIZE = (96, 144)


class _Steps:
    """A reporter that remembers how far each task came."""

    def __init__(self):
        self.done, self.total = 0, None

    def info(self, message): ...

    def warn(self, message): ...

    def start(self, task, total):
        self.total = total

    def advance(self, task, steps=1, **values):
        self.done += steps

    def finish(self, task, **values): ...


def _files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_the_layout_is_the_competitions(tmp_path):
    steps = _Steps()
    root = write_demo(tmp_path / "demo", cars=2, views=4, size=SIZE, workers=1, reporter=steps)
    assert (steps.done, steps.total) == (8, 8)
    photos, masks = sorted((root / "train").iterdir()), sorted((root / "train_masks").iterdir())
    assert len(photos) == len(masks) == 8
    for photo, mask in zip(photos, masks, strict=True):
        assert re.fullmatch(r"[0-9a-f]{12}_(01|05|09|13)\.jpg", photo.name)
        assert mask.name == photo.stem + "_mask.gif"
    for car in range(2):
        name = f"{car_id(car)}_05"
        image, mask = draw_photo(car, 5, size=SIZE)
        read = cv2.imread(str(root / "train" / f"{name}.jpg"))[..., ::-1]
        assert np.abs(read.astype(int) - image).mean() < 6  # what JPEG loses
        picture = Image.open(root / "train_masks" / f"{name}_mask.gif")
        assert (picture.format, picture.mode) == ("GIF", "P")
        assert np.array_equal(np.asarray(picture), mask)
    manifest = json.loads((root / "demo.json").read_text())
    assert manifest == {"version": 2, "cars": 2, "views": 4, "seed": 0, "size": list(SIZE)}


def test_a_second_call_keeps_files_completes_what_is_missing_and_extends(tmp_path):
    root = write_demo(tmp_path, cars=1, views=2, size=SIZE, workers=1)
    before, times = _files(root), {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    write_demo(root, cars=1, views=2, size=SIZE, workers=1)
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file()}
    (root / "train" / f"{car_id(0)}_09.jpg").unlink()
    write_demo(root, cars=1, views=2, size=SIZE, workers=1)
    assert _files(root) == before
    write_demo(root, cars=2, views=4, size=SIZE, workers=1)
    after = _files(root)
    assert len(after) == 2 * 2 * 4 + 1
    assert all(after[name] == content for name, content in before.items() if name != "demo.json")


def test_several_processes_write_the_same_files_as_one(tmp_path):
    write_demo(tmp_path / "one", cars=2, views=2, size=SIZE, workers=1)
    write_demo(tmp_path / "two", cars=2, views=2, size=SIZE, workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        ({"size": (64, 96)}, "size"),
        ({"cars": 1}, "not part of the demo"),
        ({"views": 3}, "not part of the demo"),
    ],
)
def test_another_demo_is_refused_and_left_alone(tmp_path, change, told):
    asked = {"cars": 2, "views": 2, "seed": 0, "size": SIZE, "workers": 1}
    write_demo(tmp_path, **asked)
    before = _files(tmp_path)
    with pytest.raises(DataError, match=told) as caught:
        write_demo(tmp_path, **(asked | change))
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before


def test_other_peoples_files_are_refused_and_left_alone(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(DataError, match=r"holiday\.jpg"):
        write_demo(tmp_path, cars=1, views=1, size=SIZE, workers=1)
    assert _files(tmp_path) == {"train/holiday.jpg": b"mine"}


def test_an_interrupted_demo_of_another_size_is_not_continued(tmp_path):
    write_demo(tmp_path, cars=1, views=1, size=SIZE, workers=1)
    (tmp_path / "demo.json").unlink()
    with pytest.raises(DataError, match="96x144"):
        write_demo(tmp_path, cars=1, views=1, size=(64, 96), workers=1)


@pytest.mark.parametrize("wrong", [{"cars": 0}, {"views": 0}, {"views": 17}, {"workers": 0}])
def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(DataError):
        write_demo(tmp_path / "demo", size=SIZE, **({"cars": 1, "views": 1, "workers": 1} | wrong))
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_a_killed_writer_leaves_only_whole_files_and_the_next_call_completes_them(tmp_path):
    root = tmp_path / "demo"
    code = (
        f"from carvana.data.demo import write_demo; write_demo({str(root)!r}, cars=2, views=8, size={SIZE}, workers=1)"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 30
    while len(list((root / "train").glob("[!.]*"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.005)
    writer.kill()
    writer.wait()
    left = [path for path in root.rglob("[!.]*") if path.is_file()]
    assert 7 <= len(left) < 32
    assert not (root / "demo.json").exists()
    for path in left:
        with Image.open(path) as picture:
            picture.load()
            assert picture.size == SIZE[::-1]
    write_demo(root, cars=2, views=8, size=SIZE, workers=1)
    write_demo(tmp_path / "fresh", cars=2, views=8, size=SIZE, workers=1)
    shown = {name: data for name, data in _files(root).items() if ".part-" not in name}
    assert shown == _files(tmp_path / "fresh")
