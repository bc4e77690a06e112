"""Label files in each form that they come in, read by their values."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.io.labels import encode_labels, read_values, write_labels
from carvana.data.io.masks import read_mask
from carvana.errors import DataError
from carvana.task import Task

VALUES = (np.arange(12 * 17).reshape(12, 17) % 9).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif", ".bmp"])
def test_grey_files_of_8_bits(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(VALUES * 28).save(tmp_path / f"x{suffix}")
    found = read_values(tmp_path / f"x{suffix}")
    if suffix == ".gif":  # Pillow writes grey as a palette, whose indices are what a GIF holds
        assert len(np.unique(found)) == 9
    else:
        assert found.tolist() == (VALUES * 28).tolist()


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_palette_files_give_their_indices_and_not_their_colours(tmp_path: Path, suffix: str) -> None:
    """OpenCV gives colours, Pillow's convert("L") their brightness."""
    picture = Image.fromarray(VALUES)
    picture.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    picture.save(tmp_path / f"x{suffix}", **({"optimize": False} if suffix == ".gif" else {}))
    assert read_values(tmp_path / f"x{suffix}").tolist() == VALUES.tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_files_of_16_bits(tmp_path: Path, suffix: str) -> None:
    wide = VALUES.astype(np.uint16) * 1000
    cv2.imwrite(str(tmp_path / f"x{suffix}"), wide)
    found = read_values(tmp_path / f"x{suffix}")
    assert found.tolist() == wide.tolist()
    assert Task(classes={f"c{n}": 1000 * n for n in range(9)}).encode(found).tolist() == VALUES.tolist()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.float32, np.bool_])
def test_numpy_files_of_any_numbers(tmp_path: Path, dtype: type) -> None:
    np.save(tmp_path / "x.npy", VALUES.astype(dtype))
    assert read_values(tmp_path / "x.npy").astype(int).tolist() == VALUES.astype(dtype).astype(int).tolist()


def test_what_is_no_number_is_not_taken_for_0(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.float32([[1, np.nan]]))
    assert np.isnan(read_values(tmp_path / "x.npy")[0, 1])


def test_a_bilevel_file_has_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(VALUES > 4).save(tmp_path / "x.png")
    assert read_values(tmp_path / "x.png").tolist() == (VALUES > 4).astype(int).tolist()


def test_grey_values_saved_as_colours_are_read_and_colours_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.repeat(VALUES[:, :, None], 3, axis=2)).save(tmp_path / "grey.png")
    assert read_values(tmp_path / "grey.png").tolist() == VALUES.tolist()
    coloured = np.zeros((*VALUES.shape, 3), np.uint8)
    coloured[..., 1] = VALUES
    Image.fromarray(coloured).save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"colour.png: has colours; name the colour of each class in task.classes"):
        read_values(tmp_path / "colour.png")


def test_labels_are_turned_as_exif_says(tmp_path: Path) -> None:
    picture = Image.fromarray(VALUES)
    exif = picture.getexif()
    exif[0x0112] = 6
    picture.save(tmp_path / "x.png", exif=exif)
    assert read_values(tmp_path / "x.png").tolist() == np.rot90(VALUES, -1).tolist()


def test_what_is_written_has_the_files_values_and_the_classes_colours(tmp_path: Path) -> None:
    task = Task(classes=[{"name": "sky", "value": 10, "color": "#112233"}, {"name": "road", "value": 200}])
    labels = (VALUES % 2).astype(np.uint8)
    write_labels(tmp_path / "x.png", labels, task)
    assert task.encode(read_values(tmp_path / "x.png")).tolist() == labels.tolist()
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.mode == "P"
        assert np.asarray(picture).tolist() == np.where(labels, 200, 10).tolist()
        assert np.asarray(picture.convert("RGB"))[labels == 0][0].tolist() == [0x11, 0x22, 0x33]
    wide = Task(classes={"sky": 10, "road": 2000})
    write_labels(tmp_path / "wide.png", labels, wide)
    assert cv2.imread(str(tmp_path / "wide.png"), cv2.IMREAD_UNCHANGED).tolist() == np.where(labels, 2000, 10).tolist()
    assert encode_labels(labels, task) == encode_labels(labels, task)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_grey_png_of_few_bits_has_the_values_that_were_written(bits: int) -> None:
    values = np.arange(2 ** min(bits, 4)).reshape(2, -1)
    rows = b""
    for row in values:
        text = "".join(format(int(value), f"0{bits}b") for value in row)
        text += "0" * (-len(text) % 8)
        rows += b"\0" + bytes(int(text[place : place + 8], 2) for place in range(0, len(text), 8))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, 0, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )
    assert read_values(png).tolist() == values.tolist()


def test_a_mask_of_one_class_is_written_with_its_own_value(tmp_path: Path) -> None:
    task = Task(classes={"car": 7})
    assert task.writes_value
    assert not Task(classes={"car": 1}).writes_value
    mask = np.eye(6, dtype=np.uint8)
    write_labels(tmp_path / "mask.png", mask, task)
    assert read_values(tmp_path / "mask.png").tolist() == (7 * mask).tolist()
    assert read_mask(tmp_path / "mask.png").tolist() == mask.tolist()  # black and white for people


@pytest.mark.parametrize(
    "classes",
    [{"a": -1, "b": 1, "c": 0}, {"a": "#ff0000", "b": "#00ff00", "c": "#0000ff"}, {"a": "x", "b": "y", "c": "z"}],
)
def test_written_label_maps_are_read_back_whatever_the_values_of_classes(
    classes: dict[str, Any], tmp_path: Path
) -> None:
    task, labels = Task(classes=classes), np.array([[0, 1, 2]], np.uint8)
    write_labels(tmp_path / "labels.png", labels, task)
    assert task.written.encode(read_values(tmp_path / "labels.png")).tolist() == labels.tolist()
    if task.reads_colors:
        assert task.encode(read_values(tmp_path / "labels.png", colors=True)).tolist() == labels.tolist()
