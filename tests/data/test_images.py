from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.images import image_size, read_image, read_mask, resize_image, shrink_mask, write_image, write_mask
from carvana.errors import DataError


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photo(rng: np.random.Generator) -> np.ndarray:
    small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return cv2.resize(small, (160, 120), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return (cv2.resize(rng.random((6, 8)), (161, 119)) > 0.5).astype(np.uint8)


def test_a_jpeg_reads_as_pillow_reads_it(photo: np.ndarray) -> None:
    data = encoded(Image.fromarray(photo), "JPEG", quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(read_image(data).astype(int) - expected).max() <= 3  # decoders round the colour transform differently


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_turns_a_photo_upright(photo: np.ndarray, orientation: int, kind: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(read_image(data).astype(int) - expected).max() <= 3
    assert image_size(data) == expected.shape[:2]


def test_reduced_decoding_stays_above_the_size_asked_for_and_looks_the_same(photo: np.ndarray) -> None:
    data = encoded(Image.fromarray(photo), "JPEG", quality=95)
    reduced = read_image(data, at_least=(33, 44))
    assert reduced.shape[0] >= 33
    assert reduced.shape[1] >= 44
    assert reduced.size < photo.size
    error = np.abs(resize_image(reduced, (30, 40)).astype(int) - resize_image(photo, (30, 40)))
    assert error.mean() < 3


def test_reduced_decoding_of_a_turned_photo_minds_the_turn(photo: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(photo), "JPEG", exif=exif)
    reduced = read_image(data, at_least=(80, 30))  # upright, the photo is 160 high and 120 wide
    assert reduced.shape[0] >= 80
    assert reduced.shape[0] > reduced.shape[1]


def test_grey_palette_alpha_cmyk_and_16_bit_files_become_rgb() -> None:
    grey = np.arange(0, 250, 10, dtype=np.uint8).reshape(5, 5)
    same = np.repeat(grey[:, :, None], 3, axis=2)
    assert (read_image(encoded(Image.fromarray(grey), "PNG")) == same).all()
    assert (read_image(encoded(Image.fromarray(grey).convert("P"), "GIF")) == same).all()
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert (read_image(encoded(deep, "PNG")) == same).all()
    assert (read_image(encoded(deep, "TIFF")) == same).all()
    alpha = Image.fromarray(np.dstack([same, np.where(grey > 100, 255, 0).astype(np.uint8)]))
    assert (read_image(encoded(alpha, "PNG")) == np.where(same > 100, same, 255)).all()
    cmyk = encoded(Image.fromarray(same).convert("CMYK"), "JPEG", quality=100)
    assert np.abs(read_image(cmyk).astype(int) - same).max() < 12


def test_masks_of_every_usual_coding_read_the_same(mask: np.ndarray) -> None:
    palette = Image.fromarray(mask, "L").convert("P")
    indexed = Image.fromarray(mask)
    indexed.putpalette([0, 0, 0, 255, 255, 255])
    indexed_to_colour = Image.fromarray(mask)
    indexed_to_colour.putpalette([0, 0, 0, 128, 0, 0])  # Pascal VOC's first class
    codings = {
        "0/1": encoded(Image.fromarray(mask), "PNG"),
        "0/255": encoded(Image.fromarray(mask * 255), "PNG"),
        "bilevel": encoded(Image.fromarray(mask * 255).convert("1"), "PNG"),
        "palette of 0/1": encoded(palette, "GIF"),
        "Carvana's palette": encoded(indexed, "GIF"),
        "a coloured palette": encoded(indexed_to_colour, "PNG"),
        "16 bit": encoded(Image.fromarray(mask.astype(np.uint16) * 65535), "PNG"),
        "RGB": encoded(Image.fromarray(mask * 255).convert("RGB"), "PNG"),
        "grey JPEG": encoded(Image.fromarray(mask * 255), "JPEG", quality=95),
    }
    for name, data in codings.items():
        assert (read_mask(data) == mask).all(), name


def test_an_inverted_palette_is_believed(mask: np.ndarray) -> None:
    picture = Image.fromarray(1 - mask)
    picture.putpalette([255, 255, 255, 0, 0, 0])
    assert (read_mask(encoded(picture, "PNG")) == mask).all()


def test_a_written_mask_is_one_bit_deep_and_reads_back(tmp_path, mask: np.ndarray) -> None:
    write_mask(tmp_path / "mask.png", mask)
    with Image.open(tmp_path / "mask.png") as picture:
        assert picture.mode == "1"
    assert (read_mask(tmp_path / "mask.png") == mask).all()


def test_images_of_one_three_and_four_channels_are_written_as_they_are(tmp_path, photo: np.ndarray) -> None:
    for pixels in (photo[:, :, 0], photo, np.dstack([photo, photo[:, :, 0]])):
        write_image(tmp_path / "a.png", pixels)
        with Image.open(tmp_path / "a.png") as picture:
            assert (np.asarray(picture) == pixels).all()


@pytest.mark.parametrize("data", [b"", b"GIF89a", b"\xff\xd8\xff", b"no image at all" * 9])
def test_bytes_that_are_no_image_are_refused_in_one_line(data: bytes) -> None:
    for read in (read_image, read_mask, image_size):
        with pytest.raises(DataError) as caught:
            read(data)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_cut_file_is_refused_and_named(tmp_path, photo: np.ndarray, kind: str) -> None:
    data = encoded(Image.fromarray(photo), kind)
    path = tmp_path / "cut.bin"
    for share in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(DataError, match=r"cut\.bin"):
            read_image(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(DataError, match=r"absent\.jpg"):
        read_image(tmp_path / "absent.jpg")


def test_a_photo_above_the_limit_is_refused_before_it_is_decoded(photo: np.ndarray) -> None:
    for kind in ("JPEG", "PNG"):
        with pytest.raises(DataError, match="--max-pixels"):
            read_image(encoded(Image.fromarray(photo), kind), max_pixels=160 * 120 - 1)


def test_coverage_is_the_share_of_each_pixel_that_the_mask_covers(mask: np.ndarray) -> None:
    tall = np.repeat(np.repeat(mask[:112, :160], 3, 0), 5, 1)  # 336 x 800
    expected = tall.reshape(28, 12, 80, 10).mean(axis=(1, 3))
    assert np.abs(shrink_mask(tall, (28, 80)) / 255 - expected).max() <= 0.51 / 255


def test_nearest_targets_are_hard(mask: np.ndarray) -> None:
    assert set(np.unique(shrink_mask(mask, (37, 41), target="nearest"))) == {0, 255}
    assert len(np.unique(shrink_mask(mask, (37, 41)))) > 2
