from __future__ import annotations

import functools
import io
import json
import re

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.check.report import check_data
from carvana.data.demo import class_names, draw_scene, kept_scenes, write_demo, write_scenes
from carvana.data.digest import cache_home
from carvana.data.samples import find_samples
from carvana.data.splits import split_samples
from carvana.errors import DataError
from carvana.task import Task
from carvana.utils.progress import LogReporter

SIZE = (60, 80)


def _files(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes") / "five", classes=5, scenes=4, views=2, size=SIZE)


def test_the_folder_has_images_labels_and_names(drawn):
    assert sorted(path.name for path in drawn.iterdir()) == ["codes.txt", "demo.json", "images", "masks"]
    assert (drawn / "codes.txt").read_text().splitlines() == class_names(5)
    assert json.loads((drawn / "demo.json").read_text()) == {
        "version": 1, "classes": 5, "channels": 3, "scenes": 4, "views": 2, "seed": 0, "size": list(SIZE),
    }  # fmt: skip
    images, masks = sorted((drawn / "images").iterdir()), sorted((drawn / "masks").iterdir())
    assert len(images) == 8
    assert [path.stem for path in images] == [path.stem for path in masks]
    assert all(re.fullmatch(r"[0-9a-f]{12}_0[12]\.jpg", path.name) for path in images)
    expected = {draw_scene(scene, 1, classes=5, size=SIZE)[1].tobytes() for scene in range(4)}
    found = [Image.open(path) for path in masks if path.stem.endswith("_01")]
    assert {np.asarray(picture).tobytes() for picture in found} == expected
    assert {picture.mode for picture in found} == {"P"}
    assert found[0].getpalette()[:15] == Task(classes=class_names(5)).palette.ravel().tolist()


def test_views_of_a_scene_are_a_group_without_any_setting(drawn):
    samples = find_samples(drawn)
    assert [sample.group for sample in samples] == [sample.name[:12] for sample in samples]
    assert len({sample.group for sample in samples}) == 4
    split = split_samples(samples, val=2, task=Task(classes=class_names(5)))
    assert len(split.train) == len(split.val) == 4
    assert not {sample.group for sample in split.train} & {sample.group for sample in split.val}


def test_the_check_of_the_folder_finds_nothing(tmp_path):
    root = write_scenes(tmp_path, classes=4, scenes=12, views=1, size=(120, 160))
    report = check_data(root, task=Task(classes=class_names(4)), reporter=LogReporter())
    assert (report.image_count, report.group_count, report.problems) == (12, 12, ())


def test_a_second_call_keeps_files_completes_what_is_missing_and_extends(tmp_path):
    asked = {"classes": 3, "views": 1, "size": SIZE}
    write_scenes(tmp_path, scenes=1, **asked)
    before = _files(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    write_scenes(tmp_path, scenes=1, **asked)
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    next((tmp_path / "images").iterdir()).unlink()
    write_scenes(tmp_path, scenes=1, **asked)
    assert _files(tmp_path) == before
    write_scenes(tmp_path, scenes=2, **asked)
    after = _files(tmp_path)
    assert len(after) == 6
    assert all(after[name] == content for name, content in before.items() if name != "demo.json")


@pytest.mark.parametrize("change", [{"classes": 4}, {"channels": 1}, {"seed": 1}, {"size": (64, 80)}, {"scenes": 1}])
@pytest.mark.parametrize("interrupted", [False, True])
def test_another_demo_is_refused_and_left_alone(tmp_path, change, interrupted):
    asked = {"classes": 3, "scenes": 2, "views": 1, "size": SIZE}
    write_scenes(tmp_path, **asked)
    if interrupted:
        (tmp_path / "demo.json").unlink()
        (tmp_path / "codes.txt").unlink()
    before = _files(tmp_path)
    with pytest.raises(DataError) as caught:
        write_scenes(tmp_path, **(asked | change))
    assert "\n" not in str(caught.value)
    assert _files(tmp_path) == before


def test_cars_and_scenes_do_not_mix_nor_are_other_codes_overwritten(tmp_path):
    write_demo(tmp_path / "cars", cars=1, views=1, size=SIZE, workers=1)
    with pytest.raises(DataError, match=r"cars holds another demo: of cars, not of streets; choose another folder$"):
        write_scenes(tmp_path / "cars", classes=3, scenes=1, views=1, size=SIZE)
    write_scenes(tmp_path / "streets", classes=3, scenes=1, views=1, size=SIZE)
    with pytest.raises(DataError, match=r"streets holds another demo: of streets, not of cars; choose another folder$"):
        write_demo(tmp_path / "streets", cars=1, views=1, size=SIZE, seed=5, workers=1)
    (tmp_path / "codes.txt").write_text("mine\n")
    with pytest.raises(DataError, match=r"codes\.txt lists other classes"):
        write_scenes(tmp_path, classes=3, scenes=1, views=1, size=SIZE)
    assert (tmp_path / "codes.txt").read_text() == "mine\n"
    assert not (tmp_path / "images").exists()


@pytest.mark.parametrize(("channels", "suffix"), [(1, ".png"), (2, ".npy"), (3, ".jpg"), (6, ".npy")])
def test_images_have_as_many_channels_as_asked_for(tmp_path, channels, suffix):
    write_scenes(tmp_path, classes=3, channels=channels, scenes=1, views=1, size=SIZE)
    (path,) = (tmp_path / "images").iterdir()
    assert path.suffix == suffix
    image = np.load(path) if suffix == ".npy" else cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    expected, _ = draw_scene(0, 1, classes=3, channels=channels, size=SIZE)
    assert image.shape == expected.shape
    if channels == 3:
        assert np.abs(image[..., ::-1].astype(int) - expected).mean() < 6  # what JPEG loses
    else:
        assert np.array_equal(image, expected)


@pytest.mark.slow
def test_several_processes_write_the_same_files_as_one(tmp_path):
    asked = {"classes": 14, "scenes": 2, "views": 1, "size": SIZE}
    write_scenes(tmp_path / "one", **asked, workers=1)
    write_scenes(tmp_path / "two", **asked, workers=2)
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


@pytest.mark.parametrize("wrong", [{"classes": 1}, {"channels": 0}, {"scenes": 0}, {"views": 100}, {"workers": 0}])
def test_impossible_numbers_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(DataError):
        write_scenes(tmp_path / "demo", **({"classes": 3, "scenes": 1, "views": 1, "size": SIZE} | wrong))
    assert not (tmp_path / "demo").exists()


def test_kept_scenes_are_drawn_once_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CARVANA_CACHE", str(tmp_path))
    small = functools.partial(write_scenes, scenes=2, views=1, size=SIZE)
    monkeypatch.setattr("carvana.data.demo.scene_folder.write_scenes", small)
    root = kept_scenes(4, reporter=LogReporter())
    assert root.parent == cache_home()
    times = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert len(find_samples(root)) == 2
    assert kept_scenes(4, reporter=LogReporter()) == root
    assert times == {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_a_damaged_image_is_named_and_left_alone(tmp_path):
    root = write_scenes(tmp_path, classes=3, channels=4, scenes=1, views=1, size=SIZE)
    [image] = (root / "images").iterdir()
    archive = io.BytesIO()
    np.savez(archive, image=np.zeros(1))
    for data in (b"", b"abc", archive.getvalue()):
        image.write_bytes(data)
        with pytest.raises(DataError, match="cannot be read as a demo picture"):
            write_scenes(tmp_path, classes=3, channels=4, scenes=1, views=1, size=SIZE)
        assert image.read_bytes() == data
