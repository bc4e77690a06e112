from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.check.sizes import check_sizes, warn_about_masks, warn_of_passed_over
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError
from carvana.utils.progress import SilentReporter


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "images" / f"{name}.jpg")
        Image.fromarray(np.zeros((40, 60), np.uint8)).save(tmp_path / "masks" / f"{name}.gif")
    return find_samples(tmp_path)


def test_pairs_of_one_size_pass(samples: list[Sample], tiny_data: Path) -> None:
    check_sizes(samples)
    check_sizes(find_samples(tiny_data), workers=1)
    check_sizes([])


def test_masks_of_another_size_are_counted_and_the_first_is_named(samples: list[Sample]) -> None:
    for sample in samples[1:]:
        assert sample.mask is not None
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(sample.mask)
    with pytest.raises(DataError, match=r"masks/b\.gif: .*20 x 30.* b\.jpg 40 x 60; 2 of 3 masks") as caught:
        check_sizes(samples)
    assert "\n" not in str(caught.value)


def test_sizes_are_compared_upright(samples: list[Sample]) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(samples[0].image, exif=exif)
    with pytest.raises(DataError, match=r"a\.gif: .*40 x 60.* a\.jpg 60 x 40; 1 of 3"):
        check_sizes(samples)
    assert samples[0].mask is not None
    Image.fromarray(np.zeros((60, 40), np.uint8)).save(samples[0].mask)
    check_sizes(samples)


def test_files_that_cannot_be_read_are_counted_and_the_first_is_named(samples: list[Sample]) -> None:
    assert samples[1].mask is not None
    samples[1].mask.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"masks/b\.gif"):
        check_sizes(samples)
    samples[2].image.unlink()
    with pytest.raises(DataError, match=r"masks/b\.gif.*2 of 6"):
        check_sizes(samples)


def test_a_photo_without_a_mask_is_passed_over(samples: list[Sample]) -> None:
    check_sizes([Sample(samples[0].image.with_name("absent.jpg"), None, "x"), *samples])


def test_thousands_of_pairs_are_counted_as_a_few_are(samples: list[Sample]) -> None:
    assert samples[2].mask is not None
    Image.fromarray(np.zeros((20, 30), np.uint8)).save(samples[2].mask)
    with pytest.raises(DataError, match=r"masks/c\.gif: .* 800 of 2400 masks"):
        check_sizes(samples * 800)
    samples[1].image.unlink()
    with pytest.raises(DataError, match=r"images/b\.jpg.*\(800 of 4800 images and masks cannot be read\)"):
        check_sizes(samples * 800)


class Told(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, text: str) -> None:
        self.lines.append(text)

    warn = info


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
    told = Told()
    warn_about_masks(samples, told)
    assert [f"{len(samples)} belong to images that EXIF turns alone" in line for line in told.lines] == [True]
    for sample, mask in zip(samples, masks, strict=True):
        Image.fromarray(mask * np.uint8(255)).save(sample.masks[0])
    told = Told()
    warn_about_masks(samples, told)
    assert told.lines == []


def test_inverted_masks_are_told(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(shutil.copytree(tiny_data, tmp_path / "data"))[::4]
    told = Told()
    warn_about_masks(samples, told)
    assert told.lines == []
    for sample in samples:
        Image.fromarray(np.uint8(255) - np.uint8(255) * read_mask(sample.masks[0])).save(sample.masks[0], format="PNG")
    warn_about_masks(samples, told)
    assert ["object and background are exchanged" in line for line in told.lines] == [True]


def test_antialiased_masks_are_mentioned_once(tiny_data: Path, tmp_path: Path) -> None:
    samples = find_samples(shutil.copytree(tiny_data, tmp_path / "data"))[:3]
    for sample in samples:
        soft = cv2.blur(np.uint8(255) * cv2.resize(read_mask(sample.masks[0]), (2400, 1600)), (5, 5))
        Image.fromarray(soft).save(sample.masks[0], format="PNG")
    told = Told()
    warn_about_masks(samples, told)
    assert ["3 have values between black and white" in line for line in told.lines] == [True]


def test_all_masks_are_read_where_nothing_else_reads_them(samples: list[Sample], tmp_path: Path) -> None:
    many = [replace(samples[0], image=tmp_path / f"{number}.jpg") for number in range(100)]
    shutil.copy(samples[0].image, many[0].image)
    for sample in many[1:]:
        shutil.copy(samples[0].image, sample.image)
    labels = tmp_path / "labels.png"
    Image.fromarray((np.arange(40 * 60).reshape(40, 60) % 3).astype(np.uint8)).save(labels)
    many[50] = replace(many[50], mask=labels)  # not one of those looked at
    warn_about_masks(many, Told())
    with pytest.raises(DataError, match=r"labels\.png: the mask holds the values 0, 1, 2"):
        warn_about_masks(many, Told(), every=True)


def test_what_a_training_passes_over_is_counted_by_kind(samples: list[Sample]) -> None:
    told = Told()
    warn_of_passed_over(samples, told)
    assert told.lines == []
    folder = samples[0].image.parent
    for name in ("clip.mov", "clip2.MP4", "notes.txt"):
        (folder / name).touch()
    (folder / "old").mkdir()
    warn_of_passed_over(samples, told)
    assert told.lines == [f"{folder}: passed over 2 videos, 1 folder, 1 other file"]
    np.save(folder / "a.npy", np.zeros((40, 60), np.uint8))
    told = Told()
    warn_of_passed_over([replace(samples[0], mask=folder / "a.npy")], told)
    assert told.lines == [f"{folder}: passed over 2 videos, 1 folder, 1 other file"]
