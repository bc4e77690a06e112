"""Coarse to fine: time against Dice as the band widens. By hand, nothing else running:

    python tests/benchmarks/bench_refine.py COARSE FINE [--scale HxW] [--tile N ...]
        [--images N] [--judge N] [--rounds N] [--look LOW,HIGH,MARGIN ...]

COARSE and FINE are runs of one split. Dice is that of COARSE's validation images at full size, thresholds cross-fitted,
as ``carvana evaluate`` says it. A look is a band and a margin; by default they go from few pixels to many. Times are
from the image's pixels in memory to its mask, an image at a time, freed memory kept as ``carvana predict`` does; the
fine network over the whole image, the coarse one alone and each look take turns in every round on some of the images.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from carvana.data.io.images import read_image
from carvana.data.samples import Sample
from carvana.evaluation.evaluate import evaluate
from carvana.evaluation.samples import choose_samples
from carvana.inference.base import BasePredictor
from carvana.inference.predictor import Predictor
from carvana.inference.refiner import Refiner
from carvana.utils.devices import describe, freed_memory_kept, resolve_device
from carvana.utils.progress import SilentReporter

LOOKS = ["0.4,0.6,0", "0.2,0.8,0", "0.1,0.9,0", "0.1,0.9,8", "0.02,0.98,8", "0.002,0.998,16"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("coarse")
    parser.add_argument("fine")
    parser.add_argument("--images", type=int, default=12, help="of which times are taken")
    parser.add_argument("--judge", type=int, help="of which Dice is told; all where it is not given")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--look", nargs="+", default=LOOKS)
    parser.add_argument("--scale", default="trained", help="of the coarse network")
    parser.add_argument("--tile", type=int, nargs="+", default=[192], help="sides of the windows")
    return parser.parse_args()


def main() -> None:
    asked = parse()
    device = resolve_device()
    silent: dict[str, Any] = {"reporter": SilentReporter()}
    coarse = Predictor.from_pretrained(asked.coarse, scale=asked.scale, **silent)
    whole = Predictor.from_pretrained(asked.fine, scale="native", **silent)
    ways: dict[str, BasePredictor] = {"fine over everything": whole, "coarse alone": coarse}
    for tile, look in itertools.product(asked.tile, asked.look):
        low, high, margin = (float(number) for number in look.split(","))
        fine = Predictor.from_pretrained(asked.fine, scale="native", tile=tile, **silent)
        name = f"{low:g} to {high:g}, margin {margin:g}, windows of {tile}"
        ways[name] = Refiner(coarse, fine, band=(low, high), margin=int(margin))
    samples = choose_samples(asked.coarse)
    judged = spread(samples, asked.judge or len(samples))
    print(f"{describe(device)}, torch {torch.__version__}, {torch.get_num_threads()} threads, {whole.precision}")
    print(f"{asked.coarse} then {asked.fine}: {len(judged)} images, times of {asked.images}, {asked.rounds} rounds")
    photos = [read_image(sample.image) for sample in spread(samples, asked.images)]
    times: dict[str, list[float]] = {name: [] for name in ways}
    with freed_memory_kept(device):
        for number in range(asked.rounds + 1):  # the first warms up
            for name, predictor in ways.items():
                began = time.perf_counter()
                for photo in photos:
                    assert predictor.predict(photo).mask.size  # made when it is asked for
                if number:
                    times[name].append((time.perf_counter() - began) / len(photos))
    first, best = statistics.median(times["fine over everything"]), 0.0
    table("", "ms an image", "of the whole", "pixels of windows", "Dice", "less than the whole")
    table(*["---"] * 6)
    for name, predictor in ways.items():
        took = statistics.median(times[name])
        dice = evaluate(predictor, judged, **silent).dice
        best = best or dice
        seen = statistics.mean(map(predictor.refined_share, photos)) if isinstance(predictor, Refiner) else None
        share = "" if seen is None else f"{seen:.3f}"
        table(name, f"{1e3 * took:.0f}", f"{took / first:.3f}", share, f"{dice:.5f}", f"{best - dice:+.5f}")


def spread(samples: Sequence[Sample], count: int) -> Sequence[Sample]:
    """About so many of them, from all over."""
    return samples[:: -(-len(samples) // count)]


def table(*cells: str) -> None:
    print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
