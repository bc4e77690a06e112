"""Values of more than 8 bits: full ranges are read, small parts of a range are refused with what was found."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

import carvana
from carvana import read_image
from carvana.data.cache import build_caches
from carvana.data.io import images
from carvana.data.io.images import image_header
from carvana.data.samples import Sample
from carvana.errors import DataError


def ramp(low: float, high: float, kind: type | str, bands: int = 1) -> np.ndarray:
    values = np.linspace(low, high, 60 * 80).reshape(60, 80)
    return (values if bands == 1 else np.stack([values] * bands, 2)).astype(kind)


def png(values: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", values)[1])


def tiff(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values).save(file, "TIFF")
    return file.getvalue()


def raw_tiff(values: np.ndarray, extra: int | None = None) -> bytes:
    """An uncompressed TIFF of any bands and depth, which Pillow cannot write."""
    height, width, bands = values.shape
    tags = ImageFileDirectory_v2()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    bits = values.dtype.itemsize * 8
    entries = {256: width, 257: height, 258: (bits,) * bands, 259: 1, 262: 2 if bands > 2 else 1, 277: bands}
    entries |= {278: height, 279: values.nbytes, 284: 1, 339: (kind,) * bands, 273: 0}
    if extra is not None:
        entries[338] = extra
    for tag, value in entries.items():
        tags[tag] = value
        if tag in (273, 279):
            tags.tagtype[tag] = 4
    return b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8) + values.tobytes()  # Pillow adds where the pixels begin


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (png(ramp(100, 1023, np.uint16)), "16 bits a value, the lowest 100, the highest 1,023"),
        (png(ramp(272, 3360, np.uint16, 3)), "16 bits a value, the lowest 272, the highest 3,360"),
        (png(ramp(0, 16383, np.uint16)), "the highest 16,383"),
        (png(ramp(30000, 34000, np.uint16)), "the lowest 30,000, the highest 34,000"),
        (png(ramp(0, 40, np.uint16)), "the lowest 0, the highest 40; expected 0 to 255"),
        (png(ramp(9, 200, np.uint16, 3)), "the lowest 9, the highest 200; expected 0 to 65,535"),
        (tiff(ramp(0, 1, np.float32)), "32 bits a value, the lowest 0, the highest 1"),
        (tiff(ramp(-1, 250, np.float32)), "some lie outside"),
        (tiff(ramp(0, 70_000, np.int32)), "some lie outside"),
        (tiff(np.where(np.eye(60, 80) > 0, np.nan, ramp(0, 250, np.float32)).astype(np.float32)), "some lie outside"),
        (
            b"P6 # comment\n80 60 65535\n" + ramp(9, 4000, ">u2", 3).tobytes(),
            "16 bits a value, the lowest 9, the highest 4,000",
        ),
        (bytes(cv2.imencode(".jp2", ramp(300, 4000, np.uint16, 3))[1]), "16 bits a value, the lowest"),
        (raw_tiff(ramp(204, 2520, np.uint16, 4), extra=0), "16 bits a value, the lowest 204, the highest 2,520"),
    ],
)
def test_a_small_part_of_a_range_is_refused_with_bits_lowest_and_highest(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told) as caught:
        read_image(data)
    assert "data.range" in str(caught.value)
    assert "\n" not in str(caught.value)


def burnt(values: np.ndarray, value: float) -> np.ndarray:
    values[0, :3] = value
    return values


@pytest.mark.parametrize(
    "data",
    [
        png(burnt(ramp(100, 4000, np.uint16), 65535)),
        png(burnt(ramp(100, 4000, np.uint16, 3), 65535)),
        tiff(burnt(ramp(0, 1, np.float32), 255)),
    ],
)
def test_a_few_burnt_pixels_do_not_make_a_range(data: bytes) -> None:
    with pytest.raises(DataError, match="lie within a quarter of that"):
        read_image(data)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (png(ramp(272, 3360, np.uint16, 3)), "the image: 16 bits a value"),
        (png(ramp(272, 3360, np.uint16)), "the image: 16 bits a value"),
        (png(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))[:-900], r"the image: cannot be read \("),
    ],
)
def test_a_pil_image_of_a_file_is_refused_as_the_file_is(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_image(Image.open(io.BytesIO(data)))


def test_a_pil_image_of_a_stack_is_refused_unless_a_page_was_chosen() -> None:
    pages = [ramp(0, 255 - 50 * number, np.uint8) for number in range(3)]
    picture = Image.open(io.BytesIO(stack(*pages)))
    with pytest.raises(DataError, match="the image: a stack of 3 pages"):
        read_image(picture)
    picture.seek(1)
    assert (read_image(picture)[:, :, 0] == pages[1]).all()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (png(ramp(0, 65535, np.uint16)), ramp(0, 255, np.float64)),
        (png(ramp(0, 65535, np.uint16, 3)), ramp(0, 255, np.float64)),
        (png(ramp(0, 20000, np.uint16)), ramp(0, 20000 / 257, np.float64)),
        (png(ramp(0, 255, np.uint16)), ramp(0, 255, np.float64)),
        (tiff(ramp(0, 255, np.float32)), ramp(0, 255, np.float64)),
        (tiff(ramp(0, 65535, np.float32)), ramp(0, 255, np.float64)),
        (png(np.zeros((60, 80), np.uint16)), np.zeros((60, 80))),
        (png(np.full((60, 80, 3), 1000, np.uint16)), np.full((60, 80), 1000 / 257)),
    ],
)
def test_values_over_their_range_and_empty_images_are_read(data: bytes, expected: np.ndarray) -> None:
    image = read_image(data)
    assert image.shape == (60, 80, 3)
    assert np.abs(image[:, :, 0] - expected).max() <= 1


def test_an_image_in_memory_is_refused_in_the_same_words() -> None:
    with pytest.raises(DataError, match="the image: 16 bits a value, the lowest 0, the highest 1,000"):
        read_image(Image.fromarray(ramp(0, 1000, np.uint16)))


def test_the_cache_of_a_training_looks_at_the_values(tmp_path) -> None:
    image, mask = tmp_path / "x.png", tmp_path / "x_mask.png"
    image.write_bytes(png(ramp(0, 4095, np.uint16, 3)))
    carvana.write_mask(mask, np.eye(60, 80, dtype=np.uint8))
    with pytest.raises(DataError, match="the highest 4,095"):
        build_caches([[Sample(image, mask, "x")]], (30, 40), folder=tmp_path / "cache")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (raw_tiff(ramp(0, 255, np.uint8, 5)), "has 5 channels of uint8; expected one or three: others need data.chan"),
        (raw_tiff(ramp(0, 1, np.float32, 3)), "values of float32, the lowest 0, the highest 1; 8 bits are expected"),
        (raw_tiff(ramp(0, 900, np.uint16, 12)), "has 12 channels of uint16; expected one or three"),
    ],
)
def test_a_tiff_that_is_no_picture_says_what_it_holds(
    data: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=message):
        read_image(data)
    assert image_header(data).size == (60, 80)
    monkeypatch.setattr(images, "has_tifffile", lambda: False)
    for read in (read_image, image_header):
        with pytest.raises(DataError, match=r"neither grey, RGB nor RGBA .*pip install 'carvana\[tiff\]' read other"):
            read(data)


def stack(*pages: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    first, *others = map(Image.fromarray, pages)
    first.save(file, "TIFF", save_all=True, append_images=others, **options)
    return file.getvalue()


def test_a_stack_says_that_one_page_would_be_read() -> None:
    page = ramp(0, 255, np.uint8)
    for read in (read_image, carvana.read_mask):
        with pytest.raises(DataError, match="a stack of 30 pages, of which only the first would be read"):
            read(stack(*[page] * 30))


def test_pages_of_several_sizes_are_a_stack_too() -> None:
    page = ramp(0, 255, np.uint8)
    with pytest.raises(DataError, match="a stack of 2 pages"):
        read_image(stack(page, np.tile(page, (2, 1))))


def test_smaller_copies_behind_an_image_are_no_stack() -> None:
    page = ramp(0, 255, np.uint8, 3)
    assert (read_image(stack(page, page[::2, ::2], page[::4, ::4])) == page).all()
