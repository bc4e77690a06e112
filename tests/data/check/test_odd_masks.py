from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.check.odd_masks import warn_about_masks
from carvana.data.check.sizes import check_sizes
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError
from carvana.utils.progress import SilentReporter


class Lines(SilentReporter):
    """Keeps messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    warn = info


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "masks" / f"{name}.gif")
    return find_samples(tmp_path)


def turn_masks(samples: list[Sample], orientation: int) -> None:
    """Images as they are stored when EXIF turns them upright; masks as they would lie on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    for sample in samples:
        image, mask = read_image(sample.image), read_mask(sample.masks[0])
        back = {3: lambda a: a[::-1, ::-1], 2: lambda a: a[:, ::-1], 4: lambda a: a[::-1]}[orientation]
        Image.fromarray(np.ascontiguousarray(back(image))).save(sample.image, exif=exif, quality=95)
        Image.fromarray(np.ascontiguousarray(back(mask)) * np.uint8(255)).save(sample.masks[0])


@pytest.mark.parametrize("orientation", [2, 3, 4])
def test_masks_drawn_on_stored_pixels_are_told_and_masks_drawn_upright_are_not(
    tiny_data: Path, tmp_path: Path, orientation: int
) -> None:
    samples = find_samples(shutil.copytree(tiny_data, tmp_path / "data"))[::4]
    masks = [read_mask(sample.masks[0]) for sample in samples]
    turn_masks(samples, orientation)
    check_sizes(samples)
    shown = Lines()
    warn_about_masks(samples, shown)
    assert [f"{len(samples)} belong to images that EXIF turns" in line for line in shown.lines] == [True]
    for sample, mask in zip(samples, masks, strict=True):
        Image.fromarray(mask * np.uint8(255)).save(sample.masks[0])
    shown = Lines()
    warn_about_masks(samples, shown)
    assert shown.lines == []


def test_inverted_masks_are_told(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(shutil.copytree(tiny_data, tmp_path / "data"))[::4]
    shown = Lines()
    warn_about_masks(samples, shown)
    assert shown.lines == []
    for sample in samples:
        Image.fromarray(np.uint8(255) - np.uint8(255) * read_mask(sample.masks[0])).save(sample.masks[0], format="PNG")
    warn_about_masks(samples, shown)
    assert ["object and background are exchanged" in line for line in shown.lines] == [True]


def test_antialiased_masks_are_mentioned_once(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(shutil.copytree(tiny_data, tmp_path / "data"))[:3]
    for sample in samples:
        soft = cv2.blur(np.uint8(255) * cv2.resize(read_mask(sample.masks[0]), (2400, 1600)), (5, 5))
        Image.fromarray(soft).save(sample.masks[0], format="PNG")
    shown = Lines()
    warn_about_masks(samples, shown)
    assert ["3 have values between black and white" in line for line in shown.lines] == [True]


def test_all_masks_are_read_where_nothing_else_reads_them(samples: list[Sample], tmp_path: Path) -> None:
    many = [replace(samples[0], image=tmp_path / f"{number}.jpg") for number in range(100)]
    shutil.copy(samples[0].image, many[0].image)
    for sample in many[1:]:
        shutil.copy(samples[0].image, sample.image)
    labels = tmp_path / "labels.png"
    Image.fromarray((np.arange(40 * 60).reshape(40, 60) % 3).astype(np.uint8)).save(labels)
    many[50] = replace(many[50], mask=labels)  # not one of those looked at
    warn_about_masks(many, Lines())
    with pytest.raises(DataError, match=r"labels\.png: the mask holds the values 0, 1, 2"):
        warn_about_masks(many, Lines(), every=True)
