"""JPEG files of cameras and programs that do not write as others do, against Pillow."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from jpegs import blocks_jpeg, segment, usual_jpeg
from PIL import Image, ImageOps, PngImagePlugin

from carvana.data.io.images import image_size, read_image
from carvana.data.io.jpeg import MOST_SCANS, count_scans, segments
from carvana.errors import DataError


def by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    return cv2.resize(rng.integers(0, 256, (12, 16, 3), dtype=np.uint8), (160, 120), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize(
    "luma_and_chroma",
    [[(1, 1)] * 3, [(2, 2), (1, 1), (1, 1)], [(1, 4), (1, 1), (1, 1)], [(3, 1), (1, 1), (1, 1)],
     [(4, 2), (1, 1), (1, 1)], [(2, 2), (2, 1), (1, 1)], [(1, 3), (1, 1), (1, 1)]],
)  # fmt: skip
def test_any_sampling_factors_read_as_pillow_reads_them(
    luma_and_chroma: list[tuple[int, int]], rng: np.random.Generator, tmp_path: Path
) -> None:
    data = blocks_jpeg(40, 72, luma_and_chroma, rng)
    (tmp_path / "photo.jpg").write_bytes(data)
    assert by_pillow(data).std() > 50
    for source in (data, tmp_path / "photo.jpg"):
        np.testing.assert_array_equal(read_image(source), by_pillow(data))
        assert image_size(source) == (40, 72)
    with pytest.raises(DataError, match="more than the limit"):
        read_image(data, max_pixels=40 * 72 - 1)


@pytest.mark.parametrize("junk", [b"\x00", b"\x07" * 211, b"\x00" * 64, b"text"])
def test_bytes_that_belong_to_nothing_change_no_pixel(photo: np.ndarray, junk: bytes) -> None:
    clean = usual_jpeg(photo)
    tables = clean.index(b"\xff\xdb")
    for data in (clean[:tables] + junk + clean[tables:], clean[:-2] + junk + clean[-2:]):
        np.testing.assert_array_equal(read_image(data), by_pillow(clean))
        assert image_size(data) == photo.shape[:2]


@pytest.mark.parametrize(
    ("progressive", "end"),
    [(False, b""), (False, b"\xff\xd9"), (False, bytes(500) + b"\xff\xd9"), (False, bytes(10**6)), (True, b""),
     (True, b"\xff\xd9"), (True, bytes(10**6))],
    ids=["cut", "cut, end", "cut, zeros, end", "cut, zeros", "scans cut", "scans cut, end", "scans cut, zeros"],
)  # fmt: skip
def test_what_is_cut_short_is_refused_whatever_stands_behind(photo: np.ndarray, progressive: bool, end: bytes) -> None:
    whole = usual_jpeg(photo, progressive=progressive)
    begin = next(place for kind, _, place in segments(whole) if kind == 0xDA)
    for place in np.linspace(begin + 50, len(whole) * 0.9, 9).astype(int):
        for data in (
            whole[:place],
            whole[:4] + whole[4:begin].replace(b"\xff\xdb", b"text\xff\xdb", 1) + whole[begin:place],
        ):
            with pytest.raises(DataError, match="damaged or cut") as error:
                read_image(data + end)
            assert "\n" not in str(error.value)


@pytest.mark.parametrize("error", [KeyError(9), TypeError("x"), RuntimeError("x"), ValueError("x"), IndexError()])
def test_whatever_the_fast_decoder_raises_pillow_reads(
    photo: np.ndarray, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    data = usual_jpeg(photo)
    monkeypatch.setattr(simplejpeg, "decode_jpeg", fails)
    np.testing.assert_array_equal(read_image(data), by_pillow(data))


@pytest.mark.parametrize("before", [0, 1, 3, 40], ids=lambda count: f"{count} segments")
def test_exif_is_obeyed_behind_any_other_segments(photo: np.ndarray, before: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = usual_jpeg(photo, exif=exif)
    data = data[:2] + segment(0xE2, b"profile" + bytes(65_000)) * before + data[2:]
    (tmp_path / "photo.jpg").write_bytes(data)
    for source in (data, tmp_path / "photo.jpg"):
        assert image_size(source) == (160, 120)
        np.testing.assert_array_equal(read_image(source), by_pillow(data))


@pytest.mark.parametrize("progressive", [False, True])
def test_what_a_phone_appends_behind_the_picture_does_not_count(
    photo: np.ndarray, progressive: bool, rng: np.random.Generator
) -> None:
    clean = usual_jpeg(photo, progressive=progressive)
    video = rng.integers(0, 256, 12_000_000, dtype=np.uint8).tobytes()
    assert video.count(b"\xff\xda") > MOST_SCANS
    assert count_scans(clean + video) == count_scans(clean) == (10 if progressive else 1)
    np.testing.assert_array_equal(read_image(clean + video), by_pillow(clean))


def test_scans_are_counted_by_markers_and_not_by_the_bytes_of_other_segments(photo: np.ndarray) -> None:
    thumbnail = usual_jpeg(photo[::4, ::4], progressive=True)  # within EXIF stand whole pictures
    data = usual_jpeg(photo, progressive=True)
    assert count_scans(data[:2] + segment(0xE1, thumbnail) + data[2:]) == 10
    end = data[:-2]
    comment = segment(0xFE, b"\xff\xda\xff\xd9" * 50)
    assert count_scans(end + comment + data[-2:]) == 10


@pytest.mark.parametrize("data", [b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xe1\x00\x00" * 99])
def test_a_beginning_alone_has_no_end(data: bytes) -> None:
    assert count_scans(data) <= 1
    assert image_size_or_none(data) is None


def image_size_or_none(data: bytes) -> tuple[int, int] | None:
    try:
        return image_size(data)
    except DataError:
        return None


def test_a_png_with_a_long_text_is_read_and_pillows_limits_are_put_back(photo: np.ndarray) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("history", "x" * 2_000_000, zip=True)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG", pnginfo=text)
    before = PngImagePlugin.MAX_TEXT_CHUNK
    np.testing.assert_array_equal(read_image(buffer.getvalue()), photo)
    assert image_size(buffer.getvalue()) == (120, 160)
    assert before == PngImagePlugin.MAX_TEXT_CHUNK < 2_000_000


def test_what_pillow_says_of_a_file_is_passed_on(photo: np.ndarray) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "PNG")
    data = buffer.getvalue()
    content = b"history\x00\x00" + zlib.compress(bytes(65 * 2**20))
    chunk = len(content).to_bytes(4) + b"zTXt" + content + zlib.crc32(b"zTXt" + content).to_bytes(4)
    with pytest.raises(DataError, match=r"cannot be read .*Decompressed data too large") as error:
        read_image(data[:33] + chunk + data[33:])
    assert "\n" not in str(error.value)


def test_cmyk_that_is_cut_short_is_refused_though_its_end_was_put_there(rng: np.random.Generator) -> None:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (90, 120, 4), np.uint8), "CMYK").save(file, "JPEG")
    data = file.getvalue()
    assert read_image(data).shape == (90, 120, 3)
    with pytest.raises(DataError, match="damaged or cut JPEG"):
        read_image(data[: len(data) // 2] + b"\xff\xd9")
