from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carvana.data.check.sizes import check_sizes
from carvana.data.samples import Sample, find_samples
from carvana.errors import DataError


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
