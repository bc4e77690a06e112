from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from carvana.data.check_folders import list_folders
from carvana.data.layouts import find_photos
from carvana.data.samples import find_samples
from carvana.errors import ConfigError, DataError


def make(root: Path, images: str, masks: str, names: list[str], mask_suffix: str) -> Path:
    pixels = np.zeros((4, 6, 3), np.uint8)
    for folder in (images, masks):
        (root / folder).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(root / images / f"{name}.jpg"), pixels)
        cv2.imwrite(str(root / masks / f"{name}{mask_suffix}.png"), pixels)
    return root


def test_carvanas_layout_gives_cars_and_views(tmp_path: Path) -> None:
    make(tmp_path, "train", "train_masks", ["0123456789ab_02", "0123456789ab_01"], "_mask")
    samples = find_samples(tmp_path)
    assert [(s.name, s.group, s.view) for s in samples] == [
        ("0123456789ab_01.jpg", "0123456789ab", "01"),
        ("0123456789ab_02.jpg", "0123456789ab", "02"),
    ]
    assert samples[0].mask == tmp_path / "train_masks" / "0123456789ab_01_mask.png"


def test_images_and_masks_are_found_and_each_photo_is_a_group_of_its_own(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["holiday_01", "holiday_02"], "")
    assert [s.group for s in find_samples(tmp_path)] == ["holiday_01", "holiday_02"]


@pytest.mark.parametrize(
    ("names", "suffix"),
    [
        (["00_mask", "01_mask"], ""),  # photos whose own names end so
        (["00_mask", "01_mask"], "_mask"),
        (["00", "01"], ".jpg"),  # 00.jpg.png is the mask of 00.jpg
        (["00", "01"], "_mask.jpg"),
        (["00.v1", "00.v2"], ""),
        (["00.jpg", "01.png"], ""),
    ],
)
def test_a_mask_belongs_to_the_photo_of_its_own_stem_first(tmp_path: Path, names: list[str], suffix: str) -> None:
    make(tmp_path, "images", "masks", names, suffix)
    expected = [(name, [f"{name}{suffix}.png"]) for name in names]
    assert [(sample.stem, [mask.name for mask in sample.masks]) for sample in find_samples(tmp_path)] == expected
    listed = list_folders(tmp_path).places
    assert [(place.stem, [mask.name for mask in place.masks]) for place in listed] == expected
    assert list_folders(tmp_path).problems == []


def test_folders_of_other_names_are_named_by_the_user(tmp_path: Path) -> None:
    make(tmp_path, "a", "b", ["x"], "")
    assert find_samples(tmp_path, images="a", masks="b")[0].name == "x.jpg"
    with pytest.raises(ConfigError, match="together"):
        find_samples(tmp_path, images="a")
    with pytest.raises(DataError, match=r"data\.images"):
        find_samples(tmp_path)


def test_a_pattern_names_the_car(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["red-front", "red-back", "blue-front"], "_mask")
    samples = find_samples(tmp_path, group=r"(?P<group>\w+)-(?P<view>\w+)")
    assert {(s.group, s.view) for s in samples} == {("red", "front"), ("red", "back"), ("blue", "front")}
    assert {s.group for s in find_samples(tmp_path, group=r"(\w+)-")} == {"red", "blue"}


@pytest.mark.parametrize(
    ("pattern", "word"), [("(", "regular expression"), ("red", "group"), ("(x)y", "does not match")]
)
def test_a_pattern_that_cannot_serve_is_told(tmp_path: Path, pattern: str, word: str) -> None:
    make(tmp_path, "images", "masks", ["red-front"], "")
    with pytest.raises(ConfigError, match=word):
        find_samples(tmp_path, group=pattern)


def test_photos_without_masks_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["a", "b", "c"], "")
    (tmp_path / "masks" / "b.png").unlink()
    (tmp_path / "masks" / "c.png").unlink()
    with pytest.raises(DataError, match=r"2 of 3 photos have no mask .*b\.jpg"):
        find_samples(tmp_path)


def test_two_photos_of_one_stem_are_refused_and_both_are_named(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["a", "b"], "")
    (tmp_path / "images" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images: b\.jpg and b\.png both stand for the photo 'b'"):
        find_samples(tmp_path)


@pytest.mark.parametrize("second", ["b.png", "b_mask.gif"])
def test_two_masks_of_one_photo_are_refused_and_both_are_named(tmp_path: Path, second: str) -> None:
    make(tmp_path, "images", "masks", ["a", "b"], "_mask")
    (tmp_path / "masks" / second).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"masks: (?=.*b_mask\.png)(?=.*b\.png|.*b_mask\.gif).* both stand for the photo 'b'"
    ):
        find_samples(tmp_path)


def test_masks_that_belong_to_no_photo_do_not_matter(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["a"], "")
    for name in ("z.png", "z_mask.png"):
        (tmp_path / "masks" / name).write_bytes(b"")
    assert [sample.name for sample in find_samples(tmp_path)] == ["a.jpg"]


@pytest.mark.parametrize("pattern", [r"(red)?.*", r"(?P<group>red)?-?(?P<view>\w+)", r"(r?e?d?)b?.*"])
def test_a_pattern_that_finds_no_car_in_a_name_is_told(tmp_path: Path, pattern: str) -> None:
    make(tmp_path, "images", "masks", ["blue-front", "red-front"], "")
    with pytest.raises(ConfigError, match=r"finds no car in the photo 'blue-front'"):
        find_samples(tmp_path, group=pattern)


def test_the_users_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "cars", "images", "masks", ["a"], "")
    monkeypatch.setenv("HOME", str(tmp_path))
    for found in (
        find_samples("~/cars"),
        find_samples(tmp_path, images="~/cars/images", masks=Path("~/cars/masks")),
    ):
        assert found[0].image == tmp_path / "cars" / "images" / "a.jpg"
        assert found[0].mask == tmp_path / "cars" / "masks" / "a.png"
    with pytest.raises(DataError, match="~nobody-of-that-name"):
        find_samples("~nobody-of-that-name/cars")


def test_hidden_files_and_other_files_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.JPG", ".part-b.jpg", "notes.txt", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in find_photos(tmp_path)] == ["a.JPG", "b.png"]


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=str(folder)):
            find_photos(folder)
        with pytest.raises(DataError, match=str(folder)):
            find_samples(folder)
