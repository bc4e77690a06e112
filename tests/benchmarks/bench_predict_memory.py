"""Peak memory of ``carvana predict`` on few and on many photos, and on a large one for many classes. By hand:

    CARVANA_DATA=real python tests/benchmarks/bench_predict_memory.py
    python tests/benchmarks/bench_predict_memory.py classes

20 photos and 200 (links to the same files), whole processes, three of each in turn: the largest resident set of each,
as the operating system counts it. Within 5% is wanted. Without CARVANA_DATA demo cars are drawn.

``classes``: label maps of 1, 11 and 150 classes of an image of 12,000 x 12,000, which the network sees small, or at its
own size in tiles: once, mirrored as well, by two networks, or in windows. Maps of all classes would take 6.3 and 86 GB.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import cycle
from pathlib import Path

import cv2
import numpy as np
import torch

import carvana
from carvana.data.demo import write_demo
from carvana.task import Task

COUNTS = (20, 200)
CLASSES = (1, 11, 150)
SIDE = 12_000
ROUNDS = 3


SCRIPT = """
from carvana.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
with open("/proc/self/status") as file:
    print("peak", next(line.split()[1] for line in file if line.startswith("VmHWM")))
"""


def peak_megabytes(words: list[str]) -> float:
    """Told by the process itself: what wait4 says of it counts what its parent had before it was another program."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True)
    return int(done.stdout.split("peak ")[1]) * 1024 / 1e6


def of_classes() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        areas = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / "large.jpg"), cv2.resize(areas, (SIDE, SIDE)))
        for classes in CLASSES:
            torch.manual_seed(0)
            task = Task(classes=[f"class {number}" for number in range(classes)])
            model = carvana.create_model("unet-ref", task=task, width=4).with_spec(trained_size=(512, 512))
            model.save_pretrained(folder / f"{classes}")
            other, tiles = str(folder / f"{classes}"), ["--scale", "native", "--mode", "tiles", "--tile", "512"]
            ways = ([], tiles, [*tiles, "--tta"], [*tiles, "--with", other], ["--mode", "refine"])
            for number, how in enumerate(ways):
                out = folder / f"out-{classes}-{number}"
                words = ["predict", str(folder / f"{classes}"), str(folder / "large.jpg"), "--out", str(out), *how]
                began = time.perf_counter()
                peak = peak_megabytes(words)
                took = time.perf_counter() - began
                shown = " ".join(how).replace(other, "another") or "trained"
                print(f"{classes} classes, {shown}: {peak:.0f} MB, {took:.0f} s", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = os.environ.get("CARVANA_DATA") or write_demo(folder / "demo", cars=2)
        photos = [sample.image.resolve() for sample in carvana.find_samples(data)]
        torch.manual_seed(0)
        for arch, size in (("unet-ref", (128, 128)), ("unet/resnet34", (640, 960))):
            model = carvana.create_model(arch).with_spec(trained_size=size)
            model.save_pretrained(folder / arch)
            for count in COUNTS:
                source = folder / f"{count}"
                source.mkdir(exist_ok=True)
                for number, photo in zip(range(count), cycle(photos), strict=False):
                    if not (source / f"{number:04}.jpg").exists():
                        (source / f"{number:04}.jpg").symlink_to(photo)
            peaks: dict[int, list[float]] = {count: [] for count in COUNTS}
            for turn in range(ROUNDS):
                for count in COUNTS:
                    out = folder / f"out-{arch.replace('/', '-')}-{count}-{turn}"
                    words = ["predict", str(folder / arch), str(folder / f"{count}"), "--out", str(out)]
                    peaks[count].append(peak_megabytes(words))
            few, many = (statistics.median(peaks[count]) for count in COUNTS)
            told = f"{COUNTS[0]} images {few:.0f} MB, {COUNTS[1]} images {many:.0f} MB, ratio {many / few:.3f}"
            print(f"{arch} at {size[0]}x{size[1]}: {told} (all: {peaks})", flush=True)


if __name__ == "__main__":
    of_classes() if sys.argv[1:] == ["classes"] else main()
