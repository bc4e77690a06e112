from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from boards import drawn_board, make_board
from PIL import Image
from reference import dice, iou

from carvana.data.io.display import EXTRA, MISSED, OUTLINE, overlay
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.leaderboard.board import Leaderboard
from carvana.leaderboard.records import WAITING, Row, ScoredImage
from carvana.leaderboard.report.html import to_html
from carvana.leaderboard.report.images import busiest_window, errors, mean_distance, most_different, outline

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def board(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Leaderboard:
    return drawn_board(tiny_data, tmp_path_factory.mktemp("masks"), networks=3)


@pytest.fixture
def scored(rng: np.random.Generator) -> tuple[list[ScoredImage], dict[str, list[np.ndarray]]]:
    """Forty images of ten groups with masks of 12 x 12, some of which are far from the truth and some near."""
    photos, masks = [], {}
    for place in range(40):
        true = rng.random((12, 12)) < 0.5
        flips = rng.random((len(NAMES), 12, 12)) < rng.choice([0.01, 0.05, 0.3], (len(NAMES), 1, 1))
        of_photo = [(true ^ flip).astype(np.uint8) for flip in flips]
        scores = {name: dice(mask, true) for name, mask in zip(NAMES, of_photo, strict=True)}
        photos.append(ScoredImage(f"{place}.jpg", f"group{place % 10}", "", scores))
        masks[f"{place}.jpg"] = of_photo
    return photos, masks


def brute_force(
    photos: list[ScoredImage], masks: dict[str, list[np.ndarray]], *, count: int, per_group: int
) -> list[str]:
    """All pairs of masks of all images, then the largest means with no group too often."""
    means = {photo.image: np.mean([1 - iou(a, b) for a, b in combinations(masks[photo.image], 2)]) for photo in photos}
    chosen: list[ScoredImage] = []
    for photo in sorted(photos, key=lambda photo: -means[photo.image]):
        if len(chosen) < count and sum(other.group == photo.group for other in chosen) < per_group:
            chosen.append(photo)
    return [photo.image for photo in chosen]


@pytest.mark.parametrize(("count", "per_group"), [(1, 1), (3, 1), (6, 2), (40, 40)])
def test_photos_are_those_of_all_pairs_of_masks(
    scored: tuple[list[ScoredImage], dict[str, list[np.ndarray]]], count: int, per_group: int
) -> None:
    photos, masks = scored
    found = most_different(photos, NAMES, lambda photo: masks[photo.image], count=count, per_group=per_group)
    assert [image.image for image, _ in found] == brute_force(photos, masks, count=count, per_group=per_group)


def test_a_limited_number_of_masks_is_read(scored: tuple[list[ScoredImage], dict[str, list[np.ndarray]]]) -> None:
    photos, masks = scored
    asked: list[str] = []

    def read(photo: ScoredImage) -> list[np.ndarray]:
        asked.append(photo.image)
        return masks[photo.image]

    assert len(most_different(photos, NAMES, read, readings=4 * len(NAMES))) == 4
    assert len(asked) == 4


def test_photos_without_masks_are_passed_over(scored: tuple[list[ScoredImage], dict[str, list[np.ndarray]]]) -> None:
    photos, masks = scored
    lost = brute_force(photos, masks, count=2, per_group=1)[0]
    found = most_different(photos, NAMES, lambda photo: None if photo.image == lost else masks[photo.image])
    assert lost not in [image.image for image, _ in found]
    assert most_different(photos, NAMES, lambda _: None) == []


def test_empty_masks_are_alike() -> None:
    empty, full = np.zeros((4, 4), np.uint8), np.ones((4, 4), np.uint8)
    assert mean_distance([empty, empty]) == 0
    assert mean_distance([empty, full]) == 1
    assert mean_distance([full]) == 0


@pytest.mark.parametrize("seed", range(4))
def test_the_window_holds_the_most_weight(seed: int) -> None:
    weights = np.random.default_rng(seed).random((20, 30)).astype(np.float32) ** 8
    row, column = busiest_window(weights, (6, 9))
    held = weights[row : row + 6, column : column + 9].sum()
    assert held == pytest.approx(max(weights[r : r + 6, c : c + 9].sum() for r in range(15) for c in range(22)))


def test_a_single_spot_lies_in_the_middle_of_its_window() -> None:
    weights = np.zeros((50, 60), np.float32)
    weights[25, 31] = 1
    assert busiest_window(weights, (11, 21)) == (20, 21)


def test_a_window_larger_than_the_photo_is_all_of_it() -> None:
    assert busiest_window(np.ones((5, 6), np.float32), (50, 60)) == (0, 0)


def test_errors_have_the_colours_of_an_overlay(rng: np.random.Generator) -> None:
    mask, true = (rng.integers(0, 2, (9, 11)).astype(np.uint8) for _ in range(2))
    layer = errors(mask, true, 3)
    expected = overlay(np.full((9, 11, 3), 200, np.uint8), mask, true, thickness=1)
    assert layer.shape == (27, 33, 4)
    for colour in (EXTRA, MISSED):
        painted = (layer[1::3, 1::3] == (*colour, 255)).all(axis=2)
        np.testing.assert_array_equal(painted, (expected == colour).all(axis=2))
    right = mask == true
    assert (layer[::3, ::3, 3][right & (mask == 1)] == 0).all()
    assert (layer[::3, ::3, 3][right & (mask == 0)] > 0).all()


def test_the_outline_lies_on_the_border_of_the_truth() -> None:
    true = np.zeros((10, 10), np.uint8)
    true[3:7, 3:7] = 1
    yellow = (outline(true)[..., :3] == OUTLINE).all(axis=2)
    assert yellow[3, 3]
    assert not yellow[5, 5]
    assert not yellow[0, 0]


def test_a_page_shows_each_network_on_some_photos_of_different_cars(board: Leaderboard) -> None:
    page = to_html(board)
    photos = re.findall(r'<article id="image-\d" class="image"><h3>(.*?)</h3>', page)
    assert len(photos) == 6
    cars = [next(photo.group for photo in board.images if photo.image == image) for image in photos]
    assert max(map(cars.count, cars)) <= 2
    for row in board.ranked:
        assert page.count(f'alt="the errors of {row.name}"') == 6
    assert len(page) < 1_000_000


def test_a_photo_in_the_page_is_the_part_that_its_frame_says(board: Leaderboard) -> None:
    page = to_html(board)
    image = re.search(r"<h3>(.*?)</h3>", page)
    assert image is not None
    sample = next(sample for sample in board.samples if sample.name == image[1])
    photo = read_image(sample.image)
    height, width = photo.shape[:2]
    frame = dict(re.findall(r"(left|top|width|height): ([\d.]+)%", page[page.index("<article") :])[:4])
    left, top, wide, high = (float(frame[key]) / 100 for key in ("left", "top", "width", "height"))
    rows = slice(round(top * height), round((top + high) * height))
    columns = slice(round(left * width), round((left + wide) * width))
    data = re.search(r"--crop: url\(data:image/jpeg;base64,(.*?)\)", page)
    assert data is not None
    shown = np.asarray(
        Image.open(io.BytesIO(base64.b64decode(data[1]))).resize((columns.stop - columns.start, rows.stop - rows.start))
    )
    assert np.abs(shown.astype(int) - photo[rows, columns]).mean() < 8
    assert sample.mask is not None
    true = read_mask(sample.mask)[rows, columns]
    masks = [read_mask(Path(row.masks or "") / f"{sample.image.stem}_mask.png") for row in board.ranked]
    assert any((mask[rows, columns] != true).any() for mask in masks)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"samples": ()}, "images could not be found"),
        ({"masks": "/nowhere"}, "masks could not be found"),
        ({"waiting": True}, "when the comparison is finished"),
        ({"networks": 1}, "masks of two networks"),
    ],
)
def test_without_pictures_the_section_says_why(board: Leaderboard, change: dict[str, object], reason: str) -> None:
    rows = board.rows
    if "masks" in change:
        rows = tuple(replace(row, masks=str(change["masks"])) for row in rows)
    if "waiting" in change:
        rows = (*rows, Row("one more", status=WAITING))
    if "networks" in change:
        rows = rows[:1]
    page = to_html(replace(board, rows=rows, samples=change.get("samples", board.samples)))
    assert reason in page
    assert "<article" not in page
    assert "data:image" not in page


def test_a_damaged_mask_leaves_its_photo_out(board: Leaderboard, tmp_path: Path) -> None:
    """Whatever became of the files of a comparison, its numbers can be shown."""
    for mask in Path(board.ranked[0].masks or "").iterdir():
        (tmp_path / mask.name).write_bytes(b"no image")
    rows = (replace(board.ranked[0], masks=str(tmp_path)), *board.rows[1:])
    assert "masks could not be found" in to_html(replace(board, rows=rows))


def test_a_page_without_pictures_needs_no_files() -> None:
    assert "<article" not in to_html(make_board())


def test_images_that_were_moved_are_left_out(board: Leaderboard, tmp_path: Path) -> None:
    samples = tuple(replace(sample, image=tmp_path / sample.image.name) for sample in board.samples)
    assert "images could not be found" in to_html(replace(board, samples=samples))


def test_images_that_cannot_be_read_are_told(board: Leaderboard, tmp_path: Path) -> None:
    """As in a saved leaderboard, which does not know the bands of images that are not RGB."""
    samples = []
    for sample in board.samples:
        path = tmp_path / f"{sample.stem}.npy"
        np.save(path, np.zeros((*read_mask(sample.masks[0]).shape, 5), np.uint8))
        samples.append(replace(sample, image=path))
    images = [replace(image, image=Path(image.image).with_suffix(".npy").name) for image in board.images]
    assert "images could not be read" in to_html(replace(board, samples=tuple(samples), images=tuple(images)))


def test_images_without_a_score_are_left_out(board: Leaderboard) -> None:
    """Such as one whose pixels are all void."""
    first, *others = board.images
    page = to_html(replace(board, images=(replace(first, scores={}), *others[:2])))
    assert page.count("<article") == 2
    assert f"the image {first.image}" not in page
