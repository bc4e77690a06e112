from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
from submitting import runs_by_definition

from carvana.data.io import rle
from carvana.errors import DataError


def painted(numbers: tuple[int, ...], pixels: int) -> list[int] | None:
    """What runs paint, run after run, pixel after pixel; None where they are no mask."""
    flat, behind = [0] * pixels, 1
    if len(numbers) % 2:
        return None
    for begin, length in zip(numbers[::2], numbers[1::2], strict=True):
        if length < 1 or begin < behind or begin + length - 1 > pixels:
            return None
        behind = begin + length
        for place in range(begin, behind):
            flat[place - 1] = 1
    return flat


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 3), (3, 2), (3, 4)])
def test_every_mask_of_a_small_picture_is_written_by_definition_and_read_back(shape: tuple[int, int]) -> None:
    for values in itertools.product([0, 1], repeat=shape[0] * shape[1]):
        mask = np.array(values, np.uint8).reshape(shape)
        text = rle.encode(mask)
        assert text == runs_by_definition(mask)
        read = rle.decode(text, shape)
        assert (read.dtype, read.shape) == (np.uint8, shape)
        np.testing.assert_array_equal(read, mask)


def test_every_row_of_few_numbers_is_read_as_it_paints_or_refused() -> None:
    outcomes = set()
    for count in range(5):
        for numbers in itertools.product(range(6), repeat=count):
            expected = painted(numbers, 4)
            outcomes.add(expected is None)
            text = " ".join(map(str, numbers))
            if expected is None:
                with pytest.raises(DataError):
                    rle.decode(text, (2, 2))
            else:
                np.testing.assert_array_equal(rle.decode(text, (2, 2)).ravel(), expected)
    assert outcomes == {True, False}


def test_masks_of_full_size_are_written_by_definition_and_read_back(rng: np.random.Generator) -> None:
    field = cv2.resize(rng.random((40, 60)), (1918, 1280))
    outline = (field > 0.5).astype(np.uint8)
    noise = rng.integers(0, 2, (1280, 1918), np.uint8)
    for mask in (outline, noise[:160], 1 - outline[:160]):
        text = rle.encode(mask)
        assert text == runs_by_definition(mask)
        np.testing.assert_array_equal(rle.decode(text, mask.shape), mask)


def test_the_corners_of_the_competitions_photo() -> None:
    last = 1280 * 1918
    mask = np.zeros((1280, 1918), np.uint8)
    assert rle.encode(mask) == ""
    mask[0, 0] = mask[-1, -1] = 1
    assert rle.encode(mask) == f"1 1 {last} 1"
    mask[0, -1] = mask[1, 0] = 1  # the end of a row and the beginning of the next one are neighbours
    assert rle.encode(mask) == f"1 1 1918 2 {last} 1"
    assert rle.encode(np.ones_like(mask)) == f"1 {last}"


def test_any_array_of_two_values_serves_whatever_its_memory_looks_like() -> None:
    mask = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    for same in (mask.astype(bool), np.asfortranarray(mask), mask[:, ::-1][:, ::-1], np.pad(mask, 3)[3:-3, 3:-3]):
        assert rle.encode(same) == "2 3"


@pytest.mark.parametrize("mask", [np.full((2, 2), 255), np.array([[0, 1], [2, 1]]), np.array([[2, 0], [0, 1]])])
def test_other_values_than_0_and_1_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(DataError, match=f"holds {mask.max()}; expected 0 for background"):
        rle.encode(mask.astype(np.uint8))


def test_what_is_no_mask_is_refused() -> None:
    for array in (np.zeros((2, 2)), np.zeros((2, 2, 1), np.uint8), np.zeros(4, np.uint8)):
        with pytest.raises(DataError, match="is not a mask; expected uint8"):
            rle.encode(array)  # type: ignore[arg-type]


REFUSED = {
    "1 2 3": ("an odd count", "3 numbers"),
    "1 x": ("not numbers", "'x'"),
    "1 -2": ("not numbers", "'-'"),
    "1.0 2": ("not numbers", "'.'"),
    "1_0 2": ("not numbers", "'_'"),
    "\u0661 2": ("not numbers", "'\u0661'"),
    "1 0": ("no length", "the run at 1 has the length 0"),
    "0 1": ("outside", "0 1 leaves the picture of 4 x 3 pixels; expected 1 to 12"),
    "13 1": ("outside", "13 1"),
    "12 2": ("outside", "12 2"),
    "1 99999999999999999999": ("outside", "leaves the picture"),
    "99999999999999999999 1": ("outside", "leaves the picture"),
    "9223372036854775807 9223372036854775807": ("outside", "leaves the picture"),
    "1 3 3 1": ("overlapping", "the run at 3 overlaps the one at 1"),
    "5 2 5 2": ("overlapping", "the run at 5 overlaps the one at 5"),
    "5 1 1 1": ("unsorted", "the run at 1 comes behind the one at 5"),
}


@pytest.mark.parametrize("text", REFUSED)
def test_a_text_that_is_no_mask_is_refused_in_one_line(text: str) -> None:
    problem, words = REFUSED[text]
    with pytest.raises(rle.RleError) as caught:
        rle.decode(text, (3, 4))
    assert caught.value.problem == problem
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_spaces_around_and_runs_that_touch_are_taken() -> None:
    np.testing.assert_array_equal(rle.decode("  1 2  3 1\n", (1, 4)), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(rle.decode(" ", (1, 4)), [[0, 0, 0, 0]])
