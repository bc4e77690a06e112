from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

from carvana.errors import ConfigError
from carvana.registry import registry
from carvana.testing import check_augment


@pytest.fixture(autouse=True)
def _own_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        registry.augments, "_entries", {e.name: e for e in registry.augments.registered() if e.source == "carvana"}
    )


def check(augment: Callable[..., Any]) -> None:
    registry.augments.register("under-test", lambda: augment, replace=True)
    check_augment("under-test")


@pytest.mark.parametrize("name", [entry.name for entry in registry.augments.registered() if entry.source == "carvana"])
def test_every_augmentation_of_the_library_keeps_the_contract(name: str) -> None:
    check_augment(name)


def flip(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    if np.random.rand() < 0.5:  # noqa: NPY002 - what foreign code draws from
        return {"image": image, "mask": mask}
    return {"image": image[:, ::-1].copy(), "mask": mask[:, ::-1].copy()}


def nearest_rotation() -> Any:
    import albumentations

    return albumentations.Compose([albumentations.Rotate(limit=(-30, 30), p=1.0)])


def test_a_sound_augmentation_passes() -> None:
    check(flip)


@pytest.mark.parametrize(
    ("transform", "values"),
    [
        ("Rotate", {"limit": (-40, 40), "p": 1.0}),  # a border of zeros, in photo and mask
        ("Affine", {"translate_percent": 0.2, "scale": (0.7, 1.3), "p": 1.0}),
        ("GaussNoise", {"std_range": (0.2, 0.4), "p": 1.0}),
        ("Solarize", {"p": 1.0}),
        ("CoarseDropout", {"p": 1.0}),
        ("ElasticTransform", {"p": 1.0}),
        ("VerticalFlip", {"p": 1.0}),
        ("ToGray", {"p": 1.0}),
    ],
)
def test_albumentations_that_interpolate_masks_are_sound(transform: str, values: dict[str, Any]) -> None:
    import albumentations

    steps = [getattr(albumentations, transform)(**values)]
    check(albumentations.Compose(steps, mask_interpolation=cv2.INTER_LINEAR))


def replace_background(image: np.ndarray, mask: np.ndarray, *, noise: bool) -> dict[str, np.ndarray]:
    """Another background, for one object alone."""
    wall = np.random.randint(0, 256, image.shape if noise else 3)  # noqa: NPY002 - what foreign code draws from
    mixed = image * mask[..., None] + wall * (1 - mask[..., None])
    return {"image": mixed.round().astype(np.uint8), "mask": mask}


@pytest.mark.parametrize("noise", [False, True])
def test_a_new_background_of_one_object_is_sound(noise: bool) -> None:
    def replaced(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        if mask.ndim == 3:
            raise ConfigError("another background needs a task of one object")
        return replace_background(image, mask, noise=noise)

    check(replaced)


def test_one_that_fails_for_several_classes_is_found() -> None:
    with pytest.raises(AssertionError, match="it fails for a mask of 5 planes, as several classes have: ValueError"):
        check(lambda image, mask: replace_background(image, mask, noise=False))


def turn(image: np.ndarray, mask: np.ndarray, fill: float) -> dict[str, np.ndarray]:
    matrix = cv2.getRotationMatrix2D((36, 24), np.random.uniform(20, 45), 1)  # noqa: NPY002
    planes = np.atleast_3d(mask)
    fills = [fill * (number == 0 and mask.ndim == 3) for number in range(planes.shape[2])]
    moved = [
        cv2.warpAffine(np.ascontiguousarray(planes[..., number]), matrix, (72, 48), borderValue=value)
        for number, value in enumerate(fills)
    ]
    return {"image": cv2.warpAffine(image, matrix, (72, 48)), "mask": np.stack(moved, 2).reshape(mask.shape)}


def test_a_border_that_becomes_the_first_class_is_found() -> None:
    check(lambda image, mask: turn(image, mask, 0))
    with pytest.raises(AssertionError, match="a class that is nowhere in a mask comes in; fill its borders with 0"):
        check(lambda image, mask: turn(image, mask, 1))


def test_planes_that_stay_where_they_were_are_found() -> None:
    def first_plane_alone(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        flipped = mask[:, ::-1] if mask.ndim == 2 else np.concatenate([mask[..., :2], mask[:, ::-1, 2:]], axis=2)
        return {"image": image[:, ::-1].copy(), "mask": flipped.copy()}

    with pytest.raises(AssertionError, match="planes of several classes are not moved as each is alone"):
        check(first_plane_alone)


def test_what_comes_in_where_values_are_ignored_is_checked_too() -> None:
    def factory(*, void: bool = False) -> Callable[..., Any]:
        return lambda image, mask: turn(image, mask, void)

    registry.augments.register("odd", factory)
    with pytest.raises(AssertionError, match="a class that is nowhere in a mask comes in"):
        check_augment("odd")


@pytest.mark.parametrize("size", [(48, 72), (33, 33), (100, 60)])
@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
def test_a_photo_that_is_flipped_in_some_draws_without_its_mask_is_found(
    size: tuple[int, int], axis: int | tuple[int, int]
) -> None:
    def flip_photo(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        noise = np.random.normal(0, 40, image.shape)  # noqa: NPY002
        flipped = np.flip(image, axis) if np.random.rand() < 0.3 else image  # noqa: NPY002
        return {"image": np.clip(flipped + noise, 0, 255).astype(np.uint8), "mask": mask}

    registry.augments.register("odd", lambda: flip_photo)
    with pytest.raises(AssertionError, match="not moved alike"):
        check_augment("odd", size=size)


def test_a_photo_that_is_turned_without_its_mask_is_found() -> None:
    def turn_photo(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        turn = cv2.getRotationMatrix2D((36, 24), np.random.uniform(-45, 45), 1)  # noqa: NPY002
        return {"image": cv2.warpAffine(image, turn, (72, 48)), "mask": mask}

    with pytest.raises(AssertionError, match="not moved alike"):
        check(turn_photo)


def refuse(image: np.ndarray, mask: np.ndarray) -> None:
    raise AssertionError("not\nthis size")


def test_what_is_no_factory_is_told_by_name() -> None:
    registry.augments.register("odd", flip)
    with pytest.raises(AssertionError, match=r"'odd' \(from script\) cannot be made: TypeError"):
        check_augment("odd")


def test_a_factory_that_fails_is_told_by_name_in_one_line() -> None:
    import albumentations

    def failing() -> None:
        raise OSError("no\nsuch file")

    composed = albumentations.Compose([albumentations.HorizontalFlip()], mask_interpolation=cv2.INTER_LINEAR)
    for factory in (failing, composed):
        registry.augments.register("odd", factory, replace=True)
        with pytest.raises(
            AssertionError, match=r"cannot be made: (OSError: no such file;|\w+Error: '|its factory returned )"
        ):
            check_augment("odd")


def test_albumentations_default_for_masks_is_found() -> None:
    with pytest.raises(AssertionError, match="destroys coverage"):
        check(nearest_rotation())


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        (lambda image, mask: {"image": image[:, ::-1].copy(), "mask": mask}, "not moved alike"),
        (lambda image, mask: {"image": image, "mask": mask[9999]}, "IndexError"),
        (refuse, "^the augmentation 'under-test': not this size"),
        (lambda image, mask: {"image": image, "mask": 0 * mask}, "nothing stays"),
        (lambda image, mask: (image, mask), "mapping with image and mask, got tuple"),
        (lambda image, mask: {"image": image / 255, "mask": mask}, "its image is float64"),
        (lambda image, mask: {"image": image[:8], "mask": mask[:8]}, r"its image is uint8 \(8, 72, 3\)"),
        (lambda image, mask: {"image": image, "mask": mask.astype(np.float64)}, "its mask is float64"),
        (lambda image, mask: {"image": image[::-1].copy(), "mask": mask}, "not moved alike"),
        (lambda image, mask: {"image": image, "mask": mask.round()}, "coverage of one half"),
        (lambda image, mask: {"image": image + np.uint8(secrets.randbelow(30)), "mask": mask}, "the same seed gives"),
    ],
)
def test_each_broken_promise_is_found(augment: Callable[..., Any], line: str) -> None:
    with pytest.raises(AssertionError, match=line) as caught:
        check(augment)
    assert "\n" not in str(caught.value)
