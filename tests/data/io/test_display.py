from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from profiles import ADOBE, cmyk_profile, grey_profile, in_srgb, rgb_profile

import carvana.data.io.display
from carvana.data.io.display import over_white, read_shown
from carvana.data.io.images import read_image, read_pixels
from carvana.errors import DataError
from carvana.image_spec import ImageSpec


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def pixels(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (24, 36, 3), dtype=np.uint8)


@pytest.fixture
def clear(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """RGBA of every opacity, a quarter of it fully transparent."""
    alpha = rng.integers(0, 256, pixels.shape[:2], dtype=np.uint8)
    alpha[:12, :18] = 0
    return np.dstack([pixels, alpha])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_a_profile_is_obeyed_in_what_is_shown_and_not_in_what_networks_see(pixels: np.ndarray, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(pixels), kind, icc_profile=rgb_profile(), **options)
    expected = in_srgb(pixels)
    assert np.abs(expected - pixels).max() > 50
    assert np.abs(read_shown(data) - expected).max() < 1.6  # littlecms computes in 8 bits
    np.testing.assert_array_equal(read_image(data), pixels)


def test_a_jpeg_with_a_profile_is_shown_in_srgb_and_upright(pixels: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95, exif=exif, icc_profile=rgb_profile())
    seen = read_image(data)
    assert seen.shape == (36, 24, 3)
    assert np.abs(read_shown(data) - in_srgb(seen)).max() < 1.6


@pytest.mark.parametrize(
    "profile",
    [
        None,
        b"",
        b"no profile at all",
        rgb_profile()[:200],
        rgb_profile()[:128] + bytes(300),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes(),
        grey_profile(),  # of other pixels
        cmyk_profile(),
        ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes(),
    ],
)
def test_srgb_and_profiles_that_say_nothing_sound_leave_the_pixels_as_they_are(
    pixels: np.ndarray, profile: bytes | None
) -> None:
    for kind in ("PNG", "JPEG"):
        data = encoded(Image.fromarray(pixels), kind, icc_profile=profile)
        np.testing.assert_array_equal(read_shown(data), read_image(data))


def test_a_grey_photo_s_profile_is_obeyed(rng: np.random.Generator) -> None:
    grey = rng.integers(0, 256, (20, 30), dtype=np.uint8)
    expected = in_srgb(np.dstack([grey] * 3), gamma=1.8)  # greys are greys whatever the primaries
    opaque = encoded(Image.fromarray(grey), icc_profile=grey_profile(1.8))
    assert np.abs(read_shown(opaque) - expected).max() < 1.6
    half = np.full_like(grey, 128)
    clear = encoded(Image.merge("LA", [Image.fromarray(grey), Image.fromarray(half)]), icc_profile=grey_profile(1.8))
    shown = read_shown(clear)
    assert np.abs(shown[..., :3] - expected).max() < 1.6
    assert (shown[..., 3] == 128).all()
    deep = encoded(Image.fromarray(grey.astype(np.uint16) * 257), icc_profile=grey_profile(1.8))
    assert np.abs(read_shown(deep) - expected).max() < 1.6


def test_a_cmyk_photo_is_shown_by_its_profile() -> None:
    inks = Image.new("CMYK", (16, 16))
    inks.paste((255, 0, 0, 0), (8, 0, 16, 16))  # pure cyan, which this profile shows black
    data = encoded(inks, "JPEG", quality=100, icc_profile=cmyk_profile())
    shown = read_shown(data)
    assert (shown[:, :8] > 250).all()
    assert (shown[:, 8:] < 6).all()
    assert read_image(data)[8, 12, 2] > 200
    bare = encoded(inks, "JPEG", quality=100)
    np.testing.assert_array_equal(read_shown(bare), read_image(bare))


@pytest.mark.parametrize("profile", [None, rgb_profile()])
def test_transparency_comes_along_and_colours_under_it_are_not_mixed(clear: np.ndarray, profile: bytes | None) -> None:
    shown = read_shown(encoded(Image.fromarray(clear), icc_profile=profile))
    np.testing.assert_array_equal(shown[..., 3], clear[..., 3])
    expected = clear[..., :3] if profile is None else in_srgb(clear[..., :3])
    assert np.abs(shown[..., :3] - expected).max() < 1.6


def test_a_palette_may_be_transparent_and_have_a_profile(pixels: np.ndarray) -> None:
    picture = Image.fromarray(pixels).quantize(16)
    colours = np.asarray(picture.convert("RGB"))
    shown = read_shown(encoded(picture, icc_profile=rgb_profile(), transparency=3))
    assert np.abs(shown[..., :3] - in_srgb(colours)).max() < 1.6
    np.testing.assert_array_equal(shown[..., 3] == 0, np.asarray(picture) == 3)


def test_an_opaque_photo_has_three_channels_though_its_file_has_four(pixels: np.ndarray) -> None:
    data = encoded(Image.fromarray(np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])))
    np.testing.assert_array_equal(read_shown(data), pixels)


def test_over_white_is_what_networks_see(clear: np.ndarray) -> None:
    data = encoded(Image.fromarray(clear))
    np.testing.assert_array_equal(over_white(read_shown(data)), read_image(data))


@pytest.mark.parametrize(
    "profile", [None, rgb_profile(), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()]
)
def test_pixels_that_are_known_are_not_decoded_again(
    pixels: np.ndarray, profile: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.fromarray(pixels), "JPEG", icc_profile=profile)
    seen, expected = read_image(data), read_shown(data)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(carvana.data.io.display, "read_pixels", refuse)
    monkeypatch.setattr(carvana.data.io.display, "open_picture", refuse)
    shown = read_shown(data, pixels=seen)
    np.testing.assert_array_equal(shown, expected)
    assert (shown is seen) == (profile != rgb_profile())


def test_many_threads_show_the_same_colours(rng: np.random.Generator) -> None:
    photos = [
        encoded(Image.fromarray(rng.integers(0, 256, (60, 90, 3), dtype=np.uint8)), icc_profile=rgb_profile(ADOBE, 1.9))
        for _ in range(8)
    ]
    expected = [read_shown(photo) for photo in photos]
    with ThreadPoolExecutor(8) as pool:
        for shown, before in zip(pool.map(read_shown, photos * 5), expected * 5, strict=True):
            np.testing.assert_array_equal(shown, before)


def test_what_cannot_be_read_is_refused_as_by_read_image(tmp_path: Path, pixels: np.ndarray) -> None:
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: not an image"):
        read_shown(tmp_path / "text.png")
    with pytest.raises(DataError, match="more than the limit"):
        read_shown(encoded(Image.fromarray(pixels)), max_pixels=10)


def test_what_a_network_of_brightness_saw_is_shown_in_its_colours(pixels: np.ndarray) -> None:
    data, spec = encoded(Image.fromarray(pixels)), ImageSpec(channels=("gray",))
    np.testing.assert_array_equal(read_shown(data, spec, pixels=read_pixels(data, spec)), pixels)
