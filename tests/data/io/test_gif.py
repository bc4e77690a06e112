from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from carvana.data.io.gif import MOST_CHANGES, read_runs
from carvana.data.io.masks import read_mask
from carvana.errors import DataError

LIMIT = 10**8
BLACK_AND_WHITE = (0, 0, 0, 255, 255, 255)


def pillows(mask: np.ndarray, *, palette: tuple[int, ...] = BLACK_AND_WHITE, **options: object) -> bytes:
    picture = Image.fromarray(mask)
    picture.putpalette(palette)
    buffer = io.BytesIO()
    picture.save(buffer, "GIF", **{"optimize": False, "interlace": 0, **options})
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def codes_of(pixels: bytes, bits: int, *, most: int | None, end: bool) -> Iterator[tuple[int, int]]:
    """LZW as the specification has it: (code, width), with a clear code after ``most`` codes, or with none at all."""
    clear = 1 << bits
    table: dict[bytes, int] = {}
    width, since = bits + 1, 0

    def begin() -> None:
        nonlocal table, width, since
        table, width, since = {bytes([value]): value for value in range(clear)}, bits + 1, 0

    yield clear, width
    begin()
    after, string = clear + 2, b""
    for value in pixels:
        longer = string + bytes([value])
        if longer in table:
            string = longer
            continue
        yield table[string], width
        since += 1
        if after < 4096:
            table[longer] = after
            if after == 1 << width and width < 12:
                width += 1
            after += 1
        string = bytes([value])
        if since == most:
            yield clear, width
            begin()
            after = clear + 2
    yield table[string], width
    if after < 4096 and after == 1 << width and width < 12:
        width += 1
    if end:
        yield clear + 1, width


def gif(mask: np.ndarray, *, bits: int = 2, most: int | None = None, end: bool = True, block: int = 255) -> bytes:
    """A GIF of our own making."""
    stream, held, count = bytearray(), 0, 0
    for code, width in codes_of(mask.tobytes(), bits, most=most, end=end):
        held |= code << count
        count += width
        while count >= 8:
            stream.append(held & 255)
            held, count = held >> 8, count - 8
    if count:
        stream.append(held)
    blocks = [stream[start : start + block] for start in range(0, len(stream), block)]
    height, width = mask.shape
    head = struct.pack("<6sHHBBB", b"GIF89a", width, height, 0x80 | bits - 1, 0, 0)
    palette = bytes(BLACK_AND_WHITE).ljust(3 << bits, b"\0")
    frame = struct.pack("<BHHHHBB", 0x2C, 0, 0, width, height, 0, bits)
    return head + palette + frame + b"".join(bytes([len(part)]) + part for part in blocks) + b"\0\x3b"


def masks(rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
    shape = (height, width)
    outline = cv2.resize(rng.random((max(2, height // 20), max(2, width // 20))), (width, height))
    return {
        "outlines": (outline > 0.5).astype(np.uint8),
        "noise": rng.integers(0, 2, shape, np.uint8),
        "rare points": (rng.random(shape) > 0.99).astype(np.uint8),
        "empty": np.zeros(shape, np.uint8),
        "full": np.ones(shape, np.uint8),
        "checkerboard": (np.indices(shape).sum(axis=0) % 2).astype(np.uint8),
        "stripes": np.broadcast_to((np.arange(height) % 2).astype(np.uint8)[:, None], shape).copy(),
    }


def is_outline(mask: np.ndarray) -> bool:
    return np.count_nonzero(np.diff(mask.ravel(), prepend=0)) <= MOST_CHANGES


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 1), (3, 5), (64, 64), (160, 241), (170, 380), (1000, 700)])
def test_masks_that_pillow_wrote_read_as_they_were(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    for name, mask in masks(rng, *shape).items():
        runs = read_runs(pillows(mask), max_pixels=LIMIT)
        assert (runs is not None) == is_outline(mask), name
        assert runs is None or (runs.mask() == mask).all(), name
        assert (read_mask(pillows(mask)) == mask).all(), name


@pytest.mark.parametrize("bits", [2, 3, 8])
@pytest.mark.parametrize("most", [None, 1, 2, 3, 60, 4093, 4094, 5000])
def test_every_way_of_clearing_the_table_reads_the_same(rng: np.random.Generator, bits: int, most: int | None) -> None:
    many = {"outlines", "noise", "checkerboard"}
    shapes = {(5, 9), (200, 300)} if most is None or most > 4000 else {(3, 7), (16, 25)}
    for shape in shapes:
        for name, mask in masks(rng, *shape).items():
            if shape == (200, 300) and name not in many:
                continue
            data = gif(mask, bits=bits, most=most, block=200)
            assert (by_pillow(data) == mask).all(), "this test's own encoder"
            runs = read_runs(data, max_pixels=LIMIT)
            if most is None or most > 4000:
                assert (runs is not None) == is_outline(mask), name
            assert runs is None or (runs.mask() == mask).all(), name
            assert (read_mask(data) == mask).all(), name


def test_every_length_of_a_run_reads_as_it_is() -> None:
    for width in range(1, 400):  # full tables' widths change between 3 and 12 bits on the way
        for value in (0, 1):
            mask = np.full((7, width), value, np.uint8)
            runs = read_runs(gif(mask), max_pixels=LIMIT)
            assert runs is not None
            assert (runs.mask() == mask).all()


def test_noise_is_left_to_pillow_beyond_a_limit(rng: np.random.Generator) -> None:
    mask = rng.integers(0, 2, (600, 900), np.uint8)
    assert not is_outline(mask)
    data = pillows(mask)
    assert read_runs(data, max_pixels=LIMIT) is None
    assert (read_mask(data) == mask).all()


def unusual(mask: np.ndarray) -> dict[str, bytes]:
    plain = pillows(mask)
    image = plain.index(b"\x2c")
    second = Image.fromarray(1 - mask)
    second.putpalette(BLACK_AND_WHITE)
    comment = b"\x21\xfe\x04made\x00"
    return {
        "interlaced": pillows(mask, interlace=1),
        "transparent": pillows(mask, transparency=0),
        "two frames": pillows(mask, save_all=True, append_images=[second]),
        "three values": pillows(
            np.where(mask == 0, np.indices(mask.shape)[1] % 2 * 2, 1).astype(np.uint8),
            palette=(*BLACK_AND_WHITE, 9, 9, 9),
        ),
        "a dark palette": pillows(mask, palette=(0, 0, 0, 100, 100, 100)),
        "white before black": pillows(mask, palette=(255, 255, 255, 0, 0, 0)),
        "grey levels": pillows(mask, palette=tuple(value for level in range(256) for value in (level,) * 3)),
        "a comment": plain[:image] + comment + plain[image:],
        "rubbish behind": plain[:-1] + b"rubbish",
        "no trailer": plain[:-1],
        "no end code": gif(mask, end=False),
    }


def test_unusual_files_are_left_to_pillow_and_read_all_the_same(rng: np.random.Generator) -> None:
    mask = masks(rng, 60, 80)["outlines"]
    for name, data in unusual(mask).items():
        assert read_runs(data, max_pixels=LIMIT) is None, name
        if told := {"a dark palette": "values 0, 100", "three values": "values 0, 9, 255"}.get(name):
            with pytest.raises(DataError, match=told):
                read_mask(data)
        else:
            expected = {"white before black": 1 - mask}.get(name, mask)
            assert (read_mask(data) == expected).all(), name


def test_palettes_and_sizes_that_are_plain_enough_are_read(rng: np.random.Generator) -> None:
    mask = masks(rng, 60, 80)["outlines"]
    for palette in (BLACK_AND_WHITE, (0, 0, 0, 128, 0, 0), (*BLACK_AND_WHITE, *[7] * 762)):
        data = pillows(mask, palette=palette)
        assert read_runs(data, max_pixels=LIMIT) is not None
        assert (read_mask(data) == mask).all()


def test_a_mask_above_the_limit_is_refused_in_the_same_words(rng: np.random.Generator) -> None:
    data = pillows(masks(rng, 60, 80)["outlines"])
    assert read_runs(data, max_pixels=60 * 80) is not None
    assert read_runs(data, max_pixels=60 * 80 - 1) is None
    with pytest.raises(DataError, match=r"more than the limit of 4,799 pixels"):
        read_mask(data, max_pixels=60 * 80 - 1)


def agree(data: bytes) -> bool:
    """Whether the file was taken; then Pillow must take it too, and read the same."""
    runs = read_runs(data, max_pixels=LIMIT)
    if runs is None:
        return False
    assert (by_pillow(data) == runs.mask()).all()
    return True


def test_cut_files_are_never_taken(rng: np.random.Generator) -> None:
    for mask in masks(rng, 30, 40).values():
        for data in (pillows(mask), gif(mask), gif(mask, most=20)):
            assert not any(agree(data[:length]) for length in range(len(data)))


def test_damaged_files_are_read_as_pillow_reads_them_or_left_to_it(rng: np.random.Generator) -> None:
    made = [masks(rng, *shape) for shape in ((9, 13), (40, 61), (90, 120))]
    sound = [
        data for kinds in made for mask in kinds.values() for data in (pillows(mask), gif(mask), gif(mask, most=90))
    ]
    taken = 0
    for _ in range(20000):
        data = bytearray(sound[rng.integers(len(sound))])
        for _ in range(rng.integers(1, 4)):
            place = rng.integers(len(data))
            match rng.integers(4):
                case 0:
                    data[place] ^= 1 << int(rng.integers(8))
                case 1:
                    data[place] = rng.integers(256)
                case 2:
                    del data[place : place + rng.integers(1, 4)]
                case 3:
                    data[place:place] = rng.bytes(int(rng.integers(1, 4)))
        taken += agree(bytes(data))
    assert taken > 200  # bits that change the picture, not the layout: the comparison is not empty


@pytest.mark.skipif("CARVANA_DATA" not in os.environ, reason="CARVANA_DATA names no folder of real images")
def test_all_real_masks_are_taken_and_read_as_pillow_reads_them() -> None:
    files = sorted((Path(os.environ["CARVANA_DATA"]) / "train_masks").iterdir())
    assert files
    for path in files:
        assert agree(path.read_bytes()), path.name
