"""Runs of real masks against the usual recipe: ``CARVANA_DATA=photos python tests/benchmarks/bench_rle.py``.

The recipe puts a zero before and behind all pixels, looks where neighbours differ, subtracts beginnings from ends and
joins the numbers as text. Both take turns over the same masks, in one thread, and must write the same; at most 0.35 of
the recipe's time is wanted. Below stands what no such way can do without: comparing all neighbours, and writing the
numbers. Column after column is compared with the same on a transposed copy by NumPy, and all classes of a label map
in one pass with a pass for each class; in the map, the mask is one class of 150, and its rest is divided among 10.
Without CARVANA_DATA, demo cars are drawn.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

import carvana
from carvana.data.demo import write_demo
from carvana.data.io import rle
from carvana.data.io.masks import read_mask

MASKS = 60
ROUNDS = 9


def recipe(mask: np.ndarray) -> str:
    pixels = np.concatenate([[0], mask.flatten(), [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(number) for number in runs)


def milliseconds(function: Callable[[object], object], items: Sequence[object]) -> float:
    began = time.perf_counter()
    for item in items:
        function(item)
    return 1000 * (time.perf_counter() - began) / len(items)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        data = os.environ.get("CARVANA_DATA") or write_demo(Path(folder) / "demo", cars=8, size=(1280, 1918))
        samples = carvana.find_samples(data)
        samples = samples[:: max(1, len(samples) // MASKS)][:MASKS]
        masks = [read_mask(sample.mask) for sample in samples]
    numbers = [[int(number) for number in rle.encode(mask).split()] for mask in masks]
    texts = [rle.encode(mask) for mask in masks]
    assert texts == [recipe(mask) for mask in masks]
    bands = np.broadcast_to(np.arange(masks[0].shape[0])[:, None] * 10 // masks[0].shape[0], masks[0].shape)
    labels = [np.where(mask == 1, 149, bands).astype(np.uint8) for mask in masks[:: max(1, len(masks) // 5)]]
    ways: dict[str, tuple[Callable[..., object], Sequence[object]]] = {
        "usual recipe": (recipe, masks),
        "carvana.data.io.rle.encode": (rle.encode, masks),
        "  comparing neighbours alone": (lambda mask: mask.ravel()[1:] != mask.ravel()[:-1], masks),
        "  writing the numbers alone": (lambda row: " ".join(map(str, row)), numbers),
        "encode, column after column": (lambda mask: rle.encode(mask, order="column"), masks),
        "  of a transposed copy": (lambda mask: rle.encode(np.ascontiguousarray(mask.T)), masks),
        "encode_labels, 150 classes": (lambda found: rle.encode_labels(found, 150), labels),
        "  a mask for each class": (lambda found: [rle.encode(found == index) for index in range(150)], labels),
        "carvana.data.io.rle.decode": (lambda text: rle.decode(text, masks[0].shape), texts),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        for name, (function, items) in ways.items():
            taken = milliseconds(function, items)
            if turn:  # the first one warms up
                times[name].append(taken)
    length = statistics.mean(map(len, texts))
    print(f"{len(masks)} masks of {data}, {masks[0].shape}, {length / 1000:.1f} KB of text each; ms a mask:")
    for name, taken in times.items():
        print(f"  {name:32} {statistics.median(taken):6.3f}")
    for ours, theirs, wanted in (
        ("carvana.data.io.rle.encode", "usual recipe", "at most 0.35 wanted"),
        ("encode, column after column", "  of a transposed copy", "at most 1 wanted"),
        ("encode_labels, 150 classes", "  a mask for each class", "at most 0.2 wanted"),
    ):
        ratios = [one / other for one, other in zip(times[ours], times[theirs], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"{ours} / {theirs.strip()}: {spread}; {wanted}")


if __name__ == "__main__":
    main()
