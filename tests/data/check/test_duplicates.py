from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from carvana.data.check.duplicates import SIDE, SIMILAR, NearDuplicate, coarse, find_near_duplicates, thumbnail
from carvana.data.io.images import read_image
from carvana.data.samples import find_samples


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR)


COPIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "saved again": lambda image: jpeg(image, 30),
    "halved": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "stretched": lambda image: cv2.resize(image, None, fx=0.97, fy=1.03),
    "brightened": lambda image: cv2.convertScaleAbs(image, beta=20),
    "darkened": lambda image: cv2.convertScaleAbs(image, alpha=0.7),
    "grey": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "mirrored": lambda image: np.ascontiguousarray(image[:, ::-1]),
}


@pytest.fixture(scope="module")
def photos(tiny_data: Path) -> tuple[list[np.ndarray], list[str]]:
    samples = find_samples(tiny_data)
    return [read_image(sample.image) for sample in samples], [sample.group for sample in samples]


def near_duplicates(thumbnails: np.ndarray, groups: list[str]) -> list[NearDuplicate]:
    return find_near_duplicates(np.array(list(map(coarse, thumbnails))), groups, look=thumbnails.__getitem__)


def twins(images: list[np.ndarray], groups: list[str]) -> list[tuple[int, int, bool]]:
    return [(t.first, t.second, t.mirrored) for t in near_duplicates(np.stack(list(map(thumbnail, images))), groups)]


def test_cars_in_one_studio_are_no_twins(photos: tuple[list[np.ndarray], list[str]]) -> None:
    assert twins(*photos) == []


@pytest.mark.parametrize("name", COPIES)
def test_a_photo_over_again_under_another_car_s_name_is_found(
    photos: tuple[list[np.ndarray], list[str]], name: str
) -> None:
    images, groups = photos
    for number in (0, 7, 19):
        copy = COPIES[name](images[number])
        assert twins([*images, copy], [*groups, "other"]) == [(number, len(images), name == "mirrored")]
        assert twins([*images, copy], [*groups, groups[number]]) == []


def test_similarity_is_the_correlation_of_the_differences(photos: tuple[list[np.ndarray], list[str]]) -> None:
    first = thumbnail(photos[0][0])
    second = thumbnail(COPIES["saved again"](photos[0][0]))
    differences = []
    for grey in (first.astype(float), second.astype(float)):
        right = [grey[y, x + 1] - grey[y, x] for y in range(SIDE - 1) for x in range(SIDE - 1)]
        down = [grey[y + 1, x] - grey[y, x] for y in range(SIDE - 1) for x in range(SIDE - 1)]
        differences.append(right + down)
    (found,) = near_duplicates(np.stack([first, second]), ["a", "b"])
    assert found.similarity == pytest.approx(np.corrcoef(differences)[0, 1], abs=1e-5)


def test_of_several_twins_the_most_similar_is_named(photos: tuple[list[np.ndarray], list[str]]) -> None:
    image = photos[0][0]
    images = [jpeg(image, 20), jpeg(image, 95), image]
    assert [(first, second) for first, second, _ in twins(images, ["a", "b", "c"])] == [(0, 1), (1, 2)]


def test_many_photos_are_compared_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from carvana.data.check import duplicates

    rng = np.random.default_rng(0)
    pictures = [cv2.GaussianBlur(rng.integers(0, 256, (SIDE, SIDE)).astype(np.float32), (0, 0), 3) for _ in range(40)]
    thumbnails = np.stack([cv2.normalize(p, None, 0, 255, cv2.NORM_MINMAX) for p in pictures]).astype(np.uint8)
    thumbnails[37], thumbnails[12] = thumbnails[5], thumbnails[11][:, ::-1]
    groups = [str(number) for number in range(40)]
    whole = near_duplicates(thumbnails, groups)
    assert [(t.first, t.second, t.mirrored) for t in whole] == [(11, 12, True), (5, 37, False)]
    monkeypatch.setattr(duplicates, "_BLOCK", 7)
    for one, other in zip(near_duplicates(thumbnails, groups), whole, strict=True):
        assert (one.first, one.second, one.mirrored) == (other.first, other.second, other.mirrored)
        assert one.similarity == pytest.approx(other.similarity, abs=1e-6)


def test_blank_photos_are_nobody_s_twins() -> None:
    blank = np.full((3, SIDE, SIDE), 200, np.uint8)
    blank[1, 3, 3] = 201
    assert near_duplicates(blank, ["a", "b", "c"]) == []
    assert near_duplicates(blank[:1], ["a"]) == []


@pytest.mark.skipif("CARVANA_DATA" not in os.environ, reason="CARVANA_DATA names no folder of real images")
def test_no_real_photo_is_called_another_car_s_and_real_copies_are_found() -> None:
    samples = find_samples(Path(os.environ["CARVANA_DATA"]))
    thumbnails = [thumbnail(read_image(sample.image, at_least=(SIDE, SIDE))) for sample in samples]
    groups = [sample.group for sample in samples]
    assert near_duplicates(np.stack(thumbnails), groups) == []
    for number in range(0, len(samples), len(samples) // 6):
        image = read_image(samples[number].image)
        for name, copy in COPIES.items():
            pair = near_duplicates(np.stack([thumbnails[number], thumbnail(copy(image))]), ["a", "b"])
            assert pair, name
            assert pair[0].similarity > (1 + SIMILAR) / 2
