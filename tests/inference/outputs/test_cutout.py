from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.io.images import write_image
from carvana.errors import ConfigError, DataError
from carvana.inference.outputs.cutout import (
    Background,
    compose,
    cover,
    cutout,
    edge_softness,
    parse_background,
    sharpen,
)
from carvana.utils.files import file_digest

HEIGHT, WIDTH = 200, 260
BRIGHT = np.array([236.0, 240.0, 250.0])


def opacity() -> np.ndarray:
    """A disc drawn at eight times the size and averaged: exact shares at its edge."""
    rows, columns = np.mgrid[: 8 * HEIGHT, : 8 * WIDTH]
    disc = ((rows / 8 - 97.3) ** 2 + (columns / 8 - 128.6) ** 2 < 71**2).astype(np.float32)
    return cv2.GaussianBlur(cv2.resize(disc, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA), (0, 0), 0.8)


def object_colours() -> np.ndarray:
    """A dark red that changes slowly, as paint does."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([90 + rows / 8, 20 + columns / 20, 25 + rows / 20], axis=-1)


def composed(alpha: np.ndarray, front: np.ndarray, back: np.ndarray) -> np.ndarray:
    return alpha[..., None] * front + (1 - alpha[..., None]) * back


def test_on_a_new_background_no_rim_of_the_old_one_is_seen() -> None:
    alpha, new = opacity(), np.array([10.0, 40.0, 30.0])
    photo = np.rint(composed(alpha, object_colours(), BRIGHT)).astype(np.uint8)
    edge = (alpha > 0.05) & (alpha < 0.95)
    truth = composed(alpha, object_colours(), new)

    cut = cutout(photo, alpha, 0.5, softness=1.0).astype(float)
    ours = composed(cut[..., 3] / 255, cut[..., :3], new)
    naive = composed(alpha, photo.astype(float), new)
    our_error, naive_error = (np.abs(picture - truth)[edge].mean() for picture in (ours, naive))
    assert naive_error > 15
    assert our_error < 0.1 * naive_error
    assert np.percentile(np.abs(ours - truth)[edge], 99) < 12


def test_the_inside_keeps_its_pixels_and_the_outside_holds_nothing() -> None:
    alpha = opacity()
    photo = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    cut = cutout(photo, alpha)
    opaque = cv2.erode(alpha, np.ones((9, 9))) == 1
    np.testing.assert_array_equal(cut[opaque], np.dstack([photo, np.full((HEIGHT, WIDTH), 255, np.uint8)])[opaque])
    far = cv2.dilate(alpha, np.ones((15, 15))) == 0
    assert not cut[far].any()


def test_colour_runs_on_under_full_transparency() -> None:
    """Enlarging mixes neighbours: a black one would draw a dark rim around a light object."""
    alpha = np.zeros((60, 60), np.float32)
    alpha[20:40, 20:40] = 1
    photo = np.full((60, 60, 3), 200, np.uint8)
    cut = cutout(photo, alpha)
    assert (cut[18:42, 18:42, :3] == 200).all()
    assert not cut[18:20, :, 3].any()


def test_an_empty_mask_gives_an_empty_picture() -> None:
    photo = np.full((20, 30, 3), 99, np.uint8)
    assert not cutout(photo, np.zeros((20, 30), np.float32)).any()
    assert (cutout(photo, np.ones((20, 30), np.float32)) == [99, 99, 99, 255]).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 200)])
def test_tiny_photos_are_cut_too(size: tuple[int, int]) -> None:
    photo = np.full((*size, 3), 77, np.uint8)
    probabilities = np.linspace(0, 1, size[0] * size[1], dtype=np.float32).reshape(size)
    assert cutout(photo, probabilities).shape == (*size, 4)


@pytest.mark.parametrize("ratio", [4, 10, 15])
def test_the_edge_is_a_few_pixels_wide_however_small_the_network_saw_the_photo(ratio: int) -> None:
    small = np.zeros((16, 24), np.float32)
    small[:, :11] = 1
    small[:, 11] = 0.4
    size = (16 * ratio, 24 * ratio)
    probabilities = cv2.resize(small, size[::-1], interpolation=cv2.INTER_LINEAR)
    row = sharpen(probabilities, 0.5, edge_softness(size, small.shape))[8]
    assert 1 <= ((row > 0) & (row < 1)).sum() <= 5


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.3, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("softness", [0.01, 0.2, 1.0])
def test_certainty_stays_certain_whatever_the_threshold(threshold: float, softness: float) -> None:
    points = np.array([0.0, threshold, 1.0], np.float32)
    clear, half, opaque = sharpen(points, threshold, softness)
    assert threshold == 0 or clear == pytest.approx(0, abs=1e-5)
    assert threshold == 1 or opaque == pytest.approx(1, abs=1e-5)
    assert half == pytest.approx(0.5, abs=1e-5)
    rising = sharpen(np.linspace(0, 1, 500, dtype=np.float32), threshold, softness)
    assert (np.diff(rising) >= 0).all()


def test_opacity_crosses_one_half_where_the_mask_ends() -> None:
    probabilities = np.random.default_rng(1).random((50, 60), dtype=np.float32)
    for threshold in (0.25, 0.5, 0.8):
        np.testing.assert_array_equal(sharpen(probabilities, threshold, 0.3) > 0.5, probabilities > threshold)


@pytest.mark.parametrize("hidden", [0, 255])
def test_what_is_transparent_in_the_photo_stays_so(hidden: int) -> None:
    """Its left third is cut out already, softly; the mask is the disc."""
    mask, own = opacity(), np.clip((np.arange(WIDTH) - 90) / 10, 0, 1)[None].repeat(HEIGHT, axis=0)
    colours = np.rint(object_colours()).astype(np.uint8)
    colours[own == 0] = hidden  # what editors leave there
    photo = np.dstack([colours, np.rint(255 * own).astype(np.uint8)])
    cut = cutout(photo, mask)
    np.testing.assert_array_equal(cut[..., 3], np.minimum(photo[..., 3], np.rint(255 * mask)))
    within = (mask == 1) & (own > 0)
    assert (own[within] < 1).any()
    np.testing.assert_array_equal(cut[within], photo[within])
    edge = (cut[..., 3] > 100) & ~within  # where the old background would show
    assert np.abs(cut[edge][:, :3] - object_colours()[edge]).max() < 40


def test_an_opaque_photo_of_four_channels_is_cut_as_one_of_three() -> None:
    photo = np.rint(composed(opacity(), object_colours(), BRIGHT)).astype(np.uint8)
    four = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    np.testing.assert_array_equal(cutout(four, opacity()), cutout(photo, opacity()))


def test_sizes_must_agree() -> None:
    with pytest.raises(DataError, match=r"\(4, 5\).*\(4, 6\)"):
        cutout(np.zeros((4, 6, 3), np.uint8), np.zeros((4, 5), np.float32))


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("share", [0, 1, 100, 254, 255])
def test_a_cut_out_lies_on_its_background_as_pillow_lays_it(share: int) -> None:
    cut = noise(20, 30, 4)
    cut[:10, :, 3] = share
    behind = noise(20, 30, 3, seed=1)
    picture = Image.fromarray(behind).convert("RGBA")
    picture.alpha_composite(Image.fromarray(cut, "RGBA"))
    expected = np.asarray(picture.convert("RGB")).astype(int)
    assert np.abs(compose(cut, Background(behind, "")) - expected).max() <= 1
    exact = cut[..., 3:] / 255 * cut[..., :3] + (1 - cut[..., 3:] / 255) * behind
    assert np.abs(compose(cut, Background(behind, "")) - exact).max() <= 0.5 + 1e-4


def test_a_colour_is_everywhere_behind() -> None:
    cut = noise(6, 8, 4)
    cut[..., 3] = 0
    cut[2, 3, 3] = 255
    result = compose(cut, parse_background("#010203"))
    assert (result[2, 3] == cut[2, 3, :3]).all()
    result[2, 3] = (1, 2, 3)
    assert (result == (1, 2, 3)).all()


@pytest.mark.parametrize("size", [(40, 60), (60, 40), (10, 90), (7, 7), (200, 300), (1, 1)])
def test_a_picture_covers_the_photo_evenly_around_its_middle(size: tuple[int, int]) -> None:
    height, width = 90, 120
    rows, columns = np.mgrid[:height, :width]
    ramps = np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)
    covered = cover(ramps, size)
    assert covered.shape == (*size, 3)
    scale = max(size[0] / height, size[1] / width)
    down = (np.arange(size[0]) + 0.5 - size[0] / 2) / scale + height / 2 - 0.5
    right = (np.arange(size[1]) + 0.5 - size[1] / 2) / scale + width / 2 - 0.5
    off_by_a_pixel = 1.5 + 1 / scale
    assert np.abs(covered[..., 0] - np.clip(down, 0, height - 1)[:, None]).max() <= off_by_a_pixel
    assert np.abs(covered[..., 1] - np.clip(right, 0, width - 1)[None]).max() <= off_by_a_pixel


@pytest.mark.parametrize("shape", [(10, 300), (300, 10), (63, 95), (1, 50)])
def test_what_is_enlarged_is_the_middle_of_the_enlarged_picture(shape: tuple[int, int]) -> None:
    picture, factor = noise(*shape, 3), max(64 / shape[0], 96 / shape[1])
    height, width = (max(side, round(have * factor)) for side, have in zip((64, 96), shape, strict=True))
    top, left = (height - 64) // 2, (width - 96) // 2
    whole = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)[top : top + 64, left : left + 96]
    assert np.abs(cover(picture, (64, 96)).astype(int) - whole).max() <= 1


def test_memory_for_a_background_is_bounded_by_the_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enlarged whole, a colour behind a panorama would be a square of its longer side."""
    enlarged: list[int] = []
    monkeypatch.setattr(cv2, "resize", lambda _, size, **__: enlarged.append(size[0] * size[1]) or np.zeros((*size, 3)))
    for pixel in (np.full((1, 1, 3), 7, np.uint8), np.full((2, 900, 3), 7, np.uint8)):
        covered = cover(pixel, (20, 4000))
        assert covered.shape == (20, 4000, 3)
        assert (covered == 7).all()
    assert max(enlarged, default=0) <= 20 * 4000


def test_colours_go_by_name_and_pictures_by_path(tmp_path: Path) -> None:
    assert parse_background("White").settings == [255, 255, 255]
    assert parse_background("#0a84ff").settings == [10, 132, 255]
    path = tmp_path / "street.png"
    write_image(path, noise(9, 12, 3))
    picture = parse_background(str(path))
    np.testing.assert_array_equal(picture.image, noise(9, 12, 3))
    assert picture.settings == file_digest(path)
    bare = path.rename(tmp_path / "street")
    np.testing.assert_array_equal(parse_background(str(bare)).image, noise(9, 12, 3))


def test_what_is_neither_is_told(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'whit' is not an image file, and .*'whit' is not a colour.*did you mean 'white'"
    ) as error:
        parse_background("whit")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"nowhere\.jpg"):
        parse_background(str(tmp_path / "nowhere.jpg"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        parse_background(str(tmp_path / "text.png"))
    for text in ("#12345", "#ggg", ""):
        with pytest.raises((ConfigError, DataError)):
            parse_background(text)
