from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
from leaderboards import ErrorModel, called_worse, pairwise_p, wrong
from numpy.typing import NDArray

from carvana.evaluation.statistics import LEVEL, bootstrap_interval, groups_needed

LEADERBOARDS = 2000
FLIPS = 999  # a p of random flips is valid for any number of them; the benchmark shows that 10,000 find no more
FINDABLE = 4.5  # standard errors of a difference


def summed(scores: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Each network's sum over each group, (K, C)."""
    names = np.asarray(groups)
    return np.stack([scores[:, names == name].sum(axis=1) for name in sorted(set(groups))], axis=1)


def by_definition(scores: NDArray[np.float64], groups: Sequence[str]) -> NDArray[np.float64]:
    """Step-down max-T in loops, over all patterns of signs."""
    totals = summed(scores, groups)
    pairs = list(itertools.combinations(range(len(scores)), 2))

    def statistic(pair: tuple[int, int], signs: Sequence[int]) -> float:
        differences = [float(totals[pair[0], car] - totals[pair[1], car]) for car in range(len(signs))]
        length = math.sqrt(math.fsum(value**2 for value in differences))
        total = math.fsum(sign * value for sign, value in zip(signs, differences, strict=True))
        return abs(total) / length if length else 0.0

    patterns = list(itertools.product((1, -1), repeat=totals.shape[1]))
    found = {pair: statistic(pair, patterns[0]) for pair in pairs}
    left = sorted(pairs, key=lambda pair: -found[pair])
    adjusted, surest = np.ones((len(scores), len(scores))), 0.0
    while left:
        reached = [max(statistic(pair, signs) for pair in left) >= found[left[0]] - 1e-9 for signs in patterns]
        surest = max(surest, sum(reached) / len(patterns))
        adjusted[left[0]] = adjusted[left[0][::-1]] = surest
        left.pop(0)
    return adjusted


@pytest.fixture
def uneven(rng: np.random.Generator) -> tuple[NDArray[np.float64], list[str]]:
    """Four networks, one clearly worse, on seven groups of one to five images."""
    return ErrorModel(groups=7, images=(1, 5)).draw(rng, [0, 0, 0.001, 0.01])


def test_a_single_pair_agrees_with_scipy_over_all_patterns(uneven: tuple[NDArray[np.float64], list[str]]) -> None:
    scores, groups = uneven
    pair = scores[[0, 3]]
    theirs = scipy.stats.permutation_test(
        tuple(summed(pair, groups)),
        lambda first, second, axis: np.sum(first - second, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf,
    )
    assert pairwise_p(pair, groups)[0, 1] == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("gap", [0.0, 0.001, 0.002])
def test_a_single_pair_of_many_cars_agrees_with_scipy_within_the_error_of_random_flips(
    rng: np.random.Generator, gap: float
) -> None:
    flips = 20_000
    scores, groups = ErrorModel().draw(rng, [0, gap])
    theirs = scipy.stats.permutation_test(
        tuple(summed(scores, groups)),
        lambda first, second, axis: np.sum(first - second, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=flips,
        batch=1000,
        rng=rng,
    ).pvalue
    # Scipy doubles the smaller of two tails, so its p has twice the error of a tail; four standard errors in all.
    error = math.sqrt((theirs * (1 - theirs) + 4 * theirs / 2 * (1 - theirs / 2)) / flips)
    assert pairwise_p(scores, groups, flips=flips)[0, 1] == pytest.approx(theirs, abs=4 * error)


@pytest.mark.parametrize("photos", [(4, 4), (1, 9)])
def test_the_interval_of_a_mean_agrees_with_scipys_bootstrap_over_cars(
    rng: np.random.Generator, photos: tuple[int, int]
) -> None:
    scores, groups = ErrorModel(images=photos).draw(rng, [0])
    names = np.asarray(groups)
    sizes = np.array([(names == name).sum() for name in sorted(set(groups))])
    theirs = scipy.stats.bootstrap(
        (summed(scores, groups)[0], sizes),
        lambda sums, sizes, axis: sums.sum(axis=axis) / sizes.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=50_000,
        batch=5000,
        rng=rng,
    ).confidence_interval
    # A quantile of 50,000 draws is known to 0.3% of the interval's width, more in the tail of hard cars.
    width = theirs.high - theirs.low
    assert bootstrap_interval(scores[0], groups, samples=50_000) == pytest.approx(tuple(theirs), abs=0.03 * width)


def test_all_pairs_agree_with_the_definition(uneven: tuple[NDArray[np.float64], list[str]]) -> None:
    scores, groups = uneven
    p = pairwise_p(scores, groups)
    np.testing.assert_allclose(p, by_definition(scores, groups))
    assert len(np.unique(p)) > 3


def test_ties_agree_with_the_definition(rng: np.random.Generator) -> None:
    tenths = rng.integers(1, 4, size=(5, 16)) / 10  # many sums are equal but for rounding
    tenths[1] = tenths[0]
    groups = [f"group-{photo % 8}" for photo in range(16)]
    np.testing.assert_allclose(pairwise_p(tenths, groups), by_definition(tenths, groups))


def test_random_flips_come_near_all_patterns(rng: np.random.Generator) -> None:
    scores, groups = ErrorModel(groups=12).draw(rng, [0, 0, 0.001, 0.002, 0.004])
    exact, flips = pairwise_p(scores, groups, flips=2**11), 2**11 - 1
    random = pairwise_p(scores, groups, flips=flips)
    assert not np.array_equal(random, exact)
    np.testing.assert_array_less(np.abs(random - exact), 4 * np.sqrt(exact * (1 - exact) / flips) + 1 / flips)


def test_the_order_of_networks_and_of_photos_does_not_matter(rng: np.random.Generator) -> None:
    scores, groups = ErrorModel(images=(1, 6)).draw(rng, [0, 0, 0.001, 0.002])
    p = pairwise_p(scores, groups)
    networks, photos = rng.permutation(len(scores)), rng.permutation(len(groups))
    np.testing.assert_array_equal(pairwise_p(scores[networks], groups), p[np.ix_(networks, networks)])
    np.testing.assert_array_equal(pairwise_p(scores[:, photos], [groups[photo] for photo in photos]), p)


def test_what_all_networks_share_does_not_matter(rng: np.random.Generator) -> None:
    scores, groups = ErrorModel().draw(rng, [0, 0, 0.001, 0.002])
    p = pairwise_p(scores, groups)
    np.testing.assert_array_equal(pairwise_p(scores + 0.1, groups), p)
    np.testing.assert_array_equal(pairwise_p(scores + rng.random(len(groups)), groups), p)


def test_a_larger_gap_in_the_same_errors_is_no_less_sure(rng: np.random.Generator) -> None:
    scores, groups = ErrorModel().draw(rng, [0, 0, 0])
    order = np.argsort(-scores.mean(axis=1))
    p = [pairwise_p(scores[order] - np.array([[0], [0], [gap]]), groups)[0, 2] for gap in np.linspace(0, 0.005, 6)]
    assert p == sorted(p, reverse=True)
    assert p[-1] <= LEVEL


def test_it_is_symmetric_with_ones_on_the_diagonal_and_equal_for_equal_seeds(rng: np.random.Generator) -> None:
    scores, groups = ErrorModel().draw(rng, [0, 0.001, 0.002])
    p = pairwise_p(scores, groups, seed=1)
    np.testing.assert_array_equal(p, p.T)
    np.testing.assert_array_equal(np.diag(p), 1)
    assert ((p > 0) & (p <= 1)).all()
    np.testing.assert_array_equal(p, pairwise_p(scores, groups, seed=1))
    assert not np.array_equal(p, pairwise_p(scores, groups, seed=2))


@pytest.mark.parametrize("cars", [10, 40])
def test_working_in_blocks_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator, cars: int
) -> None:
    scores, groups = ErrorModel(groups=cars).draw(rng, [0, 0.001, 0.002])
    whole = pairwise_p(scores, groups)
    monkeypatch.setattr("carvana.evaluation.statistics._BLOCK", 1000)
    np.testing.assert_array_equal(pairwise_p(scores, groups), whole)


def test_a_single_network_has_no_one_to_differ_from() -> None:
    assert pairwise_p([[0.9, 0.8]], ["a", "b"]).tolist() == [[1]]


def test_a_single_car_tells_no_one_apart() -> None:
    assert (pairwise_p([[0.9] * 5, [0.1] * 5], ["a"] * 5) == 1).all()


@pytest.mark.parametrize("cars", [4, 40])
def test_networks_that_are_equal_but_for_rounding_are_tied(cars: int) -> None:
    scores = np.full((3, cars), 0.1 + 0.2)
    scores[1] = 0.3
    assert (pairwise_p(scores, [f"{car}" for car in range(cars)]) == 1).all()


def test_a_tiny_gap_that_all_cars_agree_on_is_found() -> None:
    scores = np.stack([np.linspace(0.9, 0.99, 40), np.linspace(0.9, 0.99, 40) - 1e-7])
    assert pairwise_p(scores, [f"{car}" for car in range(40)])[0, 1] == 1 / 10_001


@pytest.mark.parametrize("level", [0.05, 0.01, 1 / 16, 0.5])
def test_cars_needed_is_the_least_number_that_can_tell_two_networks_apart(level: float) -> None:
    def least_p(cars: int) -> float:
        return float(pairwise_p([[1.0] * cars, [0.0] * cars], [f"{car}" for car in range(cars)])[0, 1])

    assert least_p(groups_needed(level)) <= level < least_p(groups_needed(level) - 1)


@pytest.mark.parametrize("tail", [0.0, 1.0])
@pytest.mark.slow
def test_equal_networks_are_called_worse_in_at_most_5_percent_of_2000_leaderboards(tail: float) -> None:
    assert wrong_calls(ErrorModel(tail=tail), [0] * 8) <= LEVEL * LEADERBOARDS


@pytest.mark.parametrize("tail", [0.0, 1.0])
def test_equal_best_networks_above_worse_ones_are_called_worse_in_hardly_more_than_5_percent(tail: float) -> None:
    # What step-down could get wrong: all other pairs are soon found, and the bar for the three at the top is lowered.
    # Their true rate is close to the level, so 2,000 draws may pass it by chance: by 2.6 standard errors at most.
    margin = 2.6 * math.sqrt(LEVEL * (1 - LEVEL) / LEADERBOARDS)
    gaps = [0, 0, 0, 0.01, 0.02, 0.03, 0.04, 0.05]
    assert 0.02 < wrong_calls(ErrorModel(tail=tail), gaps) / LEADERBOARDS <= LEVEL + margin


@pytest.mark.parametrize("tail", [0.0, 1.0])
@pytest.mark.slow
def test_a_gap_of_four_and_a_half_standard_errors_is_found_in_80_percent_of_2000_leaderboards(tail: float) -> None:
    # One network above seven equal ones. One below seven is found sooner: the best of seven was lucky, too.
    model, generator = ErrorModel(tail=tail), np.random.default_rng(0)
    gap = FINDABLE * model.standard_error
    assert gap == pytest.approx(0.00196, abs=0.00001)
    found = 0
    for seed in range(LEADERBOARDS):
        scores, groups = model.draw(generator, [0] + [gap] * 7)
        found += called_worse(scores, pairwise_p(scores, groups, flips=FLIPS, seed=seed))[1]
    assert found >= 0.8 * LEADERBOARDS


def wrong_calls(model: ErrorModel, gaps: Sequence[float]) -> int:
    """In how many leaderboards some row is called worse than the best one wrongly."""
    generator = np.random.default_rng(0)
    count = 0
    for seed in range(LEADERBOARDS):
        scores, groups = model.draw(generator, gaps)
        p = pairwise_p(scores, groups, flips=FLIPS, seed=seed)
        count += wrong(scores, called_worse(scores, p), gaps)
    return count


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30).astype(str), 4)
    hits = 0
    for _ in range(300):
        values = np.repeat(rng.normal(0, 1, 30), 4) + rng.normal(0, 0.2, 120)
        low, high = bootstrap_interval(values, groups, samples=400) or (0, 0)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 300 <= 0.98  # photos drawn one by one would cover about 0.65


def test_the_interval_of_equal_groups_is_that_of_the_normal_theory() -> None:
    values = np.random.default_rng(1).normal(0.99, 0.01, 200)
    low, high = bootstrap_interval(values, [str(i) for i in range(200)]) or (0, 0)
    error = values.std() / np.sqrt(200)
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_is_of_the_mean_per_photo_also_when_groups_differ_in_size() -> None:
    values, groups = [1.0] * 30 + [0.0], ["big"] * 30 + ["small"]
    low, high = bootstrap_interval(values, groups, level=0.4) or (0, 0)
    assert low == high == pytest.approx(30 / 31)  # both drawn once, half of the time


def test_one_group_has_no_interval() -> None:
    assert bootstrap_interval([0.9, 0.8], ["a", "a"]) is None


def test_equal_seeds_give_equal_intervals() -> None:
    values, groups = np.random.default_rng(0).random(40), [str(i % 9) for i in range(40)]
    assert bootstrap_interval(values, groups) == bootstrap_interval(values, groups)
    assert bootstrap_interval(values, groups) != bootstrap_interval(values, groups, seed=1)
