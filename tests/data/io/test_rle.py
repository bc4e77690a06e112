from __future__ import annotations

import itertools
import tracemalloc

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_masks
from submitting import mask_by_definition, runs_by_definition

from carvana.data.io import rle
from carvana.errors import ConfigError, DataError


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
        for order, expected in (("row", runs_by_definition(mask)), ("column", runs_by_definition(mask.T))):
            text = rle.encode(mask, order=order)  # type: ignore[arg-type]
            assert text == expected
            read = rle.decode(text, shape, order=order)  # type: ignore[arg-type]
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


def coco_text(mask: np.ndarray) -> str:
    """Runs of foreground from COCO's counts, which alternate between background and foreground, column after column."""
    counts = coco_masks.encode(np.asfortranarray(mask))["counts"]
    numbers: list[int] = []
    place = 0
    while place < len(counts):  # five bits a character, the sixth for "more"; from the fourth on, differences
        number, shift, more = 0, 0, True
        while more:
            bits = counts[place] - 48
            number |= (bits & 31) << shift
            place, shift, more = place + 1, shift + 5, bool(bits & 32)
            if not more and bits & 16:
                number |= -1 << shift
        numbers.append(number + numbers[-2] if len(numbers) > 2 else number)
    ends = list(itertools.accumulate(numbers))
    return " ".join(f"{begin + 1} {length}" for begin, length in zip(ends[::2], numbers[1::2], strict=False))


def test_column_after_column_the_runs_are_those_of_pycocotools(rng: np.random.Generator) -> None:
    sizes = rng.integers(1, 60, (20, 2)).tolist()
    masks = [rng.random(size) < share for size, share in zip(sizes, np.linspace(0, 1, 20), strict=True)]
    for mask in (*masks, cv2.resize(rng.random((40, 60)), (1918, 1280)) > 0.5):
        assert rle.encode(mask, order="column") == coco_text(mask.astype(np.uint8))


@pytest.mark.parametrize("order", ["row", "column"])
@pytest.mark.parametrize("count", [2, 11, 300])
def test_the_texts_of_a_label_map_are_those_of_its_masks(
    rng: np.random.Generator, count: int, order: rle.Order
) -> None:
    patches = rng.integers(0, count, (4, 5)).repeat(6, axis=0).repeat(7, axis=1)
    for values in (patches, rng.integers(0, count, (9, 8)), np.full((3, 4), count - 1), np.zeros((1, 1))):
        labels = values.astype(np.uint16 if count > 255 else np.uint8)
        texts = rle.encode_labels(labels, count, order=order)
        assert len(texts) == count
        for index, text in enumerate(texts):
            if text or (labels == index).any():
                np.testing.assert_array_equal(mask_by_definition(text, labels.shape, order), labels == index)


def test_many_classes_take_no_memory_for_each() -> None:
    labels = np.arange(256, dtype=np.uint8).reshape(16, 16).repeat(32, axis=0).repeat(32, axis=1)
    tracemalloc.start()
    texts = rle.encode_labels(labels, 256, order="column")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert all(len(text.split()) == 64 for text in texts)
    assert peak < 10 * labels.nbytes


def test_another_order_is_refused() -> None:
    mask = np.zeros((2, 2), np.uint8)
    for call in (lambda: rle.encode(mask, order="F"), lambda: rle.decode("", (2, 2), order="F")):  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="the order 'F' is not known; expected row or column"):
            call()


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
        assert rle.encode(same, order="column") == "2 2 5 1"


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
