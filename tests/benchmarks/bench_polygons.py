"""Polygons to masks and masks to polygons against OpenCV: ``python tests/benchmarks/bench_polygons.py``.

``fill`` takes the pixels whose centre is inside of a polygon, ``cv2.fillPoly`` those on its boundary as well, at whole
coordinates. ``outlines`` follows the boundary between pixels and leaves out what is not needed to make the mask again;
``cv2.findContours`` with ``approxPolyDP`` at half a pixel follows the centres of the outermost pixels. Both take turns,
in one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from carvana.data.io.polygons import fill, outlines

POLYGONS = 400
ROUNDS = 9
SIZE = 1024, 1024


def polygon(rng: np.random.Generator, corners: int, radius: float) -> np.ndarray:
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    away = radius * rng.uniform(0.6, 1, corners)
    points = np.stack([np.cos(angles) * away, np.sin(angles) * away], axis=1) + rng.uniform(100, 900, 2)
    return points.astype(np.float32)


def opencv_fill(ring: np.ndarray) -> np.ndarray:
    whole = ring.astype(np.int32)
    left, top, width, height = cv2.boundingRect(whole)
    mask = np.zeros((height, width), np.uint8)
    return cv2.fillPoly(mask, [whole - (left, top)], 1)


def opencv_outlines(mask: np.ndarray) -> list[np.ndarray]:
    contours, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return [cv2.approxPolyDP(contour, 0.5, closed=True) for contour in contours]


def microseconds(function: Callable[..., object], items: Sequence[object]) -> float:
    began = time.perf_counter()
    for item in items:
        function(item)
    return 1e6 * (time.perf_counter() - began) / len(items)


def compare(title: str, own: Callable[..., object], peer: Callable[..., object], items: Sequence[object]) -> None:
    times: list[list[float]] = [[], []]
    for turn in range(ROUNDS + 1):
        for kept, function in zip(times, (own, peer), strict=True):
            found = microseconds(function, items)
            if turn:  # the first warms up
                kept.append(found)
    first, second = map(statistics.median, times)
    print(
        f"{title:44} {first:9.1f} us, {1e6 / first:7,.0f} a second  OpenCV {second:8.1f} us  ratio {first / second:.2f}"
    )


def main() -> None:
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    for corners, radius in ((8, 15), (30, 40), (200, 200)):
        rings = [polygon(rng, corners, radius) for _ in range(POLYGONS)]
        title = f"polygon of {corners} corners, about {2 * radius} pixels"
        compare(title, lambda ring: fill([ring], SIZE), opencv_fill, rings)
    rows, columns = np.mgrid[:1280, :1918]
    car = ((np.abs(columns - 960) / 700) ** 2.5 + (np.abs(rows - 700) / 350) ** 3 < 1).astype(np.uint8)
    noise = cv2.GaussianBlur(rng.random((1280, 1918)).astype(np.float32), (0, 0), 6)
    for title, mask in (
        ("outline of a large object, 1918 x 1280", car),
        ("of many parts", (noise > 0.5).astype(np.uint8)),
    ):
        print(f"{len(outlines(mask)):,} parts, {sum(len(each.ring) for each in outlines(mask)):,} points")
        compare(title, outlines, opencv_outlines, [mask])


if __name__ == "__main__":
    main()
