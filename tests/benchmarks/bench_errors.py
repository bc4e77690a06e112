"""Where a network's errors lie, as parts of 1 - Dice that sum to it exactly. By hand, after ``carvana evaluate``:

    python tests/benchmarks/bench_errors.py RUN [RUN ...] [--worst N]

1 - Dice of a photo is its wrong pixels over the pixels of both masks, so each wrong pixel has a share in it. A share is
told by how far the pixel lies from the true boundary, and beyond 7 pixels by what it is: missed, in a hole of the
predicted mask or in a part cut off at its rim; or taken for the object, in one piece with it or apart. The figures are
means over photos times 10,000, with an interval by a bootstrap over groups.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from carvana.data.io.masks import read_mask
from carvana.evaluation.samples import choose_samples
from carvana.evaluation.statistics import bootstrap_interval

RINGS = (1, 2, 3, 7)
"""Pixels from the true boundary."""

FAR = ("missed, a hole", "missed, at the rim", "taken, in one piece", "taken, apart")


def shares(predicted: NDArray[np.uint8], true: NDArray[np.uint8]) -> NDArray[np.float64]:
    """What each kind of wrong pixel adds to 1 - Dice of a photo, (rings + 4,)."""
    wrong = predicted != true
    inside, outside = (cv2.distanceTransform(part, cv2.DIST_L2, 5) for part in (true, 1 - true))
    away = np.maximum(inside, outside)
    found = [(wrong & (away > low) & (away <= high)).sum() for low, high in zip((0, *RINGS), RINGS, strict=False)]
    far = wrong & (away > RINGS[-1])
    _, background = cv2.connectedComponents(1 - predicted, connectivity=4)
    rim = np.unique(np.concatenate([background[0], background[-1], background[:, 0], background[:, -1]]))
    open_air = np.isin(background, rim[rim > 0])
    _, parts, stats, _ = cv2.connectedComponentsWithStats(predicted, connectivity=8)
    largest = parts == 1 + int(stats[1:, cv2.CC_STAT_AREA].argmax()) if len(stats) > 1 else np.zeros_like(wrong)
    missed, taken = far & (true == 1), far & (true == 0)
    found += [(missed & ~open_air).sum(), (missed & open_air).sum(), (taken & largest).sum(), (taken & ~largest).sum()]
    return np.array(found) / max(1, int(predicted.sum(dtype=np.int64) + true.sum(dtype=np.int64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="+", type=Path)
    parser.add_argument("--worst", type=int, default=5, help="photos that are named")
    asked = parser.parse_args()
    for path in asked.run:
        samples = choose_samples(path)
        table = np.array([of_sample(path, sample) for sample in samples])
        groups = [sample.group for sample in samples]
        total = table.sum(1)
        names = [f"{low} to {high} pixels" for low, high in zip((0, *RINGS), RINGS, strict=False)] + list(FAR)
        print(f"{path}: {len(samples)} photos, 1 - Dice {1e4 * total.mean():.2f}, median {1e4 * np.median(total):.2f}")
        for name, column in [*zip(names, table.T, strict=True), ("all", total)]:
            low, high = bootstrap_interval(1e4 * column, groups) or (np.nan, np.nan)
            print(f"  {name:22} {1e4 * column.mean():7.2f}  ({low:.2f} .. {high:.2f})")
        for place in np.argsort(-total)[: asked.worst]:
            kind = names[int(table[place].argmax())]
            print(f"  {samples[place].name}  {1 - total[place]:.5f}, most of it: {kind}")


def of_sample(path: Path, sample: Any) -> NDArray[np.float64]:
    predicted = read_mask(path / "masks" / f"{Path(sample.name).stem}_mask.png")
    return shares(predicted, read_mask(sample.mask))


if __name__ == "__main__":
    main()
