from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference import dice

from carvana.data.check.resolution_limit import SIZES, TARGETS, best_dice, best_dices, mean_ceilings
from carvana.data.io.images import resize_image
from carvana.data.io.masks import read_mask, shrink_mask
from carvana.data.samples import find_samples


def disc(height: int = 300, width: int = 450) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return (np.hypot(rows - height / 2.1, columns - width / 1.9) < height / 3).astype(np.uint8)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("size", [(16, 16), (40, 20), (300, 450), (150, 450), (400, 600), (20, 900)])
def test_a_ceiling_is_what_a_predictor_makes_of_the_exact_target(size: tuple[int, int], target: str) -> None:
    mask = disc()
    learnt = shrink_mask(mask, size, target=target).astype(np.float32) / 255
    assert best_dice(mask, size, target=target) == pytest.approx(dice(resize_image(learnt, (300, 450)) > 0.5, mask))


def test_a_ceiling_agrees_with_pillow_where_sizes_divide() -> None:
    mask = disc()
    small = Image.fromarray(mask.astype(np.float32), "F").resize((45, 30), Image.Resampling.BOX)
    large = np.asarray(small.resize((450, 300), Image.Resampling.BILINEAR))
    assert best_dice(mask, (30, 45)) == pytest.approx(dice(large > 0.5, mask), abs=2e-4)


def test_coverage_allows_more_than_nearest_and_both_more_at_larger_sizes() -> None:
    found = best_dices(disc(), ((16, 16), (64, 64), (128, 128)))
    assert (found[:, 0] > found[:, 1]).all()
    assert (np.diff(found, axis=0) > 0).all()
    assert found.shape == (3, 2)


@pytest.mark.parametrize("value", [0, 1])
def test_empty_and_full_masks_have_no_limit(value: int) -> None:
    assert (best_dices(np.full((50, 70), value, np.uint8), ((8, 8), (90, 90))) == 1).all()


def test_means_are_taken_over_masks() -> None:
    rows = [np.array([[0.5, 0.25], [1, 1]]), np.array([[1, 0.75], [1, 0]])]
    first, second = mean_ceilings(rows, ((8, 8), (16, 16)))
    assert (first.size, first.coverage, first.nearest) == ((8, 8), 0.75, 0.5)
    assert second.to_json() == {"size": [16, 16], "coverage": 1.0, "nearest": 0.5}
    assert mean_ceilings([]) == ()


@pytest.mark.skipif("CARVANA_DATA" not in os.environ, reason="CARVANA_DATA names no folder of real images")
def test_real_masks_have_the_ceilings_that_were_measured_before() -> None:
    """160 masks gave 0.99742 and 0.98241 at 128, 0.99998 and 0.99772 at 1024; others of the kind come close."""
    samples = find_samples(Path(os.environ["CARVANA_DATA"]))[::32]
    means = np.mean([best_dices(read_mask(sample.mask)) for sample in samples], axis=0)
    known = {(128, 128): (0.99742, 0.98241), (512, 512): (0.99962, 0.99561), (1024, 1024): (0.99998, 0.99772)}
    for size, expected in known.items():
        np.testing.assert_allclose(1 - means[SIZES.index(size)], 1 - np.array(expected), rtol=0.25, atol=2e-5)
