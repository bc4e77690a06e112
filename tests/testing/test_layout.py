from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carvana.data.io.images import image_size
from carvana.data.layouts import carvana_layout
from carvana.data.samples import Sample
from carvana.registry import registry
from carvana.testing import check_layout


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry.layouts, "_entries", {e.name: e for e in registry.layouts.registered() if e.source == "carvana"}
    )


def check(layout: Callable[[Path], Any], folder: Path | None) -> None:
    registry.layouts.register("under-test", layout, replace=True)
    check_layout("under-test", folder)


def test_every_layout_of_the_library_keeps_the_contract(tiny_data: Path, tmp_path: Path) -> None:
    places = {
        "folders": ("images", "masks"),
        "split-folders": ("train/images", "train/masks"),
        "voc": ("JPEGImages", "SegmentationClass"),
        "cityscapes": ("leftImg8bit/train/city", "gtFine/train/city"),
    }
    for name, (images, masks) in places.items():
        shutil.copytree(tiny_data / "train", tmp_path / name / images)
        shutil.copytree(tiny_data / "train_masks", tmp_path / name / masks)
    names = [path.stem for path in sorted((tiny_data / "train").iterdir())]
    (tmp_path / "voc" / "ImageSets" / "Segmentation").mkdir(parents=True)
    (tmp_path / "voc" / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(names))
    for name in names:
        for folder, before, after in (("leftImg8bit", "", "_leftImg8bit"), ("gtFine", "_mask", "_gtFine_labelIds")):
            (path,) = (tmp_path / "cityscapes" / folder / "train" / "city").glob(f"{name}{before}.*")
            path.rename(path.with_name(f"{name}{after}{path.suffix}"))
    annotated = write_annotated(tiny_data / "train", tmp_path)
    folders = {"carvana": tiny_data} | {name: tmp_path / name for name in (*places, *annotated)}
    assert folders.keys() == {entry.name for entry in registry.layouts.registered() if entry.source == "carvana"}
    for name, folder in folders.items():
        check_layout(name, folder)
        check_layout(name)


def write_annotated(images: Path, root: Path) -> tuple[str, ...]:
    """Folders named as the layouts that read annotation files, each with the images and a triangle in each image."""
    names = ("coco", "labelme", "yolo")
    for name in names:
        shutil.copytree(images, root / name / "images")
    ring, shares = [2, 2, 20, 2, 20, 20], "0.1 0.1 0.5 0.1 0.5 0.5"
    sizes = {path.name: image_size(path) for path in sorted(images.iterdir())}
    records = [{"id": name, "file_name": name, "height": size[0], "width": size[1]} for name, size in sizes.items()]
    outlines = [{"id": name, "image_id": name, "category_id": 1, "segmentation": [ring]} for name in sizes]
    coco = {"images": records, "annotations": outlines, "categories": [{"id": 1, "name": "car"}]}
    (root / "coco" / "labels.json").write_text(json.dumps(coco))
    (root / "yolo" / "labels").mkdir()
    (root / "yolo" / "classes.txt").write_text("car")
    for name, (height, width) in sizes.items():
        shape = {"label": "car", "points": [ring[:2], ring[2:4], ring[4:]], "shape_type": "polygon"}
        values = {"shapes": [shape], "imagePath": name, "imageHeight": height, "imageWidth": width}
        (root / "labelme" / "images" / name).with_suffix(".json").write_text(json.dumps(values))
        (root / "yolo" / "labels" / name).with_suffix(".txt").write_text(f"0 {shares}")
    return names


def listing(root: Path) -> list[Sample] | None:
    photos = sorted((root / "train").glob("*.jpg"))  # drawn cars: others' are .png in the contract
    return [Sample(p, root / "train_masks" / f"{p.stem}_mask.gif", p.stem[:12]) for p in photos] or None


def test_folders_may_be_relative_to_the_root_and_the_root_to_the_current_folder(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_data / "train", tmp_path / "album" / "a")
    shutil.copytree(tiny_data / "train_masks", tmp_path / "album" / "b")
    monkeypatch.chdir(tmp_path)
    check(lambda root: ("a", "b") if (root / "a").is_dir() else None, Path("album"))
    check(lambda root: (root / "a", root / "b") if (root / "a").is_dir() else None, Path("album"))


def test_a_sound_layout_passes_whether_it_tells_folders_or_samples(tiny_data: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_data / "train", tmp_path / "photos")
    shutil.copytree(tiny_data / "train_masks", tmp_path / "outlines")
    check(lambda root: (root / "photos", root / "outlines") if (root / "photos").is_dir() else None, tmp_path)
    check(listing, tiny_data)


def two_lines(root: Path) -> None:
    raise OSError("two\nlines")


@pytest.mark.parametrize(
    ("layout", "line"),
    [
        (lambda root: (root / "train", root / "train_masks"), "of an empty folder it returns"),
        (lambda root: None, "does not know"),
        (carvana_layout, "of a folder with train and train_masks it returns"),
        (lambda root: (root, root) if any(root.iterdir()) else None, "of a folder with train and train_masks"),
        (lambda root: sorted((root / "JPEGImages").iterdir()), "fails on it: FileNotFoundError"),
        (lambda root: [Sample(s.image, s.mask, 5) for s in listing(root) or ()] or None, "as text"),
        (two_lines, "fails on it: OSError: two lines"),
        (lambda root: 3 if (root / "train").is_dir() else None, "expected None"),
        (lambda root: [Sample(root / "a.jpg", root / "b.png", "c")] if (root / "train").is_dir() else None, "a.jpg"),
        (lambda root: [Sample(s.image, s.mask, "") for s in listing(root) or ()] or None, "whose group is empty"),
    ],
)
def test_each_broken_promise_is_found(layout: Callable[[Path], Any], line: str, tiny_data: Path) -> None:
    with pytest.raises(AssertionError, match=line) as caught:
        check(layout, tiny_data)
    assert "\n" not in str(caught.value)
