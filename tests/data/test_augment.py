from __future__ import annotations

import random

import numpy as np
import pytest

from carvana.data.augment import apply, make_augment
from carvana.errors import ConfigError, UnknownNameError
from carvana.registry import registry


@pytest.fixture
def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image, and a mask that is half covered nearly everywhere: what hard masks cannot hold."""
    image = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return image, np.full((48, 64), 0.5, np.float32)


@pytest.mark.parametrize("name", ["flip", "turns", "seed", "studio", "scene"])
def test_coverage_survives_as_a_share(name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    augment = make_augment(name)
    assert augment is not None
    for index in range(40):
        _, mask = apply(augment, *pair, (0, 0, index))
        assert mask.dtype == np.float32
        assert np.abs(mask - 0.5).max() < 0.01  # the edge is repeated, so the half stays everywhere


@pytest.mark.parametrize("name", ["flip", "turns", "seed", "studio", "scene"])
def test_a_ramp_stays_a_ramp(name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    """Nearest-neighbour masks would show steps twice as high where a rotated ramp is sampled."""
    augment = make_augment(name)
    ramp = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (48, 1))
    for index in range(40):
        _, mask = apply(augment, pair[0], ramp, (0, 0, index))
        assert np.abs(np.diff(mask, axis=1)).max() < 1.6 / 63


@pytest.mark.parametrize("name", ["flip", "turns", "seed", "studio", "scene"])
def test_image_and_mask_move_together(name: str) -> None:
    augment = make_augment(name)
    mask = np.zeros((48, 64), np.float32)
    mask[12:36, 10:40] = 1
    image = np.repeat((mask * 200 + 20).astype(np.uint8)[:, :, None], 3, axis=2)
    for index in range(40):
        moved, coverage = apply(augment, image, mask, (0, 0, index))
        grey = moved.mean(axis=2)
        inside, outside = grey[coverage > 0.99].mean(), grey[coverage < 0.01].mean()
        middle = (inside + outside) / 2
        assert ((grey > middle) == (coverage > 0.5)).mean() > 0.97


def test_a_flip_makes_no_pixel_anew(rng: np.random.Generator) -> None:
    augment = make_augment("flip")
    image, mask = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8), rng.random((48, 64), dtype=np.float32)
    ways = {1: 0, -1: 0}
    for index in range(40):
        flipped, coverage = apply(augment, image, mask, (0, 0, index))
        way = 1 if (flipped == image).all() else -1
        assert (flipped == image[:, ::way]).all()
        assert (coverage == mask[:, ::way]).all()
        ways[way] += 1
    assert min(ways.values()) > 8


def test_turns_are_the_eight_of_a_square_and_four_of_an_oblong(rng: np.random.Generator) -> None:
    augment = make_augment("turns")
    for shape, count in (((24, 24), 8), ((24, 32), 4)):
        image, mask = rng.integers(0, 256, (*shape, 5), dtype=np.uint8), rng.random(shape, dtype=np.float32)
        found = set()
        for index in range(80):
            turned, coverage = apply(augment, image.copy(), mask.copy(), (0, 0, index))
            ways = [
                (quarter, mirrored)
                for quarter in range(4)
                for mirrored in (False, True)
                if np.array_equal(np.rot90(image[:, ::-1] if mirrored else image, quarter), turned)
            ]
            [(quarter, mirrored)] = ways
            assert np.array_equal(np.rot90(mask[:, ::-1] if mirrored else mask, quarter), coverage)
            found.add((quarter, mirrored))
        assert len(found) == count


def test_the_result_depends_on_the_key_alone(pair: tuple[np.ndarray, np.ndarray]) -> None:
    first, second = make_augment("studio"), make_augment("studio")
    apply(second, *pair, (0, 0, 99))  # a history of its own
    for key in ((0, 0, 1), (0, 1, 1), (1, 0, 1)):
        for one, other in zip(apply(first, *pair, key), apply(second, *pair, key), strict=True):
            assert (one == other).all()
    assert (apply(first, *pair, (0, 0, 1))[0] != apply(first, *pair, (0, 1, 1))[0]).any()


def test_flips_and_rotations_are_drawn_independently(pair: tuple[np.ndarray, np.ndarray]) -> None:
    """The seed's recipe flips half of the images, whatever way they are turned."""
    augment = make_augment("seed")
    corner = np.zeros((48, 64), np.float32)
    corner[:24, :32] = 1
    flipped, turned = [], []
    for index in range(200):
        _, mask = apply(augment, pair[0], corner, (0, 0, index))
        flipped.append(bool(mask[:24, 32:].mean() > 0.5))
        side = mask[:, 32:] if flipped[-1] else mask[:, :32]
        inner, outer = (side[:, :8], side[:, -8:]) if flipped[-1] else (side[:, -8:], side[:, :8])
        turned.append(bool(inner.sum() > outer.sum()))
    assert 70 < sum(flipped) < 130
    both = sum(f and t for f, t in zip(flipped, turned, strict=True))
    assert 0.3 < both / sum(flipped) < 0.7


def test_a_plain_callable_is_seeded_too_and_leaves_the_generators_alone(pair: tuple[np.ndarray, np.ndarray]) -> None:
    def noisy(*, image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        shift = random.randint(0, 9) + np.random.randint(0, 9)  # noqa: NPY002
        return {"image": np.roll(image, shift, axis=1), "mask": np.roll(mask, shift, axis=1)}

    random.seed(5)
    expected = random.random()
    random.seed(5)
    results = [apply(noisy, *pair, (0, 0, index))[0] for index in (1, 2, 3, 1)]
    assert random.random() == expected
    assert (results[0] == results[3]).all()
    assert any((results[0] != other).any() for other in results[1:3])


def test_none_is_no_augmentation_and_a_wrong_name_gets_the_nearest() -> None:
    assert make_augment("none") is None
    with pytest.raises(UnknownNameError, match="studio"):
        make_augment("studoi")


@pytest.mark.parametrize("factory", [lambda strength: None, lambda: 1 // 0, lambda: 7])
def test_a_factory_that_cannot_be_called_is_one_line(monkeypatch: pytest.MonkeyPatch, factory: object) -> None:
    known = {entry.name: entry for entry in registry.augments.registered()}
    monkeypatch.setattr(registry.augments, "_entries", known)
    registry.augments.register("mine", factory)
    with pytest.raises(ConfigError, match=r"the augmentation 'mine' \(from script\) cannot be made: "):
        make_augment("mine")


def test_albumentations_that_would_destroy_coverage_are_refused() -> None:
    import albumentations as A
    import cv2

    from carvana.data.dataset import SegmentationDataset
    from carvana.errors import ConfigError

    steps = [A.OneOf([A.Rotate(limit=5), A.HorizontalFlip()])]
    with pytest.raises(ConfigError, match="mask_interpolation"):
        SegmentationDataset([], augment=A.Compose(steps))
    SegmentationDataset([], augment=A.Compose(steps), target="nearest")
    SegmentationDataset([], augment=A.Compose([A.Rotate(limit=5)], mask_interpolation=cv2.INTER_LINEAR))
