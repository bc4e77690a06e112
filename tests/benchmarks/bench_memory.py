"""Memory of ``fit`` with few and with many photos: ``CARVANA_DATA=photos python tests/benchmarks/bench_memory.py``.

A folder of links stands for the photos: 1,000 of them, then 50,000, to the same 1,000 files, 16 photos a car.
``carvana fit`` trains a small network on each for 20 seconds, with two reading processes, and evaluates it on 16 cars.
Every tenth of a second the memory of the command and of all its processes is added up (PSS, which shares shared pages
out), and the highest sums are compared; then the same without the pages of files, such as PyTorch's libraries, whose
share changes with what else runs on a machine. About five minutes, on Linux. Without CARVANA_DATA, links to demo cars
serve.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import carvana
from carvana.data.demo import write_demo
from carvana.data.samples import Sample

FEW, MANY = 1_000, 50_000
VIEWS = 16
SETTINGS = (
    "model.options={width: 8}", "data.size=64", "data.workers=2", "split.val=16", "train.minutes=0.33",
)  # fmt: skip


def link(samples: list[Sample], folder: Path, count: int) -> Path:
    """A data folder of ``count`` images in Carvana's layout, all of them links."""
    images, masks = folder / "train", folder / "train_masks"
    for made in (images, masks):
        made.mkdir(parents=True)
    for number in range(count):
        sample = samples[number % len(samples)]
        name = f"{number // VIEWS:012x}_{number % VIEWS + 1:02}"
        (images / f"{name}{sample.image.suffix}").symlink_to(sample.image.resolve())
        (masks / f"{name}_mask{sample.mask.suffix}").symlink_to(sample.mask.resolve())
    return folder


def peak(data: Path, out: Path) -> tuple[float, float, float]:
    """The highest memory of a fit, MB, the highest without the pages of files, and the seconds that it took."""
    changes = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "carvana", "fit", "--data", str(data), "--out", str(out / "run"), *changes]
    began, highest, own = time.perf_counter(), 0.0, 0.0
    with open(out / "log", "wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env={**os.environ, "CARVANA_CACHE": str(out / "cache")}
        )
        while process.poll() is None:
            sizes = [pss(number) for number in family(process.pid)]
            highest = max(highest, sum(whole for whole, _ in sizes))
            own = max(own, sum(part for _, part in sizes))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit((out / "log").read_text())
    return highest, own, time.perf_counter() - began


def family(root: int) -> list[int]:
    """A process and all its descendants."""
    children = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:  # it has just ended
                continue
            children[int(parent)].append(int(entry.name))
    found = [root]
    for number in found:
        found += children[number]
    return found


def pss(number: int) -> tuple[float, float]:
    """The proportional set size of a process, MB, and that of its pages that are of no file; 0 if it has just ended."""
    try:
        lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return 0.0, 0.0
    sizes = {name: int(size.split()[0]) / 1024 for name, _, size in (line.partition(":") for line in lines)}
    return sizes.get("Pss", 0.0), sizes.get("Pss_Anon", 0.0) + sizes.get("Pss_Shmem", 0.0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = os.environ.get("CARVANA_DATA") or write_demo(Path(folder) / "demo", cars=12)
        samples = carvana.find_samples(data)[:FEW]
        print(f"links to {len(samples)} images of {data}; peak PSS of all processes, without files, seconds")
        peaks = []
        for count in (FEW, MANY):
            own = Path(folder) / str(count)
            whole, without_files, seconds = peak(link(samples, own / "data", count), own)
            print(f"  {count:6,} images: {whole:7.1f} MB {without_files:7.1f} MB {seconds:5.0f} s", flush=True)
            peaks.append((whole, without_files))
        ratios = [many / few for few, many in zip(*peaks, strict=True)]
        print(f"  {MANY:,} against {FEW:,}: {ratios[0]:.3f}, {ratios[1]:.3f} without files")


if __name__ == "__main__":
    main()
