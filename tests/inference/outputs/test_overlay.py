from __future__ import annotations

import numpy as np
import pytest

from carvana.errors import DataError
from carvana.inference.outputs.overlay import EXTRA, MISSED, OUTLINE, overlay


def scene() -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(0).integers(60, 256, (60, 80, 3)).astype(np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[20:40, 20:60] = 1
    return image, mask


def test_the_inside_is_untouched_the_outside_dimmed_and_the_outline_drawn() -> None:
    image, mask = scene()
    before = image.copy()
    shown = overlay(image, mask)
    np.testing.assert_array_equal(shown[25:35, 25:55], image[25:35, 25:55])
    assert shown[:15].mean() < 0.6 * image[:15].mean()
    assert (shown[20, 30] == OUTLINE).all()
    np.testing.assert_array_equal(image, before)


def test_errors_are_red_where_too_much_and_blue_where_missed() -> None:
    image, target = scene()
    mask = np.roll(target, 5, axis=1)
    shown = overlay(image, mask, target, thickness=1)
    np.testing.assert_array_equal((shown == EXTRA).all(axis=2), (mask == 1) & (target == 0))
    np.testing.assert_array_equal((shown == MISSED).all(axis=2), (mask == 0) & (target == 1))


def test_a_right_mask_shows_no_error() -> None:
    image, mask = scene()
    shown = overlay(image, mask.astype(bool), mask)
    assert not ((shown == EXTRA).all(axis=2) | (shown == MISSED).all(axis=2)).any()


def test_thin_errors_are_made_thicker() -> None:
    image, target = scene()
    mask = target.copy()
    mask[10, 10] = 1
    assert (overlay(image, mask, target, thickness=3) == EXTRA).all(axis=2).sum() > 12


def test_sizes_must_agree() -> None:
    image, mask = scene()
    with pytest.raises(DataError, match="does not lie on"):
        overlay(image, mask[1:])
