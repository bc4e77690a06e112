"""Reading against Pillow: ``CARVANA_DATA=photos python tests/benchmarks/bench_reading.py``. A minute.

A photo and its mask are read from files (in the system's cache) and brought to 128 x 128 and to 512 x 768 (height x
width), the mask as coverage, in one thread. Ours is what a data set does: a JPEG is decoded at a part of its size, a
mask by Pillow, which takes most of the time, and its exact coverage comes from sums over its pixels. Pillow's is the
quickest of several ways, chosen anew for each size: ``draft`` decodes a photo at a part of its size, ``resize`` takes a
box filter, with and without ``reducing_gap``; a mask becomes 0..255 by ``convert`` or by way of NumPy. All take turns
over the same files, ``ROUNDS`` times, so that a machine whose speed drifts slows all of them. What no reader of such
files can go below is printed too: the bytes, the photo's decoding at the reduced size, the mask's. Without
CARVANA_DATA, demo cars are drawn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image

import carvana
from carvana.data.demo import write_demo
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import Sample
from carvana.data.target import read_shrunken

SIZES = (128, 128), (512, 768)
PHOTOS = 40
ROUNDS = 7

Reader = Callable[[Sample], object]


def pillow_image(path: Path, size: tuple[int, int], gap: float | None) -> np.ndarray:
    with Image.open(path) as picture:
        picture.draft("RGB", size[::-1])
        return np.asarray(picture.resize(size[::-1], Image.Resampling.BOX, reducing_gap=gap))


def pillow_mask(path: Path, size: tuple[int, int], gap: float | None, way: str) -> np.ndarray:
    with Image.open(path) as picture:
        grey = picture.convert("L") if way == "convert" else Image.fromarray(np.asarray(picture) * np.uint8(255))
        return np.asarray(grey.resize(size[::-1], Image.Resampling.BOX, reducing_gap=gap))


def decode(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def pillow(size: tuple[int, int], gap: float | None, way: str) -> Reader:
    return lambda sample: (pillow_image(sample.image, size, gap), pillow_mask(sample.mask, size, gap, way))


def readers(size: tuple[int, int]) -> dict[str, Reader]:
    """Everything that is timed at a size, by name."""
    gaps = (None, 1.0, 2.0, 3.0)
    found: dict[str, Reader] = {"ours": lambda sample: read_shrunken(sample, size, target="coverage")}
    found |= {
        f"Pillow, {way}, reducing_gap={gap}": pillow(size, gap, way) for way, gap in product(("convert", "array"), gaps)
    }
    found["  the bytes alone"] = lambda sample: (sample.image.read_bytes(), sample.mask.read_bytes())
    found["  and the image decoded, reduced"] = lambda sample: (
        simplejpeg.decode_jpeg(sample.image.read_bytes(), "RGB", min_height=size[0], min_width=size[1]),
        sample.mask.read_bytes(),
    )
    found["  the mask decoded, by Pillow"] = lambda sample: decode(sample.mask)
    found["  our mask alone"] = lambda sample: shrink_mask(read_mask(sample.mask), size)
    found["  Pillow's mask alone"] = lambda sample: pillow_mask(sample.mask, size, 1.0, "array")
    return found


def seconds(reader: Reader, samples: list[Sample]) -> float:
    began = time.perf_counter()
    for sample in samples:
        reader(sample)
    return (time.perf_counter() - began) / len(samples)


def check(samples: list[Sample], size: tuple[int, int]) -> None:
    """Both must come to the same pictures, or their times compare nothing. (Pillow's box takes whole pixels only.)"""
    for sample in samples[:5]:
        image, mask = read_shrunken(sample, size, target="coverage")
        assert np.abs(image.astype(int) - pillow_image(sample.image, size, None)).mean() < 4
        assert np.abs(mask.astype(int) - pillow_mask(sample.mask, size, None, "array")).mean() < 0.5
        exact = cv2.resize(read_mask(sample.mask) * np.uint8(255), size[::-1], interpolation=cv2.INTER_AREA)
        assert np.abs(mask.astype(int) - exact).max() <= 1


def compare(samples: list[Sample], size: tuple[int, int]) -> None:
    check(samples, size)
    each = readers(size)
    times: dict[str, list[float]] = {name: [] for name in each}
    for turn in range(ROUNDS + 1):
        for name, reader in each.items():
            taken = seconds(reader, samples)
            if turn:  # the first turn brings the files into memory
                times[name].append(taken)
    print(f"{size[0]} x {size[1]} (height x width), ms an image with its mask:")
    for name, taken in times.items():
        print(f"  {name:40} {1000 * statistics.median(taken):6.2f}")
    peers = {name: statistics.median(taken) for name, taken in times.items() if name.startswith("Pillow")}
    best = min(peers, key=lambda name: peers[name])
    ratios = [theirs / ours for theirs, ours in zip(times[best], times["ours"], strict=True)]
    print(f"  against {best}: {statistics.median(ratios):.2f} times as fast ({min(ratios):.2f} to {max(ratios):.2f})\n")


def main() -> None:
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        data = os.environ.get("CARVANA_DATA") or write_demo(Path(folder) / "demo", cars=8)
        samples = carvana.find_samples(data)
        samples = samples[:: max(1, len(samples) // PHOTOS)][:PHOTOS]
        print(f"{len(samples)} images of {data}, one thread\n")
        for size in SIZES:
            compare(samples, size)


if __name__ == "__main__":
    main()
