"""A submission against its network: ``CARVANA_DATA=photos python tests/benchmarks/bench_submit.py [PHOTOS]``.

1. The stations, in one thread, ms a photo: what each costs if nothing else runs.
2. ``unet/resnet34`` with random weights at 640 x 960 (height x width) on 200 photos: the whole of ``write_submission``
   against the network alone on the same prepared photos in the same batches, one half of them before it and the other
   one behind, so that a machine whose speed drifts slows both. At most 1.15 is wanted.
3. The same with a stub for the network, which hands out the coverage of real masks at that size at once: at least 90
   photos/s are wanted on 2 cores. Beside it the least that the stations could take on as many cores.

Other programs that run meanwhile make such ratios worthless in either direction, so the processor time that others took
is counted in every phase, and a result is called void where it was above ``MOST_OF_OTHERS`` of the machine.

About five minutes on 2 cores. Without CARVANA_DATA, demo cars are drawn.
"""

from __future__ import annotations

import gzip
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import carvana
from carvana.data.demo import write_demo
from carvana.data.io import rle
from carvana.data.io.images import read_image, resize_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import Sample
from carvana.inference.prediction import ProbabilityMaps
from carvana.inference.predictor import Predictor
from carvana.inference.submission.write import CHUNK, write_submission
from carvana.models.segmenter import create_model
from carvana.utils.devices import cpu_count

SIZE = 640, 960
FEW = 24
MOST_OF_OTHERS = 0.03


class Watch:
    """The wall time of a block, and the share of the machine's processor time in it that other programs took."""

    def __enter__(self) -> Watch:
        self._began = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        wall, used, whole, own = (after - before for before, after in zip(self._began, self._now(), strict=True))
        self.seconds = wall
        self.others = max(0.0, used - own) / whole

    @staticmethod
    def _now() -> tuple[float, float, float, float]:
        ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        whole, hertz = sum(ticks), os.sysconf("SC_CLK_TCK")
        used = whole - ticks[3] - ticks[4]  # without what was idle, or waited for a disk
        return time.perf_counter(), used / hertz, whole / hertz, sum(os.times()[:4])


def verdict(others: float) -> str:
    void = "" if others <= MOST_OF_OTHERS else "; VOID: the machine was not quiet"
    return f" (others took up to {others:.1%}{void})"


class Stub(Predictor):
    """Answers at once, with real masks."""

    def answer(self, maps: Sequence[np.ndarray]) -> None:
        self._maps = cycle(torch.from_numpy(single) for single in maps)

    def predict_maps(self, batch: Sequence[Any]) -> list[ProbabilityMaps]:
        return [ProbabilityMaps.single(next(self._maps), photo.size) for photo in batch]


def maps_of(samples: Sequence[Sample]) -> list[np.ndarray]:
    return [shrink_mask(read_mask(sample.mask), SIZE).astype(np.float32) / 255 for sample in samples[:FEW]]


def milliseconds(function: Callable[..., object], items: Sequence[Any]) -> float:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        for item in items:
            function(item)
        times.append((time.perf_counter() - began) / len(items))
    return 1000 * min(times)


def stations(samples: Sequence[Sample]) -> None:
    """What each station takes."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(0)
    paths = [sample.image for sample in samples[:FEW]]
    images = [read_image(path) for path in paths[:8]]
    shape = images[0].shape[:2]
    small = maps_of(samples)
    full = [resize_image(single, shape) for single in small[:8]]
    masks = [read_mask(sample.mask) for sample in samples[:FEW]]
    rows = [rle.encode(mask).encode() for mask in masks]
    each = {
        "decode a JPEG": milliseconds(read_image, paths),
        "shrink it by area": milliseconds(lambda image: resize_image(image, SIZE), images),
        "enlarge the network's map": milliseconds(lambda single: resize_image(single, shape), small),
        "cut it": milliseconds(lambda single: (single > 0.5).view(np.uint8), full),
        "runs as text": milliseconds(rle.encode, masks),
        "compress": milliseconds(lambda row: gzip.compress(row, 6, mtime=0), rows),
    }
    cv2.setNumThreads(threads)
    for name, taken in each.items():
        print(f"  {name:32} {taken:7.2f} ms")
    total = sum(each.values())
    print(
        f"  {'together':32} {total:7.2f} ms: on {cpu_count()} cores at most {1000 * cpu_count() / total:.0f} images/s"
    )
    return total


def alone(predictor: Predictor, chunks: Sequence[Sequence[Path]]) -> tuple[float, float]:
    """Seconds of the network on prepared images, in the batches that a submission makes, and the others' share."""
    taken, others = 0.0, 0.0
    for chunk in chunks:
        batches = predictor.batches([predictor.prepare(photo) for photo in chunk])
        with Watch() as watch:
            for batch in batches:
                predictor.predict_maps(batch)
        taken, others = taken + watch.seconds, max(others, watch.others)
    return taken, others


def submit(predictor: Predictor, photos: Sequence[Path], folder: Path) -> tuple[float, float]:
    """Seconds of a whole submission, and the others' share."""
    with Watch() as watch:
        done = write_submission(predictor, photos, out=folder / f"{time.monotonic_ns()}.csv.gz")
    assert (done.complete, done.rows) == (True, len(photos))
    return watch.seconds, watch.others


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = os.environ.get("CARVANA_DATA") or write_demo(folder / "demo", cars=13, size=(1280, 1918))
        samples = list(carvana.find_samples(data))
        count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
        photos = [sample.image for sample in samples]
        print(f"{cpu_count()} cores, {torch.get_num_threads()} threads, images of {data}")
        stations(samples)

        torch.manual_seed(0)
        model = create_model("unet/resnet34", encoder_weights=None).with_spec(trained_size=SIZE)
        stub = Stub(model)
        stub.answer(maps_of(samples))
        read_image(photos[0])
        runs = [submit(stub, photos, folder) for _ in range(3)]
        rates = [len(photos) / seconds for seconds, _ in runs]
        print(
            f"stub, {len(photos)} images: {statistics.median(rates):.0f} images/s ({min(rates):.0f} to "
            f"{max(rates):.0f}); at least 90 wanted{verdict(max(others for _, others in runs))}"
        )

        if count:
            predictor = Predictor(model)
            predictor.predict(photos[0])
            chunks = [photos[begin : min(begin + CHUNK, count)] for begin in range(0, count, CHUNK)]
            half = len(chunks) // 2
            phases = [
                alone(predictor, chunks[:half]),
                submit(predictor, photos[:count], folder),
                alone(predictor, chunks[half:]),
            ]
            own, whole = phases[0][0] + phases[2][0], phases[1][0]
            print(
                f"{model.spec.arch} in {predictor.precision}, {count} images: {whole:.1f} s, the network alone "
                f"{own:.1f} s ({1000 * own / count:.0f} ms an image): {whole / own:.3f}; at most 1.15 wanted"
                f"{verdict(max(others for _, others in phases))}"
            )


if __name__ == "__main__":
    main()
