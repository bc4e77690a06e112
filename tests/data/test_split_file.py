from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from reporters import Lines

from carvana.config import FitConfig
from carvana.data.demo import write_demo
from carvana.data.names import group_and_view
from carvana.data.samples import Sample
from carvana.data.split import Split, check_unchanged, read_split, tell_of_parts, write_split
from carvana.data.splits import make_split, split_samples
from carvana.errors import DataError
from carvana.image_spec import ImageSpec


@pytest.fixture
def samples() -> list[Sample]:
    """Three groups of two views, without masks."""
    return [Sample(Path(f"{group}_{view}.jpg"), None, group, view) for group in ("00", "01", "02") for view in "12"]


def test_a_written_split_reads_back(tmp_path: Path, samples: list[Sample]) -> None:
    split = Split(tuple(samples[2:]), tuple(samples[:2]))
    write_split(tmp_path / "split.csv", split)
    assert read_split(tmp_path / "split.csv", samples) == split


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "columns"),
        ("image,group\na,b\n", "columns"),
        ("image,group,subset\n00_1.jpg,00,dev\n", "line 2: '00_1.jpg', 'dev': expected a file name, and train, val or"),
        ("image,group,subset\n00_1.jpg,00,test\n", "leaves no image for training"),
        ("image,group,subset\n00_1.jpg,00,val\n00_1.jpg,00,train\n", "twice"),
        ("image,group,subset\n00_1.jpg\n", "line 2"),
        ("image,group,subset\nabsent.jpg,00,val\n", "absent.jpg"),
        ("image,group,subset\n00_1.jpg,00,val\n", "training"),
    ],
)
def test_a_split_file_that_cannot_serve_is_told(tmp_path: Path, samples: list[Sample], text: str, word: str) -> None:
    path = tmp_path / "split.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=word):
        read_split(path, samples)


def test_a_validation_folder_may_have_names_that_the_training_folder_has(tmp_path: Path, samples: list[Sample]) -> None:
    split = Split(tuple(samples[:4]), tuple(samples[2:]))
    write_split(tmp_path / "split.csv", split)
    check_unchanged(tmp_path / "split.csv", split)
    with pytest.raises(DataError, match="names other images"):
        check_unchanged(tmp_path / "split.csv", Split(split.train, split.val[1:]))


def test_images_that_a_split_does_not_name_are_counted(tmp_path: Path, samples: list[Sample]) -> None:
    split, told = Split(tuple(samples[:2]), tuple(samples[2:4])), Lines()
    write_split(tmp_path / "split.csv", split)
    tell_of_parts(tmp_path, tmp_path / "split.csv", samples, split, told)
    assert told.lines == [f"{tmp_path / 'split.csv'}: does not name 2 images of {tmp_path}, which count for nothing"]


def test_pages_of_one_file_can_be_divided_by_image() -> None:
    pages = [replace(Sample(Path("v.tif"), Path("m.tif"), "v", ""), spec=ImageSpec().of_page(n)) for n in range(10)]
    split = split_samples(pages, by="image", val=0.2)
    assert (len(split.train), len(split.val)) == (8, 2)


def test_what_roboflow_made_of_one_image_is_one_group() -> None:
    assert group_and_view("train/a_jpg.rf.0123456789abcdef0123", None) == ("train/a_jpg", "")
    assert group_and_view("a.rf.short", None) == ("a.rf.short", "")


def test_shared_groups_names_the_leak(samples: list[Sample]) -> None:
    assert Split(tuple(samples[:3]), tuple(samples[3:])).shared_groups() == {"01"}


def test_the_mark_that_excel_writes_is_passed_over(tmp_path: Path, samples: list[Sample]) -> None:
    split = Split(tuple(samples[:2]), tuple(samples[2:]))
    write_split(tmp_path / "split.csv", split)
    (tmp_path / "excel.csv").write_bytes(b"\xef\xbb\xbf" + (tmp_path / "split.csv").read_bytes())
    assert read_split(tmp_path / "excel.csv", samples) == read_split(tmp_path / "split.csv", samples)


def test_a_validation_folder_is_read_where_the_training_folders_are_absolute(tiny_data: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    write_demo(other, cars=1, views=2, size=(40, 60), seed=9)
    data = {"root": tiny_data, "images": tiny_data / "train", "masks": tiny_data / "train_masks"}
    config = FitConfig(data={key: str(value) for key, value in data.items()}, split={"file": str(other)})
    made = make_split(config.data, config.split)
    assert {sample.image.parent for sample in made.val} == {other / "train"}
    assert {sample.image.parent for sample in made.train} == {tiny_data / "train"}
