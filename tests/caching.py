"""What the tests of the cache share: a listener, images that are made in no time, and the truth from their files."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np

from carvana.data.cache import Pack, SampleCache, record_bytes
from carvana.data.io.images import write_image
from carvana.data.io.masks import write_mask
from carvana.data.samples import Sample
from carvana.data.target import read_shrunken

SIZE = (24, 32)


class Listener:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []
        self.totals: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.open = 0

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def start(self, task: str, total: int | None) -> None:
        self.open += 1
        self.totals[task] += total or 0

    def advance(self, task: str, steps: int = 1, **values: float) -> None:
        self.done[task] += steps

    def finish(self, task: str, **values: float) -> None:
        self.open -= 1


def make_photos(folder: Path, count: int, *, shape: tuple[int, int] = (48, 80), seed: int = 0) -> list[Sample]:
    """Images of noise with a box for a mask; no two are alike."""
    rng = np.random.default_rng(seed)
    samples = []
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        sample = Sample(folder / f"{number:04}.bmp", folder / f"{number:04}_mask.png", str(number))
        write_image(sample.image, rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        mask = np.zeros(shape, np.uint8)
        mask[: rng.integers(1, shape[0]), : rng.integers(1, shape[1])] = 1
        write_mask(sample.mask, mask)
        samples.append(sample)
    return samples


def same_as_files(cache: SampleCache, samples: list[Sample], *, target: str = "coverage") -> bool:
    """Whether every image is cached, with the bytes that its files give."""
    for index, sample in enumerate(samples):
        held = cache.read(index)
        if held is None:
            return False
        truth = read_shrunken(sample, cache.size, target=target)
        if not all(np.array_equal(a, b) for a, b in zip(held, truth, strict=True)):
            return False
    return True


def packs(folder: Path) -> list[Path]:
    return sorted(folder.rglob("[!.]*.pack"))


def records(path: Path, count: int, size: tuple[int, int] = SIZE) -> dict[int, bytes]:
    """The records of a pack of ``count`` images that are written, by their places."""
    pack = Pack(path, count, record_bytes(size))
    assert all(pack.is_sound(place) for place in range(count) if pack.sums[place])
    return {place: pack.records[place].tobytes() for place in range(count) if pack.sums[place]}


def total_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def flip_byte(path: Path, place: int) -> None:
    """Change one byte of a file as a failing disk would: behind the back of its times."""
    told = path.stat()
    with open(path, "r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        value = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([value ^ 8]))
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))
