"""Reading many bands and windows against tifffile: ``python tests/benchmarks/bench_arrays.py``. A minute.

Files of 12 bands of int16, in one piece, in strips and in tiles, with and without compression, are read by
:func:`carvana.read_array` and by tifffile alone. Windows of 1024 x 1024 pixels are read from a tiled RGB TIFF of 20,000
x 20,000 pixels (``--side``); beside that, only the tiles that they touch are decoded by tifffile. All take turns over
the same files, ``ROUNDS`` times; the ratio of the medians is printed. Files are drawn into a temporary folder and lie
in the system's cache.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

import carvana

ROUNDS = 9
WINDOW = 1024
TILE = 512


def seconds(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """The median time of each call; all take turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            found[name].append(time.perf_counter() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def bands(folder: Path) -> Iterator[tuple[str, Path]]:
    """The kinds of a file of 12 bands."""
    rng = np.random.default_rng(0)
    smooth = np.cumsum(rng.integers(-3, 4, (1024, 1024, 12)), axis=1).astype(np.int16)
    forms: dict[str, dict[str, Any]] = {
        "one strip": {"rowsperstrip": 1024},
        "strips of 16 rows": {"rowsperstrip": 16},
        "tiles, deflate": {"tile": (256, 256), "compression": "deflate"},
        "tiles, zstd": {"tile": (256, 256), "compression": "zstd"},
    }
    for small, values in ((True, smooth[:128, :128]), (False, smooth)):
        for name, options in forms.items():
            path = folder / f"{len(list(folder.iterdir()))}.tif"
            options = options | ({"tile": (128, 128)} if small and "tile" in options else {})
            tifffile.imwrite(path, values, photometric="minisblack", planarconfig="contig", metadata=None, **options)
            yield f"{values.shape[0]} x {values.shape[1]}, {name}", path


def large(folder: Path, side: int) -> Path:
    path, rng = folder / "large.tif", np.random.default_rng(0)
    kinds = [np.cumsum(rng.integers(-3, 4, (TILE, TILE, 3)), axis=1).astype(np.uint8) for _ in range(16)]
    count = (-(-side // TILE)) ** 2
    tiles = (kinds[number % 16] for number in range(count))
    with tifffile.TiffWriter(path, bigtiff=True) as writer:
        writer.write(
            tiles, shape=(side, side, 3), dtype="uint8", tile=(TILE, TILE), compression="deflate", photometric="rgb",
            metadata=None,
        )  # fmt: skip
    return path


def tiles_alone(path: Path, top: int, left: int) -> list[NDArray[Any]]:
    """The decoded tiles that a window touches, and nothing else."""
    with tifffile.TiffFile(path) as file:
        page = file.pages[0].aspage()
        across = -(-page.imagewidth // TILE)
        wanted = [
            row * across + column
            for row in range(top // TILE, (top + WINDOW - 1) // TILE + 1)
            for column in range(left // TILE, (left + WINDOW - 1) // TILE + 1)
        ]
        places = [page.dataoffsets[index] for index in wanted], [page.databytecounts[index] for index in wanted]
        return [page.decode(data, index)[0] for data, index in file.filehandle.read_segments(*places, wanted)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--side", type=int, default=20_000, help="of the large TIFF, in pixels")
    side = parser.parse_args().side
    with tempfile.TemporaryDirectory() as folder:
        for name, path in bands(Path(folder)):
            assert np.array_equal(carvana.read_array(path), tifffile.imread(path))
            found = seconds({"ours": partial(carvana.read_array, path), "theirs": partial(tifffile.imread, path)})
            print(f"{name:30}  ours {found['ours'] * 1e3:8.2f} ms  tifffile {found['theirs'] * 1e3:8.2f} ms", end="  ")
            print(f"ratio {found['ours'] / found['theirs']:.3f}")
        path = large(Path(folder), side)
        rng = np.random.default_rng(1)
        corners = rng.integers(0, side - WINDOW, (8, 2)).tolist()
        found = seconds(
            {
                "ours": lambda: [carvana.read_array(path, window=(*each, WINDOW, WINDOW)) for each in corners],
                "tiles": lambda: [tiles_alone(path, *each) for each in corners],
            }
        )
        print(
            f"{len(corners)} windows of {WINDOW} x {WINDOW} of {side} x {side} pixels, tiles of {TILE} x {TILE}:",
            end=" ",
        )
        print(f"ours {found['ours'] * 1e3:.0f} ms  their tiles alone {found['tiles'] * 1e3:.0f} ms", end="  ")
        print(f"ratio {found['ours'] / found['tiles']:.3f}")


if __name__ == "__main__":
    main()
