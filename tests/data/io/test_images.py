from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.io.images import SUFFIXES, image_size, read_image, resize_image, write_image
from carvana.data.io.masks import read_mask, write_mask, write_palette_mask
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
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_exif_turns_a_photo_upright(photo: np.ndarray, orientation: int, kind: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photo), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.abs(read_image(data).astype(int) - expected).max() <= 3
    assert image_size(data) == expected.shape[:2]
    mask = encoded(Image.fromarray(np.where(photo[:, :, 1] > 127, 255, 0).astype(np.uint8)), kind, exif=exif)
    assert read_mask(mask).shape == expected.shape[:2]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def exif_of(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def jpeg_with_exif(photo: np.ndarray, exif: bytes) -> bytes:
    data = encoded(Image.fromarray(photo), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]


def png_with_exif(photo: np.ndarray, exif: bytes, *, behind: bool = False) -> bytes:
    data = encoded(Image.fromarray(photo), "PNG")
    place = data.index(b"IEND" if behind else b"IDAT") - 4
    return data[:place] + chunk(b"eXIf", exif.removeprefix(b"Exif\x00\x00")) + data[place:]


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\x00\x00" + b"garbage" * 9,
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        exif_of(0),
        exif_of(9),
        b"Exif\x00\x00II*\x00" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 3, b"up", 0),  # a word instead of a number
    ],
)
def test_exif_that_says_nothing_sound_leaves_the_photo_as_it_stands(photo: np.ndarray, exif: bytes) -> None:
    for data in (jpeg_with_exif(photo, exif), png_with_exif(photo, exif)):
        assert np.abs(read_image(data).astype(int) - photo).mean() < 3
        assert image_size(data) == (120, 160)
    mask = np.zeros_like(photo)
    mask[:60] = 255
    for data in (jpeg_with_exif(mask, exif), png_with_exif(mask, exif)):
        assert (read_mask(data) == mask[:, :, 0] // 255).all()


def test_exif_behind_the_pixels_of_a_png_turns_it_too(photo: np.ndarray) -> None:
    data = png_with_exif(photo, exif_of(6), behind=True)
    assert (read_image(data) == np.rot90(photo, -1)).all()
    assert image_size(data) == (160, 120)


def test_a_size_is_told_by_the_header_alone(photo: np.ndarray) -> None:
    noisy = np.tile(photo, (5, 5, 1)) + np.random.default_rng(0).integers(0, 50, (600, 800, 3), np.uint8)
    for kind in ("JPEG", "PNG", "GIF", "BMP"):
        data = encoded(Image.fromarray(noisy), kind)
        assert image_size(data[: len(data) // 2]) == (600, 800), kind


def test_headers_longer_than_what_is_read_first_are_read_on(tmp_path, photo: np.ndarray) -> None:
    data = jpeg_with_exif(photo, exif_of(6))
    segment = b"\xff\xe2" + struct.pack(">H", 60_002) + bytes(60_000)
    place = 4 + struct.unpack(">H", data[4:6])[0]
    for count in (1, 2, 5):
        path = tmp_path / f"{count}.jpg"
        path.write_bytes(data[:place] + count * segment + data[place:])
        assert image_size(path) == (160, 120)


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


def test_indices_count_where_the_palette_shows_everything_in_one_colour(mask: np.ndarray) -> None:
    for high in (1, 200, 255):
        picture = Image.fromarray(mask * np.uint8(high))
        picture.putpalette([10, 10, 10] * 256)
        assert (read_mask(encoded(picture, "PNG")) == mask).all()


def test_an_inverted_palette_is_believed(mask: np.ndarray) -> None:
    picture = Image.fromarray(1 - mask)
    picture.putpalette([255, 255, 255, 0, 0, 0])
    assert (read_mask(encoded(picture, "PNG")) == mask).all()


@pytest.mark.parametrize(("high", "deep"), [(2, False), (15, False), (100, False), (127, False), (300, True)])
def test_masks_without_a_bright_value_are_refused_and_the_values_are_named(
    mask: np.ndarray, high: int, deep: bool
) -> None:
    data = encoded(Image.fromarray(mask * (np.uint16(high) if deep else np.uint8(high))), "PNG")
    with pytest.raises(DataError, match=rf"values 0, {high}\b.*0 and 255") as caught:
        read_mask(data)
    assert "\n" not in str(caught.value)


def test_a_palette_mask_is_coded_as_the_competitions_are(tmp_path, mask: np.ndarray) -> None:
    write_palette_mask(tmp_path / "mask.gif", mask)
    with Image.open(tmp_path / "mask.gif") as picture:
        assert (picture.format, picture.mode) == ("GIF", "P")
        assert (np.asarray(picture) == mask).all()
        assert (np.asarray(picture.convert("L")) == mask * 255).all()
    assert (read_mask(tmp_path / "mask.gif") == mask).all()


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


@pytest.mark.parametrize("name", ["a.jqg", "a", "a.mp4"])
def test_a_suffix_that_no_format_goes_by_is_refused(tmp_path, photo: np.ndarray, name: str) -> None:
    with pytest.raises(DataError, match=rf"{name}: .*expected \.png or \.jpg"):
        write_image(tmp_path / name, photo)
    assert not list(tmp_path.iterdir())


def test_a_picture_too_long_for_its_format_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match=r"long\.jpg: .*1 x 70000"):
        write_image(tmp_path / "long.jpg", np.zeros((70_000, 1), np.uint8))


@pytest.mark.parametrize("suffix", sorted(SUFFIXES))
def test_every_kind_of_file_that_folders_are_searched_for_can_be_read(suffix: str, tmp_path, photo: np.ndarray) -> None:
    picture, path = Image.fromarray(photo), tmp_path / f"a{suffix}"
    if suffix in (".npy", ".npz"):
        (np.save if suffix == ".npy" else np.savez)(path, photo)
        np.testing.assert_array_equal(read_image(path), photo)
        assert image_size(path) == (120, 160)
        return
    picture = {".pbm": picture.convert("1"), ".pgm": picture.convert("L")}.get(suffix, picture)
    picture.save(path)
    assert np.abs(read_image(path).astype(int) - np.asarray(picture.convert("RGB"))).mean() < 12
    assert image_size(path) == (120, 160)


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


def png_that_claims(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_our_limit_counts_and_not_pillows() -> None:
    data = png_that_claims(20_000, 10_000)
    assert image_size(data) == (10_000, 20_000)
    for limit in (1_000_000, 99_999_999, 199_999_999):
        for read in (image_size, read_image, read_mask):
            with pytest.raises(DataError, match=r"more than the limit of .* pixels \(max_pixels"):
                read(data, max_pixels=limit)
    with pytest.raises(DataError, match="limit"):
        image_size(png_that_claims(60_000, 60_000))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP"])
def test_nothing_within_our_limit_is_too_large_for_pillow(
    photo: np.ndarray, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.fromarray(photo), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (image_size, read_image):
            read(data)
        read_mask(encoded(Image.fromarray(np.where(photo > 127, 255, 0).astype(np.uint8).max(axis=2)), kind))
    assert Image.MAX_IMAGE_PIXELS == 1000


def test_threads_that_read_leave_pillow_and_the_warnings_as_they_were(photo: np.ndarray) -> None:
    data = [encoded(Image.fromarray(photo), kind) for kind in ("PNG", "GIF", "TIFF")] + [
        png_that_claims(20_000, 10_000)
    ]
    before = Image.MAX_IMAGE_PIXELS, list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(image_size, data * 100))
        list(pool.map(read_image, data[:3] * 20))
    assert set(sizes) == {(120, 160), (10_000, 20_000)}
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


@pytest.mark.parametrize("suffix", ["gif", "png"])
@pytest.mark.parametrize("shade", [0, 255])
def test_a_palette_mask_of_one_colour_is_all_object_or_none(tmp_path, suffix: str, shade: int) -> None:
    picture = Image.fromarray(np.full((10, 20), shade, np.uint8)).convert("P", palette=Image.Palette.ADAPTIVE)
    picture.save(tmp_path / f"mask.{suffix}")
    assert (read_mask(tmp_path / f"mask.{suffix}") == (shade == 255)).all()
