from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest

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


def test_a_new_background_is_sound() -> None:
    def replaced(image: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
        wall = np.random.randint(0, 256, 3)  # noqa: NPY002 - what foreign code draws from
        mixed = image * mask[..., None] + wall * (1 - mask[..., None])
        return {"image": mixed.round().astype(np.uint8), "mask": mask}

    check(replaced)


def test_what_is_no_factory_is_told_by_name() -> None:
    registry.augments.register("odd", flip)
    with pytest.raises(AssertionError, match=r"'odd' .from script. must be a factory"):
        check_augment("odd")


def test_albumentations_default_for_masks_is_found() -> None:
    with pytest.raises(AssertionError, match="destroys coverage"):
        check(nearest_rotation())


@pytest.mark.parametrize(
    ("augment", "line"),
    [
        (lambda image, mask: {"image": image[:, ::-1].copy(), "mask": mask}, "not moved alike"),
        (lambda image, mask: {"image": image, "mask": mask[9999]}, "IndexError"),
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
