from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from leaderboards import LabelModel

from carvana.evaluation.statistics import LEVEL, bootstrap_interval, interval_of
from carvana.leaderboard.scores import MeanOverImages, PooledIou

LEADERBOARDS, FLIPS = 300, 299


def counts(rng: np.random.Generator, *, seeds: int = 1, groups: int = 5, classes: int = 4) -> PooledIou:
    union = rng.integers(50, 500, (seeds, groups, classes)).astype(float)
    return PooledIou(np.floor(union * rng.uniform(0.2, 1, union.shape)), union)


def by_definition(a: PooledIou, b: PooledIou, group: int) -> float:
    """D of a group, from the formula, one class and one pair of seeds after another."""
    found = []
    for s, t, k in itertools.product(range(len(a.hits)), range(len(b.hits)), range(a.hits.shape[2])):
        ious = a.hits[s, :, k].sum() / a.union[s, :, k].sum(), b.hits[t, :, k].sum() / b.union[t, :, k].sum()
        union = (a.union[s, :, k].sum() + b.union[t, :, k].sum()) / 2
        hits, others = a.hits[s, group, k] - b.hits[t, group, k], a.union[s, group, k] - b.union[t, group, k]
        found.append((hits - sum(ious) / 2 * others) / union)
    return float(np.mean(found))


@pytest.mark.parametrize(("seeds", "others"), [(1, 1), (3, 1), (2, 3)])
def test_the_differences_of_groups_add_up_to_the_gap(rng: np.random.Generator, seeds: int, others: int) -> None:
    a, b = counts(rng, seeds=seeds), counts(rng, seeds=others)
    found = a.differences(b)
    assert found.sum() == pytest.approx(a.score - b.score, abs=1e-14)
    assert found == pytest.approx([by_definition(a, b, group) for group in range(5)])
    assert found == pytest.approx(-b.differences(a))


def test_counts_are_those_of_the_images_of_each_group_without_classes_that_are_not_true() -> None:
    images = [
        {"counts": [[0, 5, 10], [2, 1, 4]]},
        {"counts": [[0, 3, 6], [1, 0, 7]]},
        {"counts": []},
        {"counts": [[2, 2, 3]]},
    ]
    score = PooledIou.of([images], ["b", "a", "a", "b"], [True, False, True])
    assert score.hits.tolist() == [[[3, 0], [5, 3]]]
    assert score.union.tolist() == [[[6, 0], [10, 7]]]
    assert score.score == pytest.approx((8 / 16 + 3 / 7) / 2)


def test_the_draws_are_those_of_whole_groups_the_same_for_all_networks(rng: np.random.Generator) -> None:
    a, b = counts(rng, groups=12), counts(rng, groups=12, seeds=2)
    low, high = interval_of(a.draws)
    assert low < a.score < high
    drawn = np.random.default_rng(0).integers(12, size=(10_000, 12))[:3]
    for network in (a, b):
        for draw, groups in zip(network.draws, drawn, strict=False):
            hits, union = network.hits[:, groups].sum(1), network.union[:, groups].sum(1)
            assert draw == pytest.approx((hits / union).mean())


def test_a_mean_over_images_has_the_interval_of_its_images(rng: np.random.Generator) -> None:
    values, groups = rng.random(30), [f"g{place % 7}" for place in range(30)]
    score = MeanOverImages(values, groups)
    assert interval_of(score.draws) == bootstrap_interval(values, groups)
    other = MeanOverImages(rng.random(30), groups)
    assert score.differences(other).sum() == pytest.approx(30 * (score.score - other.score))


@pytest.mark.slow
@pytest.mark.parametrize("groups", [12, 40])
def test_equal_networks_are_called_different_in_5_percent_of_leaderboards_with_a_rare_class(groups: int) -> None:
    model, generator = LabelModel(groups=groups), np.random.default_rng(0)
    wrong = 0
    for seed in range(LEADERBOARDS):
        p = model.p(model.draw(generator, [0] * 8), flips=FLIPS, seed=seed)
        wrong += bool((p[np.triu_indices(8, 1)] <= LEVEL).any())
    assert wrong / LEADERBOARDS <= LEVEL + 2 * math.sqrt(LEVEL * (1 - LEVEL) / LEADERBOARDS)


@pytest.mark.slow
def test_a_network_that_is_better_by_two_points_of_mean_iou_is_found_on_40_groups() -> None:
    model, generator = LabelModel(), np.random.default_rng(0)
    found, gaps = 0, []
    for seed in range(100):
        networks = model.draw(generator, [0] + [0.1] * 7)
        gaps.append(networks[0].score - networks[1].score)
        found += model.p(networks, flips=FLIPS, seed=seed)[0, 1] <= LEVEL
    assert np.mean(gaps) == pytest.approx(0.018, abs=0.002)
    assert found >= 80
