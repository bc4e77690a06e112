"""Folders of very many images that cost little disk, and what a command takes of memory and of open files."""

from __future__ import annotations

import gzip
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from faults.commands import PATIENCE, carvana

SIZE = 24, 36
"""(height, width) of the images."""

DIFFERENT = 1000
"""How many images differ; all others are hard links to these."""

_TOLD = r"^peak (\d+) kB, now (\d+) kB, (\d+) files$"

_MEASURED = """
import atexit, os, re, sys
def tell():
    status = open("/proc/self/status").read()
    peak, now = (re.search(rf"{name}:\\s+(\\d+)", status)[1] for name in ("VmHWM", "VmRSS"))
    print(f"peak {peak} kB, now {now} kB, {len(os.listdir('/proc/self/fd'))} files", file=sys.stderr)
atexit.register(tell)
"""

_COMMAND = (
    _MEASURED
    + """
sys.argv[0] = "carvana"
from carvana.cli import main
main()
"""
)


@dataclass(frozen=True)
class Taken:
    """What a process took: bytes at its peak and at its end, open files at its end, seconds, and what it printed.

    A script may ``tell()`` on its way: ``before`` is what it took when it first did.
    """

    peak: int
    held: int
    files: int
    seconds: float
    out: str
    before: Taken | None = None


def measured(*words: object, script: str | None = None, codes: tuple[int, ...] = (0,)) -> Taken:
    """Run the command, or a script of one's own, in a process that tells what it takes."""
    program = ("-c", _COMMAND if script is None else _MEASURED + script)
    began = time.monotonic()
    done = carvana(*words, program=program, timeout=2 * PATIENCE, fork=False)
    seconds = time.monotonic() - began
    assert done.code in codes, done
    told = [
        Taken(1024 * int(peak), 1024 * int(now), int(files), seconds, done.out)
        for peak, now, files in re.findall(_TOLD, done.err, re.MULTILINE)
    ]
    assert told, done.err
    return replace(told[-1], before=told[0])


def growth(few: Taken, many: Taken, photos: int) -> int:
    """Bytes that each of so many more images added to the peak."""
    return round((many.peak - few.peak) / photos)


def photo_name(number: int) -> str:
    """An image's stem, as Carvana has them: sixteen views of each group."""
    return f"{number // 16:012x}_{number % 16 + 1:02}"


def draw_folder(root: Path, count: int) -> Path:
    """``train/`` and ``train_masks/`` with so many images: soft noise, and rectangles for groups."""
    (root / "train").mkdir(parents=True)
    (root / "train_masks").mkdir()
    for number in range(count):
        photo, mask = pair(root, number)
        if number < DIFFERENT:
            _draw(photo, mask, number)
        else:
            for path, first in zip((photo, mask), pair(root, number % DIFFERENT), strict=True):
                os.link(first, path)
    return root


def touch_folder(root: Path, count: int) -> Path:
    """The same names, each of a file of its own without a byte: an inode, and no block of the disk."""
    (root / "train").mkdir(parents=True)
    (root / "train_masks").mkdir()
    for number in range(count):
        for path in pair(root, number):
            path.touch()
    return root


def write_tables(folder: Path, count: int) -> tuple[Path, Path]:
    """A table of masks and the competition's sample, of so many images."""
    table, sample = folder / f"table-{count}.csv.gz", folder / f"sample-{count}.csv"
    names = [f"{photo_name(number)}.jpg" for number in range(count)]
    sample.write_text("img,rle_mask\n" + "".join(f"{name},1 1\n" for name in names))
    runs = [" ".join(f"{1 + 1918 * row + way} {100 + way}" for row in range(100, 140)) for way in range(50)]
    with gzip.open(table, "wt", compresslevel=1) as file:
        file.write("img,rle_mask\n")
        file.writelines(f"{name},{runs[number % 50]}\n" for number, name in enumerate(names))
    return table, sample


def pair(root: Path, number: int) -> tuple[Path, Path]:
    """Where an image and its mask lie."""
    return root / "train" / f"{photo_name(number)}.jpg", root / "train_masks" / f"{photo_name(number)}_mask.png"


def _draw(photo: Path, mask: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    noise = rng.integers(0, 256, (6, 9, 3)).astype(np.uint8)
    photo.write_bytes(cv2.imencode(".jpg", cv2.resize(noise, SIZE[::-1]))[1])  # not synced: there are many
    area = np.zeros(SIZE, np.uint8)
    top, left = rng.integers(1, 12, 2)
    area[top : top + rng.integers(4, 12), left : left + rng.integers(4, 20)] = 255
    mask.write_bytes(cv2.imencode(".png", area)[1])


def some_photos(root: Path, folder: Path, count: int) -> Path:
    """A folder of links to the first images of a data folder."""
    folder.mkdir()
    for number in range(count):
        photo, _ = pair(root, number)
        os.link(photo, folder / photo.name)
    return folder
