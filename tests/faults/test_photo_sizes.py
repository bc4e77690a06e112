"""Images of any size, and files that claim a large one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from faults.commands import carvana
from faults.pictures import (
    BOMBS,
    draw_mask,
    draw_photo,
    encode,
    gif_mask,
    put,
    refusal,
    saved,
)
from PIL import Image
from submitting import small_predictor

from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.inference.predict_folder import predict_folder
from carvana.inference.predictor import Predictor

WAYS: dict[str, dict[str, object]] = {
    "trained": {},
    "native": {"scale": "native"},
    "tiles": {"scale": "native", "mode": "tiles", "tile": 64},
    "exact tiles": {"scale": "native", "mode": "tiles", "tile": 300, "join": "exact"},
    "mirrored": {"scale": "native", "mode": "whole", "tta": True},
}


@pytest.mark.fault(
    done="images of 1x1, 1x2, 3x5, 1x20000 and 20000x1 pixels, predicted whole, in tiles, joined exactly and mirrored",
    promised="a mask of the image's size",
    reaches="inference/tiling/sliding_window.py: sides below the network's smallest and above any tile",
    quick=2,
)
@pytest.mark.parametrize("way", WAYS)
def test_photos_of_any_size_are_predicted(way: str, came_out: Callable[..., None]) -> None:
    predictor = small_predictor(**WAYS[way])
    sizes = [(1, 1), (1, 2), (3, 5), (1, 20000), (20000, 1)]
    for size in sizes:
        pixels = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
        assert predictor.predict(pixels).mask.shape == size
    came_out(times=len(sizes))


@pytest.mark.fault(
    done="all outputs of a folder with images of 1x1, 1x20000 and 70000x1 pixels",
    promised=("all files of the first two; the third, too long for a JPEG, is reported and does not stop the others"),
    reaches="inference/predict_folder.py: write, outputs that no file can hold",
)
def test_a_photo_too_long_for_its_overlay_is_told_alone(predictor: Predictor, tmp_path: Path) -> None:
    sizes = {"long": (70000, 1), "point": (1, 1), "wide": (1, 20000)}
    for name, size in sizes.items():
        put(tmp_path / "photos" / f"{name}.png", encode(np.full((*size, 3), 90, np.uint8), "PNG"))
    summary = predict_folder(
        predictor, sorted((tmp_path / "photos").iterdir()), out=tmp_path / "out", save=["mask", "cutout", "overlay"]
    )
    (failed,) = summary.failed
    assert (summary.written, failed[0].name) == (2, "long.png")
    assert "1 x 70000 pixels" in failed[1]
    for name in ("point", "wide"):
        for kind in ("mask.png", "cutout.png", "overlay.jpg"):
            assert read_image(tmp_path / "out" / f"{name}_{kind}").shape[:2] == sizes[name]


MEASURED = r"""
import re, sys
from pathlib import Path
from carvana.data.io.images import image_size, read_image
from carvana.data.io.masks import read_mask
from carvana.errors import DataError

def held(key):
    return int(re.search(key + r":\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

path, sound, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
read_image(sound)
before = held("VmRSS")
for read in (image_size, read_image, read_mask):
    try:
        print(read(path, max_pixels=limit))
    except DataError as error:
        print(error)
print(held("VmHWM") - before)
"""


def read_in_a_process(path: Path, sound: Path, *, limit: int = 300_000_000) -> tuple[list[str], float]:
    """What three readers say of a file, and the most MB that they take."""
    command = [sys.executable, "-c", MEASURED, str(path), str(sound), str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    *said, megabytes = done.stdout.splitlines()
    return said, float(megabytes)


@pytest.mark.fault(
    done="decompression bombs: files of up to 300 kB in 11 formats that claim 50000x50000 pixels (WebP: 16383x16383, "
    "above a limit of 100 million), read for their size, as image and as mask",
    promised="refused above max_pixels before there are pixels; less than 30 MB",
    reaches="data/io/decode.py: open_header within _pillow_limit; data/io/images.py: check_pixels on a JPEG header",
    quick=2,
)
@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_is_refused_in_little_memory(kind: str, tmp_path: Path, came_out: Callable[..., None]) -> None:
    data = BOMBS[kind](50_000, 50_000)
    assert len(data) < 400_000
    sound = put(tmp_path / "sound.jpg", encode(draw_photo(), "JPEG"))
    path = put(tmp_path / "bomb.any", data)
    said, megabytes = read_in_a_process(path, sound, limit=100_000_000 if kind == "WEBP" else 300_000_000)
    expected = "not an image" if kind == "AVIF" else "more than the limit of"  # whose own parts contradict one another
    assert [line for line in said if line.startswith(f"{path}: ") and expected in line] == said
    assert len(said) == 3
    assert megabytes < 30
    came_out(f"{kind} {megabytes:.0f} MB")


@pytest.mark.fault(
    done="carvana predict on a folder of a sound image and 11 bombs",
    promised="one mask, one warning for each bomb that names --max-pixels, exit code 1",
    reaches="cli/predict.py: --max-pixels",
    quick=0,
)
def test_predict_passes_over_bombs(model: Path, tmp_path: Path) -> None:
    for number, make in enumerate(BOMBS.values()):
        put(tmp_path / "photos" / f"{number}.jpg", make(50_000, 50_000))
    put(tmp_path / "photos" / "sound.jpg", encode(draw_photo(), "JPEG"))
    done = carvana("predict", model, tmp_path / "photos", "--out", tmp_path / "out", "--max-pixels", 100_000_000)
    warnings = [line for line in done.err.splitlines() if line.startswith("warning: ")]
    assert done.code == 1
    assert "Traceback" not in done.err
    assert len(warnings) == len(BOMBS)
    assert sum("--max-pixels" in line for line in warnings) == len(BOMBS) - 1  # AVIF: see above
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["sound_mask.png"]


@pytest.mark.fault(
    done="a JPEG of 10 GB, nearly all of it a hole in the disk",
    promised="refused by its size, before a byte of it is read",
    reaches="data/io/decode.py: _check_bytes",
)
def test_a_file_of_more_bytes_than_a_photo_takes_is_refused(tmp_path: Path, came_out: Callable[..., None]) -> None:
    sound = put(tmp_path / "sound.jpg", encode(draw_photo(), "JPEG"))
    path = put(tmp_path / "huge.jpg", encode(draw_photo(), "JPEG"))
    os.truncate(path, 10 * 2**30)
    said, megabytes = read_in_a_process(path, sound)
    assert all("10,737,418,240 bytes are more than a picture of 300,000,000 pixels takes" in line for line in said)
    assert megabytes < 30
    came_out(f"{megabytes:.0f} MB")


@pytest.mark.fault(
    done="a progressive JPEG, RGB and CMYK, with 20,000 scans in a megabyte, as image and as mask",
    promised="refused before it is decoded, however long that would take; an ordinary progressive JPEG is read",
    reaches="data/io/jpeg.py: count_scans",
)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_of_very_many_scans_is_refused(mode: str, tmp_path: Path) -> None:
    plain = saved(Image.fromarray(draw_photo((1500, 2000))).convert(mode), "JPEG", progressive=True)
    assert read_image(put(tmp_path / "plain.jpg", plain)).shape == (1500, 2000, 3)
    last = plain[plain.rindex(b"\xff\xda") : -2]
    scans = 20_000
    empty = last[: 2 + int.from_bytes(last[2:4])] + b"\x00" * 8
    path = put(tmp_path / "scans.jpg", plain[:-2] + empty * scans + plain[-2:])
    for read in (read_image, read_mask, lambda path: read_image(path, at_least=(16, 16))):
        assert "scans" in refusal(path, read)


@pytest.mark.fault(
    done="a GIF mask of 20 MB: a picture of 60x90 pixels, and codes without an end behind it",
    promised="read or refused in less than 120 MB",
    reaches="data/io/decode.py: open_picture",
)
def test_codes_without_an_end_take_little_memory(tmp_path: Path, came_out: Callable[..., None]) -> None:
    data = gif_mask(draw_mask(), tmp_path)
    assert data.endswith(b"\x00;")
    path = put(tmp_path / "long.gif", data[:-2] + (b"\xff" + bytes(255)) * 80_000 + b"\x00;")
    said, megabytes = read_in_a_process(path, put(tmp_path / "sound.png", encode(draw_photo(), "PNG")))
    assert len(said) >= 3
    assert megabytes < 120
    came_out(f"{megabytes:.0f} MB")
