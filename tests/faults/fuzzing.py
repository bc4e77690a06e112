"""Files made of sound ones by cutting, changing, repeating and splicing, read in a process of its own.

    python -m faults.fuzzing JPEG 500       as many files, always the same ones; prints the most MB that reading took

A decoder in C that crashes or hangs takes this process with it, and not the tests.
"""

from __future__ import annotations

import gzip
import re
import resource
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from faults.pictures import draw_mask, draw_photo, encode, gif_mask, saved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from carvana.data.io import rle
from carvana.data.io.images import image_size, read_image
from carvana.data.io.masks import read_mask, share_of, shrink_mask
from carvana.data.samples import Sample
from carvana.data.splits import Split, check_unchanged, read_split
from carvana.errors import CarvanaError
from carvana.inference.submission.table import read_names, split_row

MOST_PIXELS = 1_000_000
SIZE = (30, 45)


def sound_files(kind: str, folder: Path) -> list[bytes]:
    """Some files of a format, of the kinds of pixels that it holds."""
    photo, mask = draw_photo(SIZE), draw_mask(SIZE)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.fromarray(photo)
    files = [encode(photo, kind)]
    if kind == "JPEG":
        files += [
            saved(picture, kind, progressive=True), saved(picture.convert("L"), kind),
            saved(picture.convert("CMYK"), kind), saved(picture, kind, exif=exif, restart_marker_blocks=2),
        ]  # fmt: skip
    elif kind == "PNG":
        alpha = picture.copy()
        alpha.putalpha(Image.fromarray(mask * np.uint8(200)))
        files += [
            saved(picture.quantize(9), kind, transparency=3), saved(alpha, kind, exif=exif),
            encode(photo[:, :, 0].astype(np.uint16) * np.uint16(200), kind), encode(mask * np.uint8(255), kind),
            saved(Image.fromarray(mask * np.uint8(255)).convert("1"), kind),
        ]  # fmt: skip
    elif kind == "GIF":
        files = [gif_mask(mask, folder)] * 3
        files += [saved(picture.quantize(20), kind), saved(picture.quantize(9), kind, transparency=2)]
        files += [saved(picture.quantize(9), kind, save_all=True, append_images=[picture.rotate(180).quantize(9)])]
    elif kind == "TIFF":
        files += [
            saved(picture, kind, compression=how) for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits")
        ]
        files += [
            saved(picture.convert("CMYK"), kind),
            saved(picture.convert("F"), kind),
            saved(picture, kind, exif=exif),
        ]
        files += [saved(Image.fromarray(mask * np.uint8(255)).convert("1"), kind, compression="group4")]
        files += [saved(Image.new("LAB", (45, 30)), kind)]
    elif kind == "WEBP":
        files += [saved(picture, kind, lossless=True, exif=exif.tobytes())]
        files += [saved(picture, kind, save_all=True, append_images=[picture.rotate(180)])]
    elif kind in ("BMP", "TGA", "PPM"):
        files += [saved(picture.convert(mode), kind) for mode in ("L", "1")]
        if kind == "TGA":
            files += [saved(picture.quantize(9), kind, compression="tga_rle")]
    return files


def changed(files: list[bytes]) -> st.SearchStrategy[bytes]:
    """What becomes of a sound file by up to six changes."""
    place = st.floats(0, 1)
    # Sizes stand in the first bytes, so half of all changes are made there.
    early = place.map(lambda share: share**6)
    where = place | early
    patch = st.binary(min_size=1, max_size=4) | st.sampled_from(
        [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\x80\0"]
    )
    step = st.one_of(
        st.tuples(st.just("cut"), where, st.just(b"")),
        st.tuples(st.just("write"), where, patch),
        st.tuples(st.just("write"), where, patch),
        st.tuples(st.just("insert"), where, patch),
        st.tuples(st.just("drop"), where, patch),
        st.tuples(st.just("repeat"), where, patch),
        st.tuples(st.just("splice"), where, st.sampled_from(files)),
    )
    return st.builds(_apply, st.sampled_from(files), st.lists(step, min_size=1, max_size=6))


def _apply(data: bytes, steps: list[tuple[str, float, bytes]]) -> bytes:
    for what, share, patch in steps:
        place = int(share * len(data))
        if what == "cut":
            data = data[:place]
        elif what == "write":
            data = data[:place] + patch + data[place + len(patch) :]
        elif what == "insert":
            data = data[:place] + patch + data[place:]
        elif what == "drop":
            data = data[:place] + data[place + len(patch) * 5 :]
        elif what == "repeat":
            data = data[:place] + data[max(0, place - 40) :]
        else:
            data = data[:place] + patch[int(share * len(patch)) :]
    return data


def check_picture(data: bytes) -> None:
    """Read it in all ways: pixels as they are promised, or one line."""
    told = read_or_refused(lambda: image_size(data, max_pixels=MOST_PIXELS))
    photo = read_or_refused(lambda: read_image(data, max_pixels=MOST_PIXELS))
    small = read_or_refused(lambda: read_image(data, at_least=(8, 8), max_pixels=MOST_PIXELS))
    mask = read_or_refused(lambda: read_mask(data, max_pixels=MOST_PIXELS))
    for image in (photo, small):
        assert image is None or (image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3)
    if photo is not None:
        assert told == photo.shape[:2]
    if mask is not None:
        assert mask.dtype == np.uint8
        assert mask.max() <= 1
        if not data.startswith(b"\xff\xd8"):  # of two headers in one JPEG, Pillow goes by the second
            assert told == mask.shape
        assert abs(share_of(mask) - mask.mean()) < 1e-9
        assert shrink_mask(mask, (8, 12)).shape == (8, 12)


def check_rle(text: str) -> None:
    """A text of runs is refused, or is what going from number to number makes of it."""
    size = (6, 10)
    mask = read_or_refused(lambda: rle.decode(text, size))
    if mask is None:
        return
    expected = [0] * 60
    numbers = [int(word) for word in text.split()]
    for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
        for place in range(begin, begin + length):
            assert not expected[place - 1]
            expected[place - 1] = 1
    assert mask.ravel().tolist() == expected


def check_tables(data: bytes, folder: Path) -> None:
    """A table is read or refused."""
    path = folder / "table.csv"
    path.write_bytes(data)
    samples = [Sample(Path(f"{name}.jpg"), None, group=name) for name in "abcdef"]
    split = read_or_refused(lambda: read_split(path, samples))
    assert split is None or (len(split.train) and len(split.val))
    read_or_refused(lambda: check_unchanged(path, Split(tuple(samples[2:]), tuple(samples[:2]))))
    names = read_or_refused(lambda: read_names(path))
    assert names is None or len(names) == len(set(names))
    for line in data.split(b"\n"):
        split_row(line)


def read_or_refused(read: Callable[[], Any]) -> Any:
    """What is read, or None where the library refuses, in one line."""
    try:
        return read()
    except CarvanaError as error:
        refusal = str(error)
    assert refusal.isprintable(), refusal
    return None


def tables() -> list[bytes]:
    """Splits and submissions, plain and compressed."""
    rows = [(name, "val" if name < "c" else "train") for name in "abcdef"]
    split = b"image,group,subset\n" + b"".join(b"%c.jpg,%c,%b\n" % (ord(n), ord(n), s.encode()) for n, s in rows)
    table = b"img,rle_mask\n" + b"".join(b"%c.jpg,1 5 9 2\n" % ord(name) for name, _ in rows)
    return [split, split, b"\xef\xbb\xbf" + split, split.replace(b"a.jpg", b'"a.jpg"'), table, gzip.compress(table)]


def fuzz(kind: str, examples: int) -> None:
    """Try as many files."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        if kind == "RLE":
            words = st.integers(-3, 65).map(str) | st.sampled_from(["9" * 30, "1.5", "x", "\u0661", "\0", "+3", "1e3"])
            data: st.SearchStrategy = st.lists(words, max_size=8).map(" ".join) | st.text(max_size=30)
            check: Callable = check_rle
        elif kind == "tables":
            data, check = changed(tables()), lambda data: check_tables(data, folder)
        else:
            data, check = changed(sound_files(kind, folder)), check_picture
        how = settings(
            max_examples=examples, derandomize=True, deadline=None, database=None,
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        how(given(data)(check))()


def _held(key: str) -> float:
    found = re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))
    fuzz(sys.argv[1], 5)
    before = _held("VmRSS")
    fuzz(sys.argv[1], int(sys.argv[2]))
    print(f"{_held('VmHWM') - before:.0f}")
