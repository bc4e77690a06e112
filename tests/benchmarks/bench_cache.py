"""The cache against reading files, in one run. By hand: ``CARVANA_DATA=photos python tests/benchmarks/bench_cache.py``.

1. Building: seconds, photos/s, bytes, and the peak memory of a process that does nothing else; opening it again.
2. An epoch without a network, from the files and from the cache, in turns, ``ROUNDS`` times each: the data set alone
   in this process (at least 8 times as fast is wanted at 128 x 128), with a DataLoader, with two readers, with the
   augmentation of the default recipe. The least that a cached epoch could take is the copying of its bytes.

Processor seconds stand beside the times: they hold on a machine that is shared, too.
Without CARVANA_DATA, drawn demo cars serve. HEIGHT WIDTH as arguments take another size than 128 x 128.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from torch.utils.data import DataLoader

from carvana.data.cache import SampleCache, build_caches
from carvana.data.dataset import EpochSampler, SegmentationDataset
from carvana.data.demo import write_demo
from carvana.data.samples import Sample, find_samples
from carvana.utils.devices import cpu_count

ROUNDS = 3

BUILD = """
import sys, time
from pathlib import Path
from carvana.data.cache import build_caches
from carvana.data.samples import find_samples

def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

samples = list(find_samples(sys.argv[1]))
before, began, used = memory("VmRSS"), time.perf_counter(), time.process_time()
[cache] = build_caches([samples], (int(sys.argv[3]), int(sys.argv[4])), folder=sys.argv[2])
took = time.perf_counter() - began, time.process_time() - used
print(cache.held, *took, before, memory("VmHWM"), "torch" in sys.modules)
"""


def build(data: Path, folder: Path, size: tuple[int, int]) -> None:
    """Build in a process of its own and tell what it took."""
    for what in ("built", "opened again"):
        command = [sys.executable, "-c", BUILD, str(data), str(folder), *map(str, size)]
        held, seconds, used, before, peak, torch = subprocess.run(
            command, check=True, capture_output=True, text=True
        ).stdout.split()
        assert torch == "False"
        print(
            f"{what}: {held} images in {float(seconds):.2f} s ({float(used):.2f} processor s, "
            f"{int(held) / float(seconds):.0f} images/s), memory "
            f"{float(before):.0f} MB before, {float(peak):.0f} MB at most (with what is mapped)"
        )
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"on disk: {total / 1e6:.1f} MB")


def seconds(epoch: Callable[[], Iterable[object]]) -> np.ndarray:
    """What an epoch takes: seconds, and processor seconds of this process."""
    began = np.array([time.perf_counter(), time.process_time()])
    for _ in epoch():
        pass
    return np.array([time.perf_counter(), time.process_time()]) - began


def compare(
    name: str, files: Callable[[], Iterable[object]], cached: Callable[[], Iterable[object]], *, readers: int = 0
) -> None:
    seconds(cached)  # readers start, and each record is checked once
    pairs = np.array([(seconds(files), seconds(cached)) for _ in range(ROUNDS)])
    slow, fast = np.median(pairs[:, :, 0], axis=0)
    ratio, used = np.median(pairs[:, 0] / pairs[:, 1], axis=0)
    told = "" if readers else f" ({used:.1f} by processor)"
    print(f"{name:42s} files {slow:7.3f} s   cache {fast:7.4f} s   {ratio:6.1f} times{told}")


def copying(cache: SampleCache) -> float:
    """Seconds to copy the bytes of all images out of the maps."""
    image, coverage = (np.empty_like(part) for part in cache.read(0) or ())
    times = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for index in range(len(cache)):
            held = cache.read(index)
            assert held is not None
            image[...], coverage[...] = held
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def loader(data: SegmentationDataset, workers: int) -> DataLoader[tuple[object, object]]:
    sampler = EpochSampler(len(data), seed=0)
    return DataLoader(data, batch_size=8, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


def epochs(samples: list[Sample], cache: SampleCache, size: tuple[int, int]) -> None:
    """Compare the ways to go through all images once."""
    for augment in (None, "seed"):
        files = SegmentationDataset(samples, size, augment=augment)
        cached = SegmentationDataset(samples, size, augment=augment, cache=cache)
        order = list(EpochSampler(len(samples), seed=0))
        what = f"augmentation {augment or 'none'}"
        compare(
            f"data set alone, {what}",
            lambda files=files, order=order: (files[key] for key in order),
            lambda cached=cached, order=order: (cached[key] for key in order),
        )
        for workers in (0, 2):
            old, new = loader(files, workers), loader(cached, workers)
            compare(
                f"batches of 8, {workers} readers, {what}", lambda old=old: old, lambda new=new: new, readers=workers
            )
    print(f"copying the cached bytes alone: {copying(cache):.4f} s")


def main() -> None:
    size = (int(sys.argv[1]), int(sys.argv[2])) if len(sys.argv) > 1 else (128, 128)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(os.environ.get("CARVANA_DATA") or write_demo(Path(folder) / "cars", cars=12))
        samples = list(find_samples(data))
        print(f"{len(samples)} images at {size[0]}x{size[1]}, {cpu_count()} cores")
        build(data, Path(folder) / "cache", size)
        [cache] = build_caches([samples], size, folder=Path(folder) / "cache")
        epochs(samples, cache, size)


if __name__ == "__main__":
    main()
