from __future__ import annotations

import cv2
import numpy as np
import pytest

from carvana.errors import ConfigError
from carvana.inference.outputs.postprocess import HOLES, PARTS, Cleaning, clean, follow

EDGES = ((0, 1), (1, 0), (0, -1), (-1, 0))
CORNERS = (*EDGES, (1, 1), (1, -1), (-1, 1), (-1, -1))


def flooded(mask: np.ndarray, steps: tuple[tuple[int, int], ...]) -> list[set[tuple[int, int]]]:
    """The components of a mask, by the definition: what can be walked to."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    while left:
        front = [left.pop()]
        part = set(front)
        while front:
            y, x = front.pop()
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            part |= near
            front.extend(near)
        found.append(part)
    return found


def cleaned_by_definition(mask: np.ndarray, parts: float, holes: float) -> np.ndarray:
    result = mask.copy()
    pieces = flooded(mask, CORNERS)
    largest = max(map(len, pieces), default=0)
    for piece in pieces:
        if len(piece) < parts * largest:
            result[tuple(np.array(sorted(piece)).T)] = 0
    for hole in flooded(result == 0, EDGES):
        rows, columns = np.array(sorted(hole)).T
        at_edge = {0, mask.shape[0] - 1} & set(rows) or {0, mask.shape[1] - 1} & set(columns)
        if len(hole) < holes * largest and not at_edge:
            result[rows, columns] = 1
    return result


@pytest.mark.parametrize("parts", [0, 0.1, 0.5, 1])
@pytest.mark.parametrize("holes", [0, 0.02, 0.3])
def test_parts_and_holes_are_those_that_a_walk_from_pixel_to_pixel_finds(parts: float, holes: float) -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for share in (0.0, 0.3, 0.45, 0.6, 0.75, 0.9, 1.0):
        for shape in ((1, 1), (1, 9), (17, 23), (30, 24)):
            mask = (rng.random(shape) < share).astype(np.uint8)
            expected = cleaned_by_definition(mask, parts, holes)
            changed += int((expected != mask).sum())
            np.testing.assert_array_equal(clean(mask, parts=parts, holes=holes), expected)
    assert changed or parts == holes == 0


def test_crumbs_go_and_pinholes_are_filled_while_larger_ones_stay() -> None:
    mask = np.zeros((400, 600), np.uint8)
    mask[100:300, 100:500] = 1  # 80,000 pixels: parts from 4,000 and holes from 8 on stay
    mask[150:170, 200:220] = 0
    expected = mask.copy()
    expected[10:74, 10:74] = mask[10:74, 10:74] = 1
    mask[350:400, 520:590] = 1
    mask[200:202, 300:303] = 0
    np.testing.assert_array_equal(clean(mask), expected)
    assert clean(expected) is expected


def test_a_speck_in_a_hole_goes_with_the_hole() -> None:
    mask = np.ones((90, 90), np.uint8)
    mask[40:46, 40:46] = 0
    mask[42:44, 42:44] = 1
    assert clean(mask, parts=0.01, holes=0.01).all()


def test_empty_and_full_masks_stay() -> None:
    for mask in (np.zeros((5, 7), np.uint8), np.ones((5, 7), np.uint8)):
        np.testing.assert_array_equal(clean(mask, parts=1, holes=1), mask)


def test_the_mask_that_is_given_is_not_changed() -> None:
    mask = (np.random.default_rng(1).random((40, 50)) < 0.6).astype(np.uint8)
    before = mask.copy()
    clean(mask, parts=1, holes=1)
    np.testing.assert_array_equal(mask, before)


def soft(mask: np.ndarray) -> np.ndarray:
    """Opacity that crosses one half where the mask ends, over some pixels on either side of the edge."""
    inside = cv2.distanceTransform(mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    outside = cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.clip(0.5 + (inside - outside) / 9, 0, 1).astype(np.float32)


@pytest.fixture
def scene() -> np.ndarray:
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 30:110] = 1
    mask[50:60, 60:63] = 0  # a hole to fill
    mask[20:24, 10:14] = 1  # a part far from the object
    mask[60:64, 113:118] = 1  # a part whose soft rim touches the object's
    return mask


def test_opacity_follows_the_cleaned_mask(scene: np.ndarray) -> None:
    opacity = soft(scene)
    cleaned = clean(scene, parts=0.05, holes=0.05)
    followed = follow(opacity, cleaned)
    np.testing.assert_array_equal(followed > 0.5, cleaned > 0)
    assert not followed[15:30, 5:20].any()  # the far part's rim has gone with it
    assert not followed[60:64, 113:].any()
    assert followed[60:64, 110].all()  # what lies nearer to the object stays
    assert (followed[45:65, 55:70] == 1).all()
    np.testing.assert_allclose(followed[60:85, 20:50], opacity[60:85, 20:50], atol=1e-6)  # the kept edge


def test_opacity_of_a_mask_with_nothing_to_clean_is_kept(scene: np.ndarray) -> None:
    np.testing.assert_allclose(follow(soft(scene), scene), soft(scene), atol=1e-6)


def test_a_faint_patch_without_a_pixel_of_the_mask_goes_and_a_dent_is_filled() -> None:
    mask = np.zeros((60, 60), np.uint8)
    mask[10:40, 10:40] = 1
    opacity = mask.astype(np.float32)
    opacity[50:55, 50:55] = 0.3
    opacity[20:25, 20:25] = 0.7
    np.testing.assert_array_equal(follow(opacity, mask), mask)


@pytest.mark.parametrize("shares", [{"parts": -0.1}, {"parts": 1.5}, {"holes": 2}, {"holes": float("nan")}])
def test_shares_outside_0_to_1_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(shares))} = .*from 0 to 1"):
        Cleaning(**shares)
    assert (Cleaning().parts, Cleaning().holes) == (PARTS, HOLES)
