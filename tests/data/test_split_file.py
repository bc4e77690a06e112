from __future__ import annotations

from pathlib import Path

import pytest

from carvana.config import FitConfig
from carvana.data.demo import write_demo
from carvana.data.samples import Sample
from carvana.data.split import Split, read_split, write_split
from carvana.data.splits import make_split
from carvana.errors import DataError


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
