"""Pixel formats, rotated images, masks of other values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from comparing import recipe
from faults.pictures import (
    UInt8,
    draw_mask,
    draw_photo,
    encode,
    put,
    saved,
)
from PIL import Image, ImageOps

from carvana.data.check.masks import check_sizes
from carvana.data.check.report import check_data
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.data.samples import Sample
from carvana.data.target import read_shrunken
from carvana.errors import DataError
from carvana.inference.predict_folder import predict_folder
from carvana.inference.predictor import Predictor
from carvana.training.fit import fit


def as_cmyk(photo: UInt8) -> bytes:
    return saved(Image.fromarray(photo).convert("CMYK"), "JPEG", quality=100, subsampling=0)


def as_16_bits(photo: UInt8) -> bytes:
    return bytes(cv2.imencode(".png", photo[:, :, ::-1].astype(np.uint16) * 257)[1])


def as_grey_16_bits(photo: UInt8) -> bytes:
    return saved(Image.fromarray(photo[:, :, 1].astype(np.uint16) * np.uint16(257)), "PNG")


def as_grey(photo: UInt8) -> bytes:
    return encode(photo[:, :, 1], "PNG")


def as_palette(photo: UInt8) -> bytes:
    return saved(Image.fromarray(photo).quantize(256), "PNG")


def with_alpha(photo: UInt8) -> bytes:
    """Where it is dark it is transparent, and what lies there is of no colour that shows."""
    seen = photo.max(axis=2, keepdims=True) > 60
    return encode(np.concatenate([np.where(seen, photo, 7), seen * 255], axis=2).astype(np.uint8), "PNG")


UNUSUAL: dict[str, tuple[Callable[[UInt8], bytes], Callable[[UInt8], UInt8], float]] = {
    "CMYK": (as_cmyk, lambda photo: photo, 2.0),
    "16 bits": (as_16_bits, lambda photo: photo, 0),
    "grey of 16 bits": (as_grey_16_bits, lambda photo: photo[:, :, [1, 1, 1]], 0),
    "grey": (as_grey, lambda photo: photo[:, :, [1, 1, 1]], 0),
    "palette": (as_palette, lambda photo: photo, 12.0),
    "alpha": (with_alpha, lambda photo: np.where(photo.max(axis=2, keepdims=True) > 60, photo, 255), 0),
}
"""A file of an image, the pixels that it shows, and by how much they may differ in the mean."""


@pytest.mark.fault(
    done="images as CMYK JPEG, as PNG of 16 bits, grey, grey of 16 bits, with a palette and with alpha, predicted",
    promised="the pixels that the file shows, white where it is transparent, and a mask of the image's size",
    reaches="data/io/convert.py: to_rgb, each kind of pixel",
)
@pytest.mark.parametrize("kind", UNUSUAL)
def test_unusual_pixels_are_read_as_they_show(kind: str, predictor: Predictor, tmp_path: Path) -> None:
    make, shows, tolerance = UNUSUAL[kind]
    photo = draw_photo((61, 91))
    path = put(tmp_path / "photos" / "car.any", make(photo))
    found, expected = read_image(path), shows(photo)
    assert np.abs(found.astype(int) - expected).mean() <= tolerance
    predict_folder(predictor, [path], out=tmp_path / "out")
    mask = read_mask(tmp_path / "out" / "car_mask.png")
    assert mask.shape == (61, 91)
    assert np.mean(mask != predictor.predict(expected.astype(np.uint8)).mask) <= (0.1 if tolerance else 0)


@pytest.mark.fault(
    done="an image and its mask that EXIF turns, in all 8 ways, read for training and predicted",
    promised="both upright, as Pillow turns them; they count as of one size; the predicted mask is upright",
    reaches="data/io/convert.py: turn, of an image and of a mask",
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_what_exif_turns_comes_out_upright(orientation: int, predictor: Predictor, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = put(tmp_path / "car.png", encode(draw_photo(), "PNG", exif=exif))
    mask = put(tmp_path / "car_mask.png", encode(draw_mask() * np.uint8(255), "PNG", exif=exif))
    upright = [np.asarray(ImageOps.exif_transpose(Image.open(path))) for path in (photo, mask)]
    sample = Sample(photo, mask, group="car")
    check_sizes([sample])
    image, coverage = read_shrunken(sample, upright[1].shape, target="coverage")
    assert (image == upright[0]).all()
    assert (coverage == upright[1]).all()
    predict_folder(predictor, [photo], out=tmp_path / "out")
    assert (read_mask(tmp_path / "out" / "car_mask.png") == predictor.predict(upright[0]).mask).all()


MASKS: dict[str, tuple[Callable[[UInt8], bytes] | None, str]] = {
    "another size": (lambda mask: encode(mask[:-1] * np.uint8(255), "PNG"), "masks differ from their images"),
    "turned": (lambda mask: encode(np.rot90(mask) * np.uint8(255), "PNG"), "masks differ from their images"),
    "0, 1 and 2": (lambda mask: encode(mask + (np.cumsum(mask, 1) > 9), "PNG"), "the mask holds the values 0, 1, 2"),
    "0 and 100": (lambda mask: encode(mask * np.uint8(100), "PNG"), "the mask holds the values 0, 100"),
    "not there": (None, "have no mask in"),
    "a folder": (lambda mask: b"", "have no mask in"),
}


@pytest.mark.fault(
    done="carvana.fit with masks of another size, turned, of the values 0, 1 and 2, or 0 and 100, missing, folders",
    promised="one line that names a mask, before anything is trained",
    reaches="data/check/masks.py: check_sizes; data/io/masks.py: _object_of; data/samples.py: no mask",
)
@pytest.mark.parametrize("kind", MASKS)
def test_masks_that_tell_nothing_stop_a_fit(kind: str, tmp_path: Path) -> None:
    make, words = MASKS[kind]
    for car in range(6):
        put(tmp_path / "data" / "images" / f"{car}.png", encode(draw_photo(seed=car), "PNG"))
        if kind == "a folder":
            (tmp_path / "data" / "masks" / f"{car}_mask.png").mkdir(parents=True)
        elif make is not None:
            put(tmp_path / "data" / "masks" / f"{car}_mask.png", make(draw_mask(seed=car)))
    (tmp_path / "data" / "masks").mkdir(exist_ok=True)
    with pytest.raises(DataError, match=words) as caught:
        fit(recipe(tmp_path / "data"), out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert "_mask." in str(caught.value)
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.fault(
    done="masks with soft edges (1% of the pixels, 68 to 187), in colour, as JPEG, with alpha",
    promised=("foreground where the brightest channel exceeds half; carvana data check reports the other values"),
    reaches="data/io/masks.py: _values_of, _object_of, inspect_mask",
)
@pytest.mark.parametrize("kind", ["soft", "colour", "jpeg", "alpha"])
def test_soft_and_coloured_masks_are_cut_at_half(kind: str, tmp_path: Path) -> None:
    mask = draw_mask()
    grey = np.where(mask == 1, 255, 0).astype(np.uint8)
    rows, columns = np.divmod(np.arange(0, mask.size, 97), mask.shape[1])  # 1% of the pixels, of 60 values
    grey[rows, columns] = np.where(mask[rows, columns] == 1, 128, 127) + np.where(mask[rows, columns] == 1, 1, -1) * (
        np.arange(len(rows)) % 60
    )
    colour = np.stack([grey, grey // 3, np.zeros_like(grey)], axis=2)
    alpha = np.stack([np.full_like(grey, 255)] * 3 + [grey], axis=2)
    data = {
        "soft": encode(grey, "PNG"),
        "colour": encode(colour, "PNG"),
        "jpeg": encode(mask * np.uint8(255), "JPEG", quality=100),
        "alpha": encode(alpha, "PNG"),
    }[kind]
    put(tmp_path / "images" / "car.png", encode(draw_photo(), "PNG"))
    found = read_mask(put(tmp_path / "masks" / "car_mask.png", data))
    assert (found == mask).all()
    (problem,) = check_data(tmp_path).problems
    assert (problem.kind, problem.file) == ("not-binary", str(tmp_path / "masks" / "car_mask.png"))
