"""What Python users have in their hands, read as the file is."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from submitting import small_predictor

from carvana.data.io.images import image_size, read_image
from carvana.data.io.masks import read_mask
from carvana.data.layouts import find_images
from carvana.errors import DataError

FORMS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "bytes": lambda path: path.read_bytes(),
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "BytesIO": lambda path: io.BytesIO(path.read_bytes()),
    "open file": lambda path: open(path, "rb"),  # noqa: SIM115
    "PIL image": Image.open,
    "PIL image, turned": lambda path: ImageOps.exif_transpose(Image.open(path)),
    "array": read_image,
    "array (H, W, 4)": lambda path: np.dstack([read_image(path), np.full(image_size(path), 255, np.uint8)]),
    "tensor (3, H, W)": lambda path: torch.from_numpy(read_image(path)).permute(2, 0, 1),
}


@pytest.fixture(params=["JPEG", "PNG"])
def path(request: pytest.FixtureRequest, tmp_path: Path, rng: np.random.Generator) -> Path:
    """An image that EXIF turns."""
    pixels = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (70, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "photo", request.param, exif=exif)
    return tmp_path / "photo"


@pytest.mark.parametrize("form", FORMS)
def test_each_form_of_a_photo_gives_the_pixels_and_the_prediction_of_the_file(path: Path, form: str) -> None:
    expected = read_image(path)
    assert expected.shape == (70, 40, 3)
    given = FORMS[form](path)
    np.testing.assert_array_equal(read_image(given), expected)
    predictor = small_predictor()
    found, known = predictor.predict(FORMS[form](path)), predictor.predict(path)
    np.testing.assert_array_equal(found.probabilities, known.probabilities)


def test_grey_and_transparent_pixels_in_memory_are_read_as_in_files(rng: np.random.Generator, tmp_path: Path) -> None:
    for shape, mode in (((9, 12), "L"), ((9, 12, 4), "RGBA")):
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels, mode).save(tmp_path / "photo.png")
        for given in (pixels, Image.fromarray(pixels, mode)):
            np.testing.assert_array_equal(read_image(given), read_image(tmp_path / "photo.png"))


def test_masks_and_sizes_are_read_from_open_files_as_well(tmp_path: Path, rng: np.random.Generator) -> None:
    mask = rng.integers(0, 2, (9, 12), dtype=np.uint8)
    Image.fromarray(mask * 255).save(tmp_path / "mask.png")
    for form in ("bytearray", "BytesIO", "open file"):
        np.testing.assert_array_equal(read_mask(FORMS[form](tmp_path / "mask.png")), mask)
        assert image_size(FORMS[form](tmp_path / "mask.png")) == (9, 12)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "NoneType is not an image; expected a path, bytes"),
        (3, "int is not an image"),
        ([1, 2], "list is not an image"),
        (np.zeros((4, 5, 3)), r"an array of float64 \(4, 5, 3\) is not an image; expected uint8"),
        (np.zeros((4, 5, 2), np.uint8), r"an array of uint8 \(4, 5, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), r"an array of uint8 \(0, 5, 3\)"),
        (np.zeros(5, np.uint8), r"an array of uint8 \(5,\)"),
        (torch.zeros(3, 4, 5), r"a tensor of float32 \(3, 4, 5\) is not an image; expected uint8"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), r"a tensor of uint8 \(4, 5, 3\)"),
        (io.StringIO("x"), "open as text"),
        (bytearray(b"no image" * 100_000), "800000 bytes: not an image"),
        (io.BytesIO(b""), "an open file: not an image"),
        (io.BytesIO(bytes(10**8)), "bytes are more than"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_anything_else_gets_one_line_of_sane_length(given: Any, words: str) -> None:
    for use in (lambda given: read_image(given, max_pixels=10_000), small_predictor(max_pixels=10_000).predict):
        with pytest.raises(DataError, match=words) as error:
            use(given)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 300
        if hasattr(given, "seek"):
            given.seek(0)


def test_text_that_is_no_path_is_not_repeated_whole() -> None:
    for text in ("data:image/png;base64," + "A" * 5000, "x" * 10**6):
        with pytest.raises(DataError) as error:
            read_image(text)
        assert len(str(error.value)) < 300


def test_files_that_are_closed_or_open_as_text_are_refused_in_a_line(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    Image.new("RGB", (4, 3)).save(path)
    with open(path) as file, pytest.raises(DataError, match="open as text"):
        read_image(file)  # type: ignore[arg-type]
    with open(path, "rb") as closed:
        pass
    with pytest.raises(DataError, match="closed"):
        read_image(closed)
    picture = Image.open(path)
    picture.close()
    with pytest.raises(DataError, match="expected a PIL image that is open"):
        read_image(picture)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 4, 5, dtype=torch.bfloat16),
        torch.zeros(3, 4, 5, dtype=torch.uint8).to_sparse(),
        torch.zeros(3, 4, 5, dtype=torch.uint8, device="meta"),
    ],
)
def test_tensors_without_plain_values_are_refused_in_a_line(tensor: torch.Tensor) -> None:
    with pytest.raises(DataError, match=r"a tensor of \w+ \(3, 4, 5\) is not an image"):
        read_image(tensor)


def test_heic_is_read_where_pillow_heif_is_installed(tmp_path: Path, rng: np.random.Generator) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = cv2.resize(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8), (70, 40))
    pillow_heif.from_bytes("RGB", (70, 40), pixels.tobytes()).save(tmp_path / "photo.heic", quality=-1)
    assert image_size(tmp_path / "photo.heic") == (40, 70)
    found = read_image(tmp_path / "photo.heic")
    np.testing.assert_array_equal(found, np.asarray(pillow_heif.open_heif(tmp_path / "photo.heic")))
    assert np.abs(found.astype(int) - pixels).mean() < 6  # its colours are sampled at half the size
    assert [path.name for path in find_images(tmp_path)] == ["photo.heic"]


def test_an_image_in_memory_that_is_too_large_is_refused(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3), np.uint8)
    for given in (pixels, Image.fromarray(pixels), torch.from_numpy(pixels).permute(2, 0, 1)):
        with pytest.raises(DataError, match="the image: 30 x 20 pixels are more than the limit of 599 pixels"):
            read_image(given, max_pixels=599)
