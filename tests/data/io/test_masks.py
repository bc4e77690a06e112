"""Which values of a mask file are the object: rules of two values, codings, and what is refused with its task."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.config import load_config
from carvana.data.io.images import image_size
from carvana.data.io.labels import read_values
from carvana.data.io.masks import inspect_mask, read_mask
from carvana.errors import DataError


@pytest.fixture
def mask(rng: np.random.Generator) -> np.ndarray:
    return (cv2.resize(rng.random((6, 8)), (161, 119)) > 0.5).astype(np.uint8)


def encoded(values: np.ndarray, kind: str = "PNG", palette: bytes | None = None, **options: object) -> bytes:
    picture = Image.fromarray(values)
    if palette is not None:
        picture.putpalette(palette)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def antialiased(rng: np.random.Generator) -> np.ndarray:
    """A mask that is drawn at five times its size and shrunk by area."""
    large = cv2.resize(rng.random((6, 8)), (5 * 644, 5 * 476)) > 0.5
    return cv2.resize(large * np.uint8(255), (644, 476), interpolation=cv2.INTER_AREA)


VOC = bytes((0, 0, 0, 128, 0, 0, 0, 128, 0, *[0] * 753, 224, 224, 192))


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (lambda mask: encoded(mask + np.tri(*mask.shape, dtype=np.uint8)), r"values 0, 1, 2, .*class_2: 2"),
        (lambda mask: encoded(np.where(np.eye(*mask.shape) > 0, 255, mask).astype(np.uint8)),
         r"values 0, 1, 255, .*task: \{classes: \{object: 1\}, ignore: \[255\]\}"),
        (lambda mask: encoded(np.where(np.eye(*mask.shape) > 0, 255, mask).astype(np.uint8), palette=VOC),
         r"values 0, 1, 255, .*ignore: \[255\]"),
        (lambda mask: encoded(np.where(np.eye(*mask.shape) > 0, 2, mask).astype(np.uint8), "GIF", palette=VOC),
         r"values 0, 1, 2, "),
        (lambda mask: encoded((np.indices(mask.shape)[1] * mask).astype(np.uint8)), "object: 1-160"),
        (lambda mask: encoded((np.indices(mask.shape)[1] * mask * 5).astype(np.uint16)), "161 values .*: 5-800"),
        (lambda mask: npy((np.indices(mask.shape)[1] * mask).astype(np.int32)), "object: 1-160"),
        (lambda mask: encoded(np.where(np.eye(*mask.shape) > 0, 127, mask * np.uint8(255)).astype(np.uint8)),
         "values 0, 127, 255"),
        (lambda mask: encoded(np.stack([mask * 255, np.tri(*mask.shape, dtype=np.uint8) * 200, mask * 0], 2)),
         "colours #000000, #00c800, #ff0000, #ffc800"),
        (lambda mask: npy(cv2.GaussianBlur(mask.astype(np.float32), (0, 0), 3)), "values from 0 to 1"),
    ],
    ids=["classes", "rim", "palette with a rim", "palette GIF", "instances", "16-bit instances", "npy instances",
         "three greys", "colours", "probabilities"],
)  # fmt: skip
def test_labels_are_refused_with_their_values_and_their_task(
    mask: np.ndarray, labels: Callable[[np.ndarray], bytes], told: str
) -> None:
    data = labels(mask)
    with pytest.raises(DataError, match=f"the mask holds .*{told}") as caught:
        read_mask(data)
    assert "\n" not in str(caught.value)


def labels_of(values: list[int]) -> np.ndarray:
    """The values in vertical bands of (24, 10 * N)."""
    return np.repeat(np.array(values), 10)[None].repeat(24, axis=0)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (encoded(labels_of([0, 1, 2, 5]).astype(np.uint8)), [0, 1, 2, 3]),
        (encoded(labels_of([0, 1, 255]).astype(np.uint8)), [0, 1, 255]),
        (encoded(labels_of([0, 1, 15, 255]).astype(np.uint8), palette=VOC), [0, 1, 2, 255]),
        (encoded(labels_of([0, 1, 2]).astype(np.uint8), "GIF", bytes((0, 0, 0, 255, 255, 255, 9, 9, 9))), [0, 1, 2]),
        (encoded(labels_of([0, 32, 159, 255]).astype(np.uint8)), [0, 1, 2, 3]),
        (encoded(labels_of([0, 1000, 2000]).astype(np.uint16)), [0, 1, 2]),
        (encoded(labels_of([0, 1, 2, 65535]).astype(np.uint16)), [0, 1, 2, 255]),
        (encoded(labels_of([0, 7, 300]).astype(np.int32), "TIFF"), [0, 1, 2]),
        (npy(labels_of([-1, 0, 1, 2])), [255, 0, 1, 2]),
        (npy(labels_of([0, 1, 2]).astype(np.float64)), [0, 1, 2]),
        (npy(labels_of(list(range(40)))), [0] + [1] * 39),
    ],
    ids=["gap", "rim", "palette", "grey palette", "gaps and 255", "16 bit", "16 bit rim", "32 bit", "-1", "floats",
         "instances"],
)  # fmt: skip
def test_the_task_of_a_refusal_pasted_into_a_config_encodes_the_file(
    tmp_path: Path, file: bytes, expected: list[int]
) -> None:
    (tmp_path / "x").write_bytes(file)
    with pytest.raises(DataError) as caught:
        read_mask(tmp_path / "x")
    block = re.search(r"task: \{.*\}", str(caught.value))
    assert block is not None
    (tmp_path / "mine.yaml").write_text(f"arch: unet-ref\n{block[0]}\n")
    task = load_config(tmp_path / "mine.yaml").task.task()
    assert task.encode(read_values(tmp_path / "x"))[0, ::10].tolist() == expected


def test_labels_that_jpeg_has_changed_are_refused_with_the_format_to_save(mask: np.ndarray) -> None:
    noisy = (np.indices(mask.shape)[1] // 8 * 9).astype(np.uint8)
    with pytest.raises(DataError, match=r"values .*, which its format changes; save masks and labels as PNG"):
        read_mask(encoded(noisy, "JPEG", quality=70))


@pytest.mark.parametrize(
    "stored",
    [
        lambda mask: encoded(mask),
        lambda mask: encoded(mask * np.uint8(255)),
        lambda mask: encoded(mask * np.uint8(200) + np.uint8(20)),
        lambda mask: encoded(mask, palette=VOC),
        lambda mask: encoded(mask * np.uint16(65535)),
        lambda mask: encoded(mask.astype(np.float32), "TIFF"),
        lambda mask: encoded(np.stack([mask * 255, mask * 0, mask * 0], 2).astype(np.uint8)),
        lambda mask: encoded(mask * np.uint8(255), "JPEG", quality=90),
        lambda mask: encoded(mask * np.uint8(255), "WEBP", quality=90),
        lambda mask: npy(mask),
        lambda mask: npy(mask > 0),
        lambda mask: npy(mask.astype(np.float64)),
        lambda mask: npy(mask[None].astype(np.int64) * 255),
        lambda mask: npy(mask[:, :, None]),
    ],
)  # fmt: skip
def test_two_values_are_a_mask_however_they_are_stored(mask: np.ndarray, stored: Callable[[np.ndarray], bytes]) -> None:
    data = stored(mask)
    assert (read_mask(data) == mask).all()
    assert image_size(data) == mask.shape


def test_an_antialiased_boundary_is_cut_at_half_and_its_share_is_known(rng: np.random.Generator) -> None:
    soft = antialiased(rng)
    assert len(np.unique(soft)) > 16
    assert (read_mask(encoded(soft)) == (soft > 127)).all()
    found = inspect_mask(encoded(soft))
    assert found.between == pytest.approx(np.mean((soft > 0) & (soft < 255)))
    assert inspect_mask(encoded((soft > 127).view(np.uint8))).between == 0


def test_an_antialiased_mask_of_a_grey_palette_is_a_mask(rng: np.random.Generator) -> None:
    soft = antialiased(rng)
    greys = bytes(np.arange(256).repeat(3).astype(np.uint8))
    for kind in ("PNG", "GIF"):
        assert (read_mask(encoded(soft, kind, greys)) == (soft > 127)).all()


def test_low_labels_among_antialiased_values_are_refused(rng: np.random.Generator) -> None:
    soft = antialiased(rng)
    soft[:40, :40] = 3  # half a percent of the pixels
    with pytest.raises(DataError, match="the mask holds"):
        read_mask(encoded(soft))


def several_hues(mask: np.ndarray) -> np.ndarray:
    """Forty objects of colours of their own."""
    hues = (np.indices(mask.shape)[1] // 4 * 6 % 180).astype(np.uint8)
    saturated = np.stack([hues, np.full_like(mask, 255), mask * np.uint8(255)], 2)
    return cv2.cvtColor(saturated, cv2.COLOR_HSV2RGB)


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (lambda mask: npy(mask.astype(np.int8) - np.eye(*mask.shape, dtype=np.int8) * mask * 2), "values -1, 0, 1"),
        (lambda mask: encoded(-mask.astype(np.int32), "TIFF"), "values -1, 0"),
        (lambda mask: encoded(several_hues(mask)), "objects of several colours"),
        (lambda mask: encoded(several_hues(mask), "WEBP", lossless=True), "objects of several colours"),
        (lambda mask: encoded(several_hues(mask), "JPEG", quality=95), "objects of several colours"),
    ],
)
def test_negative_labels_and_objects_of_several_colours_are_refused(
    mask: np.ndarray, data: Callable[[np.ndarray], bytes], told: str
) -> None:
    with pytest.raises(DataError, match=f"the mask holds .*{told}"):
        read_mask(data(mask))


def test_one_colour_with_an_antialiased_boundary_is_a_mask(rng: np.random.Generator) -> None:
    soft = antialiased(rng)
    for colour in ((255, 85, 0), (0, 128, 255), (255, 0, 255)):
        coloured = (soft[:, :, None] / 255 * colour).round().astype(np.uint8)
        for kind, options in (("PNG", {}), ("JPEG", {"quality": 95, "subsampling": 0})):
            found = read_mask(encoded(coloured, kind, **options))
            assert np.mean(found != (soft > 127)) < 0.002


def spread_labels(mask: np.ndarray, low: int, high: int, rim: int, kind: type) -> np.ndarray:
    """Twenty labels from low to high in vertical bands, and a rim."""
    bands = np.indices(mask.shape)[1] * 20 // mask.shape[1]
    labels = mask * (low + (high - low) * bands // 19)
    labels[:2] = rim
    return labels.astype(kind)


@pytest.mark.parametrize(
    ("low", "high", "rim", "kind"),
    [(100, 4100, 65535, np.uint16), (10, 24, 255, np.uint8), (236, 254, 255, np.uint8)],
)
def test_labels_near_black_or_white_are_no_antialiased_boundary(
    mask: np.ndarray, low: int, high: int, rim: int, kind: type
) -> None:
    with pytest.raises(DataError, match=r"the mask holds .* values"):
        read_mask(encoded(spread_labels(mask, low, high, rim, kind)))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (lambda mask: np.where(mask[:, :, None], (0, 255, 0), (255, 0, 0)), "#00ff00, #ff0000, both bright"),
        (lambda mask: np.where(mask[:, :, None], (255, 0, 0), (255, 255, 255)), "#ff0000, #ffffff, both bright"),
        (lambda mask: np.where(mask, 255, 128), "values 128, 255: which of them"),
    ],
)
def test_two_bright_values_do_not_tell_the_object(
    mask: np.ndarray, values: Callable[[np.ndarray], np.ndarray], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        read_mask(encoded(values(mask).astype(np.uint8)))


def test_many_labels_are_counted_and_may_number_objects(mask: np.ndarray) -> None:
    values = (np.indices(mask.shape).sum(0) * 20 + 10).astype(np.uint16)
    many = (
        f"{len(np.unique(values))} values from 10 to {values.max()}, .*: numbers of objects, or not a mask; .* needs "
    )
    with pytest.raises(DataError, match=rf"{many}task: {{classes: {{object: 10-{values.max()}}}}}") as caught:
        read_mask(encoded(values))
    assert len(str(caught.value)) < 300


def test_no_file_is_no_mask() -> None:
    with pytest.raises(DataError, match="the tuple of mask files is empty"):
        read_mask(())


def test_white_beside_labels_is_no_rim(mask: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"values 0, 128, 255, .*class_255: 255") as caught:
        read_mask(encoded(np.where(np.eye(*mask.shape) > 0, 128, mask * np.uint8(255)).astype(np.uint8)))
    assert "ignore" not in str(caught.value)


def test_several_masks_of_one_image_are_joined(mask: np.ndarray, tmp_path: Path) -> None:
    left, right = mask.copy(), mask.copy()
    left[:, 80:], right[:, :80] = 0, 0
    files = tmp_path / "x_mask.png", tmp_path / "x_mask_1.png"
    for file, part in zip(files, (left, right), strict=True):
        file.write_bytes(encoded(part * np.uint8(255)))
    assert (read_mask(files) == mask).all()
    with pytest.raises(DataError, match="masks of one image differ in size"):
        read_mask((files[0], encoded(right[1:])))


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (npy(np.zeros((4, 5, 3))), r"an array of float64 \(4, 5, 3\) is not a mask"),
        (npy(np.array(["a"])), "is not a mask"),
        (npy(np.zeros((4, 5), complex)), "is not a mask"),
        (npy(np.zeros((40, 50)))[:-9], "damaged or cut"),
        (b"\x93NUMPY\x09\x09", "cannot be read as a NumPy array"),
    ],
)
def test_arrays_that_are_not_masks_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_mask(data)


def test_an_array_that_claims_more_pixels_than_the_limit_is_refused_unread() -> None:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)})
    with pytest.raises(DataError, match="limit"):
        read_mask(file.getvalue())


BLACK_AND_WHITE = bytes((0, 0, 0, 255, 255, 255))


def gif(mask: np.ndarray, palette: bytes = BLACK_AND_WHITE, **options: object) -> bytes:
    return encoded(mask, "GIF", palette, **{"optimize": False, "interlace": 0, **options})


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 5), (64, 64), (160, 241), (1000, 700)])
def test_gif_masks_of_any_size_read_as_they_were(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    outline = cv2.resize(rng.random((max(2, shape[0] // 20), max(2, shape[1] // 20))), shape[::-1])
    noise = rng.integers(0, 2, shape, np.uint8)
    for values in ((outline > 0.5).astype(np.uint8), noise, np.zeros(shape, np.uint8), np.ones(shape, np.uint8)):
        assert (read_mask(gif(values)) == values).all()
        found = inspect_mask(gif(values))
        assert (found.mask == values).all()
        assert (found.between, found.frames, found.orientation) == (0, 1, 1)


def test_gif_masks_of_every_usual_coding_read_the_same(mask: np.ndarray) -> None:
    plain = gif(mask)
    place = plain.index(b"\x2c")
    second = Image.fromarray(1 - mask)
    second.putpalette(BLACK_AND_WHITE)
    codings = {
        "interlaced": gif(mask, interlace=1),
        "transparent": gif(mask, transparency=0),
        "two frames": gif(mask, save_all=True, append_images=[second]),
        "grey levels": gif(mask, bytes(np.arange(256).repeat(3).tolist())),
        "further colours": gif(mask, BLACK_AND_WHITE + bytes([7] * 762)),
        "a comment": plain[:place] + b"\x21\xfe\x04made\x00" + plain[place:],
        "rubbish behind": plain[:-1] + b"rubbish",
        "no trailer": plain[:-1],
    }
    for name, data in codings.items():
        assert (read_mask(data) == mask).all(), name
    assert (read_mask(gif(mask, bytes((255, 255, 255, 0, 0, 0)))) == 1 - mask).all()
    assert inspect_mask(codings["two frames"]).frames == 2


def test_gif_masks_of_other_values_or_of_too_many_pixels_are_refused(mask: np.ndarray) -> None:
    three = np.where(mask == 0, np.indices(mask.shape)[1] % 2 * 2, 1).astype(np.uint8)
    with pytest.raises(DataError, match="values 0, 1, 2, "):
        read_mask(gif(three, BLACK_AND_WHITE + bytes((9, 9, 9))))
    with pytest.raises(DataError, match="values 0, 100"):
        read_mask(gif(mask, bytes((0, 0, 0, 100, 100, 100))))
    with pytest.raises(DataError, match=r"more than the limit of 19,158 pixels"):
        read_mask(gif(mask), max_pixels=mask.size - 1)
