from __future__ import annotations

import gc
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from reporters import Lines

from carvana.data.check.files import FolderContents, list_folders
from carvana.data.layouts import find_images
from carvana.data.samples import PairedNames, Sample, find_names, find_samples, warn_of_passed_over
from carvana.data.splits import read_split, split_samples, write_split
from carvana.errors import ConfigError, DataError
from carvana.image_spec import ImageSpec


def make(root: Path, images: str, masks: str, names: list[str], mask_suffix: str) -> Path:
    pixels = np.zeros((4, 6, 3), np.uint8)
    for folder in (images, masks):
        (root / folder).mkdir(parents=True)
    for name in names:
        cv2.imwrite(str(root / images / f"{name}.jpg"), pixels)
        cv2.imwrite(str(root / masks / f"{name}{mask_suffix}.png"), pixels)
    return root


def listing_of(root: Path, **options: Any) -> FolderContents:
    names = find_names(root, **options)
    assert isinstance(names, PairedNames)
    return list_folders(names)


SAMPLES = [
    Sample(
        Path("/data/train/00087a6bd4dc_01.jpg"),
        Path("/data/train_masks/00087a6bd4dc_01_mask.gif"),
        "00087a6bd4dc",
        "01",
    ),
    Sample(Path("/data/train/00087a6bd4dc_05.jpg"), None, "00087a6bd4dc", "05"),
    Sample(Path("photo.png"), Path("mask.png"), "photo"),
    Sample(Path("../wörld 車/😀.png"), Path("~/x/m.png"), "grüße", "left"),
    Sample(Path("/p.png"), Path("/"), "", ""),
    Sample(Path(), Path(".."), "dots"),
    Sample(Path("a/cut\udcff.jpg"), None, "a name that is no UTF-8"),
    Sample(Path("/data/images/a/1.jpg"), Path("/data/masks/a/1.png"), "a", depth=1),
    Sample(Path("images/a/b/1.jpg"), (Path("m/1.png"), Path("m/1_mask_1.png"), Path("/n/1.png")), "b", depth=2),
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_gives_the_paths_that_it_was_made_of(sample: Sample) -> None:
    assert isinstance(sample.image, Path)
    assert all(isinstance(mask, Path) for mask in sample.masks)
    assert sample == Sample(sample.image, sample.mask, sample.group, sample.view, sample.depth)
    assert hash(sample) == hash(replace(sample))
    assert pickle.loads(pickle.dumps(sample)) == sample
    assert replace(sample, mask=None) == Sample(sample.image, None, sample.group, sample.view, sample.depth)
    assert replace(sample, image=Path("x")) != sample


def test_paths_may_be_given_as_text() -> None:
    assert Sample("a/1.jpg", ("m/1.png", "m/2.png"), "a") == Sample(  # type: ignore[arg-type]
        Path("a/1.jpg"), (Path("m/1.png"), Path("m/2.png")), "a"
    )
    with pytest.raises(TypeError, match="PathLike"):
        Sample(1, None, "a")  # type: ignore[arg-type]


def test_a_sample_says_what_it_is_and_cannot_be_changed() -> None:
    assert repr(SAMPLES[1]) == (
        "Sample(image=PosixPath('/data/train/00087a6bd4dc_05.jpg'), mask=None, "
        "group='00087a6bd4dc', view='05', depth=0, subset='')"
    )
    assert [sample.name for sample in SAMPLES[-2:]] == ["a/1.jpg", "a/b/1.jpg"]
    with pytest.raises(AttributeError):
        SAMPLES[0].image = Path("x")  # type: ignore[misc]


def test_samples_reach_another_process() -> None:
    program = (
        "import pickle, sys; found = pickle.load(sys.stdin.buffer); print(len(found), found[2].name, found[-4].group)"
    )
    told = subprocess.run([sys.executable, "-c", program], input=pickle.dumps(SAMPLES), capture_output=True, check=True)
    assert told.stdout.decode().split() == ["9", "photo.png", "dots"]


def test_a_sample_takes_a_third_of_a_kilobyte() -> None:
    name = "00087a6bd4dc_01"
    sample = Sample(
        Path(f"/somewhere/train/{name}.jpg"), Path(f"/somewhere/train_masks/{name}_mask.gif"), name[:12], "01"
    )
    assert sample.name == f"{name}.jpg"
    assert sample.image != sample.mask  # paths that were asked for are not kept
    shared = ("", "01", 0, None, ImageSpec())  # one object for all samples, as False is
    parts = [part for part in gc.get_referents(sample) if not isinstance(part, type) and part not in shared]
    assert {type(part) for part in parts} == {str}
    assert sys.getsizeof(sample) + sum(map(sys.getsizeof, parts)) < 400


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
    listed = listing_of(tmp_path).samples
    assert [(place.stem, [mask.name for mask in place.masks]) for place in listed] == expected
    assert listing_of(tmp_path).problems == []


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
    with pytest.raises(DataError, match=r"2 of 3 images have no mask .*b\.jpg"):
        find_samples(tmp_path)


def test_two_photos_of_one_stem_are_refused_and_both_are_named(tmp_path: Path) -> None:
    make(tmp_path, "images", "masks", ["a", "b"], "")
    (tmp_path / "images" / "b.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"images: b\.jpg and b\.png are both named as the image 'b'"):
        find_samples(tmp_path)


@pytest.mark.parametrize("second", ["b.png", "b_mask.gif"])
def test_two_masks_of_one_photo_are_refused_and_both_are_named(tmp_path: Path, second: str) -> None:
    make(tmp_path, "images", "masks", ["a", "b"], "_mask")
    (tmp_path / "masks" / second).write_bytes(b"")
    with pytest.raises(
        DataError, match=r"masks: (?=.*b_mask\.png)(?=.*b\.png|.*b_mask\.gif).* are both named as the image 'b'"
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
    with pytest.raises(ConfigError, match=r"finds no group in the image 'blue-front'"):
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
    assert [path.name for path in find_images(tmp_path)] == ["a.JPG", "b.png"]


def test_a_folder_that_is_missing_or_empty_is_named(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(DataError, match=str(folder)):
            find_images(folder)
        with pytest.raises(DataError, match=str(folder)):
            find_samples(folder)


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".npy"):
            np.save(root / name, np.eye(4, 6, dtype=np.uint8))
        else:
            cv2.imwrite(str(root / name), np.zeros((4, 6), np.uint8))
    return root


def found(root: Path, **options: str) -> dict[str, list[str]]:
    """Each image's masks, by names; ``list_folders`` must find the same."""
    samples = find_samples(root, **options)  # type: ignore[arg-type]
    listing = listing_of(root, **options)
    assert listing.problems == []
    assert [place.masks for place in listing.samples] == [sample.masks for sample in samples]
    return {sample.name: [mask.name for mask in sample.masks] for sample in samples}


@pytest.mark.parametrize("ending", ["_mask", "_masks", "_segmentation", "_Mask"])
def test_usual_endings_of_masks_are_understood(tmp_path: Path, ending: str) -> None:
    put(tmp_path, "images/a.jpg", "images/b.jpg", f"masks/a{ending}.png", f"masks/b{ending}.npy")
    assert found(tmp_path) == {"a.jpg": [f"a{ending}.png"], "b.jpg": [f"b{ending}.npy"]}


def test_another_ending_is_named_and_counts_alone(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a_L.png", "masks/a.png", "masks/a_mask.png", "masks/z_L.png")
    assert [mask.name for mask in find_samples(tmp_path, mask_suffix="_L")[0].masks] == ["a_L.png"]
    assert [problem.kind for problem in listing_of(tmp_path, mask_suffix="_L").problems] == ["no-photo"]  # z_L.png
    put(tmp_path / "2", "images/a.jpg", "masks/a_mask.png", "masks/a.png")
    assert found(tmp_path / "2", mask_suffix="") == {"a.jpg": ["a.png"]}
    with pytest.raises(DataError, match=r"a\.jpg; expected a_x\.png.* data\.mask_suffix"):
        find_samples(tmp_path, mask_suffix="_x")
    with pytest.raises(ConfigError, match=r"data\.mask_suffix: 'a/b'"):
        find_samples(tmp_path, mask_suffix="a/b")


def test_a_missing_mask_is_told_with_a_mask_that_is_there(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "masks/a_L.png")
    with pytest.raises(DataError, match=r"the first: a\.jpg; expected .*masks has a_L\.png, .*mask_suffix"):
        find_samples(tmp_path)


def test_several_masks_of_one_image_are_joined_by_their_numbers(tmp_path: Path) -> None:
    put(tmp_path, "images/a.png", "images/b.png", "masks/a_mask.png", "masks/a_mask_1.png", "masks/a_mask_2.png",
        "masks/b_mask.png")  # fmt: skip
    assert found(tmp_path) == {"a.png": ["a_mask.png", "a_mask_1.png", "a_mask_2.png"], "b.png": ["b_mask.png"]}


def test_one_folder_may_hold_images_and_masks(tmp_path: Path) -> None:
    put(tmp_path, "benign (1).png", "benign (1)_mask.png", "benign (1)_mask_1.png", "benign (2).png", "x.jpg", "x.png",
        "benign (2)_mask.png", "y.jpg", "y.jpg.png", "z.jpg", "z.npy")  # fmt: skip
    expected = {
        "benign (1).png": ["benign (1)_mask.png", "benign (1)_mask_1.png"],
        "benign (2).png": ["benign (2)_mask.png"],
        "x.jpg": ["x.png"],
        "y.jpg": ["y.jpg.png"],
        "z.jpg": ["z.npy"],
    }
    assert found(tmp_path) == expected
    assert found(tmp_path.parent, images=tmp_path.name, masks=tmp_path.name) == expected


def test_sub_folders_are_read_and_belong_to_the_names(tmp_path: Path) -> None:
    put(tmp_path, "images/a/0.jpg", "images/b/c/0.jpg", "masks/a/0.png", "masks/b/c/0_mask.png")
    assert found(tmp_path) == {"a/0.jpg": ["0.png"], "b/c/0.jpg": ["0_mask.png"]}
    assert [sample.group for sample in find_samples(tmp_path)] == ["a/0", "b/c/0"]
    assert [sample.group for sample in find_samples(tmp_path, group="([^/]+)/")] == ["a", "b"]
    assert [sample.group for sample in find_samples(tmp_path, group=r"(\d)")] == ["0", "0"]
    put(tmp_path / "2", "train/car-1.jpg", "train/car-1_mask.png", "valid/car-1.jpg", "valid/car-1_mask.png")
    assert found(tmp_path / "2") == {"train/car-1.jpg": ["car-1_mask.png"], "valid/car-1.jpg": ["car-1_mask.png"]}


def test_folders_beside_images_are_not_looked_into(tmp_path: Path) -> None:
    put(tmp_path, "images/a.jpg", "images/old/b.jpg", "masks/a.png", "masks/old/b.png")
    assert found(tmp_path) == {"a.jpg": ["a.png"]}
    notes = listing_of(tmp_path).notes
    assert [(Path(note.file).name, note.kind) for note in notes] == [("old", "ignored"), ("old", "ignored")]


def test_a_split_may_name_photos_of_sub_folders_or_paths_that_end_in_names(tmp_path: Path) -> None:
    put(tmp_path / "1", "images/a/0.jpg", "images/b/0.jpg", "masks/a/0.png", "masks/b/0.png")
    samples = find_samples(tmp_path / "1")
    split = split_samples(samples, by="image", val=1)
    write_split(tmp_path / "split.csv", split)
    assert read_split(tmp_path / "split.csv", samples) == split
    put(tmp_path / "2", "images/a.jpg", "images/b.jpg", "masks/a.png", "masks/b.png")
    (tmp_path / "own.csv").write_text("image,subset\nimages/a.jpg,train\nimages/b.jpg,val\n")
    assert read_split(tmp_path / "own.csv", find_samples(tmp_path / "2")).val[0].name == "b.jpg"
    (tmp_path / "own.csv").write_text("image,subset\nx/a.jpg,train\ny/a.jpg,val\n")
    with pytest.raises(DataError, match=r"a\.jpg is there twice"):
        read_split(tmp_path / "own.csv", find_samples(tmp_path / "2"))


def test_what_a_training_passes_over_is_counted_by_kind(tmp_path: Path) -> None:
    samples = find_samples(make(tmp_path, "images", "masks", ["a", "b"], ""))
    shown = Lines()
    warn_of_passed_over(samples, shown)
    assert shown.lines == []
    folder = samples[0].image.parent
    for name in ("clip.mov", "clip2.MP4", "notes.txt"):
        (folder / name).touch()
    (folder / "old").mkdir()
    warn_of_passed_over(samples, shown)
    assert shown.lines == [f"{folder}: not read: 2 videos, 1 folder, 1 other file (the first: clip.mov)"]
    np.save(folder / "a.npy", np.zeros((4, 6), np.uint8))
    shown = Lines()
    warn_of_passed_over([replace(samples[0], mask=folder / "a.npy")], shown)
    assert shown.lines == [f"{folder}: not read: 2 videos, 1 folder, 1 other file (the first: clip.mov)"]


def test_sub_folders_that_are_links_are_followed_but_not_upwards(tmp_path: Path) -> None:
    data, disk = tmp_path / "data", tmp_path / "disk"
    for name in ("images", "masks"):
        for folder in (data / name / "a", disk / name):
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "1.png"), np.zeros((4, 6), np.uint8))
        (data / name / "b").symlink_to(disk / name)
        (data / name / "0").symlink_to(data / name / "a")  # a real folder keeps its name
        (data / name / "again").symlink_to(disk / name)  # the first of two by name
        (data / name / "up").symlink_to(data)
    assert [sample.name for sample in find_samples(data)] == ["a/1.png", "again/1.png"]


def test_a_page_may_not_be_named_as_another_file_is(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
        tifffile.imwrite(
            tmp_path / name / "stack.tif", np.ones((4, 9, 9), np.uint8), photometric="minisblack", metadata=None
        )
        tifffile.imwrite(tmp_path / name / "stack-003.tif", np.ones((9, 9), np.uint8), metadata=None)
    with pytest.raises(DataError, match=r"stack\.tif: page 3 is named stack-003\.tif, as .*stack-003\.tif is; rename"):
        find_samples(tmp_path)
