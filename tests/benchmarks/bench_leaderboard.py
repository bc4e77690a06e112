"""How often a leaderboard is wrong, and what it finds. By hand: ``python tests/benchmarks/bench_leaderboard.py [N]``.

1. In how many of N = 2,000 leaderboards some row is called worse than the best one, although it is as good in truth;
   beside this library's way: single-step max-T; the named peer, bootstrap over groups + Holm against the best row; and
   paired t-tests against the best row that are not corrected, over groups and over images.
2. How often a true gap is found, by its size.
3. What the number of flips changes.
4. What 50 networks on 1,000 images of 64 groups take; the least that they could take is the product of flips and pairs.
5. The same for the mean IoU of 11 classes, one of them rare; and what 50 networks of 150 classes take.

The errors of networks are drawn by ``tests/leaderboards.py``: its parameters are stated first. A rate of 5% in 2,000
leaderboards is known to 0.5 points.
"""

from __future__ import annotations

import itertools
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.stats
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1]))

from leaderboards import ErrorModel, LabelModel, called_worse, pairwise_p, wrong

from carvana.evaluation.statistics import LEVEL

FLIPS = 1999
ROUNDS = 5
Scores = NDArray[np.float64]
Called = NDArray[np.bool_]


def car_sums(scores: Scores, groups: Sequence[str]) -> tuple[Scores, NDArray[np.int64]]:
    """Each network's sum over each group, (K, C), and the number of the group's images."""
    _, members, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.stack([np.bincount(members, weights=network) for network in scores]), sizes


def step_down(scores: Scores, groups: Sequence[str], seed: int) -> Called:
    return called_worse(scores, pairwise_p(scores, groups, flips=FLIPS, seed=seed))


def single_step(scores: Scores, groups: Sequence[str], seed: int) -> Called:
    """Every pair against the largest T of all pairs."""
    sums, _ = car_sums(scores, groups)
    first, second = np.transpose(list(itertools.combinations(range(len(scores)), 2)))
    differences = sums[first] - sums[second]
    differences /= np.linalg.norm(differences, axis=1, keepdims=True)
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, sums.shape[1]))
    largest = np.abs(signs @ differences.T).max(axis=1)
    found = np.abs(differences.sum(axis=1)) - 1e-9
    p = np.ones((len(scores), len(scores)))
    p[first, second] = p[second, first] = (1 + (largest[:, None] >= found).sum(axis=0)) / (1 + FLIPS)
    return called_worse(scores, p)


def bootstrap_holm(scores: Scores, groups: Sequence[str], seed: int) -> Called:
    """Each row's gap to the best row by bootstrap over groups, corrected by Holm's step-down for the rows."""
    sums, sizes = car_sums(scores, groups)
    cars = len(sizes)
    drawn = np.random.default_rng(seed).integers(cars, size=(FLIPS, cars))
    times = np.bincount((drawn + cars * np.arange(FLIPS)[:, None]).ravel(), minlength=FLIPS * cars).reshape(FLIPS, cars)
    gaps = times @ (sums[scores.mean(axis=1).argmax()] - sums).T / (times @ sizes)[:, None]
    p = np.minimum(1, 2 * (1 + (gaps <= 0).sum(axis=0)) / (1 + FLIPS))
    others = np.delete(np.argsort(p), np.flatnonzero(np.argsort(p) == scores.mean(axis=1).argmax()))
    adjusted = np.maximum.accumulate(p[others] * np.arange(len(others), 0, -1))
    called = np.zeros(len(scores), dtype=bool)
    called[others] = adjusted <= LEVEL
    return called


def t_over_cars(scores: Scores, groups: Sequence[str], seed: int) -> Called:
    sums, sizes = car_sums(scores, groups)
    return plain_t(scores, sums / sizes)


def t_over_photos(scores: Scores, groups: Sequence[str], seed: int) -> Called:
    return plain_t(scores, scores)


def plain_t(scores: Scores, units: Scores) -> Called:
    gaps = units[scores.mean(axis=1).argmax()] - units
    count = units.shape[1]
    error = gaps.std(axis=1, ddof=1) / math.sqrt(count)
    return gaps.mean(axis=1) > scipy.stats.t.ppf(1 - LEVEL / 2, count - 1) * np.where(error > 0, error, np.inf)


METHODS: dict[str, Callable[[Scores, Sequence[str], int], Called]] = {
    "max-T": step_down,
    "single": single_step,
    "Holm": bootstrap_holm,
    "t groups": t_over_cars,
    "t images": t_over_photos,
}


def rates(model: ErrorModel, gaps: Sequence[float], number: int, *, rare: float = 0.0) -> list[float]:
    """Each method's share of leaderboards that are wrong.

    Args:
        model: of the errors.
        gaps: the K networks' true gaps to the best one.
        number: how many leaderboards.
        rare: the first network gains this much everywhere and loses as much in all on one group in 20.
    """
    generator = np.random.default_rng(0)
    counts = dict.fromkeys(METHODS, 0)
    for seed in range(number):
        scores, groups = model.draw(generator, gaps)
        if rare:
            _, members = np.unique(groups, return_inverse=True)
            scores[0] += rare - 20 * rare * (generator.random(model.groups) < 1 / 20)[members]
        for name, method in METHODS.items():
            counts[name] += wrong(scores, method(scores, groups, seed), gaps)
    return [count / number for count in counts.values()]


def wrong_calls(number: int) -> None:
    """Print the table of wrong calls."""
    model = ErrorModel()
    far, error = 0.01, model.standard_error
    cases: list[tuple[str, ErrorModel, Sequence[float], float]] = [
        *((f"{count} equal", model, [0.0] * count, 0.0) for count in (2, 5, 8)),
        *((f"{count} equal, normal errors", ErrorModel(tail=0), [0.0] * count, 0.0) for count in (2, 5, 8)),
        ("8 equal, heavier tails (sigma 1.5)", ErrorModel(tail=1.5), [0.0] * 8, 0.0),
        ("8 equal, 1 to 16 images a group", ErrorModel(images=(1, 16)), [0.0] * 8, 0.0),
        ("8 equal, 16 images a group", ErrorModel(images=(16, 16)), [0.0] * 8, 0.0),
        ("8 equal, 6 groups", ErrorModel(groups=6), [0.0] * 8, 0.0),
        ("8 equal, 10 groups", ErrorModel(groups=10), [0.0] * 8, 0.0),
        ("8 equal, 20 groups", ErrorModel(groups=20), [0.0] * 8, 0.0),
        ("3 equal best, 5 far below", model, [0.0] * 3 + [far] * 5, 0.0),
        ("3 equal best, 5 far below and apart", model, [0.0] * 3 + [far * step for step in range(1, 6)], 0.0),
        ("  the same, normal errors", ErrorModel(tail=0), [0.0] * 3 + [far * step for step in range(1, 6)], 0.0),
        ("2 equal best, 6 far below and apart", model, [0.0] * 2 + [far * step for step in range(1, 7)], 0.0),
        ("7 equal best, 1 nearly found", model, [0.0] * 7 + [3 * error], 0.0),
        ("8 on a ladder of 0.5 errors", model, [0.5 * error * step for step in range(8)], 0.0),
        ("8 equal, 1 of them fails on rare groups", model, [0.0] * 8, 2 * error),
    ]
    print(f"\nwrong in % of {number} leaderboards, 51 groups of 4 images where nothing else is said")
    print(f"{'':38s}" + "".join(f"{name:>10s}" for name in METHODS))
    for name, case, gaps, rare in cases:
        found = rates(case, gaps, number, rare=rare)
        print(f"{name:38s}" + "".join(f"{100 * rate:10.1f}" for rate in found), flush=True)


def power(number: int) -> None:
    """Print how often gaps are found."""
    print(f"\nfound in % of {number} leaderboards of 8 networks: max-T / single step")
    print("gap in standard errors   Dice      1 above 7: one of them   all 7 of them    7 above 1: the one")
    for tail, size in itertools.product((0.0, 1.0), (2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 6.0)):
        model = ErrorModel(tail=tail)
        gap = size * model.standard_error
        shares = []
        for gaps in ([0.0] + [gap] * 7, [0.0] * 7 + [gap]):
            worse, generator = np.array(gaps) > 0, np.random.default_rng(1)
            found = np.zeros((2, 2))
            for seed in range(number):
                scores, groups = model.draw(generator, gaps)
                called = [method(scores, groups, seed)[worse] for method in (step_down, single_step)]
                found += [(one.mean(), one.all()) for one in called]
            shares += list((100 * found / number).T)
        told = [f"{one:9.1f} /{other:5.1f}" for one, other in shares[:3]]
        print(f"{size:5.1f}, sigma {tail:3.1f}      {gap:9.5f}  " + "     ".join(told), flush=True)


def numbers_of_flips(number: int) -> None:
    """Print what the number of flips changes on the same leaderboards."""
    model = ErrorModel()
    gap = 4 * model.standard_error
    numbers = (199, 499, 999, 1999, 10_000)
    counts = np.zeros((2, len(numbers)))
    generator = np.random.default_rng(2)
    for seed in range(number):
        for row, gaps in enumerate(([0.0] * 8, [0.0] + [gap] * 7)):
            scores, groups = model.draw(generator, gaps)
            for column, flips in enumerate(numbers):
                called = called_worse(scores, pairwise_p(scores, groups, flips=flips, seed=seed))
                counts[row, column] += called[1:].mean() if row else wrong(scores, called, gaps)
    print(f"\nof {number} leaderboards of 8, in %, by the number of flips")
    print(f"{'':38s}" + "".join(f"{flips:10d}" for flips in numbers))
    for name, row in zip(("equal: wrong", "4 standard errors below 1: found"), 100 * counts / number, strict=True):
        print(f"{name:38s}" + "".join(f"{rate:10.1f}" for rate in row), flush=True)


def speed() -> None:
    """Print the time of a large leaderboard beside the product it cannot do without."""
    networks, photos, cars, flips = 50, 1000, 64, 10_000
    generator = np.random.default_rng(0)
    scores, groups = generator.random((networks, photos)), [f"group-{photo % cars}" for photo in range(photos)]
    signs = generator.choice((-1.0, 1.0), size=(flips, cars))
    rows = generator.random((networks * (networks - 1) // 2, cars))

    def seconds(work: Callable[[], object]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ours = statistics.median(seconds(lambda: pairwise_p(scores, groups, flips=flips)) for _ in range(ROUNDS))
    more = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    product = statistics.median(
        seconds(lambda: [rows @ part.T for part in np.array_split(signs, flips // 200)]) for _ in range(ROUNDS)
    )
    print(f"\n{networks} networks, {photos} images in {cars} groups, {flips} flips: {ours:.3f} s, {more:.0f} MB more")
    print(f"the product alone: {product:.3f} s, ratio {ours / product:.2f}")


def classes(number: int) -> None:
    """Print how often leaderboards of several classes are wrong, what they find, and the time of a large one."""
    print(
        f"\n{number} leaderboards of 8 networks by the mean IoU of 11 classes, one of which has 0.1% of the "
        "pixels, in a third of the groups"
    )
    print("groups   some equal pair called different, %   gap in mIoU found, %")
    for groups in (8, 12, 21, 40):
        model, generator = LabelModel(groups=groups), np.random.default_rng(0)
        pairs = np.triu_indices(8, 1)
        wrongly = sum(
            bool((model.p(model.draw(generator, [0.0] * 8), flips=FLIPS, seed=seed)[pairs] <= LEVEL).any())
            for seed in range(number)
        )
        told = []
        for lost in (0.1, 0.15, 0.2):
            gaps, found = [], 0
            for seed in range(number // 3):
                networks = model.draw(generator, [0.0] + [lost] * 7)
                gaps.append(networks[0].score - networks[1].score)
                found += bool(model.p(networks, flips=FLIPS, seed=seed)[0, 1] <= LEVEL)
            told.append(f"{statistics.mean(gaps):.3f}: {300 * found / number:.0f}")
        print(f"{groups:6d} {100 * wrongly / number:20.1f} {'   '.join(told):>42s}", flush=True)
    networks = LabelModel(classes=150, groups=64).draw(np.random.default_rng(0), [0.0] * 50)
    for what, work in (
        ("draws of one network", lambda: networks[0].draws),
        ("the test of 1,225 pairs", lambda: LabelModel().p(networks, flips=10_000, seed=0)),
    ):
        began = time.perf_counter()
        work()
        print(f"50 networks, 150 classes, 64 groups: {what} {time.perf_counter() - began:.3f} s")


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    model = ErrorModel()
    print(model)
    print(f"standard error of a difference: {model.standard_error:.6f} Dice")
    speed()
    wrong_calls(number)
    power(number)
    numbers_of_flips(number)
    classes(min(number, 300))


if __name__ == "__main__":
    main()
