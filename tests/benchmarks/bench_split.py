"""How long it takes to divide groups so that both sides have each class, beside a plain loop over drawn divisions.

    python tests/benchmarks/bench_split.py [GROUPS] [CLASSES]

Both draw 2,000 divisions and keep the best one; classes that the loop leaves on one side alone are counted. By default
2,000 groups of 150 classes, of which thirty are in two groups each.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from numpy.typing import NDArray

from carvana.data.splits import balanced_sides

DRAWS = 2000
RARE = 30


def loop(counts: NDArray[np.float64], held_out: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """The best of drawn divisions, one by one."""
    side = np.repeat([0, 1], [len(counts) - held_out, held_out])
    shares, best, least = counts / counts.sum(0), side, (np.inf, np.inf)
    for _ in range(DRAWS):
        drawn = rng.permutation(side)
        on = shares[drawn == 1].sum(0)
        badness = float(((on == 0) | (shares[drawn == 0].sum(0) == 0)).sum()), float(np.abs(on - side.mean()).sum())
        if badness < least:
            best, least = drawn, badness
    return best


def main() -> None:
    given = [int(word) for word in sys.argv[1:]]
    groups, classes = given + [2000, 150][len(given) :]
    rng = np.random.default_rng(0)
    counts = rng.lognormal(8, 1, (groups, classes)) * (rng.random((groups, classes)) < np.geomspace(0.5, 0.01, classes))
    for index in range(classes - RARE, classes):
        counts[:, index] = 0
        counts[rng.choice(groups, 2, replace=False), index] = 500
    held_out, seconds = groups // 5, {}
    for name, divide in (("loop", loop), ("carvana", lambda c, n, rng: balanced_sides(c, [len(c) - n, n], rng))):
        began = time.perf_counter()
        side = divide(counts, held_out, np.random.default_rng(1))
        seconds[name] = time.perf_counter() - began
        alone = sum(not np.ptp(side[counts[:, index] > 0]) for index in range(classes))
        print(f"{name:<8} {seconds[name]:6.2f} s   classes on one side alone: {alone}")
    print(f"ratio    {seconds['carvana'] / seconds['loop']:6.2f}")


if __name__ == "__main__":
    main()
